r"""Seeded word problems, each with a demonstration to imitate. `__main__` writes them as JSONL.

    Mia has 347 shells and finds 286 more. How many now?

Demonstrations come from two hands, as real ones do. A careful one writes down the task, works column by
column from the units, with carries and borrows as at school, and boxes the result; a hasty one boxes it off the
cuff:

    347+286                   \boxed{633}
    7+6+0=13
    4+8+1=13
    3+2+1=06
    \boxed{633}

Textbook questions are mostly answered carefully, quiz questions mostly hastily. A model that imitates does
the same, and off the cuff it is usually wrong. That working pays is for preference and reinforcement learning
to find out.
"""

import random
from collections.abc import Iterator
from dataclasses import dataclass
from typing import Any, Literal

Operation = Literal["+", "-"]
Operands = tuple[int, int]

TEXTBOOK: dict[Operation, list[str]] = {
    "+": [
        "{name} has {left} {things} and finds {right} more. How many now?",
        "There are {left} {things} in one box and {right} in another. How many in total?",
        "{name} sold {left} {things} on Monday and {right} on Tuesday. How many in all?",
    ],
    "-": [
        "{name} had {left} {things} and gave away {right}. How many are left?",
        "Of {left} {things} in the shop, {right} were sold. How many remain?",
        "{name} has {left} {things}, {friend} has {right}. How many more has {name}?",
    ],
}
QUIZ: dict[Operation, list[str]] = {
    "+": [
        "{left} {things} plus {right} {things} makes how many?",
        "{name} counts {left} {things}, {friend} counts {right}. What is the sum?",
        "What do you get when {right} {things} join {left}?",
    ],
    "-": [
        "{left} {things} minus {right} {things} makes how many?",
        "{name} counts {left} {things}, {friend} counts {right}. What is the difference?",
        "What do you get when {right} {things} leave {left}?",
    ],
}
UNSEEN: dict[Operation, list[str]] = {
    "+": [
        "{name} counts {left} {things} in the shop, then finds {right} more. What is the sum?",
        "{name} has {left} {things} and {friend} has {right}. How many in total?",
    ],
    "-": [
        "There are {left} {things} in the shop and {name} gave away {right}. How many remain?",
        "{name} had {left} {things} on Monday and sold {right}. How many are left?",
    ],
}
NAMES = ["Ann", "Ben", "Cleo", "Dan", "Eve", "Finn", "Gia", "Hugo", "Ida", "Jan", "Kim", "Leo", "Mia", "Noah"]
THINGS = ["apples", "beads", "books", "cards", "coins", "eggs", "figs", "keys", "nuts", "pens", "shells"]


@dataclass(frozen=True, kw_only=True)
class Problem:
    """One sum or difference, the question around it, and whether its demonstration shows the working."""

    left: int
    operation: Operation
    right: int  # never larger than left where the operation is "-"
    question: str
    careful: bool

    @property
    def answer(self) -> str:
        """The result in decimal digits."""
        return str(self.left + self.right if self.operation == "+" else self.left - self.right)

    @property
    def demonstration(self) -> str:
        """What the assistant says: the working where the hand was careful, and the boxed result."""
        boxed = f"\\boxed{{{self.answer}}}"
        if not self.careful:
            return boxed
        task = f"{self.left}{self.operation}{self.right}"
        return "\n".join([task, *columns(self.left, self.operation, self.right), boxed])

    def row(self) -> dict[str, Any]:
        """Give the row in the field's columns: conversational prompt and completion, and the answer."""
        return {
            "prompt": [{"role": "user", "content": self.question}],
            "completion": [{"role": "assistant", "content": self.demonstration}],
            "answer": self.answer,
        }


def columns(left: int, operation: Operation, right: int) -> list[str]:
    """Work as at school, one line per column from the units up, the carried or borrowed 1 as third term.

    Every line of a sum has two places for its result, every line of a difference two for its first term, so that
    the digits of the result stand at even distances, where a young model finds them.
    """
    lines, carry = [], 0
    width = max(len(str(left)), len(str(right)))
    for a, b in zip(reversed(f"{left:0{width}}"), reversed(f"{right:0{width}}"), strict=True):
        if operation == "+":
            result = int(a) + int(b) + carry
            lines.append(f"{a}+{b}+{carry}={result:02}")
            carry = result // 10
        else:
            borrow = int(int(a) < int(b) + carry)
            lines.append(f"{borrow}{a}-{b}-{carry}={10 * borrow + int(a) - int(b) - carry}")
            carry = borrow
    return lines


def make_splits(
    seed: int, *, num_train: int = 10_000, num_dev: int = 1_024, num_unseen: int = 512
) -> dict[str, list[dict[str, Any]]]:
    """Make the rows of `train`, `dev` (same kind) and `unseen` (other wordings, half of them a digit longer).

    No two rows of any split share a pair of operands, in either order.
    """
    rng = random.Random(seed)
    short, long = distinct_operands(rng, digits=3), distinct_operands(rng, digits=4)
    return {
        "train": [make_problem(rng, next(short)).row() for _ in range(num_train)],
        "dev": [make_problem(rng, next(short)).row() for _ in range(num_dev)],
        "unseen": [make_unseen(rng, next(long if i % 2 else short)).row() for i in range(num_unseen)],
    }


def distinct_operands(rng: random.Random, *, digits: int) -> Iterator[Operands]:
    """Draw pairs of numbers with so many digits, the larger first, never the same pair twice."""
    seen: set[Operands] = set()
    while True:
        low, high = sorted(rng.choices(range(10 ** (digits - 1), 10**digits), k=2))
        if (high, low) not in seen:
            seen.add((high, low))
            yield high, low


def make_problem(rng: random.Random, operands: Operands, *, majority: float = 0.7) -> Problem:
    """Put the numbers into a textbook or a quiz question; its usual hand answers that share of them."""
    textbook = rng.random() < 0.5
    usual = rng.random() < majority
    return word(rng, operands, TEXTBOOK if textbook else QUIZ, careful=textbook == usual)


def make_unseen(rng: random.Random, operands: Operands) -> Problem:
    """Put the numbers into a question whose wording is in no other split."""
    return word(rng, operands, UNSEEN, careful=True)


def word(rng: random.Random, operands: Operands, wordings: dict[Operation, list[str]], *, careful: bool) -> Problem:
    """Draw an operation, a wording, names and things, and fill in the numbers."""
    operation: Operation = rng.choice(("+", "-"))
    left, right = operands if operation == "-" or rng.random() < 0.5 else operands[::-1]
    name, friend = rng.sample(NAMES, 2)
    question = rng.choice(wordings[operation]).format(
        left=left, right=right, name=name, friend=friend, things=rng.choice(THINGS)
    )
    return Problem(left=left, operation=operation, right=right, question=question, careful=careful)
