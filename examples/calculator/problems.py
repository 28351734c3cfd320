r"""Seeded products in words. Half of the demonstrations use the calculator, half blurt out a number.

    Each of 47 boxes holds 386 beads. How many beads?

A careful hand calls the calculator, is told the result, and boxes it; a hasty one boxes whatever comes to mind, which
no model of this size gets right. A conversation of two turns is two rows, one for each turn to be learned. A model that
imitates uses the calculator half of the time. That it always pays is for reinforcement learning to find out.
"""

import json
import random
from collections.abc import Iterator, Mapping, Sequence
from typing import Any

from examples.arithmetic.problems import NAMES, THINGS
from examples.calculator.tools import calculate

WORDINGS = [
    "Each of {few} boxes holds {many} {things}. How many {things}?",
    "{name} packs {many} {things} a day, for {few} days. How many {things}?",
    "How many {things} are {few} bags with {many} in each?",
]
Message = Mapping[str, str]
Row = dict[str, Any]


def make_splits(seed: int, *, num_train: int = 6_000, num_dev: int = 512) -> dict[str, list[Row]]:
    """Make the rows of `demonstrations`, of `train` (the same problems, without them) and of `dev` (other numbers)."""
    rng = random.Random(seed)
    numbers = list(distinct_numbers(rng, num_train + num_dev))
    train = [(word(rng, few, many), few, many) for few, many in numbers[:num_train]]
    dev = [(word(rng, few, many), few, many) for few, many in numbers[num_train:]]
    return {
        "demonstrations": [row for problem in train for row in demonstrations(*problem, careful=rng.random() < 0.5)],
        "train": [{"prompt": ask(question), "answer": str(few * many)} for question, few, many in train],
        "dev": [{"prompt": ask(question), "answer": str(few * many)} for question, few, many in dev],
    }


def distinct_numbers(rng: random.Random, num: int) -> Iterator[tuple[int, int]]:
    """Draw pairs of a number with two digits and one with three, none twice."""
    pairs = rng.sample(range(90 * 900), num)
    return ((10 + pair % 90, 100 + pair // 90) for pair in pairs)


def word(rng: random.Random, few: int, many: int) -> str:
    """Return the problem in words."""
    return rng.choice(WORDINGS).format(few=few, many=many, things=rng.choice(THINGS), name=rng.choice(NAMES))


def ask(question: str) -> list[Message]:
    """Return the prompt."""
    return [{"role": "user", "content": question}]


def demonstrations(question: str, few: int, many: int, *, careful: bool) -> list[Row]:
    """Return a row for each turn of a demonstration."""
    prompt, boxed = ask(question), f"\\boxed{{{few * many}}}"
    if not careful:
        return [turn(prompt, boxed)]
    call = use(f"{many}*{few}")
    told = [*prompt, assistant(call), {"role": "tool", "content": calculate(f"{many}*{few}")}]
    return [turn(prompt, call), turn(told, boxed)]


def use(expression: str) -> str:
    """Return a call of the calculator, as `rollout.tools` reads it."""
    return f"<tool_call>{json.dumps({'name': 'calculate', 'arguments': {'expression': expression}})}</tool_call>"


def turn(prompt: Sequence[Message], response: str) -> Row:
    """Return a row in the field's columns."""
    return {"prompt": list(prompt), "completion": [assistant(response)]}


def assistant(text: str) -> Message:
    """Return a turn of the policy."""
    return {"role": "assistant", "content": text}
