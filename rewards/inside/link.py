"""The connection of two processes that use each other's objects: a program, and the test that checks it.

    the test's `stack.push(1)`  ->  ["op", id, "__call__", ...]  ->  the program's own stack

Messages are JSON, after their length. Plain data is copied (`rewards.inside.values`); the rest is named here, and met
as a `rewards.inside.remote.Remote`.
"""

import json
import socket
import struct
import sys
import threading
import types
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from typing import Any

from rewards.inside.naming import (
    exception_class,
    global_path,
    has_special,
    made_exception,
    shared_exception,
    shared_global,
    special_method,
)
from rewards.inside.remote import ARITHMETIC, MEETING, SPECIAL, Remote, RemoteClass, at_of, remote_class, remote_object
from rewards.inside.values import TYPES, Packer, Unpacker, UnsentError, content

DEPTH = 1_000_000
"""How many calls deep data may be nested; a linked list is."""


class LostError(BaseException):
    """The other side is gone. Not an Exception: a test that expects one is not to take it for that."""


class Link:
    """One end of the connection. While a request is under way, those of the other side are met."""

    def __init__(
        self, end: socket.socket, shared: Mapping[str, type], *, owns: Callable[[Any], bool] | None = None
    ) -> None:
        """``shared`` are the set-up's classes by name. ``owns`` makes this the side that checks: it says of an object
        whether the other side may use its attributes.
        """
        self._end, self._shared, self._owns = end, shared, owns
        self._lock = threading.RLock()
        self._mine: dict[int, Any] = {}
        self._ids: dict[int, int] = {}
        self._theirs: dict[int, Any] = {}
        self._made: set[int] = set()
        self._judges: set[int] = set()
        self.requests: dict[str, Callable[..., Any]] = {}
        """What else can be asked of this side: name -> function of what comes with it."""
        self.printed: Callable[[], str] = lambda: ""
        """Returns what was printed here since it was asked last."""
        self.has_failed = False
        """Whether an assert of this side's has failed where the other side could swallow that."""
        self.is_lost = False

    def ask(self, what: str, *parts: Any) -> Any:
        """Ask the other side; return, or raise, what it answers. Raises LostError where it is gone."""
        return self._ask(what, parts, self._packer())

    def op(self, remote: Any, name: str, *args: Any) -> Any:
        """Return what a special method of an object of the other side returns."""
        found = self.ask("op", at_of(remote), name, list(args), {}, False)
        if name in MEETING and isinstance(type(found), RemoteClass) and at_of(type(found)) in self._judges:
            self._made.add(at_of(found))  # the sum of two vectors that the test made
        return found

    def content(self, remote: Any) -> list[Any]:
        """Return the plain content of an object of the other side, if its class is derived from a built-in one."""
        return list(self.ask("content", at_of(remote)))

    def call(self, remote: Any, args: Sequence[Any], kwargs: Mapping[str, Any], *, changes: bool = False) -> Any:
        """Call an object of the other side; ``changes`` where what it does to its arguments is to be seen here."""
        parts = (at_of(remote), "__call__", list(args), dict(kwargs), changes)
        found = self._ask("op", parts, self._packer(), changes=changes)
        if isinstance(remote, RemoteClass) and at_of(remote) in self._judges and type(found) is remote:
            self._made.add(at_of(found))
        return found

    def judge(self, kind: RemoteClass) -> None:
        """Have objects of a class of the other side, if they are made here, meet other things by their own methods."""
        self._judges.add(at_of(kind))

    def says_isinstance(self, remote: Any, kind: Any) -> bool:
        """Return whether an object of the other side is, as it says, an instance of a class that both sides have."""
        return bool(self.ask("isinstance", at_of(remote), kind))

    def serve(self) -> None:
        """Answer until the other side is gone."""
        try:
            while True:
                self._send(self._answer(self._receive()))
        except LostError:
            return

    def may_meet(self, name: str, one: Any, *others: Any) -> bool:
        """Say whether an object of the other side may use a special method of its own.

        It may where the test made it, or what it meets. Others have come as results: they may meet each other in
        calculations, and are compared by what they hold.
        """
        remote = [each for each in others if isinstance(type(each), RemoteClass)]
        if self._owns is None or any(at_of(each) in self._made for each in [one, *remote]):
            return True
        return name in ARITHMETIC and len(remote) == len(others)

    def _ask(self, what: str, parts: Sequence[Any], packer: Packer, *, changes: bool = False) -> Any:
        with self._lock:
            self._send({"ask": what, **self._packed(list(parts), packer)})
            while True:
                message = self._receive()
                if "ask" in message:
                    self._send(self._answer(message))
                    continue
                if self._owns is not None and message.get("printed"):
                    sys.stdout.write(str(message["printed"]))
                found = self._unpacked(message, packer.packed, changes=changes)
                if message.get("raised"):
                    raise found if isinstance(found, BaseException) else UnsentError("an exception that is none")
                return found

    def _answer(self, message: dict[str, Any]) -> dict[str, Any]:
        """Do what is asked, and return the message that answers, with what was printed meanwhile."""
        return {**self._answered(message), "printed": self.printed()}

    def _answered(self, message: dict[str, Any]) -> dict[str, Any]:
        try:
            unpacker = self._unpacker(message["nodes"], {})
            with deep():
                parts = unpacker.unpack(message["root"])
            found = self._done(message["ask"], parts)
            packer = self._packer()
            if message["ask"] == "op" and parts[-1]:  # after a call, what became of its arguments
                packer.given = {id(held): at for at, held in unpacker.built.items()}
                with deep():
                    states = [[at, packer.state(held)] for at, held in unpacker.built.items() if packer.holds(held)]
                return {**self._packed(found, packer), "states": states, "nodes": packer.nodes}
            return self._packed(found, packer)
        except LostError:
            raise
        except BaseException as error:
            self.has_failed |= self._owns is not None and isinstance(error, AssertionError)
            return {**self._packed(error, self._packer()), "raised": True}

    def _done(self, what: str, parts: list[Any]) -> Any:
        if what in self.requests:
            return self.requests[what](*parts)
        held = self._mine[parts[0]]
        if what == "content":
            return list(content(held))
        if what == "isinstance":
            return isinstance(held, parts[1])
        name = parts[1]
        if what == "op":
            args, kwargs = parts[2], parts[3]
            if name not in SPECIAL:
                raise AttributeError(name)
            return held(*args, **kwargs) if name == "__call__" else special_method(held, name, args)
        is_told = what == "attribute" and name in ("__name__", "__qualname__", "__doc__", "__module__")
        if self._owns is not None and not is_told and (name.startswith("_") or not self._owns(held)):
            raise AttributeError(f"{name!r} is not for the program")
        if what == "attribute":
            return getattr(held, name)
        if what == "set":
            setattr(held, name, parts[2])
        elif what == "delete":
            delattr(held, name)
        return None

    def _packer(self) -> Packer:
        return Packer(self._name_of, self._shared)

    def _packed(self, value: Any, packer: Packer) -> dict[str, Any]:
        with deep():
            root = packer.pack(value)
        return {"root": root, "nodes": packer.nodes}

    def _unpacked(self, message: dict[str, Any], given: Mapping[int, Any], *, changes: bool) -> Any:
        unpacker = self._unpacker(message["nodes"], given)
        with deep():
            for at, state in message.get("states", ()) if changes else ():  # a program may send some unasked
                unpacker.fill(given[at], state)
            return unpacker.unpack(message["root"])

    def _unpacker(self, nodes: list[Any], given: Mapping[int, Any]) -> Unpacker:
        return Unpacker(nodes, lambda node, unpacker: self._named(node, given, unpacker), self._shared)

    def _name_of(self, value: Any, packer: Packer) -> list[Any]:
        """Return the node of what is not copied."""
        if isinstance(value, Remote | RemoteClass):
            return ["yours", at_of(value)]
        if self._owns is not None and (path := global_path(value)):
            return ["global", *path]
        if isinstance(value, type):
            return self._class_node(value, packer)
        if isinstance(value, BaseException):
            attributes = {name: each for name, each in vars(value).items() if not name.startswith("__")}
            parts = [packer.pack(part) for part in (type(value), list(value.args), attributes, value.__cause__)]
            return ["exception", *parts, str(value)]
        if isinstance(value, types.TracebackType):
            return ["nothing"]
        return ["object", self._id_of(value), self._class_node(type(value), packer)]

    def _class_node(self, kind: type, packer: Packer) -> list[Any]:
        if issubclass(kind, BaseException) and shared_exception(kind.__module__, kind.__qualname__) is kind:
            return ["error", kind.__module__, kind.__qualname__]
        is_known, at = id(kind) in self._ids, self._id_of(kind)
        if is_known:
            return ["class", at]
        bases = [
            packer.pack(base) for base in kind.__bases__ if base is not object and TYPES.get(base.__name__) is not base
        ]
        special = sorted(name for name in SPECIAL if has_special(kind, name))
        return ["class", at, kind.__name__, bases, special, issubclass(kind, BaseException)]

    def _id_of(self, value: Any) -> int:
        if id(value) not in self._ids:
            self._ids[id(value)] = len(self._ids)
            self._mine[self._ids[id(value)]] = value
        return self._ids[id(value)]

    def _named(self, node: list[Any], given: Mapping[int, Any], unpacker: Unpacker) -> Any:
        """Return what a node names."""
        what, *rest = node
        if what in ("given", "yours"):
            return (given if what == "given" else self._mine)[rest[0]]
        if what == "error":
            return shared_exception(*rest)
        if what == "global" and self._owns is None:
            return shared_global(*rest)
        if what == "exception":
            kind, args, attributes, cause = (unpacker.unpack(part) for part in rest[:4])
            return made_exception(kind, args, attributes, cause, str(rest[4]))
        if what == "nothing":
            return None
        at = int(rest[0])
        if at not in self._theirs and what == "object":
            self._theirs[at] = remote_object(self, at, self._named(rest[1], given, unpacker))
        elif at not in self._theirs:
            name, bases, special, is_exception = rest[1:]
            bases = [unpacker.unpack(base) for base in bases]
            made = exception_class(str(name), bases) if is_exception else None
            self._theirs[at] = made or remote_class(self, at, str(name), bases, set(map(str, special)))
        return self._theirs[at]

    def _send(self, message: dict[str, Any]) -> None:
        told = json.dumps(message).encode()
        try:
            self._end.sendall(struct.pack("!Q", len(told)) + told)
        except OSError as error:
            raise self._lost() from error

    def _receive(self) -> dict[str, Any]:
        (size,) = struct.unpack("!Q", self._exactly(8))
        message = json.loads(self._exactly(size))
        if not isinstance(message, dict):
            raise self._lost()
        return message

    def _exactly(self, size: int) -> bytes:
        parts, left = [], size
        while left:
            try:
                part = self._end.recv(min(left, 1 << 20))
            except OSError as error:
                raise self._lost() from error
            if not part:
                raise self._lost()
            parts.append(part)
            left -= len(part)
        return b"".join(parts)

    def _lost(self) -> LostError:
        self.is_lost = True
        return LostError("the other side is gone")


@contextmanager
def deep() -> Iterator[None]:
    """Allow for deep data in the block."""
    limit = sys.getrecursionlimit()
    sys.setrecursionlimit(max(limit, DEPTH))
    try:
        yield
    finally:
        sys.setrecursionlimit(limit)
