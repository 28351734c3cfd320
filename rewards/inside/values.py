"""Values on their way between a program and what checks it: plain data is copied, all else stays where it is.

A value becomes JSON, a table of nodes and the root, by `Packer`; `Unpacker` builds it on the other side. Copied are the
built-in types, by their exact type, with shared parts and cycles; some of the standard library (`Decimal`, `deque`,
dates) and NumPy's arrays; and instances of classes that the set-up defines, which both sides have. What arrives is
built from nothing but these types, so the sender decides what a value is, and not how it behaves.

Anything else is named: an object of the sender's, which the receiver meets as a `rewards.inside.remote.Remote`.
"""

import builtins
import collections
import datetime
import decimal
import fractions
import sys
import uuid
from collections.abc import Callable, Iterator, Mapping
from typing import Any

ATOMS = (type(None), bool, int, float, str)
TYPES: dict[str, type] = {
    name: kind
    for name, kind in vars(builtins).items()
    if isinstance(kind, type) and not issubclass(kind, BaseException)
}
"""Built-in types, which are the same everywhere."""
VALUES: dict[str, tuple[type, Callable[[Any], list[Any]], Callable[..., Any]]] = {
    "bytes": (bytes, lambda x: [x.hex()], bytes.fromhex),
    "complex": (complex, lambda x: [x.real, x.imag], complex),
    "range": (range, lambda x: [x.start, x.stop, x.step], range),
    "slice": (slice, lambda x: [x.start, x.stop, x.step], slice),
    "Decimal": (decimal.Decimal, lambda x: [str(x)], decimal.Decimal),
    "Fraction": (fractions.Fraction, lambda x: [x.numerator, x.denominator], fractions.Fraction),
    "date": (datetime.date, lambda x: [x.isoformat()], datetime.date.fromisoformat),
    "time": (datetime.time, lambda x: [x.isoformat()], datetime.time.fromisoformat),
    "datetime": (datetime.datetime, lambda x: [x.isoformat()], datetime.datetime.fromisoformat),
    "timedelta": (datetime.timedelta, lambda x: [x.days, x.seconds, x.microseconds], datetime.timedelta),
    "UUID": (uuid.UUID, lambda x: [str(x)], uuid.UUID),
}
"""Name -> type, what it is made of, how it is made: values that cannot change."""
_VALUE_NAMES = {kind: name for name, (kind, _, _) in VALUES.items()}


class UnsentError(Exception):
    """What arrived is no value that was sent by these rules."""


def _set_items(held: Any, items: list[Any]) -> None:
    held.clear()
    held.update(items)


def _set_list(held: Any, items: list[Any]) -> None:
    held[:] = items


def _set_deque(held: Any, items: list[Any]) -> None:
    held.clear()
    held.extend(items)


HOLDERS: dict[str, tuple[type, Callable[[Any, list[Any]], None]]] = {
    "list": (list, _set_list),
    "dict": (dict, _set_items),
    "set": (set, _set_items),
    "bytearray": (bytearray, _set_list),
    "deque": (collections.deque, _set_deque),
    "OrderedDict": (collections.OrderedDict, _set_items),
    "Counter": (collections.Counter, lambda held, items: _set_items(held, dict(items))),  # type: ignore[arg-type]
    "defaultdict": (collections.defaultdict, _set_items),
}
"""Name -> type, how it is filled: what can change, so that it is made empty first and may hold itself."""
_HOLDER_NAMES = {kind: name for name, (kind, _) in HOLDERS.items()}


class Packer:
    """Makes nodes of values."""

    def __init__(self, name_of: Callable[[Any, "Packer"], list[Any]], shared: Mapping[str, type]) -> None:
        """``name_of`` returns the node of an object that is not copied; ``shared`` are the set-up's classes by name."""
        self._name_of = name_of
        self._shared = {kind: name for name, kind in shared.items()}
        self._known: dict[int, int] = {}
        self.nodes: list[Any] = []
        self.packed: dict[int, Any] = {}
        """What was packed, by its node."""
        self.given: dict[int, int] = {}
        """Objects that the other side has already, by id -> the node that it gave them."""

    def pack(self, value: Any) -> Any:
        """Return the value if JSON can hold it, or [its node]."""
        if type(value) in ATOMS:
            return value
        if id(value) in self._known:
            return [self._known[id(value)]]
        at = len(self.nodes)
        self.nodes.append(None)
        self._known[id(value)] = at
        self.packed[at] = value  # kept, so that no other object gets its id meanwhile
        self.nodes[at] = ["given", self.given[id(value)]] if id(value) in self.given else self._node(value)
        return [at]

    def holds(self, value: Any) -> bool:
        """Say whether a value is one that can change, and is copied."""
        return type(value) in _HOLDER_NAMES or type(value) in self._shared or is_array(value)

    def state(self, value: Any) -> list[Any]:
        """Return the packed parts of a holder as it is now."""
        kind = type(value)
        if kind in self._shared:
            return [[self.pack(name), self.pack(each)] for name, each in vars(value).items()]
        if is_array(value):
            return [self.pack(value.tolist())]
        pairs = isinstance(value, dict)
        parts = value.items() if pairs else value
        return (
            [[self.pack(key), self.pack(each)] for key, each in parts] if pairs else [self.pack(part) for part in parts]
        )

    def _node(self, value: Any) -> list[Any]:
        kind = type(value)
        if kind in _HOLDER_NAMES:
            return ["holder", _HOLDER_NAMES[kind], self._made_with(value), self.state(value)]
        if kind in self._shared:
            return ["shared", self._shared[kind], self.state(value)]
        if kind is tuple or kind is frozenset:
            return [kind.__name__, [self.pack(part) for part in value]]
        if kind in _VALUE_NAMES:
            name = _VALUE_NAMES[kind]
            return ["value", name, [self.pack(part) for part in VALUES[name][1](value)]]
        if value is Ellipsis or value is NotImplemented:
            return ["constant", repr(value)]
        if isinstance(value, type) and TYPES.get(value.__name__) is value:
            return ["type", value.__name__]
        if is_array(value):
            return ["array", value.dtype.str, list(value.shape), self.state(value)]
        if _is_number_of_numpy(value):
            return ["number", value.dtype.str, self.pack(value.item())]
        return self._name_of(value, self)

    def _made_with(self, value: Any) -> list[Any]:
        if isinstance(value, collections.deque):
            return [value.maxlen]
        return [self.pack(value.default_factory)] if isinstance(value, collections.defaultdict) else []


class Unpacker:
    """Builds values from nodes that may be anybody's. Raises UnsentError for what no packer makes."""

    def __init__(
        self, nodes: list[Any], named: Callable[[list[Any], "Unpacker"], Any], shared: Mapping[str, type]
    ) -> None:
        """``named`` returns what a node names that is not copied."""
        self._nodes, self._named, self._shared = nodes, named, shared
        self._under_way: set[int] = set()
        self.built: dict[int, Any] = {}
        """What was built, by its node."""

    def unpack(self, packed: Any) -> Any:
        """Return the value of what `Packer.pack` returned."""
        if type(packed) in ATOMS:
            return packed
        (at,) = packed
        if at not in self.built:
            if at in self._under_way or not 0 <= at < len(self._nodes):
                raise UnsentError("a value that cannot change holds itself, or is none")
            self._under_way.add(at)
            self._build(at, self._nodes[at])
        return self.built[at]

    def fill(self, value: Any, state: list[Any]) -> None:
        """Give a holder its parts."""
        kind = type(value)
        if kind in self._shared.values():
            attributes = {self.unpack(name): self.unpack(part) for name, part in state}
            value.__dict__.clear()
            value.__dict__.update(attributes)
        elif is_array(value):
            value[...] = self.unpack(state[0])
        elif isinstance(value, dict):
            HOLDERS[_HOLDER_NAMES[kind]][1](value, [(self.unpack(key), self.unpack(part)) for key, part in state])
        else:
            HOLDERS[_HOLDER_NAMES[kind]][1](value, [self.unpack(part) for part in state])

    def _build(self, at: int, node: list[Any]) -> None:
        what, *rest = node
        if what == "holder":
            name, made_with, state = rest
            kind: Any = HOLDERS[name][0]
            given = [self.unpack(part) for part in made_with]
            self.built[at] = kind(*given) if kind is not collections.deque else kind([], *given)
            self.fill(self.built[at], state)
        elif what == "shared":
            name, state = rest
            self.built[at] = object.__new__(self._shared[name])
            self.fill(self.built[at], state)
        else:
            self.built[at] = self._unchanging(what, rest)

    def _unchanging(self, what: str, rest: list[Any]) -> Any:
        if what in ("tuple", "frozenset"):
            return TYPES[what](self.unpack(part) for part in rest[0])
        if what == "value":
            return VALUES[rest[0]][2](*(self.unpack(part) for part in rest[1]))
        if what == "constant":
            return {"Ellipsis": Ellipsis, "NotImplemented": NotImplemented}[rest[0]]
        if what == "type":
            return TYPES[rest[0]]
        if what in ("array", "number"):
            return self._of_numpy(what, rest)
        return self._named([what, *rest], self)

    def _of_numpy(self, what: str, rest: list[Any]) -> Any:
        import numpy as np

        kind = np.dtype(str(rest[0]))
        if kind.hasobject:
            raise UnsentError("arrays of objects are not copied")
        if what == "number":
            return kind.type(self.unpack(rest[1]))
        held = np.empty(tuple(int(size) for size in rest[1]), kind)
        self.fill(held, rest[2])
        return held


def content(value: Any) -> Iterator[Any]:
    """Yield the plain content of an object whose class is derived from a built-in one, as a named tuple's is."""
    kinds: tuple[Any, ...] = (bool, int, float, str, bytes, tuple, list, dict, set, frozenset)
    for kind in kinds:
        if isinstance(value, kind):
            yield "".join(value) if kind is str else kind(value)
            return
    if isinstance(value, collections.abc.Set):
        yield set(value)


def is_array(value: Any) -> bool:
    """Say whether a value is an array of numbers or of text."""
    np = sys.modules.get("numpy")
    return np is not None and type(value) is getattr(np, "ndarray", None) and not value.dtype.hasobject


def _is_number_of_numpy(value: Any) -> bool:
    np = sys.modules.get("numpy")
    return np is not None and isinstance(value, getattr(np, "generic", ())) and value.dtype.kind in "biufc"  # type: ignore[union-attr]
