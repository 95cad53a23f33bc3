"""Modules that hold modules or parameters: Sequential, ModuleList, ModuleDict and the like."""

from __future__ import annotations

import operator
from collections.abc import Iterable, Iterator, Mapping
from typing import Any

from lowgrad.errors import ArgumentError, IndexOutOfRange
from lowgrad.nn.modules.module import Module, bracketed, indented
from lowgrad.nn.modules.parameter import Parameter
from lowgrad.tensor import Tensor


class _Listed(Module):
    """Submodules named "0", "1", ...: what Sequential and ModuleList share."""

    def _items(self) -> list[Any]:
        return list(self._modules.values())

    def _renumber(self, modules: Iterable[Module]) -> None:
        self.__dict__["_modules"] = {str(i): m for i, m in enumerate(modules)}
        self._changed()

    def _position(self, index: int) -> int:
        index, size = operator.index(index), len(self._modules)
        if not -size <= index < size:
            raise IndexOutOfRange(
                f"{type(self).__name__}: index {index} is out of range for {size} modules"
            )
        return index % size

    def __len__(self) -> int:
        return len(self._modules)

    def __iter__(self) -> Iterator[Any]:
        return iter(self._items())

    def __contains__(self, module: object) -> bool:
        return any(module is m for m in self._modules.values())

    def __setitem__(self, index: int, module: Module) -> None:
        name = list(self._modules)[self._position(index)]
        self._replace("_modules", name, module, Module)

    def __delitem__(self, index: int | slice) -> None:
        modules = self._items()
        if isinstance(index, slice):
            del modules[index]
        else:
            del modules[self._position(index)]
        self._renumber(modules)

    def append(self, module: Module) -> Any:
        """Add a module at the end; return this one."""
        self.register_module(str(len(self)), module)
        return self

    def extend(self, modules: Iterable[Module]) -> Any:
        """Add modules at the end; return this one."""
        for module in list(modules):
            self.append(module)
        return self

    def insert(self, index: int, module: Module) -> Any:
        """Put a module before the one at `index`; return this one."""
        if not isinstance(module, Module):
            raise TypeError(f"insert: expected a Module, got {type(module).__name__}")
        modules = self._items()
        if not -len(modules) <= index <= len(modules):
            raise IndexOutOfRange(f"insert: index {index} is out of range for {len(modules)}")
        modules.insert(index, module)
        self._renumber(modules)
        return self

    def pop(self, index: int = -1) -> Any:
        """Remove the module at `index` and return it."""
        modules = self._items()
        module = modules.pop(self._position(index))
        self._renumber(modules)
        return module


class Sequential(_Listed):
    """The modules one after another, each on the result of the one before.

    Takes the modules, or one dict from names to modules.
    """

    def __init__(self, *args: Any) -> None:
        super().__init__()
        named = len(args) == 1 and isinstance(args[0], Mapping)
        items = args[0].items() if named else ((str(i), m) for i, m in enumerate(args))
        for name, module in items:
            self.register_module(name, module)

    def forward(self, input: Any) -> Any:
        """The last module's result."""
        for module in self:
            input = module(input)
        return input

    def __getitem__(self, index: int | slice) -> Any:
        if isinstance(index, slice):
            return type(self)(dict(list(self._modules.items())[index]))
        return self._items()[self._position(index)]

    def __add__(self, other: Sequential) -> Sequential:
        if not isinstance(other, Sequential):
            return NotImplemented
        return Sequential(*self, *other)


class ModuleList(_Listed):
    """A list whose modules are registered. It computes nothing by itself."""

    def __init__(self, modules: Iterable[Module] | None = None) -> None:
        super().__init__()
        self.extend(modules or ())

    def __getitem__(self, index: int | slice) -> Any:
        if isinstance(index, slice):
            return type(self)(self._items()[index])
        return self._items()[self._position(index)]

    def __iadd__(self, modules: Iterable[Module]) -> ModuleList:
        self.extend(modules)
        return self

    def __add__(self, modules: Iterable[Module]) -> ModuleList:
        return ModuleList([*self, *modules])

    def __repr__(self) -> str:
        """Equal neighbours are printed once, with their count, as in PyTorch."""
        runs: list[tuple[int, int, str]] = []
        for i, module in enumerate(self):
            text = repr(module)
            if runs and runs[-1][2] == text:
                runs[-1] = (runs[-1][0], i, text)
            else:
                runs.append((i, i, text))
        lines = [
            f"({first}): {indented(text)}"
            if first == last
            else f"({first}-{last}): {last - first + 1} x {indented(text)}"
            for first, last, text in runs
        ]
        return bracketed(self._get_name(), lines)


class ModuleDict(Module):
    """A dict whose modules are registered, in the order of insertion."""

    def __init__(self, modules: Mapping[str, Module] | None = None) -> None:
        super().__init__()
        self.update(modules or {})

    def __getitem__(self, key: str) -> Any:
        return self._modules[key]

    def __setitem__(self, key: str, module: Module) -> None:
        self.register_module(key, module)

    def __delitem__(self, key: str) -> None:
        del self._modules[key]
        self._changed()

    def __len__(self) -> int:
        return len(self._modules)

    def __iter__(self) -> Iterator[str]:
        return iter(self._modules)

    def __contains__(self, key: object) -> bool:
        return key in self._modules

    def keys(self) -> Iterable[str]:
        """The names."""
        return self._modules.keys()

    def values(self) -> Iterable[Any]:
        """The modules."""
        return self._modules.values()

    def items(self) -> Iterable[tuple[str, Any]]:
        """(name, module) pairs."""
        return self._modules.items()

    def pop(self, key: str) -> Any:
        """Remove the module called `key` and return it."""
        module = self[key]
        del self[key]
        return module

    def clear(self) -> None:
        """Remove all modules."""
        self._modules.clear()
        self._changed()

    def update(self, modules: Mapping[str, Module] | Iterable[tuple[str, Module]]) -> None:
        """Add or replace modules."""
        for key, module in dict(modules).items():
            self[key] = module


class ParameterList(Module):
    """A list whose parameters are registered; tensors become parameters."""

    def __init__(self, values: Iterable[Tensor] | None = None) -> None:
        super().__init__()
        self.extend(values or ())

    def __getitem__(self, index: int | slice) -> Any:
        values = list(self._parameters.values())
        if isinstance(index, slice):
            return type(self)([v for v in values[index] if v is not None])
        size, index = len(values), operator.index(index)
        if not -size <= index < size:
            raise IndexOutOfRange(
                f"ParameterList: index {index} is out of range for {size} parameters"
            )
        return values[index]

    def __setitem__(self, index: int, value: Tensor) -> None:
        name = str(range(len(self))[index])
        self._replace("_parameters", name, _as_parameter(value), Parameter)

    def __len__(self) -> int:
        return len(self._parameters)

    def __iter__(self) -> Iterator[Any]:
        return iter(list(self._parameters.values()))

    def append(self, value: Tensor) -> ParameterList:
        """Add a parameter at the end; return this list."""
        self.register_parameter(str(len(self)), _as_parameter(value))
        return self

    def extend(self, values: Iterable[Tensor]) -> ParameterList:
        """Add parameters at the end; return this list."""
        for value in list(values):
            self.append(value)
        return self

    def __repr__(self) -> str:
        return _parameters_text(self)


class ParameterDict(Module):
    """A dict whose parameters are registered, in the order of insertion."""

    def __init__(self, parameters: Mapping[str, Tensor] | None = None) -> None:
        super().__init__()
        self.update(parameters or {})

    def __getitem__(self, key: str) -> Any:
        return self._parameters[key]

    def __setitem__(self, key: str, value: Tensor) -> None:
        self.register_parameter(key, _as_parameter(value))

    def __delitem__(self, key: str) -> None:
        del self._parameters[key]
        self._changed()

    def __len__(self) -> int:
        return len(self._parameters)

    def __iter__(self) -> Iterator[str]:
        return iter(self._parameters)

    def __contains__(self, key: object) -> bool:
        return key in self._parameters

    def keys(self) -> Iterable[str]:
        """The names."""
        return self._parameters.keys()

    def values(self) -> Iterable[Any]:
        """The parameters."""
        return self._parameters.values()

    def items(self) -> Iterable[tuple[str, Any]]:
        """(name, parameter) pairs."""
        return self._parameters.items()

    def update(self, parameters: Mapping[str, Tensor] | Iterable[tuple[str, Tensor]]) -> None:
        """Add or replace parameters."""
        for key, value in dict(parameters).items():
            self[key] = value

    def __repr__(self) -> str:
        return _parameters_text(self)


def _as_parameter(value: Tensor) -> Parameter:
    if isinstance(value, Parameter):
        return value
    if not isinstance(value, Tensor):
        raise ArgumentError(f"expected a tensor, got {type(value).__name__}")
    return Parameter(value, requires_grad=value.dtype.is_floating_point)


def _parameters_text(module: Module) -> str:
    lines = [
        f"({name}): Parameter containing: [{p.dtype!r} of size {'x'.join(map(str, p.shape))}]"
        for name, p in module._parameters.items()
        if p is not None
    ]
    return bracketed(module._get_name(), lines)
