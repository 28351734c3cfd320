"""What two processes have both, and what is told of the rest: exceptions, functions of libraries, special methods."""

import copy
import importlib
import sys
import types
from collections.abc import Sequence
from typing import Any


def special_method(held: Any, name: str, args: Sequence[Any]) -> Any:
    """Return what a special method of an object returns."""
    if name in ("__copy__", "__deepcopy__"):
        return copy.copy(held) if name == "__copy__" else copy.deepcopy(held)
    if name == "__iter__":
        return iter(held)
    return getattr(type(held), name)(held, *args)


def has_special(kind: type, name: str) -> bool:
    """Say whether a class has a special method: its own, or its bases', but for what every object has."""
    if name in ("__copy__", "__deepcopy__", "__str__", "__repr__", "__format__"):
        return True
    if name == "__iter__" and hasattr(kind, "__getitem__"):
        return True
    if name == "__hash__":
        return kind.__hash__ is not None
    return any(vars(base).get(name) is not None for base in kind.__mro__ if base is not object)


def shared_exception(module: str, name: str) -> Any:
    """Return a class of exceptions that both sides have: a built-in one, or the standard library's if it is there."""
    if module == "builtins" or module.partition(".")[0] in sys.stdlib_module_names:
        found = getattr(sys.modules.get(module), name, None)
        return found if isinstance(found, type) and issubclass(found, BaseException) else None
    return None


def exception_class(name: str, bases: Sequence[Any]) -> type:
    """Return a class of exceptions like the other side's."""
    errors = tuple(base for base in bases if isinstance(base, type) and issubclass(base, BaseException))
    return type(name, errors or (Exception,), {"__str__": _text_of})


def made_exception(kind: Any, args: list[Any], attributes: dict[str, Any], cause: Any, text: str) -> BaseException:
    """Return an exception like the other side's, with its text."""
    if not (isinstance(kind, type) and issubclass(kind, BaseException)):
        raise TypeError(f"{kind!r:.80} is no exception")
    error = kind.__new__(kind, *args)
    error.args = tuple(args)
    error.__dict__.update(attributes, __strop_text__=text)
    error.__cause__ = cause
    return error


def _text_of(error: BaseException) -> str:
    return str(error.__dict__.get("__strop_text__", ", ".join(map(str, error.args))))


def global_path(value: Any) -> tuple[str, str] | None:
    """Return by which module and name the other side finds the same function, class or module; or None."""
    if isinstance(value, types.ModuleType):
        return value.__name__, ""
    module, name = getattr(value, "__module__", None), getattr(value, "__qualname__", None)
    if isinstance(module, str) and isinstance(name, str) and module.partition(".")[0] in sys.stdlib_module_names:
        return (module, name) if shared_global(module, name) is value else None
    return None


def shared_global(module: str, name: str) -> Any:
    """Return what has such a path here; of a module alone, the module."""
    found: Any = sys.modules.get(module) or importlib.import_module(module)
    for part in name.split(".") if name else ():
        found = getattr(found, part, None)
    return found
