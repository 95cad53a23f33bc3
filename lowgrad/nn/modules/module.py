"""Module: parameters, buffers and submodules by name."""

from __future__ import annotations

from collections import OrderedDict
from collections.abc import Callable, Iterator, Mapping
from typing import Any, TypeVar

import lowgrad
from lowgrad.errors import ArgumentError
from lowgrad.ir.types import DType
from lowgrad.nn.modules.parameter import Parameter
from lowgrad.nn.modules.state import IncompatibleKeys, load, named_state
from lowgrad.tensor import Tensor

ModuleT = TypeVar("ModuleT", bound="Module")
T = TypeVar("T")
_SIMPLE = (type(None), bool, int, float, str)


class Module:
    """Base of all layers and models: subclass it, make the parts in __init__, compute in forward.

    `_version` counts the changes of this module's attributes; `training` is not counted, nor is
    setting a number or string to what it is already. A compiled step compares it, so that it
    never runs with attributes that have changed since it was recorded.
    """

    training: bool
    _version: int
    _parameters: dict[str, Parameter | None]
    _buffers: dict[str, Tensor | None]
    _non_persistent_buffers_set: set[str]
    _modules: dict[str, Module | None]

    def __init__(self) -> None:
        own = self.__dict__
        own["training"] = True
        own["_version"] = 0
        own["_parameters"] = {}
        own["_buffers"] = {}
        own["_non_persistent_buffers_set"] = set()
        own["_modules"] = {}

    def forward(self, *args: Any, **kwargs: Any) -> Any:
        """What the module computes; subclasses define it."""
        raise NotImplementedError(f"{type(self).__name__} has no forward")

    def __call__(self, *args: Any, **kwargs: Any) -> Any:
        return self.forward(*args, **kwargs)

    # Attributes -------------------------------------------------------------------------------

    def __getattr__(self, name: str) -> Any:
        for kind in ("_parameters", "_buffers", "_modules"):
            members = self.__dict__.get(kind)
            if members is not None and name in members:
                return members[name]
        raise AttributeError(f"'{type(self).__name__}' object has no attribute '{name}'")

    def __setattr__(self, name: str, value: Any) -> None:
        own = self.__dict__
        if isinstance(value, Parameter):
            self.register_parameter(name, value)
        elif isinstance(value, Module):
            self.register_module(name, value)
        elif "_buffers" in own and name in own["_buffers"]:
            self._replace("_buffers", name, value, Tensor)
        elif "_parameters" in own and name in own["_parameters"]:
            self._replace("_parameters", name, value, Parameter)
        elif "_modules" in own and name in own["_modules"]:
            self._replace("_modules", name, value, Module)
        elif name in ("training", "_version"):
            own[name] = value
        elif not _is_same(own.get(name, own), value):
            own[name] = value
            self._changed()

    def __delattr__(self, name: str) -> None:
        for members in (self._parameters, self._buffers, self._modules):
            if name in members:
                del members[name]
                self._non_persistent_buffers_set.discard(name)
                break
        else:
            super().__delattr__(name)
        self._changed()

    def __dir__(self) -> list[str]:
        return sorted({*super().__dir__(), *self._parameters, *self._buffers, *self._modules})

    def _replace(self, kind: str, name: str, value: Any, expected: type) -> None:
        if value is not None and not isinstance(value, expected):
            raise TypeError(
                f"{type(self).__name__}.{name} must be a {expected.__name__} or None, "
                f"not {type(value).__name__}"
            )
        members = self.__dict__[kind]
        if members[name] is not value:
            members[name] = value
            self._changed()

    def _changed(self) -> None:
        self.__dict__["_version"] = self.__dict__.get("_version", 0) + 1

    # Registration -----------------------------------------------------------------------------

    def register_parameter(self, name: str, param: Parameter | None) -> None:
        """Add a parameter, or None to reserve its name."""
        if param is not None and not isinstance(param, Parameter):
            raise TypeError(f"register_parameter: {name} must be a Parameter or None")
        self._register("_parameters", name, param)

    def register_buffer(self, name: str, tensor: Tensor | None, persistent: bool = True) -> None:
        """Add a tensor that is state but not learned; state_dict holds it if `persistent`."""
        if tensor is not None and not isinstance(tensor, Tensor):
            raise TypeError(f"register_buffer: {name} must be a Tensor or None")
        self._register("_buffers", name, tensor)
        self._non_persistent_buffers_set.discard(name)
        if not persistent:
            self._non_persistent_buffers_set.add(name)

    def register_module(self, name: str, module: Module | None) -> None:
        """Add a submodule, or None to reserve its name."""
        if module is not None and not isinstance(module, Module):
            raise TypeError(f"register_module: {name} must be a Module or None")
        self._register("_modules", name, module)

    add_module = register_module

    def _register(self, kind: str, name: str, member: Any) -> None:
        if kind not in self.__dict__:
            raise AttributeError(f"{type(self).__name__}: call super().__init__() first")
        if not isinstance(name, str) or not name or "." in name:
            raise ArgumentError(f"a member's name must be a word without dots, not {name!r}")
        known = self.__dict__[kind]
        if name not in known:
            self._forget(name)
            if hasattr(self, name):
                raise ArgumentError(f"{type(self).__name__} has an attribute {name!r} already")
        elif known[name] is member:
            return
        known[name] = member
        self._changed()

    def _forget(self, name: str) -> None:
        """Remove any other kind of member called `name`, which is about to be replaced."""
        self.__dict__.pop(name, None)
        for members in (self._parameters, self._buffers, self._modules):
            members.pop(name, None)
        self._non_persistent_buffers_set.discard(name)

    # Walking ----------------------------------------------------------------------------------

    def named_children(self) -> Iterator[tuple[str, Module]]:
        """The direct submodules with their names, each once."""
        seen: set[int] = set()
        for name, module in self._modules.items():
            if module is not None and id(module) not in seen:
                seen.add(id(module))
                yield name, module

    def children(self) -> Iterator[Module]:
        """The direct submodules, each once."""
        for _, module in self.named_children():
            yield module

    def named_modules(
        self, memo: set[Module] | None = None, prefix: str = "", remove_duplicate: bool = True
    ) -> Iterator[tuple[str, Module]]:
        """This module and all below it with their full names; shared ones once."""
        memo = set() if memo is None else memo
        if self in memo:
            return
        if remove_duplicate:
            memo.add(self)
        yield prefix, self
        for name, module in self._modules.items():
            if module is not None:
                full = f"{prefix}.{name}" if prefix else name
                yield from module.named_modules(memo, full, remove_duplicate)

    def modules(self) -> Iterator[Module]:
        """This module and all below it, shared ones once."""
        for _, module in self.named_modules():
            yield module

    def named_parameters(
        self, prefix: str = "", recurse: bool = True, remove_duplicate: bool = True
    ) -> Iterator[tuple[str, Parameter]]:
        """The parameters with their full names; shared ones once, under their first name."""
        yield from self._members("_parameters", prefix, recurse, remove_duplicate)

    def parameters(self, recurse: bool = True) -> Iterator[Parameter]:
        """The parameters, shared ones once."""
        for _, parameter in self.named_parameters(recurse=recurse):
            yield parameter

    def named_buffers(
        self, prefix: str = "", recurse: bool = True, remove_duplicate: bool = True
    ) -> Iterator[tuple[str, Tensor]]:
        """The buffers with their full names; shared ones once, under their first name."""
        yield from self._members("_buffers", prefix, recurse, remove_duplicate)

    def buffers(self, recurse: bool = True) -> Iterator[Tensor]:
        """The buffers, shared ones once."""
        for _, buffer in self.named_buffers(recurse=recurse):
            yield buffer

    def _members(
        self, kind: str, prefix: str, recurse: bool, remove_duplicate: bool
    ) -> Iterator[tuple[str, Any]]:
        walked = (
            self.named_modules(prefix=prefix, remove_duplicate=remove_duplicate)
            if recurse
            else iter([(prefix, self)])
        )
        seen: set[int] = set()
        for path, module in walked:
            for name, member in module.__dict__[kind].items():
                if member is None or id(member) in seen:
                    continue
                if remove_duplicate:
                    seen.add(id(member))
                yield (f"{path}.{name}" if path else name), member

    def get_submodule(self, target: str) -> Module:
        """The submodule of this dotted name; "" is this module. AttributeError if there is none."""
        module: Module = self
        for name in target.split(".") if target else ():
            found = getattr(module, name, None)
            if not isinstance(found, Module):
                raise AttributeError(f"{type(module).__name__} has no submodule {name!r}")
            module = found
        return module

    def get_parameter(self, target: str) -> Parameter:
        """The parameter of this dotted name. AttributeError if there is none."""
        found = self._member(target)
        if not isinstance(found, Parameter):
            raise AttributeError(f"{type(self).__name__} has no parameter {target!r}")
        return found

    def get_buffer(self, target: str) -> Tensor:
        """The buffer of this dotted name. AttributeError if there is none."""
        path, _, name = target.rpartition(".")
        found = self.get_submodule(path)._buffers.get(name)
        if found is None:
            raise AttributeError(f"{type(self).__name__} has no buffer {target!r}")
        return found

    def _member(self, target: str) -> Any:
        path, _, name = target.rpartition(".")
        return getattr(self.get_submodule(path), name, None)

    # Changing all at once ---------------------------------------------------------------------

    def train(self: ModuleT, mode: bool = True) -> ModuleT:
        """Switch this module and all below it to training, or to evaluation; return it."""
        if not isinstance(mode, bool):
            raise ArgumentError(f"train: mode must be True or False, not {mode!r}")
        self.training = mode
        for module in self.children():
            module.train(mode)
        return self

    def eval(self: ModuleT) -> ModuleT:
        """Switch this module and all below it to evaluation; return it."""
        return self.train(False)

    def apply(self: ModuleT, fn: Callable[[Module], Any]) -> ModuleT:
        """Call `fn` on all modules below this one, then on it; return it."""
        for module in self.children():
            module.apply(fn)
        fn(self)
        return self

    def requires_grad_(self: ModuleT, requires_grad: bool = True) -> ModuleT:
        """Switch the gradients of all parameters on or off; return the module."""
        for parameter in self.parameters():
            parameter.requires_grad_(requires_grad)
        return self

    def zero_grad(self, set_to_none: bool = True) -> None:
        """Forget the gradients of all parameters, or make them zero."""
        for parameter in self.parameters():
            clear_grad(parameter, set_to_none)

    def to(self: ModuleT, *args: Any, **kwargs: Any) -> ModuleT:
        """Move to a device and, for floating tensors, to a dtype; return the module.

        Takes a device, a dtype, both, or a tensor whose device and dtype are taken.
        """
        device, dtype = _destination(*args, **kwargs)

        def move(tensor: Tensor) -> Tensor:
            kind = dtype if dtype is not None and tensor.dtype.is_floating_point else tensor.dtype
            return tensor.to(device=tensor.device if device is None else device, dtype=kind)

        return self._apply(move)

    def type(self: ModuleT, dst_type: DType) -> ModuleT:
        """Convert all parameters and buffers, integers too, to a dtype; return the module."""
        return self._apply(lambda tensor: tensor.to(dst_type))

    def float(self: ModuleT) -> ModuleT:
        """Convert the floating tensors to float32; return the module."""
        return self.to(lowgrad.float32)

    def double(self: ModuleT) -> ModuleT:
        """Convert the floating tensors to float64; return the module."""
        return self.to(lowgrad.float64)

    def half(self: ModuleT) -> ModuleT:
        """Convert the floating tensors to float16; return the module."""
        return self.to(lowgrad.float16)

    def bfloat16(self: ModuleT) -> ModuleT:
        """Convert the floating tensors to bfloat16; return the module."""
        return self.to(lowgrad.bfloat16)

    def cpu(self: ModuleT) -> ModuleT:
        """Move to the CPU; return the module."""
        return self.to("cpu")

    def cuda(self: ModuleT) -> ModuleT:
        """Move to the GPU; return the module."""
        return self.to("cuda")

    def _apply(self: ModuleT, convert: Callable[[Tensor], Tensor]) -> ModuleT:
        """Replace the value of every parameter, gradient and buffer, keeping the handles."""
        with lowgrad.no_grad():
            for tensor in [*self.parameters(), *self.buffers()]:
                grad, tensor.grad = tensor.grad, None
                tensor.data = convert(tensor.detach())
                if grad is not None:
                    tensor.grad = convert(grad)
        return self

    # State ------------------------------------------------------------------------------------

    def state_dict(
        self, destination: Any = None, prefix: str = "", keep_vars: bool = False
    ) -> OrderedDict[str, Tensor]:
        """The parameters and persistent buffers by full name, without their history."""
        state = OrderedDict() if destination is None else destination
        for name, tensor in named_state(self, prefix).items():
            state[name] = tensor if keep_vars else tensor.detach()
        return state

    def load_state_dict(
        self, state_dict: Mapping[str, Any], strict: bool = True
    ) -> IncompatibleKeys:
        """Copy the tensors of `state_dict` into this module's.

        Raises CheckpointError and changes nothing if a shape differs or, with `strict`, if names
        are missing or unexpected.  Returns the names that a non-strict load left out.
        """
        return load(self, state_dict, strict)

    # Printing ---------------------------------------------------------------------------------

    def extra_repr(self) -> str:
        """What stands in the brackets of this module's line when it is printed."""
        return ""

    def _get_name(self) -> str:
        return type(self).__name__

    def __repr__(self) -> str:
        extra = self.extra_repr().split("\n") if self.extra_repr() else []
        children = [f"({name}): {indented(repr(m))}" for name, m in self._modules.items()]
        if len(extra) == 1 and not children:
            return f"{self._get_name()}({extra[0]})"
        return bracketed(self._get_name(), extra + children)


def bracketed(name: str, lines: list[str]) -> str:
    """`name(`, the lines indented by two, `)`."""
    return f"{name}(\n  " + "\n  ".join(lines) + "\n)" if lines else f"{name}()"


def indented(text: str) -> str:
    """All lines but the first moved in by two."""
    return text.replace("\n", "\n  ")


def clear_grad(parameter: Tensor, set_to_none: bool) -> None:
    """Forget a gradient, or make it zero."""
    if set_to_none:
        parameter.grad = None
    elif parameter.grad is not None:
        parameter.grad = lowgrad.zeros_like(parameter.grad)


def _is_same(old: Any, new: Any) -> bool:
    """Whether setting `new` changes nothing that a program could see."""
    return old is new or (type(old) is type(new) and isinstance(new, _SIMPLE) and old == new)


def _destination(*args: Any, **kwargs: Any) -> tuple[Any, DType | None]:
    """(device, dtype) from the arguments of `Module.to`."""
    device, dtype = kwargs.pop("device", None), kwargs.pop("dtype", None)
    kwargs.pop("non_blocking", None)
    if kwargs:
        raise TypeError(f"to: unexpected arguments {', '.join(kwargs)}")
    for argument in args:
        if isinstance(argument, Tensor):
            device, dtype = argument.device, argument.dtype
        elif isinstance(argument, DType):
            dtype = argument
        elif argument is not None and not isinstance(argument, bool):
            device = argument
    if dtype is not None and not dtype.is_floating_point:
        raise TypeError(f"to: only floating dtypes are accepted, not {dtype!r}")
    return device, dtype
