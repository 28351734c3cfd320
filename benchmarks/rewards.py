"""The math reward through the scorer's workers, against math-verify called one answer after the other.

    make bench-rewards     # or: python -m benchmarks.rewards [--rounds N]

The answers are those of a model that is often right: in groups of eight, most numbers, some fractions, decimals and
expressions, the wrong ones near the right one. The baseline parses gold and answer and compares them, for each answer,
as TRL's accuracy reward does.
"""

import argparse
import random
import time
from collections import defaultdict
from collections.abc import Callable, Sequence
from statistics import fmean, median
from typing import Any

from benchmarks.conditions import conditions, keep, machine
from benchmarks.turns import Paired, Side, in_turn, rounds_from, show
from rewards.config import MathRewardConfig
from rewards.scorer import Scorer
from rewards.scoring_config import ScoringConfig
from rewards.types import Attempt

GROUP, NUM_ATTEMPTS, WORKERS = 8, 2000, 2
KINDS = ("large numbers", "small numbers", "decimals", "fractions", "expressions")

Group = tuple[str, list[str]]
"""A gold answer, and the answers to be compared with it."""
Marks = Sequence[float | bool | None]
Marking = Callable[[list[Group]], Marks]
"""Marks all answers of some groups."""


def ordinary_groups(seed: int) -> list[tuple[str, Group]]:
    """Return kind and content of groups of worked answers that end in a box, three in four of them right."""
    draw = random.Random(seed)
    makers: tuple[Callable[[], Group], ...] = (
        lambda: _around(draw, str(draw.randint(-999, 9999))),
        lambda: _around(draw, f"{draw.randint(1, 99)}"),
        lambda: _around(draw, f"{draw.uniform(0, 100):.2f}"),
        lambda: _fraction(draw),
        lambda: _expression(draw),
    )
    made = dict(zip(KINDS, makers, strict=True))
    kinds = draw.choices(KINDS, [40, 25, 15, 12, 8], k=NUM_ATTEMPTS // GROUP)
    return [(kind, made[kind]()) for kind in kinds]


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


def measure(num_rounds: int) -> dict[str, Any]:
    """Time both in turn, each round on fresh answers: all groups at once, and single groups of each kind."""
    import math_verify  # noqa: F401 - both sides have loaded it before the clock starts

    with Scorer([MathRewardConfig()], ScoringConfig(num_workers=WORKERS)) as scorer:
        markings: dict[str, Marking] = {"ours": lambda groups: by_workers(groups, scorer), "math_verify": one_at_a_time}
        rows, agreement = _throughput(markings, num_rounds)
        for kind in KINDS:
            rows[f"a group of {kind}"] = _single_groups(markings, kind, num_rounds)
    return {"rows": rows, "agreement": agreement, "num_workers": WORKERS, "conditions": conditions(num_threads=1)}


def _throughput(markings: dict[str, Marking], num_rounds: int) -> tuple[dict[str, Any], float]:
    """Return answers a second, and the smallest share of a round's answers on which both agree."""
    marks: dict[str, list[Marks]] = defaultdict(list)

    def side(name: str) -> Side:
        def per_second(number: int) -> float:
            groups = [group for _, group in ordinary_groups(number)]
            start = time.perf_counter()
            marks[name].append(markings[name](groups))
            return NUM_ATTEMPTS / (time.perf_counter() - start)

        return Side(name=name, measure=per_second)

    values = in_turn([side(name) for name in markings], num_rounds=num_rounds)
    agree = [
        fmean(bool(own) == bool(their) for own, their in zip(*both, strict=True))
        for both in zip(marks["ours"], marks["math_verify"], strict=True)
    ]
    paired = Paired(values=values, unit="answers a second", ratio_of=("ours", "math_verify"))
    return {"throughput": paired.to_json()}, min(agree)


def _single_groups(markings: dict[str, Marking], kind: str, num_rounds: int) -> dict[str, Any]:
    """Return the milliseconds of a group alone: of each round, the median of that kind's groups."""

    def side(name: str) -> Side:
        def milliseconds(number: int) -> float:
            groups = [group for found, group in ordinary_groups(1000 + number) if found == kind]
            return 1000 * median(_seconds(markings[name], group) for group in groups)

        return Side(name=name, measure=milliseconds)

    values = in_turn([side(name) for name in markings], num_rounds=num_rounds)
    return Paired(values=values, unit=f"ms a group of {GROUP}", ratio_of=("math_verify", "ours")).to_json()


def _seconds(marking: Marking, group: Group) -> float:
    start = time.perf_counter()
    marking([group])
    return time.perf_counter() - start


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
    parser = argparse.ArgumentParser(prog="python -m benchmarks.rewards")
    rounds_from(parser, default=7)
    found = measure(parser.parse_args().num_rounds)
    keep("rewards.json", found)
    show(f"math reward, {WORKERS} workers, {machine(found['conditions'])}", found["rows"])
    print(f"both agree on {100 * found['agreement']:.2f} % of the answers at least")


if __name__ == "__main__":
    main()
