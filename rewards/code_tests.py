"""A row's tests, in the forms that data sets have them, become trials of a program and what each must print.

The forms: `assert` statements, as in MBPP; a text with a function `check`, as in HumanEval; inputs and outputs of whole
programs, as in APPS; and, with ``fn_name``, arguments and results of one function, as in APPS and LiveCodeBench.
"""

import ast
import contextlib
import functools
import json
import threading
from collections import Counter
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from decimal import DecimalException
from typing import TYPE_CHECKING, Any

from rewards.code_asserts import Way, definitions, way_of
from rewards.code_output import exact_output, parsed, same_output, same_value
from rewards.sandbox import Apart, Trial

if TYPE_CHECKING:
    from rewards.config import CodeRewardConfig

_PARSING = threading.Lock()
"""Python 3.11 counts the depth of its parsers in one place for all threads, and fails where they meet."""
MOST_ROWS = 1000
"""Rows of which `check` looks at the tests."""
_DEFINITIONS = (ast.FunctionDef, ast.AsyncFunctionDef, ast.ClassDef, ast.Import, ast.ImportFrom, ast.Pass)
RESULT = "\x1eresult of the call: "
"""What comes before a result on standard output. Nothing is gained by forging it: what is right is not known there."""
CALL = """
def __call_for_the_test(name, arguments, mark):
    import json, sys
    sys.set_int_max_str_digits(0)
    owner = globals().get("Solution")
    function = getattr(owner(), name) if hasattr(owner, name) else globals()[name]
    found = function(*json.loads(arguments))
    sys.stdout.write("\\n" + mark + json.dumps(found, default=lambda value: value.tolist()) + "\\n")
__call_for_the_test({name!r}, {arguments!r}, {mark!r})
"""
"""Calls the function, or the method of LeetCode's class Solution, and prints what it returns; arrays become lists."""
LEETCODE = """
from bisect import *
from collections import *
from copy import *
from functools import *
from heapq import *
from itertools import *
from math import *
from typing import *
from builtins import *
import bisect, collections, copy, functools, heapq, itertools, math, random, re, string
"""
"""What programs of the functional form may use without importing it, as on LeetCode."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Test:
    """One trial of a program."""

    trial: Trial
    accepts: Callable[[str], bool] = lambda printed: True
    """Says of what was printed whether it is right; asserts have said so by themselves where the end is reached."""
    way: Way | None = None
    """How asserts are judged."""


def tests_of(config: "CodeRewardConfig", program: str, row: Mapping[str, Any]) -> list[Test]:
    """Read a row's tests for a program; ValueError where they have no form that is known, or are none."""
    told = _listed(row[config.tests_column])
    if not told:
        raise ValueError(f"column {config.tests_column!r} holds no tests but {row[config.tests_column]!r:.80}")
    form = _Forms(config, program, row, are_wrapped=_are_wrapped(told))
    return [form.test(test) for test in told[: config.most_tests]]


def _listed(told: Any) -> Sequence[Any]:
    """Return the tests one by one; those that are two lists become one."""
    if isinstance(told, str):
        told = _json_or_text(told)
    if isinstance(told, Mapping) and {"inputs", "outputs"} <= told.keys():
        if isinstance(told["inputs"], str) or isinstance(told["outputs"], str):
            raise ValueError("inputs and outputs are lists, one a test")
        if len(told["inputs"]) != len(told["outputs"]):
            raise ValueError(f"{len(told['inputs'])} inputs have {len(told['outputs'])} outputs; each has one")
        rest = {name: value for name, value in told.items() if name not in ("inputs", "outputs")}
        pairs = zip(told["inputs"], told["outputs"], strict=True)
        return [{**rest, "input": given, "output": wanted} for given, wanted in pairs]
    if isinstance(told, str | Mapping):
        return [told]
    return told if isinstance(told, Sequence) else []


class _Forms:
    """Makes a test of each form that one may have."""

    def __init__(self, config: "CodeRewardConfig", program: str, row: Mapping[str, Any], *, are_wrapped: bool) -> None:
        before = row.get(config.setup_column) if config.setup_column else None
        self._setup = "\n".join(before) if isinstance(before, list) else before or ""
        check_is_python("set-up", self._setup)
        self._program, self._are_wrapped, self._is_exact = program, are_wrapped, config.compare == "exact"
        self._entry_point = row.get(config.entry_point_column) if config.entry_point_column else None

    def test(self, test: Any) -> Test:
        """Return the test. Raises ValueError for what is none."""
        if isinstance(test, str):
            return self._asserts(test)
        if not isinstance(test, Mapping) or not {"input", "output"} <= test.keys():
            raise ValueError(f"a test is an assert, or has an input and an output; this one is {test!r:.80}")
        name = function_name(test) or (self._entry_point if test.get("testtype") == "functional" else None)
        if name is not None:
            return self._call(name, test["input"], test["output"])
        if test.get("testtype") == "functional":
            raise ValueError("a functional test has its function's name as fn_name, or in entry_point_column")
        same, wanted = exact_output if self._is_exact else same_output, _whole(test["output"])
        trial = Trial(setup=self._setup, source=self._program, input=_whole(test["input"]))
        return Test(trial=trial, accepts=lambda printed: same(printed, wanted))

    def _asserts(self, test: str) -> Test:
        call = f"check({self._entry_point})" if self._entry_point else calls_of(test)
        text = f"{test}\n{call}"
        way = way_of(text, self._setup, self._entry_point, definitions(self._program))
        apart = None if way.together else Apart(asked=way.asked, classes=way.classes)
        trial = Trial(setup=self._setup, source=self._program, check=text, apart=apart, name="answer")
        return Test(trial=trial, way=way)

    def _call(self, name: str, given: Any, wanted: Any) -> Test:
        call = CALL.format(name=name, arguments=json.dumps(arguments_of(name, given)), mark=RESULT)
        trial = Trial(setup=f"{LEETCODE}\n{self._setup}", source=self._program, check=call, name="answer")
        right = list(_results(wanted, is_wrapped=self._are_wrapped))
        return Test(trial=trial, accepts=lambda printed: _returned(printed, right, is_exact=self._is_exact))


def remarks(config: "CodeRewardConfig", rows: Sequence[Mapping[str, Any]]) -> Iterator[str]:
    """Yield how many tests of asserts a program could deceive, and by what; of many rows some are looked at."""
    looked_at = [row for row in rows if row.get(config.tests_column) is not None]
    looked_at = looked_at[:: max(1, len(looked_at) // MOST_ROWS)]
    ways: list[Way] = []
    for row in looked_at:
        with contextlib.suppress(ValueError, SyntaxError):  # what is no test is said elsewhere
            ways += [test.way for test in tests_of(config, "", row) if test.way]
    some = "" if len(looked_at) == len(rows) else f" of {len(looked_at)} rows"
    if together := [way.together for way in ways if way.together]:
        yield (
            f"{len(together)} of {len(ways)} tests of asserts{some} run where the program runs, and a program can "
            f"deceive them ({_most(together)}); inputs and outputs, and calls by fn_name, cannot be deceived"
        )
    if trusting := [way.trusts for way in ways if way.trusts and not way.together]:
        yield (
            f"{len(trusting)} of {len(ways)} tests of asserts{some} judge by what the program brings along "
            f"({_most(trusting)})"
        )


def _most(reasons: Sequence[str]) -> str:
    return ", ".join(f"{count} x {reason}" for reason, count in Counter(reasons).most_common(2))


def function_name(test: Mapping[str, Any]) -> str | None:
    """Return the function that a test calls: its `fn_name`, or as in LiveCodeBench `func_name` in its metadata."""
    about = test.get("metadata")
    if isinstance(about, str):
        about = _json_or_text(about)
    name = test.get("fn_name") or (about.get("func_name") if isinstance(about, Mapping) else None)
    if name is None or (isinstance(name, str) and name.isidentifier()):
        return name
    raise ValueError(f"fn_name is {name!r:.80}, which is no function's name")


def arguments_of(name: str, given: Any) -> list[Any]:
    """Return the arguments of a call: a list of them, or text with one a line, as JSON."""
    if isinstance(given, list):
        return given
    try:
        return [json.loads(line) for line in str(given).split("\n") if line.strip()]
    except ValueError as error:
        raise ValueError(
            f"the input of a test that calls {name!r} is a list of arguments, or one a line as JSON; this one is "
            f"{given!r:.80}: {error}"
        ) from error


def _are_wrapped(tests: Sequence[Any]) -> bool:
    """Say whether each result is in a list of its own, as APPS has them."""
    outputs = [test.get("output") for test in tests if isinstance(test, Mapping)]
    return bool(outputs) and all(isinstance(output, list) and len(output) == 1 for output in outputs)


def _results(wanted: Any, *, is_wrapped: bool) -> Iterator[Any]:
    """Yield the values that a call may return: text is JSON where it can be read so, and may be meant as it is."""
    if isinstance(wanted, str):
        try:
            yield parsed(wanted)
        except (ValueError, RecursionError):
            pass
        else:
            if wanted.strip()[:1] in ('"', "[", "{"):
                return
    yield parsed(json.dumps(wanted))
    if is_wrapped:
        yield parsed(json.dumps(wanted[0]))


def _returned(printed: str, right: Sequence[Any], *, is_exact: bool) -> bool:
    """Say whether the result that was printed last is one of the right ones."""
    _, mark, rest = printed.rpartition(RESULT)
    try:
        found = parsed(rest.partition("\n")[0])
        return bool(mark) and any(same_value(found, one, exact=is_exact) for one in right)
    except (ValueError, RecursionError, DecimalException):  # cut off, or beyond all bounds
        return False


def check_is_python(what: str, text: str) -> ast.Module:
    """Return the text's syntax tree. Raises ValueError where it is no Python."""
    try:
        with _PARSING:
            return ast.parse(text)
    except (SyntaxError, ValueError) as error:
        raise ValueError(f"the {what} {text!r:.80} is no Python: {error}") from error


@functools.lru_cache(maxsize=1 << 10)
def calls_of(test: str) -> str:
    """Return what must be called besides: test functions, where a test does nothing but define them.

    Raises ValueError for a test that does nothing even so: every program would pass it.
    """
    statements = check_is_python("test", test).body
    if any(not isinstance(one, _DEFINITIONS) and not _is_text(one) for one in statements):
        return ""
    names = [one.name for one in statements if isinstance(one, ast.FunctionDef) and one.name.startswith("test")]
    if not names:
        raise ValueError(
            f"the test {test!r:.80} tests nothing; where it defines check(candidate), name the column with the "
            "function as entry_point_column"
        )
    return "\n".join(f"{name}()" for name in names)


def _is_text(statement: ast.stmt) -> bool:
    return isinstance(statement, ast.Expr) and isinstance(statement.value, ast.Constant)


def _json_or_text(told: str) -> Any:
    """Data sets keep lists in columns of text; an assert is no JSON."""
    try:
        value = json.loads(told)
    except ValueError:
        return told
    return value if isinstance(value, list | dict) else told


def _whole(lines: Any) -> str:
    """Return text, which some data sets give as a list of lines, and numbers bare; ValueError for what is none."""
    if isinstance(lines, list):
        return "\n".join(map(_whole, lines))
    if isinstance(lines, bool) or not isinstance(lines, str | int | float):
        raise ValueError(f"a test's input and output are text; this one is {lines!r:.80}")
    return str(lines)
