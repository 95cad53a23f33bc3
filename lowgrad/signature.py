"""The signature of a step: everything of the Python world that its recording depends on.

`walk` starts from the function and its arguments and follows what Python code can read: closures,
globals by the names the code mentions, defaults, attributes, containers, methods of classes. Values
become part of a key, tensors become the step's possible inputs. Each container passed is *watched*:
as long as it holds the same objects, nothing below it can have changed, and the next call can skip
the walk.
"""

from __future__ import annotations

import dis
import enum
import functools
import sys
import types
from collections import deque
from collections.abc import Callable, Iterable
from dataclasses import dataclass, field
from typing import Any

import numpy as np

from lowgrad import devices
from lowgrad.errors import CompileError, is_library_file
from lowgrad.generator import Generator
from lowgrad.ir.types import DType
from lowgrad.tensor import Tensor, device

_SIMPLE = (bool, int, str, bytes, type(None), complex, type(Ellipsis), DType, range, slice)
_LEAVES = (Generator, types.BuiltinFunctionType, types.MethodDescriptorType, np.dtype, device)
ABSENT = object()
_LARGEST_ARRAY = 1 << 20  # bytes of a NumPy array compared at each call


@dataclass
class Watch:
    """A container, and the objects it held when it was walked."""

    kind: str
    container: Any
    names: tuple[Any, ...]
    held: tuple[Any, ...]
    ids: tuple[int, ...] = ()

    def __post_init__(self) -> None:
        self.ids = tuple(map(id, self.held))

    def is_unchanged(self) -> bool:
        """Whether the container still holds the very same objects under the same names."""
        container = self.container
        if self.kind == "mapping":
            return tuple(map(id, container.values())) == self.ids and tuple(container) == self.names
        if self.kind == "sequence":
            return tuple(map(id, container)) == self.ids
        if self.kind == "names":
            get = container.get
            return tuple([id(get(n, ABSENT)) for n in self.names]) == self.ids
        if self.kind == "cell":
            return id(_cell_contents(container)) == self.ids[0]
        if self.kind == "slots":
            return tuple([id(getattr(container, n, ABSENT)) for n in self.names]) == self.ids
        if self.kind == "value":
            return bool(container() == self.held[0])
        return bool(container.tobytes() == self.held[0])  # a NumPy array: by its bytes


@dataclass
class Snapshot:
    """What one walk found: the key, the tensors with their names, and what to watch."""

    key: list[Any] = field(default_factory=list)
    tensors: list[Tensor] = field(default_factory=list)
    names: list[str] = field(default_factory=list)
    watches: list[Watch] = field(default_factory=list)
    labels: list[str] = field(default_factory=list)  # a path for each entry of `key`
    outside: int = 0  # how many of the tensors the function reaches without its arguments
    # type, leaf, tracked, device
    facts: list[tuple[Any, bool, bool, Any]] = field(default_factory=list)

    def is_unchanged(self) -> bool:
        """Whether every watched container is as it was."""
        return all(watch.is_unchanged() for watch in self.watches)


def _cell_contents(cell: Any) -> Any:
    try:
        return cell.cell_contents
    except ValueError:  # the variable is not assigned yet
        return ABSENT


class Walker:
    """One walk. `visit(obj, path)` adds what `obj` contributes; each object once."""

    def __init__(self) -> None:
        self.found = Snapshot()
        self._seen: dict[int, int] = {}
        self._alive: list[Any] = []  # ids are only unique among living objects
        self._shared: dict[int, int] = {}
        self._paths: dict[int, str] = {}

    def visit(self, obj: Any, path: str) -> None:
        """Add `obj`, reached by `path`."""
        if isinstance(obj, enum.Enum):
            self._add((type(obj), obj.name), path)
        elif isinstance(obj, _SIMPLE):
            # The type tells 1 from True and 1.0, which are equal and hash alike.
            self._add((type(obj), repr(obj) if isinstance(obj, slice) else obj), path)
        elif isinstance(obj, float):
            self._add(("float", obj.hex()), path)  # hex: NaN equals itself, -0.0 differs from 0.0
        elif id(obj) in self._seen:
            self._add(("again", self._seen[id(obj)]), path)
        else:
            self._seen[id(obj)] = len(self._seen)
            self._alive.append(obj)
            self._visit_object(obj, path)

    def watch_names(self, mapping: Any, names: tuple[str, ...]) -> None:
        """Watch some entries of a mapping. For objects that walk themselves."""
        self._watch("names", mapping, names, tuple(mapping.get(n, ABSENT) for n in names))

    def watch_value(self, compute: Callable[[], Any]) -> None:
        """Watch what `compute` gives. For objects that walk themselves."""
        self._watch("value", compute, (), (compute(),))

    def watch_sequence(self, sequence: Any) -> None:
        """Watch the members of a list. For objects that walk themselves."""
        self._watch("sequence", sequence, (), tuple(sequence))

    def name_of(self, tensor: Tensor) -> str:
        """The path by which `tensor` was found."""
        return self._paths.get(id(tensor), "")

    def _add(self, part: Any, path: str) -> None:
        self.found.key.append(part)
        self.found.labels.append(path)

    def _visit_object(self, obj: Any, path: str) -> None:
        if isinstance(obj, Tensor):
            self._tensor(obj, path)
        elif isinstance(obj, types.FunctionType):
            self._function(obj, path)
        elif isinstance(obj, types.MethodType):
            self.visit(obj.__func__, path)
            self.visit(obj.__self__, path)
        elif isinstance(obj, functools.partial):
            self._add("partial", path)
            self._parts(((obj.func, path), (obj.args, path), (obj.keywords, path)))
        elif isinstance(obj, (list, tuple, deque)):
            self._sequence(obj, path)
        elif isinstance(obj, (dict, types.MappingProxyType)):
            self._mapping(obj, path)
        elif isinstance(obj, (set, frozenset)):
            self._add(("set", len(obj)), path)
            self._watch("sequence", obj, (), tuple(obj))
            self._parts((o, f"{path}{{}}") for o in sorted(obj, key=repr))
        elif isinstance(obj, np.ndarray):
            self._ndarray(obj, path)
        elif isinstance(obj, np.generic):
            self._add(("numpy", obj.dtype.str, obj.tobytes()), path)
        elif isinstance(obj, type):
            self._class(obj, path)
        elif isinstance(obj, (types.ModuleType, *_LEAVES)):
            self._add(("object", id(obj)), path)
        else:
            self._instance(obj, path)

    def _parts(self, parts: Iterable[tuple[Any, str]]) -> None:
        for obj, path in parts:
            self.visit(obj, path)

    def _watch(self, kind: str, obj: Any, names: tuple[Any, ...], held: tuple[Any, ...]) -> None:
        self.found.watches.append(Watch(kind, obj, names, held))

    def _tensor(self, tensor: Tensor, path: str) -> None:
        if tensor._base is not None:
            self.visit(tensor._base, f"{path}.base")
            steps = tuple((op.name, *sorted(attrs.items())) for op, attrs in tensor._path)
            self._add(("view", self._seen[id(tensor._base)], steps), path)
        ref = tensor._ref
        # Tensors that share a value are one input, so which do is part of the signature.
        shared = self._shared.setdefault(id(ref), len(self._shared))
        where = devices.name_of(ref.array)
        leaf = tensor._leaf_requires_grad
        self._add(("tensor", ref.type, leaf, ref.tracked, shared, where), path)
        self.found.tensors.append(tensor)
        self.found.names.append(path)
        self._paths[id(tensor)] = path
        if tensor.__dict__:
            self._mapping(tensor.__dict__, path)

    def _sequence(self, obj: Any, path: str) -> None:
        self._add((type(obj), len(obj)), path)
        if not isinstance(obj, tuple):
            self._watch("sequence", obj, (), tuple(obj))
        self._parts((o, f"{path}[{i}]") for i, o in enumerate(obj))

    def _mapping(self, obj: Any, path: str, skip: tuple[str, ...] = ()) -> None:
        self._add((type(obj), tuple(map(_key_text, obj))), path)
        self._watch("mapping", obj, tuple(obj), tuple(obj.values()))
        self._parts((v, f"{path}[{k!r}]") for k, v in obj.items() if k not in skip)

    def _ndarray(self, array: Any, path: str) -> None:
        if array.nbytes > _LARGEST_ARRAY:
            raise CompileError(
                f"compile: the step reads a NumPy array of {array.nbytes} bytes ({path}), "
                "too large to be watched for changes",
                fix="make it a tensor, lowgrad.from_numpy(array)",
            )
        content = array.tobytes()
        self._add(("array", array.shape, array.dtype.str, content), path)
        self._watch("array", array, (), (content,))

    def _function(self, function: types.FunctionType, path: str) -> None:
        self._add(("code", id(function.__code__)), path)
        self._alive.append(function.__code__)
        if is_library_file(function.__code__.co_filename):
            self._closure(function, path)
            return
        globals_ = function.__globals__
        names = tuple(n for n in _global_names(function.__code__) if n in globals_)
        self._watch("names", globals_, names, tuple(globals_[n] for n in names))
        own = ("__code__", "__defaults__", "__kwdefaults__")
        self._watch("slots", function, own, tuple(getattr(function, n) for n in own))
        for name in sorted(names, key=lambda n: _walks_itself(globals_[n])):
            self._global(globals_[name], name, function.__code__)
        self._closure(function, path)
        self._parts(((function.__defaults__, path), (function.__kwdefaults__, path)))
        self._mapping(function.__dict__, path)

    def _closure(self, function: types.FunctionType, path: str) -> None:
        cells = zip(function.__code__.co_freevars, function.__closure__ or (), strict=True)
        for name, cell in sorted(cells, key=lambda c: _walks_itself(_cell_contents(c[1]))):
            contents = _cell_contents(cell)
            self._watch("cell", cell, (), (contents,))
            if contents is not ABSENT:
                self.visit(contents, name)

    def _global(self, obj: Any, name: str, code: types.CodeType) -> None:
        """A global; of the user's own modules, also the attributes that the code mentions."""
        self.visit(obj, name)
        if obj is np and "random" in _names(code):
            raise _draws_from_numpy(f"{name}.random")
        if isinstance(obj, types.ModuleType) and not is_library_file(_file_of(obj)):
            members = vars(obj)
            used = tuple(n for n in _names(code) if n in members)
            self._watch("names", members, used, tuple(members[n] for n in used))
            self._parts((members[n], f"{name}.{n}") for n in used)

    def _class(self, cls: type, path: str) -> None:
        self._add(("class", id(cls)), path)
        for base in cls.__mro__:
            if _is_library_class(base):
                continue
            members = {
                k: v
                for k, v in vars(base).items()
                if k not in ("__dict__", "__weakref__", "__doc__")
            }
            self._watch("names", vars(base), tuple(members), tuple(members.values()))
            for name, member in members.items():
                self._member(member, f"{path}.{name}")

    def _member(self, member: Any, path: str) -> None:
        """What a class holds under a name: methods inside descriptors count too."""
        if isinstance(member, (staticmethod, classmethod)):
            self.visit(member.__func__, path)
        elif isinstance(member, property):
            self._parts((f, path) for f in (member.fget, member.fset) if f is not None)
        elif isinstance(member, (*_SIMPLE, float, list, dict, tuple, types.FunctionType, Tensor)):
            self.visit(member, path)

    def _instance(self, obj: Any, path: str) -> None:
        if type(obj).__module__.startswith("numpy.random"):
            raise _draws_from_numpy(path)
        if hasattr(obj, "__next__"):
            raise CompileError(
                f"compile: the step reads {path or 'an iterator'}, a {type(obj).__name__}; "
                "a replay would not take its next item",
                fix="call next() outside of the step, and pass the item as an argument",
            )
        self.visit(type(obj), type(obj).__name__)
        if hasattr(obj, "_compile_signature"):
            obj._compile_prepare()
            self._add(obj._compile_signature(self, path), path)
            return
        attributes = getattr(obj, "__dict__", None)
        if attributes is not None:
            self._watch("mapping", attributes, tuple(attributes), tuple(attributes.values()))
            self._add(("attributes", tuple(map(_key_text, attributes))), path)
            for name, value in attributes.items():
                self._attribute(name, value, path)
        slots = tuple(n for c in type(obj).__mro__ for n in _slots_of(c) if hasattr(obj, n))
        if slots:
            self._watch("slots", obj, slots, tuple(getattr(obj, n) for n in slots))
            self._parts((getattr(obj, n), f"{path}.{n}") for n in slots)
        if attributes is None and not slots:
            self._add(("object", id(obj)), path)

    def _attribute(self, name: str, value: Any, path: str) -> None:
        if name in ("_parameters", "_buffers", "_modules") and isinstance(value, dict):
            # nn.Module's registries: their entries are read as plain attributes.
            self._add((name, tuple(value)), path)
            self._watch("mapping", value, tuple(value), tuple(value.values()))
            self._parts((v, f"{path}.{k}".lstrip(".")) for k, v in value.items())
        elif name != "_version":
            self.visit(value, f"{path}.{name}".lstrip("."))


def walk(function: Any, args: tuple[Any, ...], kwargs: dict[str, Any]) -> Snapshot:
    """The walk of a function together with its arguments: the same objects are found once."""
    walker = Walker()
    walker.visit(function, "")
    walker.found.outside = len(walker.found.tensors)
    for name, value in named_arguments(function, args, kwargs):
        walker.visit(value, name)
    return walker.found


def named_arguments(
    function: Any, args: tuple[Any, ...], kwargs: dict[str, Any]
) -> list[tuple[str, Any]]:
    """Each argument with the name of its parameter."""
    code = getattr(getattr(function, "__func__", function), "__code__", None)
    names = () if code is None else code.co_varnames[: code.co_argcount]
    if isinstance(function, types.MethodType):
        names = names[1:]
    named = [(names[i] if i < len(names) else f"arg{i}", a) for i, a in enumerate(args)]
    return named + sorted(kwargs.items())


def _key_text(key: Any) -> Any:
    return key if isinstance(key, (str, int, bool, float, bytes)) else repr(type(key))


def _draws_from_numpy(path: str) -> CompileError:
    """NumPy's generators advance by themselves: a replay would repeat the recorded numbers."""
    return CompileError(
        f"compile: the step reads {path}, NumPy's random numbers; a replay would not draw again",
        fix="lowgrad.rand or lowgrad.randn inside the step, or pass the numbers as a tensor",
    )


def _file_of(module: types.ModuleType) -> str:
    return getattr(module, "__file__", None) or ""


def _walks_itself(obj: Any) -> bool:
    """Optimizers do: they come last, so that parameters have their model's names."""
    return hasattr(type(obj), "_compile_signature")


@functools.lru_cache(maxsize=4096)
def _global_names(code: types.CodeType) -> tuple[str, ...]:
    """The globals that `code` and the functions inside it read."""
    names = dict.fromkeys(
        i.argval for i in dis.get_instructions(code) if i.opname in ("LOAD_GLOBAL", "LOAD_NAME")
    )
    for constant in code.co_consts:
        if isinstance(constant, types.CodeType):
            names.update(dict.fromkeys(_global_names(constant)))
    return tuple(names)


@functools.lru_cache(maxsize=4096)
def _names(code: types.CodeType) -> tuple[str, ...]:
    """The global and attribute names that `code` and the functions inside it mention."""
    names = dict.fromkeys(code.co_names)
    for constant in code.co_consts:
        if isinstance(constant, types.CodeType):
            names.update(dict.fromkeys(_names(constant)))
    return tuple(names)


@functools.lru_cache(maxsize=4096)
def _is_library_class(cls: type) -> bool:
    if cls.__module__ in ("builtins", "abc", "typing"):
        return True
    module = sys.modules.get(cls.__module__)
    return is_library_file(getattr(module, "__file__", None) or "")


def _slots_of(cls: type) -> tuple[str, ...]:
    if _is_library_class(cls):
        return ()
    slots = cls.__dict__.get("__slots__", ())
    names = (slots,) if isinstance(slots, str) else tuple(slots)
    return tuple(n for n in names if n not in ("__dict__", "__weakref__"))
