"""Objects of another process, as if they were here. `rewards.inside.link` carries what they ask.

A `Remote` stands for an object that stays with the other side; its class has those special methods that the object's
class has there, each of which asks. So that a program decides what its results are, and never whether they are right,
the side that checks meets them by what they hold: an object of the program's that the test did not make itself is
unequal to all plain data, and cannot be calculated with it.
"""

from collections.abc import Callable
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from rewards.inside.link import Link

_ARITHMETIC = "add sub mul matmul truediv floordiv mod divmod pow lshift rshift and or xor"
_COMPARISON = "ne lt le gt ge contains"
_CHANGING = "call setitem delitem enter exit next copy deepcopy"
_OTHERS = (
    "str repr bytes bool int float complex index len length_hint iter reversed neg pos abs invert trunc floor getitem "
    "format round ceil eq hash"
)
_TELLING = "name qualname doc module dict members annotations defaults kwdefaults wrapped slots cause notes"


def _special(names: str) -> frozenset[str]:
    return frozenset(f"__{name}__" for name in names.split())


ARITHMETIC = frozenset(f"__{prefix}{name}__" for name in _ARITHMETIC.split() for prefix in ("", "r", "i"))
MEETING = ARITHMETIC | _special(_COMPARISON)
"""Special methods by which an object meets another one."""
CHANGING = _special(_CHANGING)
"""Special methods that the plain content of an object does not stand in for."""
SPECIAL = MEETING | CHANGING | _special(_OTHERS)
TELLING = _special(_TELLING)
"""Attributes with such names that can be asked for. Others would make an object meet libraries, as NumPy's do."""


class _Doc:
    """The docstring that an object, or a class, has on the other side."""

    def __get__(self, remote: Any, kind: Any) -> Any:
        remote = kind if remote is None else remote
        return link_of(remote).ask("attribute", at_of(remote), "__doc__")


class RemoteClass(type):
    """The class of a `Remote`, which stands for a class of the other side: using it asks there."""

    def __call__(cls, *args: Any, **kwargs: Any) -> Any:
        """Make an object of the class."""
        return link_of(cls).call(cls, args, kwargs)

    def __getattr__(cls, name: str) -> Any:
        """Return an attribute of the class; a class in it is as good as the class."""
        _require_telling(name)
        found = link_of(cls).ask("attribute", at_of(cls), name)
        if isinstance(found, RemoteClass) and name[:1].isupper():
            link_of(cls).judge(found)
        return found

    def __setattr__(cls, name: str, value: Any) -> None:
        """Set an attribute of the class."""
        link_of(cls).ask("set", at_of(cls), name, value)

    def __iter__(cls) -> Any:
        """Go through the members of an enumeration."""
        return iter(link_of(cls).op(cls, "__iter__"))

    def __len__(cls) -> int:
        """Return the number of its members."""
        return int(link_of(cls).op(cls, "__len__"))

    def __getitem__(cls, key: Any) -> Any:
        """Return one of its members."""
        return link_of(cls).op(cls, "__getitem__", key)

    def __contains__(cls, value: Any) -> bool:
        """Say whether it has a member."""
        return bool(link_of(cls).op(cls, "__contains__", value))

    def __bool__(cls) -> bool:
        """Return True: a class is true, however many members it has."""
        return True


class Remote(metaclass=RemoteClass):
    """An object that stays with the other side. Its special methods are added by `Link`."""

    __slots__ = ("__strop__",)

    def __getattr__(self, name: str) -> Any:
        """Return an attribute that it has there."""
        _require_telling(name)
        return link_of(self).ask("attribute", at_of(self), name)

    def __setattr__(self, name: str, value: Any) -> None:
        """Set an attribute there."""
        link_of(self).ask("set", at_of(self), name, value)

    def __delattr__(self, name: str) -> None:
        """Remove an attribute there."""
        link_of(self).ask("delete", at_of(self), name)

    def __eq__(self, other: object) -> Any:
        """Compare as the other side does, or, where it may not judge, the plain content that it says to have."""
        link = link_of(self)
        if self is other:
            return True
        if link.may_meet("__eq__", self, other):
            return link.op(self, "__eq__", other)
        return any(each == other for each in link.content(self))

    def __hash__(self) -> int:
        """Return its hash there."""
        return int(link_of(self).op(self, "__hash__"))


def _require_telling(name: str) -> None:
    if name.startswith("__") and name.endswith("__") and name not in TELLING:
        raise AttributeError(name)


def link_of(remote: Any) -> "Link":
    """Return the connection to the side that has the object, or the class."""
    return _place(remote)[0]


def at_of(remote: Any) -> int:
    """Return the number by which the other side knows it."""
    return _place(remote)[1]


def _place(remote: Any) -> "tuple[Link, int]":
    if isinstance(remote, type):
        return type.__getattribute__(remote, "__strop_class__")  # type: ignore[no-any-return]
    return object.__getattribute__(remote, "__strop__")  # type: ignore[no-any-return]


def remote_object(link: "Link", at: int, kind: Any) -> Any:
    """Return what stands for an object of the other side; ``kind`` stands for its class."""
    if not isinstance(kind, RemoteClass):
        raise TypeError(f"an object of {kind!r:.80} is copied")
    plain: Any = kind
    made: Any = object.__new__(plain)
    object.__setattr__(made, "__strop__", (link, at))
    return made


def remote_class(link: "Link", at: int, name: str, bases: list[Any], special: set[str]) -> RemoteClass:
    """Return what stands for a class of the other side that has these special methods."""
    methods: dict[str, Any] = {each: _asking(each) for each in special & SPECIAL - {"__eq__", "__hash__"}}
    if "__hash__" not in special:
        methods["__hash__"] = None
    remote = tuple(base for base in bases if isinstance(base, RemoteClass)) or (Remote,)
    made = RemoteClass.__new__(RemoteClass, name, remote, {"__slots__": (), "__doc__": _Doc(), **methods})
    type.__setattr__(made, "__strop_class__", (link, at))
    return made


def _asking(name: str) -> Callable[..., Any]:
    """Return the special method of a `Remote` that asks the other side for its own."""

    def method(self: Any, *args: Any, **kwargs: Any) -> Any:
        link = link_of(self)
        if name == "__call__":
            return link.call(self, args, kwargs)
        if name == "__exit__" and isinstance(args[1], AssertionError):
            link.has_failed = True  # the test's own, which a program is not to swallow
        if name in CHANGING or link.may_meet(name, self, *args):
            return link.op(self, name, *args)
        return _by_content(link, name, self, args)

    return method


def _by_content(link: "Link", name: str, remote: Any, args: tuple[Any, ...]) -> Any:
    """Return what a special method of an object's plain content returns; of one that has none, what it says itself
    where it meets nothing else.
    """
    for plain in link.content(remote):
        if name == "__bool__":
            return bool(plain)
        if hasattr(plain, name):
            others = [link.content(arg)[0] if isinstance(arg, Remote) and link.content(arg) else arg for arg in args]
            return getattr(plain, name)(*others)
    if name == "__contains__":
        return any(each == args[0] for each in remote)
    return NotImplemented if name in MEETING else link.op(remote, name, *args)
