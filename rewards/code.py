"""The code reward: does the program do what its tests ask? Tried in a sandbox, `rewards.sandbox`.

Tests come with the row; `rewards.code_tests` has their forms. What programs print and functions return is compared
outside of the sandbox, which never sees what is right. Asserts are executed in a process of their own, which gets plain
data from the program; the few that cannot be, see `rewards.code_asserts`, a program can deceive.
"""

import ast
import functools
import re
import textwrap
from collections.abc import Iterator, Mapping
from concurrent.futures import ThreadPoolExecutor
from typing import TYPE_CHECKING, Any

from rewards.code_analysis import check_rules, deduction, reaches_out
from rewards.code_tests import tests_of
from rewards.enclosure import Limits
from rewards.final_answer import answer_part, last_turns
from rewards.sandbox import Sandbox, Trial
from rewards.types import LogMetric, RewardFunction

if TYPE_CHECKING:
    from rewards.config import CodeRewardConfig

_PYTHON = re.compile(r"\{?\.?i?(python|py)[0-9.]*\}?", re.IGNORECASE)
"""What a block of Python is called: python, py, Python3, {.python}, ipython."""
_FENCE = re.compile(r"[ \t]*(`{3,}|~{3,})[ \t]*([\w+#.{}-]*)[^`]*")


def load(config: "CodeRewardConfig") -> RewardFunction:
    """Set up the sandbox and return a reward, from 0.0 for what does not parse to 1.0 for what passes every test.

    The program is what `last_program` finds in the answer after its thinking. ``parses`` is what it gets for parsing,
    ``runs`` for running without an error by itself (a whole program: on the first input), the rest is shared out by
    tests passed. Findings of static analysis are deducted: ``most_deducted`` at most, not below 0.0.
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
        image=config.sandbox_image,
    )
    if config.deduct:
        check_rules(config.deduct)

    def code(
        prompts: list[Any],
        completions: list[Any],
        openings: list[str] | None = None,
        log_metric: LogMetric = lambda name, value: None,
        **columns: list[Any],
    ) -> list[float | None]:
        programs = [last_program(answer_part(*turn)) for turn in last_turns(completions, openings)]
        log_metric("reaching/count", sum(map(reaches_out, programs)))
        rows = [{name: values[at] for name, values in columns.items()} for at in range(len(programs))]
        with ThreadPoolExecutor(config.parallel) as pool:
            return list(pool.map(functools.partial(_mark, config, sandbox), programs, rows))

    return code


def last_program(text: str) -> str:
    """Return the last fenced block of Python; where no block is said to be, the last one that does not say what it is,
    but for what does nothing as a program; where there is none either, the text itself. What a program prints, or a
    shell does, often comes after it."""
    blocks = list(fenced_blocks(text))
    python = [code for language, code in blocks if _PYTHON.fullmatch(language)]
    unnamed = [code for language, code in blocks if not language]
    doing = [code for code in unnamed if len(unnamed) > 1 and not python and _does_something(code)]
    return (python or doing or unnamed or [text])[-1]


def _does_something(code: str) -> bool:
    """Say whether a text is Python that does more than name values, as `18` and `[1, 2]` do."""
    try:
        statements = ast.parse(code).body
    except (SyntaxError, ValueError, RecursionError, MemoryError):
        return False
    return any(not isinstance(one, ast.Expr) or isinstance(one.value, ast.Call) for one in statements)


def fenced_blocks(text: str) -> Iterator[tuple[str, str]]:
    """Yield language and content of each block between fences of Markdown; one that is never closed is none."""
    fence, language, lines = "", "", list[str]()
    for line in text.replace("\r\n", "\n").split("\n"):
        mark = _FENCE.fullmatch(line)
        if not fence and mark:
            fence, language, lines = mark[1], mark[2], []
        elif fence and line.strip().startswith(fence) and not line.strip().strip(fence[0]):
            yield language, textwrap.dedent("\n".join([*lines, ""]))
            fence = ""
        elif fence:
            lines.append(line)


def _mark(config: "CodeRewardConfig", sandbox: Sandbox, program: str, row: Mapping[str, Any]) -> float:
    tests = tests_of(config, program, row)
    if not program.strip():
        return 0.0
    first = tests[0].trial
    alone = [] if first.name == "__main__" else [Trial(setup=first.setup, source=program, name=first.name)]
    parsed, *ran = sandbox.run([Trial(source=program, is_run=False), *alone, *(test.trial for test in tests)])
    if parsed.how != "ended":
        return 0.0
    outcomes = zip(tests, ran[len(alone) :], strict=True)
    passed = [outcome.how == "ended" and test.accepts(outcome.output) for test, outcome in outcomes]
    share = sum(passed) / len(passed)
    by_tests = float(all(passed)) if config.all_or_nothing else share
    value = config.parses + config.runs * (ran[0].how == "ended") + (1 - config.parses - config.runs) * by_tests
    return max(0.0, value - (deduction(config, program) if config.deduct else 0.0))
