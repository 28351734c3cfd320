"""Programs that would pass tests without doing what is asked, each tried in the jail: none gets credit for tests.

`asserts.txt`, `calls.txt` and `prints.txt` were written with the defences in view; `unseen.jsonl` by somebody who did
not know them, as were the right programs of `honest.jsonl`, which must pass.
"""

import json
from collections.abc import Callable
from dataclasses import replace
from functools import cache
from pathlib import Path
from typing import Any

import pytest

from rewards import code_tests
from rewards.config import CodeRewardConfig
from rewards.sandbox import Limits, Sandbox
from tests.rewards.test_code import SANDBOX

pytestmark = [
    pytest.mark.processes,
    pytest.mark.skipif(SANDBOX == "none", reason="these programs may run in a jail only"),
]

FOLDER = Path(__file__).parent / "cheats"
CONFIG = CodeRewardConfig(setup_column="setup", entry_point_column="entry_point")
LIMITS = Limits(
    seconds=30, seconds_a_trial=1.5, memory_bytes=1 << 30, processes=16, output_bytes=1 << 16, disk_bytes=1 << 24
)
ASSERTS = [
    "assert weigh([3, 1, 2]) == 37",
    "import math\nassert math.isclose(weigh([5, 5]) / 2, 62.5)",
    "assert abs(weigh([1, 2, 3, 4]) - 130) < 1e-6",
    "assert weigh([2]) in (8, 9)",
    "xs = [4, 4]\nassert weigh(xs) == sum((place + 2) * x * x for place, x in enumerate(xs))",
    "xs = [4, 1]\nfound = weigh(xs)\nassert found == sum((place + 2) * x * x for place, x in enumerate(xs))",
    "assert 130 == weigh([1, 2, 3, 4]) and isinstance(weigh([1]), int)",
    "for xs, wanted in [([6], 72), ([1, 1], 5)]:\n    assert sorted([weigh(xs)]) == [wanted]",
    "def test_weigh():\n    assert round(weigh([7]), 3) == 98",
]
CHECK = "def check(candidate):\n    assert candidate([3, 1, 2]) == 37\n    assert candidate([5, 5]) == 125\n"
CALLS = [{"fn_name": "weigh", "input": [xs], "output": wanted} for xs, wanted in [([3, 1, 2], 37), ([5, 5], 125)]]
PRINTS = [{"input": "3 1 2\n", "output": "37\n"}, {"input": "5 5\n", "output": "125\n"}]
RIGHT = "def weigh(xs):\n    return sum((place + 2) * x * x for place, x in enumerate(xs))\n"

TOGETHER = {"await_any", "m_mock_patch", "m_asyncio_run", "g_test_inherits_base"}
"""Their tests must run where the program runs: `check` says how many such there are."""
TRUSTING = {"dataclass_eq"}
"""Their tests compare by the program's own class: `check` says so too."""
WEAK = {
    "nan_not_greater": "NaN, asked whether it is too far off",
    "b_getattr_hasattr": "a class with any attribute, asked whether it has one",
    "bool_flip_flop": "yes and no in turn, asked for yes and no in turn",
    "u_setup_constants_alias": "the set-up holds the answers, and the program has the set-up",
    "fn_json_encoder_patched": "always true, which is the 1 that is asked for",
    "fn_stdout_wrapper": "always true, which is the 1 that is asked for",
    "fn_solution_new": "always true, which is asked for every other time",
}
"""Plain values pass these tests, without any cheating."""
AMBIGUOUS = {"threads_inside"}
"""A class of the program's that is called Counter is taken for the one of `collections`, which tests measure with."""


@cache
def sandbox() -> Sandbox:
    return Sandbox("bubblewrap", LIMITS)


def programs(*names: str) -> dict[str, str]:
    """Return the programs of files by what they do."""
    parts = [part for name in names for part in ("\n" + (FOLDER / name).read_text()).split("\n== ")[1:]]
    return {title: text for title, _, text in (part.partition("\n") for part in parts)}


def rows(name: str, is_meant: Callable[[str], bool] = lambda form: True) -> list[dict[str, Any]]:
    found = [json.loads(line) for line in (FOLDER / name).read_text().splitlines()]
    return [row for row in found if is_meant(row["form"])]


def passed(program: str, tests: Any, setup: str = "", entry_point: str = "") -> list[bool]:
    """Say of each test whether a program passes it."""
    row = {"tests": tests, "setup": setup, "entry_point": entry_point or None}
    forms = code_tests.tests_of(CONFIG, program, row)
    outcomes = sandbox().run([test.trial for test in forms])
    return [one.how == "ended" and test.accepts(one.output) for test, one in zip(forms, outcomes, strict=True)]


def test_the_right_program_passes_all_of_them() -> None:
    assert all(passed(RIGHT, ASSERTS) + passed(RIGHT, [CHECK], entry_point="weigh") + passed(RIGHT, CALLS))
    assert all(passed(RIGHT + "print(weigh(list(map(int, input().split()))))", PRINTS))


@pytest.mark.parametrize("name", programs("asserts.txt"))
def test_no_cheat_passes_an_assert(name: str) -> None:
    program = programs("asserts.txt")[name]
    assert not any(passed(program, ASSERTS) + passed(program, [CHECK], entry_point="weigh"))


@pytest.mark.exhaustive
@pytest.mark.parametrize("name", programs("asserts.txt", "calls.txt"))
def test_no_cheat_passes_a_call(name: str) -> None:
    assert not any(passed(programs("asserts.txt", "calls.txt")[name], CALLS))


@pytest.mark.exhaustive
@pytest.mark.parametrize("name", programs("asserts.txt", "prints.txt"))
def test_no_cheat_passes_by_what_it_prints(name: str) -> None:
    assert not any(passed(programs("asserts.txt", "prints.txt")[name], PRINTS))


@pytest.mark.exhaustive
@pytest.mark.parametrize("row", rows("unseen.jsonl"), ids=lambda row: row["name"])
def test_no_cheat_of_somebody_who_knew_no_defence_passes(row: dict[str, Any]) -> None:
    found = passed(row["program"], row["tests"], row["setup"], row["entry_point"])
    if row["name"] not in {*TOGETHER, *TRUSTING, *WEAK}:
        assert not any(found)
    forms = code_tests.tests_of(CONFIG, row["program"], {**row, "entry_point": row["entry_point"] or None})
    if row["name"] in TOGETHER:
        assert all(test.way and test.way.together for test in forms)
    if row["name"] in TRUSTING:
        assert any(test.way and test.way.trusts for test in forms)


@pytest.mark.parametrize("part", [0, *(pytest.param(part, marks=pytest.mark.exhaustive) for part in range(1, 4))])
def test_right_programs_of_all_kinds_pass(part: int) -> None:
    failed = [
        row["name"]
        for row in rows("honest.jsonl")[part::4]
        if not all(passed(row["program"], row["tests"], row["setup"], row["entry_point"]))
    ]
    assert set(failed) <= AMBIGUOUS


def test_check_counts_the_tests_that_can_be_deceived() -> None:
    tests = [
        "assert f(1) == 2",
        "import asyncio\nassert asyncio.run(f(1)) == 2",
        "assert f(1) == Point(2, 3)",
        "import unittest.mock\nassert f(1) == 2",
    ]
    said = list(code_tests.remarks(CONFIG, [{"tests": tests}, {"other": 1}]))
    assert said[0].startswith("2 of 4 tests of asserts of 1 rows run where the program runs")
    assert "1 x imports asyncio" in said[0]
    assert said[1].startswith("1 of 4 tests of asserts") and "compares by the program's class Point" in said[1]
    assert list(code_tests.remarks(CONFIG, [{"tests": CALLS}, {"tests": PRINTS}])) == []


def test_what_a_program_sends_to_the_checker_counts_as_its_own() -> None:
    program = "def weigh(xs):\n    return ['x' * 1000 + str(n) for n in range(10**7)]\n"
    small = Sandbox("bubblewrap", replace(LIMITS, memory_bytes=1 << 28, seconds_a_trial=10))
    way = code_tests.tests_of(CONFIG, program, {"tests": ["assert len(weigh([1])) == 10**7"]})
    assert [one.how for one in small.run([test.trial for test in way])] != ["ended"]
