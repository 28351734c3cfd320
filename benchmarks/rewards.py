"""The math reward through the scorer's workers, against math-verify called one answer after the other.

    python -m benchmarks.rewards

The answers are those of a model that is often right: in groups of eight, most numbers, some fractions, decimals and
expressions, the wrong ones near the right one. The baseline parses gold and answer and compares them, for each answer,
as TRL's accuracy reward does.
"""

import json
import os
import platform
import random
import statistics
import time
from collections import defaultdict
from collections.abc import Callable
from functools import partial
from pathlib import Path
from typing import TypeVar

from rich.console import Console
from rich.table import Table

from rewards.config import MathRewardConfig
from rewards.scorer import Scorer
from rewards.scoring_config import ScoringConfig
from rewards.types import Attempt

GROUP, NUM_ATTEMPTS, RUNS = 8, 2000, 5
RESULT = Path(__file__).parent / "results" / "rewards.json"

T = TypeVar("T")
Group = tuple[str, list[str]]
"""A gold answer, and the answers to be compared with it."""


def ordinary_groups(seed: int) -> list[tuple[str, Group]]:
    """Return kind and content of groups of worked answers that end in a box, three in four of them right."""
    draw = random.Random(seed)
    makers: dict[str, Callable[[], Group]] = {
        "large numbers": lambda: _around(draw, str(draw.randint(-999, 9999))),
        "small numbers": lambda: _around(draw, f"{draw.randint(1, 99)}"),
        "decimals": lambda: _around(draw, f"{draw.uniform(0, 100):.2f}"),
        "fractions": lambda: _fraction(draw),
        "expressions": lambda: _expression(draw),
    }
    kinds = draw.choices(list(makers), [40, 25, 15, 12, 8], k=NUM_ATTEMPTS // GROUP)
    return [(kind, makers[kind]()) for kind in kinds]


def one_at_a_time(groups: list[Group]) -> list[bool]:
    """Parse and verify with math-verify in this process."""
    from math_verify import parse, verify

    marks = []
    for gold, answers in groups:
        for answer in answers:
            right = parse(f"\\boxed{{{gold}}}", parsing_timeout=None)
            marks.append(verify(right, parse(answer, parsing_timeout=None), timeout_seconds=None))
    return marks


def by_workers(groups: list[Group], scorer: Scorer) -> list[float | None]:
    """Submit all groups, then wait for all."""
    futures = [scorer.submit([_attempt(answer, gold) for answer in answers]) for gold, answers in groups]
    return [score.value for future in futures for score in future.result()]


def measure() -> dict[str, object]:
    """Time both on the same answers, turn about, with fresh answers in each run."""
    import math_verify  # noqa: F401 - both sides have loaded it before the clock starts

    seconds: dict[str, list[float]] = defaultdict(list)
    agree: list[float] = []
    with Scorer([MathRewardConfig()], ScoringConfig(num_workers=2)) as scorer:
        warm_up = [group for _, group in ordinary_groups(0)[:4]]
        one_at_a_time(warm_up)
        by_workers(warm_up, scorer)
        for run in range(1, RUNS + 1):
            groups, singles = [group for _, group in ordinary_groups(run)], ordinary_groups(1000 + run)
            theirs = _timed(seconds["one_at_a_time"], partial(one_at_a_time, groups))
            ours = _timed(seconds["ours"], partial(by_workers, groups, scorer))
            agree.append(statistics.fmean(bool(a) == bool(b) for a, b in zip(ours, theirs, strict=True)))
            for kind, group in singles:
                _timed(seconds[f"one group of {kind}"], partial(one_at_a_time, [group]))
                _timed(seconds[f"ours of {kind}"], partial(by_workers, [group], scorer))
    medians = {name: statistics.median(values) for name, values in seconds.items()}
    kinds = [name.removeprefix("ours of ") for name in medians if name.startswith("ours of ")]
    return {
        "throughput": {
            "ratio": medians["one_at_a_time"] / medians["ours"],
            "ours": NUM_ATTEMPTS / medians["ours"],
            "math_verify": NUM_ATTEMPTS / medians["one_at_a_time"],
            "unit": "answers a second",
            "runs": RUNS,
        },
        **{
            f"a group of {kind}": {
                "ratio": medians[f"one group of {kind}"] / medians[f"ours of {kind}"],
                "ours": 1000 * medians[f"ours of {kind}"],
                "math_verify": 1000 * medians[f"one group of {kind}"],
                "unit": "ms a group of 8",
                "runs": len(seconds[f"ours of {kind}"]),
            }
            for kind in sorted(kinds)
        },
        "agreement": min(agree),
        "hardware": f"{os.cpu_count()} cores, {platform.machine()}, {platform.system()}",
    }


def _timed(seconds: list[float], work: Callable[[], T]) -> T:
    start = time.perf_counter()
    result = work()
    seconds.append(time.perf_counter() - start)
    return result


def _attempt(answer: str, gold: str) -> Attempt:
    turns = [{"role": "assistant", "content": answer}]
    return Attempt(prompt=[{"role": "user", "content": "?"}], completion=turns, columns={"answer": gold})


def _around(draw: random.Random, gold: str) -> Group:
    number = float(gold)
    wrong = [f"{number + draw.randint(1, 30):g}" for _ in range(GROUP // 4)]
    return gold, _worked(draw, [gold] * (GROUP - len(wrong)) + wrong)


def _fraction(draw: random.Random) -> Group:
    over, under = draw.randint(1, 40), draw.randint(2, 40)
    forms = [f"\\frac{{{over}}}{{{under}}}", f"{over}/{under}", f"\\dfrac{{{2 * over}}}{{{2 * under}}}"]
    wrong = [f"\\frac{{{over + 1}}}{{{under}}}"] * (GROUP // 4)
    return forms[0], _worked(draw, [draw.choice(forms) for _ in range(GROUP - len(wrong))] + wrong)


def _expression(draw: random.Random) -> Group:
    a, b = draw.randint(2, 20), draw.randint(2, 20)
    forms = [f"{a}\\sqrt{{{b}}}", f"\\sqrt{{{b}}} \\cdot {a}"]
    wrong = [f"{a + 1}\\sqrt{{{b}}}"] * (GROUP // 4)
    return forms[0], _worked(draw, [draw.choice(forms) for _ in range(GROUP - len(wrong))] + wrong)


def _worked(draw: random.Random, answers: list[str]) -> list[str]:
    draw.shuffle(answers)
    return [f"We work it out step by step and find that the result is \\boxed{{{answer}}}." for answer in answers]


def main() -> None:
    """Measure, print, keep."""
    found = measure()
    table = Table(title=f"math reward, {found['hardware']}; medians", title_justify="left")
    for heading in ("", "ours", "math_verify", "ratio", "unit"):
        table.add_column(heading)
    for name, row in found.items():
        if not isinstance(row, dict):
            continue
        table.add_row(name, f"{row['ours']:.4g}", f"{row['math_verify']:.4g}", f"{row['ratio']:.2f}", row["unit"])
    Console(width=100).print(table)
    RESULT.parent.mkdir(exist_ok=True)
    RESULT.write_text(json.dumps(found, indent=2) + "\n")


if __name__ == "__main__":
    main()
