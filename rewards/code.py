"""The code reward: does the program do what its tests ask? Tried in a sandbox, `rewards.sandbox`.

Tests come with the row, in one of the forms that data sets have: `assert` statements as in MBPP; inputs and outputs of
a whole program as in APPS; or one text of Python, with a function `check` for the function that ``entry_point_column``
names, as in HumanEval. Outputs are compared outside of the sandbox, which never sees the right ones. Asserts run where
the code runs: leaving early does not pass them, but code written to deceive them can; prefer inputs and outputs where
the policy has learned to.
"""

import ast
import functools
import json
import re
import subprocess
import sys
import textwrap
import threading
from collections.abc import Iterable, Iterator, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import TYPE_CHECKING, Any

from rewards.config import ANALYSIS_GRACE_S
from rewards.sandbox import Limits, Outcome, Sandbox, Trial
from rewards.types import RewardError, RewardFunction

if TYPE_CHECKING:
    from rewards.config import CodeRewardConfig

LANGUAGES = ("", "python", "python3", "py")
_FENCE = re.compile(r"[ \t]*(`{3,}|~{3,})[ \t]*([\w+#-]*)[^`]*")

_PARSING = threading.Lock()
"""Python 3.11 counts the depth of its parsers in one place for all threads, and fails where they meet."""
_DEFINITIONS = (ast.FunctionDef, ast.AsyncFunctionDef, ast.ClassDef, ast.Import, ast.ImportFrom, ast.Pass)
Test = Trial | tuple[Trial, str]
"""A trial that must reach its end, or one with the output that it must print."""


def load(config: "CodeRewardConfig") -> RewardFunction:
    """Set up the sandbox and return a reward, from 0.0 for what does not parse to 1.0 for what passes every test.

    The program is the last fenced block of Python, or the whole text where there is none. ``parses`` is what it gets
    for parsing, ``runs`` for running without an error by itself (a whole program: on the first input), the rest is
    shared out by tests passed. Findings of static analysis are deducted: ``most_deducted`` at most, not below 0.0.
    """
    sandbox = Sandbox(
        config.sandbox,
        Limits(
            seconds=config.seconds,
            seconds_a_trial=config.seconds_a_test,
            memory_bytes=config.memory_mb << 20,
            processes=config.processes,
            output_bytes=config.output_kb << 10,
            disk_bytes=config.disk_mb << 20,
        ),
    )
    if config.deduct:
        check_rules(config.deduct)

    def code(prompts: list[Any], completions: list[Any], **columns: list[Any]) -> list[float | None]:
        if config.tests_column not in columns:
            raise ValueError(f"the tests' column {config.tests_column!r} is missing; the data has {sorted(columns)}")
        programs = [last_program(turns[-1]["content"]) for turns in completions]
        rows = [{name: values[at] for name, values in columns.items()} for at in range(len(programs))]
        with ThreadPoolExecutor(config.parallel) as pool:
            return list(pool.map(functools.partial(_mark, config, sandbox), programs, rows))

    return code


def last_program(text: str) -> str:
    """Return the last fenced block of Python or of no named language, or the text itself where there is none."""
    programs = [code for language, code in fenced_blocks(text) if language in LANGUAGES]
    return programs[-1] if programs else text


def fenced_blocks(text: str) -> Iterator[tuple[str, str]]:
    """Yield language and content of each block between fences of Markdown; one that is never closed is none."""
    fence, language, lines = "", "", list[str]()
    for line in text.replace("\r\n", "\n").split("\n"):
        mark = _FENCE.fullmatch(line)
        if not fence and mark:
            fence, language, lines = mark[1], mark[2].lower(), []
        elif fence and line.strip().startswith(fence) and not line.strip().strip(fence[0]):
            yield language, textwrap.dedent("\n".join([*lines, ""]))
            fence = ""
        elif fence:
            lines.append(line)


def _mark(config: "CodeRewardConfig", sandbox: Sandbox, program: str, row: Mapping[str, Any]) -> float:
    tests = tests_of(config, program, row)
    if not program.strip():
        return 0.0
    trials = [test if isinstance(test, Trial) else test[0] for test in tests]
    alone = [] if trials[0].name == "__main__" else [Trial(source=program, name="answer")]
    parsed, *ran = sandbox.run([Trial(source=program, is_run=False), *alone, *trials])
    if parsed.how != "ended":
        return 0.0
    passed = [is_passed(test, outcome) for test, outcome in zip(tests, ran[len(alone) :], strict=True)]
    share = sum(passed) / len(passed)
    by_tests = float(all(passed)) if config.all_or_nothing else share
    value = config.parses + config.runs * (ran[0].how == "ended") + (1 - config.parses - config.runs) * by_tests
    return max(0.0, value - (deduction(config, program) if config.deduct else 0.0))


def is_passed(test: Test, outcome: Outcome) -> bool:
    """Say whether the trial reached its end and, where output is asked for, printed that, line by line."""
    if outcome.how != "ended":
        return False
    return isinstance(test, Trial) or _lines(outcome.output) == _lines(test[1])


def _lines(text: str) -> list[str]:
    """Return the lines without spaces at their ends, nor empty lines at the text's end."""
    lines = [line.rstrip() for line in text.split("\n")]
    while lines and not lines[-1]:
        lines.pop()
    return lines


def tests_of(config: "CodeRewardConfig", program: str, row: Mapping[str, Any]) -> list[Test]:
    """Read a row's tests for a program; ValueError where they have no form that is known, or are none."""
    told = row[config.tests_column]
    if isinstance(told, str):
        told = _json_or_text(told)
    if isinstance(told, Mapping) and {"inputs", "outputs"} <= told.keys():
        if told.get("fn_name"):
            raise ValueError(f"tests that call a function by name ({told['fn_name']!r}) must be given as asserts")
        if isinstance(told["inputs"], str) or isinstance(told["outputs"], str):
            raise ValueError("inputs and outputs are lists, one a test")
        pairs = zip(told["inputs"], told["outputs"], strict=True)
        told = [{"input": given, "output": wanted} for given, wanted in pairs]
    if isinstance(told, str):
        told = [told]
    if not isinstance(told, Sequence) or not told:
        raise ValueError(f"column {config.tests_column!r} holds no tests but {told!r:.80}")
    before = row.get(config.setup_column) if config.setup_column else None
    setup = "\n".join(before) if isinstance(before, list) else before or ""
    call = f"check({row[config.entry_point_column]})" if config.entry_point_column else ""
    found: list[Test] = []
    for test in told[: config.most_tests]:
        if isinstance(test, str):
            check = "\n".join([setup, test, call or calls_of(test)])
            found.append(Trial(source=program, check=check, name="answer"))
        elif isinstance(test, Mapping) and {"input", "output"} <= test.keys():
            found.append((Trial(source=program, input=_whole(test["input"])), _whole(test["output"])))
        else:
            raise ValueError(f"a test is an assert, or has an input and an output; this one is {test!r:.80}")
    return found


@functools.lru_cache(maxsize=1 << 10)
def calls_of(test: str) -> str:
    """Return what must be called besides: test functions, where a test does nothing but define them.

    Raises ValueError for a test that does nothing even so: every program would pass it.
    """
    try:
        with _PARSING:
            statements = ast.parse(test).body
    except SyntaxError as error:
        raise ValueError(f"the test {test!r:.80} is no Python: {error}") from error
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


def deduction(config: "CodeRewardConfig", program: str) -> float:
    """Return what the findings of static analysis cost (REAL, Yao et al. 2025, arXiv 2505.22704), up to the most.

    A program that cannot be analysed costs the most: nobody should gain by breaking the analyser.
    """
    try:
        found = findings(config.deduct, program)
    except (subprocess.SubprocessError, ValueError):
        return config.most_deducted
    return min(config.most_deducted, sum(_price(config.deduct, rule) for rule in found))


def findings(rules: Iterable[str], program: str) -> list[str]:
    """Return the rule of each finding of ruff's; SubprocessError or ValueError where it cannot say."""
    command = [_ruff(), "check", "--isolated", "--no-cache", "--ignore-noqa", "--exit-zero", "--output-format", "json"]
    command += ["--select", ",".join(rules), "--stdin-filename", "answer.py", "-"]
    given = program.encode(errors="replace")
    told = subprocess.run(command, input=given, capture_output=True, timeout=ANALYSIS_GRACE_S, check=True)
    if b"remapped" in told.stderr:
        raise ValueError(told.stderr.decode(errors="replace").strip())
    return [str(finding["code"]) for finding in json.loads(told.stdout)]


def check_rules(rules: Iterable[str]) -> None:
    """Raise RewardError where ruff is not installed or does not know a rule."""
    try:
        findings(rules, "")
    except FileNotFoundError as error:
        raise RewardError("the code reward's `deduct` needs ruff; pip install ruff") from error
    except (subprocess.SubprocessError, ValueError) as error:
        told = getattr(error, "stderr", None) or str(error).encode()
        raise RewardError(f"the code reward's `deduct`: {told.decode(errors='replace').strip()}") from error


def _price(deduct: Mapping[str, float], rule: str) -> float:
    """Return the price of the longest prefix that names the rule: S102 has its own where S has another."""
    named = [prefix for prefix in deduct if rule.startswith(prefix)]
    return deduct[max(named, key=len)] if named else deduct.get("ALL", 0.0)


def _ruff() -> str:
    beside = Path(sys.executable).with_name("ruff")
    return str(beside) if beside.exists() else "ruff"
