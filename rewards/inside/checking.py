"""A test and the program that it checks, each in a process of its own.

    checker: set-up, then the test; the program's names are looked up by a `Link`
    program: set-up, then the program; then whatever the checker asks for

The program's process never holds the test, nor the key that says that it was passed.
"""

import ast
import builtins
import functools
import importlib
import io
import random
import socket
import sys
import types
from collections.abc import Callable
from typing import Any

from rewards.inside.link import Link
from rewards.inside.remote import Remote, RemoteClass, link_of

MODULES = {"np": "numpy", "pd": "pandas", "sp": "scipy", "nx": "networkx", "plt": "matplotlib.pyplot", "dt": "datetime"}
"""What modules are mostly called; others have their own names."""
PRELUDE_MODULES = ("bisect", "collections", "copy", "functools", "heapq", "itertools", "math", "typing")
"""What tests use names of without importing them, since programs mostly have."""
CALL = "__strop_call__"
"""By this a test's calls go."""
_SEED = random.seed


def serve(end: socket.socket, trial: dict[str, Any], run: Callable[[io.StringIO], dict[str, Any]]) -> None:
    """Be the program: run it when the checker asks for it, and then do what it asks.

    What it prints goes to the checker, too, which may be capturing it.
    """
    shared: dict[str, type] = {}
    names: dict[str, Any] = {}

    copy = io.StringIO()

    def start() -> None:
        nonlocal names
        names = run(copy)
        shared.update(_classes(names, trial["apart"]["classes"]))

    def printed() -> str:
        text = copy.getvalue()
        copy.seek(0)
        copy.truncate()
        return text

    link = Link(end, shared)
    link.requests = {"start": start, "name": lambda name: names[name], "seed": _seed}
    link.printed = printed
    link.serve()


def check(end: socket.socket, trial: dict[str, Any], text: str) -> bool:
    """Be the checker: have the program run, execute the test, and say whether its end was reached.

    Raises what the test raises.
    """
    shared: dict[str, type] = {}
    names = _Names(trial["apart"]["asked"])
    link = Link(end, shared, owns=lambda held: (held if isinstance(held, type) else type(held)).__module__ == "answer")
    sys.modules["answer"] = types.ModuleType("answer")
    names.update({"__name__": "answer", CALL: _call, "isinstance": _isinstance})
    names.link = link
    random.seed = lambda *args: [seed(*args) for seed in (_seed, functools.partial(link.ask, "seed"))]  # type: ignore[assignment]
    sys.set_int_max_str_digits(0)
    link.ask("start")
    exec(compile(trial["setup"], "setup.py", "exec"), names)
    shared.update(_classes(names, trial["apart"]["classes"]))
    tree = ast.parse(text)
    tree = ast.fix_missing_locations(_Calls(tree).visit(tree))
    exec(compile(tree, "check.py", "exec"), names)
    return not (link.is_lost or link.has_failed)


class _Names(dict[str, Any]):
    """The names of a test: its own, and those of the program that it may ask for, as they are when they are used."""

    link: Link

    def __init__(self, asked: list[str]) -> None:
        super().__init__()
        self._asked = frozenset(asked)

    def __missing__(self, name: str) -> Any:
        """Ask the program for what is asked of it, and import what is a module; all else is a built-in name."""
        if name not in self._asked:
            self[name] = _known_everywhere(name)
            return self[name]
        try:
            found = self.link.ask("name", name)
        except KeyError:
            raise NameError(f"name {name!r} is not defined") from None
        if isinstance(found, RemoteClass) and name[:1].isupper():
            self.link.judge(found)
        return found


def _known_everywhere(name: str) -> Any:
    """Return a module by how it is mostly called, or what is mostly imported from one. Raises KeyError."""
    if hasattr(builtins, name):
        raise KeyError(name)
    if name in MODULES or name in sys.stdlib_module_names:
        return importlib.import_module(MODULES.get(name, name))
    for module in map(importlib.import_module, PRELUDE_MODULES):
        if not name.startswith("_") and hasattr(module, name):
            return getattr(module, name)
    raise KeyError(name)


def _seed(*args: Any) -> None:
    _SEED(*args)


def _isinstance(value: Any, kinds: Any) -> bool:
    """Say of a program's object what it says: it is no int here, but an object of a class that is derived from int."""
    if isinstance(value, kinds):
        return True
    remote = isinstance(type(value), RemoteClass) or isinstance(value, RemoteClass)
    listed = [kind for kind in (kinds if isinstance(kinds, tuple) else (kinds,)) if not isinstance(kind, RemoteClass)]
    return remote and any(link_of(value).says_isinstance(value, kind) for kind in listed)


def _call(is_pure: bool, function: Any, *args: Any, **kwargs: Any) -> Any:
    """Call; of the program's functions, let what they do to the arguments be seen if that is not to be pure."""
    if isinstance(function, Remote | RemoteClass):
        return link_of(function).call(function, args, kwargs, changes=not is_pure)
    return function(*args, **kwargs)


class _Calls(ast.NodeTransformer):
    """Marks calls, as pure where a result is compared with what the arguments say.

    So in `assert f(x) == sorted(x)` it is the test's x that is sorted, whatever f has done to it.
    """

    def __init__(self, tree: ast.Module) -> None:
        self._measures = _measures(tree)

    def visit_Call(self, node: ast.Call) -> ast.AST:
        """A call of anything but of a built-in function."""
        self.generic_visit(node)
        if isinstance(node.func, ast.Name) and hasattr(builtins, node.func.id):
            return node
        is_pure = bool(self._measures & _given(node))
        args = [ast.Constant(is_pure), node.func, *node.args]
        return ast.Call(func=ast.Name(id=CALL, ctx=ast.Load()), args=args, keywords=node.keywords)


def _measures(tree: ast.Module) -> set[str]:
    """Return the names by which results are measured: given to a call of the program's, and named on another side of a
    comparison with it, or with the name that its result got.
    """
    results: dict[str, set[str]] = {}
    for node in ast.walk(tree):
        if isinstance(node, ast.Assign) and _is_of_program(node.value):
            for target in set[str]().union(*map(_names, node.targets)):
                results.setdefault(target, set()).update(_given(node.value))
    found = set[str]()
    for node in ast.walk(tree):
        if isinstance(node, ast.Compare):
            sides = [node.left, *node.comparators]
            for one in sides:
                given = set[str]().union(*(_given(part) for part in ast.walk(one) if _is_of_program(part)))
                given |= set[str]().union(*(results.get(name, set()) for name in _names(one)))
                others = set[str]().union(*(_names(other) for other in sides if other is not one))
                found |= given & others
    return found


def _is_of_program(node: ast.AST) -> bool:
    """Say whether a node calls something that is no built-in function, nor of a module."""
    if not isinstance(node, ast.Call):
        return False
    root: ast.AST = node.func
    while isinstance(root, ast.Attribute):
        root = root.value
    name = root.id if isinstance(root, ast.Name) else ""
    return not hasattr(builtins, name) and name not in MODULES and name not in sys.stdlib_module_names


def _given(call: ast.AST) -> set[str]:
    assert isinstance(call, ast.Call)
    return set[str]().union(*map(_names, call.args), *(_names(keyword.value) for keyword in call.keywords))


def _names(node: ast.AST) -> set[str]:
    return {part.id for part in ast.walk(node) if isinstance(part, ast.Name)}


def _classes(names: dict[str, Any], wanted: list[str]) -> dict[str, type]:
    return {name: names[name] for name in wanted if isinstance(names.get(name), type)}
