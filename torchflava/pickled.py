"""Pickles read as data: parsed opcode by opcode, so that nothing they name is imported, called or built.

Source: Python's `pickletools` (the opcodes) and what `torch.save` writes (tensors as views of stored records). A pickle
is a program that may call anything; here it only describes. A global that is not on the allow-list is refused by name.
"""

import pickletools
from collections.abc import Callable, Collection
from typing import Any, BinaryIO, NamedTuple

from torchflava.streams import Bounded


class UnreadableError(ValueError):
    """A pickle is damaged, or does what none of torch's does."""


class RefusedError(UnreadableError):
    """A pickle names a global that is not on the allow-list."""

    def __init__(self, name: str) -> None:
        super().__init__(f"its pickle names {name[:200]!r}, which is not among what is read from a pickle")


class Named(NamedTuple):
    """A global: a class, function or constant, never looked up."""

    name: str


class Stored(NamedTuple):
    """A record of numbers beside the pickle."""

    dtype: str
    """Torch's name for the numbers' type, such as `float32`."""
    key: str
    """Which record."""
    length: int
    """In numbers."""


class View(NamedTuple):
    """A tensor: where its numbers lie."""

    stored: Stored
    offset: int
    size: tuple[int, ...]
    stride: tuple[int, ...]


class Husk:
    """An object or a call of an allowed global, never made: its name, its arguments and its attributes."""

    __slots__ = ("args", "name", "state")

    def __init__(self, name: str, args: object) -> None:
        self.name = name
        self.args = args
        self.state: object = None


class Parsed(NamedTuple):
    """What a pickle describes."""

    root: Any
    """Dicts, lists, tuples and constants, with `Named`, `View` and `Husk` in place of everything else."""
    stored: dict[str, Stored]
    """Every record that it names, by key."""


_STORAGES = {
    "torch.DoubleStorage": "float64",
    "torch.FloatStorage": "float32",
    "torch.HalfStorage": "float16",
    "torch.BFloat16Storage": "bfloat16",
    "torch.LongStorage": "int64",
    "torch.IntStorage": "int32",
    "torch.ShortStorage": "int16",
    "torch.CharStorage": "int8",
    "torch.ByteStorage": "uint8",
    "torch.BoolStorage": "bool",
}
_SETS = ("builtins.set", "__builtin__.set")
_TENSORS = ("torch._utils._rebuild_tensor", "torch._utils._rebuild_tensor_v2")
_PARAMETERS = ("torch._utils._rebuild_parameter", "torch._utils._rebuild_parameter_with_state")
_OTHERS = ("collections.OrderedDict", "torch.device", "torch.Size", *(f"torch.{dtype}" for dtype in _STORAGES.values()))
_ALLOWED = frozenset((*_STORAGES, *_SETS, *_TENSORS, *_PARAMETERS, *_OTHERS))
"""What every file of torch's may name."""

_MOST_NODES = 100_000
_LONGEST_NAME = 1000
"""Bounds on what is walked: a file whose modules hold each other would never end."""


def parse(stream: BinaryIO | bytes, allow: Collection[str]) -> Parsed:
    """One pickle, up to its STOP.

    Args:
        stream: a file at the pickle's first byte, left at the first byte after it.
        allow: names of globals (`module.name`) that may stand in it, beside those of torch's own tensors.

    Raises:
        UnreadableError: for a damaged pickle, and `RefusedError` for a global that is not allowed.
    """
    machine = _Machine(_ALLOWED.union(allow))
    try:
        for opcode, value, _ in pickletools.genops(Bounded(stream)):  # type: ignore[arg-type]  # it reads, no more is asked
            machine.step(opcode.name, value)
        return Parsed(machine.stack.pop(), machine.stored)
    except RefusedError:
        raise
    except (ValueError, IndexError, KeyError, TypeError, OverflowError) as error:
        raise UnreadableError(f"its pickle is damaged ({type(error).__name__}: {str(error)[:200]})") from error


def tensors(node: Any) -> dict[str, View]:
    """A parsed module -> its parameters and persistent buffers under their state-dict names.

    Raises:
        UnreadableError: if it is damaged, or its modules hold each other.
    """
    found: dict[str, View] = {}
    todo, nodes = [("", node)], 0
    while todo:
        prefix, module = todo.pop()
        parameters, buffers, modules = (_part(module, part) for part in ("_parameters", "_buffers", "_modules"))
        nodes += len(parameters) + len(buffers) + len(modules) + 1
        if nodes > _MOST_NODES or len(prefix) > _LONGEST_NAME:
            raise UnreadableError("the modules in its pickle hold each other without end")
        hidden = _of(list, module.state.get("_non_persistent_buffers_set", []))
        kept = parameters | {name: value for name, value in buffers.items() if name not in hidden}
        found.update({prefix + name: value for name, value in kept.items() if isinstance(value, View)})
        todo += [(f"{prefix}{name}.", child) for name, child in reversed(modules.items()) if child is not None]
    return found


def is_module(node: object) -> bool:
    """Whether a parsed object was a torch.nn.Module."""
    return isinstance(node, Husk) and type(node.state) is dict and "_modules" in node.state


def _part(module: Any, name: str) -> dict[str, Any]:
    part = module.state.get(name) if is_module(module) else None
    if type(part) is not dict or not all(type(key) is str and len(key) <= _LONGEST_NAME for key in part):
        raise UnreadableError(f"an object in its pickle stands where a module should, without {name}")
    return part


class _Machine:
    """The pickle machine's stack, memo and marks; its objects are inert."""

    def __init__(self, allowed: Collection[str]) -> None:
        self.allowed = allowed
        self.stack: list[Any] = []
        self.marks: list[int] = []
        self.memo: dict[int, Any] = {}
        self.stored: dict[str, Stored] = {}

    def step(self, name: str, value: Any) -> None:
        """One opcode."""
        if name in _CONSTANTS or name in _BYTES:
            self.stack.append(value)
        elif name in _MAKERS:
            self.stack.append(_MAKERS[name]())
        elif name in ("BINPUT", "LONG_BINPUT", "MEMOIZE"):
            self.memo[len(self.memo) if name == "MEMOIZE" else value] = self.stack[-1]
        elif name in ("BINGET", "LONG_BINGET"):
            self.stack.append(self.memo[value])
        elif name == "MARK":
            self.marks.append(len(self.stack))
        elif name == "GLOBAL":
            self.stack.append(self.named(value.replace(" ", ".")))
        elif name in _ACTIONS:
            _ACTIONS[name](self)
        elif name not in ("PROTO", "FRAME", "STOP"):
            raise ValueError(f"opcode {name}")

    def named(self, name: str) -> Named:
        """A global of this name, if it is allowed."""
        if name not in self.allowed:
            raise RefusedError(name)
        return Named(name)

    def marked(self) -> list[Any]:
        """What was pushed since the last mark, taken off the stack."""
        start = self.marks.pop()
        items, self.stack[start:] = self.stack[start:], []
        return items

    def stack_global(self) -> None:
        name, module = self.stack.pop(), self.stack.pop()
        if type(name) is not str or type(module) is not str:
            raise ValueError("a global without a name")
        self.stack.append(self.named(f"{module}.{name}"))

    def tuple_of(self, count: int) -> None:
        items = tuple(self.stack[len(self.stack) - count :])
        if len(items) != count:
            raise IndexError("stack")
        self.stack[len(self.stack) - count :] = [items]

    def put(self, pairs: list[Any]) -> None:
        target = _of(dict, self.stack[-1])
        for key, value in zip(pairs[::2], pairs[1::2], strict=True):
            if type(key) not in (str, int):  # a tuple nested deep enough would overflow the stack when hashed
                raise ValueError("a dict's key that is neither a string nor a number")
            target[key] = value

    def extend(self, items: list[Any]) -> None:
        _of(list, self.stack[-1]).extend(items)

    def reduce(self) -> None:
        args, function = _of(tuple, self.stack.pop()), _of(Named, self.stack.pop())
        self.stack.append(_called(function.name, args))

    def build(self) -> None:
        state = self.stack.pop()
        if isinstance(self.stack[-1], Husk):
            self.stack[-1].state = state
        else:
            _of(dict, self.stack[-1])  # an OrderedDict's own attributes, such as a state dict's `_metadata`: left out

    def persistent(self) -> None:
        match self.stack.pop():
            case ("storage", Named(kind), str(key), str(), int(length), *rest) if rest in ([], [None]):
                record = Stored(_STORAGES[kind], key, length)
                if self.stored.setdefault(key, record) != record:
                    raise ValueError("two records of one name")
                self.stack.append(record)
            case ("module", Named() as module, *_):
                self.stack.append(module)
            case _:
                raise ValueError("a persistent id that is neither a storage nor a module")


def _of(kind: type, value: Any) -> Any:
    if type(value) is not kind:
        raise UnreadableError(f"a {type(value).__name__} where a {kind.__name__} should be")
    return value


def _called(name: str, args: tuple[Any, ...]) -> Any:
    """What a call of an allowed global stands for."""
    match args:
        case () if name == "collections.OrderedDict":
            return {}
        case (list() as pairs,) if name == "collections.OrderedDict":
            return {_of(str, key): value for key, value in pairs}
        case (list() as items,) if name in _SETS:
            return items
        case (Stored() as stored, offset, tuple() as size, tuple() as stride, *_) if name in _TENSORS:
            counts = [offset, *size, *stride]
            if any(type(count) is not int or not 0 <= count < 2**48 for count in counts) or len(size) != len(stride):
                raise ValueError("a tensor whose sizes are not counts")
            return View(stored, offset, size, stride)
        case (View() as view, *_) if name in _PARAMETERS:
            return view
    return Husk(name, args)


_CONSTANTS = (
    "BININT",
    "BININT1",
    "BININT2",
    "LONG1",
    "LONG4",
    "BINFLOAT",
    "BINUNICODE",
    "SHORT_BINUNICODE",
    "BINUNICODE8",
)
_BYTES = ("BINSTRING", "SHORT_BINSTRING", "BINBYTES", "SHORT_BINBYTES", "BINBYTES8")
_MAKERS: dict[str, Callable[[], Any]] = {
    "NONE": lambda: None,
    "NEWTRUE": lambda: True,
    "NEWFALSE": lambda: False,
    "EMPTY_TUPLE": tuple,
    "EMPTY_LIST": list,
    "EMPTY_DICT": dict,
    "EMPTY_SET": list,
}
_ACTIONS: dict[str, Callable[[_Machine], object]] = {
    "STACK_GLOBAL": _Machine.stack_global,
    "TUPLE": lambda machine: machine.stack.append(tuple(machine.marked())),
    "TUPLE1": lambda machine: machine.tuple_of(1),
    "TUPLE2": lambda machine: machine.tuple_of(2),
    "TUPLE3": lambda machine: machine.tuple_of(3),
    "APPEND": lambda machine: machine.extend([machine.stack.pop()]),
    "APPENDS": lambda machine: machine.extend(machine.marked()),
    "ADDITEMS": lambda machine: machine.extend(machine.marked()),
    "SETITEM": lambda machine: machine.put([machine.stack.pop(-2), machine.stack.pop()]),
    "SETITEMS": lambda machine: machine.put(machine.marked()),
    "REDUCE": _Machine.reduce,
    "NEWOBJ": _Machine.reduce,  # a class and its arguments, or a function and its: neither is called here
    "BUILD": _Machine.build,
    "BINPERSID": _Machine.persistent,
}
