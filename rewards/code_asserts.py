"""Can a test of asserts be judged apart from the program? What it names of the program, and what keeps them together.

Apart, the test is executed in a process of its own that gets plain data from the program (`rewards.inside.checking`),
so that nothing a program does to its interpreter, or puts into its results, changes a verdict. Some tests look into the
process in which the program runs, such as what it prints: these run there, and a program can deceive them. All is read
from the test's text, never from the program: otherwise a program could choose.
"""

import ast
import builtins
import functools
import importlib
import symtable
import sys
from collections.abc import Iterator
from dataclasses import dataclass

from rewards.inside.checking import MODULES, PRELUDE_MODULES

PRELUDE = frozenset(
    name for module in PRELUDE_MODULES for name in vars(importlib.import_module(module)) if not name.startswith("_")
)
"""What tests use of these modules without importing it, since the program mostly has."""
TOGETHER_MODULES = frozenset(
    ["asyncio", "gc", "inspect", "mock", "multiprocessing", "threading", "trace", "tracemalloc"]
)
TOGETHER_NAMES = frozenset(
    [
        "redirect_stderr",
        "patch",
        "capsys",
        "capfd",
        "caplog",
        "recwarn",
        "monkeypatch",
        "catch_warnings",
        "warns",
        "id",
        "globals",
        "getcontext",
    ]
)
TOGETHER_ATTRIBUTES = TOGETHER_NAMES | {
    "stderr", "stdin", "modules", "environ", "chdir", "settrace", "getrefcount", "getsizeof"
}  # fmt: skip
"""By these a test looks at, or changes, the process in which the program runs."""
_SINGLETONS = (type(None), bool, type(Ellipsis))


@dataclass(frozen=True, slots=True, kw_only=True)
class Way:
    """How a test is judged."""

    together: str = ""
    """Why it must run where the program runs, where it can be deceived; empty: it is judged apart."""
    asked: tuple[str, ...] = ()
    """Names of the program's that it uses."""
    classes: tuple[str, ...] = ()
    """Classes that the set-up defines."""
    trusts: str = ""
    """What of the program's it judges by, though it is judged apart; empty: nothing."""


@functools.lru_cache(maxsize=1 << 12)
def way_of(test: str, setup: str, entry_point: str | None, defined: frozenset[str]) -> Way:
    """Say how a test is judged; ``defined`` are the names that a program may give to built-in ones it redefines.

    Raises SyntaxError for what is no Python.
    """
    tree = ast.parse(f"{setup}\n{test}")
    own, free = _names(f"{setup}\n{test}")
    asked = _asked(tree, free, own, entry_point, defined)
    together = next(_reasons(tree, frozenset(asked)), "")
    classes = tuple(node.name for node in ast.parse(setup).body if isinstance(node, ast.ClassDef))
    return Way(
        together=together, asked=tuple(sorted(asked)), classes=classes, trusts=_trusted(tree, asked, entry_point)
    )


def definitions(program: str) -> frozenset[str]:
    """Return the built-in names that a program defines for itself."""
    try:
        body = ast.parse(program).body
    except (SyntaxError, ValueError, RecursionError, MemoryError):
        return frozenset()
    names = {one.name for one in body if isinstance(one, ast.FunctionDef | ast.ClassDef)}
    return frozenset(names & vars(builtins).keys())


def _names(text: str) -> tuple[set[str], set[str]]:
    """Return the names that a text gives on its top level, and those that it uses without giving them."""
    top = symtable.symtable(text, "test", "exec")
    own = {one.get_name() for one in top.get_symbols() if one.is_assigned() or one.is_imported() or one.is_namespace()}
    used = {one.get_name() for one in top.get_symbols() if one.is_referenced()}
    tables = top.get_children()
    while tables:
        table = tables.pop()
        tables += table.get_children()
        used |= {one.get_name() for one in table.get_symbols() if one.is_global() and one.is_referenced()}
        own |= {one.get_name() for one in table.get_symbols() if one.is_declared_global() and one.is_assigned()}
    return own, used - own


def _asked(
    tree: ast.Module, free: set[str], own: set[str], entry_point: str | None, defined: frozenset[str]
) -> set[str]:
    """Return which of the free names are the program's.

    Built-in names are not, nor modules, of which a test takes attributes, nor what is mostly imported from some, such
    as `isclose`, if there is another name to be tested: otherwise a program would bring its own measure along.
    """
    called = {node.func.id for node in ast.walk(tree) if isinstance(node, ast.Call) and isinstance(node.func, ast.Name)}
    modules = {name for name in free if (name in sys.stdlib_module_names or name in MODULES) and name not in called}
    names = free - vars(builtins).keys() - modules
    if entry_point and entry_point not in own:
        names |= {entry_point}
    tested = {entry_point} if entry_point else names - PRELUDE
    if tested:
        return names - (PRELUDE - tested)
    return names or (called & defined)


def _reasons(tree: ast.Module, asked: frozenset[str]) -> Iterator[str]:
    """Yield what a test does that must be done where the program runs."""
    for node in ast.walk(tree):
        if isinstance(node, ast.ClassDef) and any(asked & _used(base) for base in node.bases):
            yield f"derives class {node.name} from the program's"
        elif isinstance(node, ast.Import | ast.ImportFrom):
            paths = [alias.name for alias in node.names] + [getattr(node, "module", None) or ""]
            for part in {part for path in paths for part in path.split(".")} & (TOGETHER_MODULES | TOGETHER_NAMES):
                yield f"imports {part}"
        elif isinstance(node, ast.Name) and node.id in TOGETHER_NAMES - asked:
            yield f"uses {node.id}"
        elif isinstance(node, ast.Attribute) and node.attr in TOGETHER_ATTRIBUTES:
            yield f"uses {ast.unparse(node)}"
        elif isinstance(node, ast.Await | ast.AsyncFunctionDef | ast.AsyncWith | ast.AsyncFor):
            yield "awaits"
        elif isinstance(node, ast.Compare) and (kept := _kept(tree, node, asked)):
            yield f"looks at {kept}, which an object of the program's was given"
        elif isinstance(node, ast.Compare) and any(
            isinstance(how, ast.Is | ast.IsNot) and not _is_one_of_a_kind(left) and not _is_one_of_a_kind(right)
            for left, how, right in zip([node.left, *node.comparators], node.ops, node.comparators, strict=False)
        ):
            yield f"compares identities: {ast.unparse(node):.60}"


def _kept(tree: ast.Module, compared: ast.Compare, asked: frozenset[str]) -> str:
    """Return a name that is compared with a constant after an object of the program's, which may keep it, got it."""
    sides = [compared.left, *compared.comparators]
    names = {side.id for side in sides if isinstance(side, ast.Name)}
    if not names or not any(_is_constant(side) for side in sides):
        return ""
    for node in ast.walk(tree):
        if isinstance(node, ast.Call) and isinstance(node.func, ast.Name) and node.func.id in asked:
            given = {arg.id for arg in node.args if isinstance(arg, ast.Name)} & names
            if given and node.func.id[:1].isupper():
                return min(given)
    return ""


def _is_constant(node: ast.expr) -> bool:
    try:
        ast.literal_eval(node)
    except (ValueError, TypeError, SyntaxError, MemoryError, RecursionError):
        return False
    return True


def _is_one_of_a_kind(node: ast.expr) -> bool:
    """Say whether there is one object alone that this can be: None, a class, `type(x)`."""
    if isinstance(node, ast.Constant):
        return isinstance(node.value, _SINGLETONS)
    if isinstance(node, ast.Call):
        return isinstance(node.func, ast.Name) and node.func.id == "type"
    name = node.attr if isinstance(node, ast.Attribute) else getattr(node, "id", "")
    return isinstance(vars(builtins).get(name), type) or name[:1].isupper()


def _trusted(tree: ast.Module, asked: set[str], entry_point: str | None) -> str:
    """Say by what of the program's a test judges: a function besides the tested one, or a class's own comparison."""
    for node in ast.walk(tree):
        if isinstance(node, ast.Assert):
            compared = [part for part in ast.walk(node.test) if isinstance(part, ast.Compare)]
            for side in (side for part in compared for side in (part.left, *part.comparators)):
                name = side.func.id if isinstance(side, ast.Call) and isinstance(side.func, ast.Name) else ""
                if name in asked and name[:1].isupper():
                    return f"compares by the program's class {name}"
    helpers = sorted(name for name in asked if name != entry_point and not name[:1].isupper()) if entry_point else []
    return f"uses the program's own {helpers[0]}" if helpers else ""


def _used(node: ast.AST) -> set[str]:
    return {part.id for part in ast.walk(node) if isinstance(part, ast.Name)}
