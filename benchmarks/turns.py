"""Sides that are compared take turns, A B A B, so that what slows the machine for a while slows all of them alike.

Every benchmark that compares calls this. A comparison is given as the medians of both sides with their ranges, and as
the median of the rounds' ratios with its range.
"""

import argparse
import sys
from collections.abc import Callable, Mapping, Sequence
from dataclasses import asdict, dataclass
from statistics import median
from typing import Any, TypeVar

from rich.console import Console
from rich.table import Table

K = TypeVar("K")


@dataclass(frozen=True, slots=True, kw_only=True)
class Side:
    """One of those that are compared."""

    name: str
    measure: Callable[[int], float]
    """Does the work of one round and returns what it took. Rounds count from 0, warm-ups included; all sides get the
    same number, and may draw the same fresh data from it."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Spread:
    """What a value was, over all rounds."""

    median: float
    low: float
    """The smallest."""
    high: float
    """The largest."""

    def __str__(self) -> str:
        middle, low, high = (
            f"{value:,.0f}" if value >= 100 else f"{value:.3g}" for value in (self.median, self.low, self.high)
        )
        return f"{middle} [{low}, {high}]"


@dataclass(frozen=True, slots=True, kw_only=True)
class Paired:
    """One quantity of two sides, measured in the same rounds."""

    values: Mapping[str, Sequence[float]]
    """By side, a value a round. Warm-ups are left out."""
    unit: str
    ratio_of: tuple[str, str]
    """Which side is divided by which."""

    @property
    def ratio(self) -> Spread:
        """Return the ratio that each round gave, over all rounds."""
        over, under = (self.values[name] for name in self.ratio_of)
        return spread([a / b for a, b in zip(over, under, strict=True)])

    @property
    def num_rounds(self) -> int:
        """Return how many rounds were counted."""
        return len(self.values[self.ratio_of[0]])

    def to_json(self) -> dict[str, Any]:
        """Return what results keep of it."""
        return {
            "ratio": asdict(self.ratio),
            "ratio_of": list(self.ratio_of),
            **{name: {**asdict(spread(values)), "rounds": list(values)} for name, values in self.values.items()},
            "unit": self.unit,
            "num_rounds": self.num_rounds,
        }


def in_turn(sides: Sequence[Side], *, num_rounds: int, num_warm_up: int = 1) -> dict[str, list[float]]:
    """Measure each side once a round, in the order given; return the values by side, without those of the warm-up."""
    if num_rounds < 1:
        raise ValueError(f"{num_rounds} rounds measure nothing; take 1 or more")
    values: dict[str, list[float]] = {side.name: [] for side in sides}
    assert len(values) == len(sides), "sides are told apart by their names"
    for number in range(num_warm_up + num_rounds):
        found = {side.name: side.measure(number) for side in sides}
        if number >= num_warm_up:
            for name, value in found.items():
                values[name].append(value)
        of = f"round {number - num_warm_up + 1} of {num_rounds}" if number >= num_warm_up else "warm-up"
        print(f"{of}: " + ", ".join(f"{name} {value:.4g}" for name, value in found.items()), file=sys.stderr)
    return values


def spread(values: Sequence[float]) -> Spread:
    """Return the median of some values, and their range."""
    return Spread(median=median(values), low=min(values), high=max(values))


def fastest(values: Mapping[K, Sequence[float]]) -> K:
    """Return the key whose median is the smallest."""
    return min(values, key=lambda key: median(values[key]))


def rounds_from(parser: argparse.ArgumentParser, *, default: int | None) -> None:
    """Add ``--rounds`` to a command line, as ``num_rounds``."""

    def number(text: str) -> int:
        if not text.isdecimal() or int(text) < 1:
            raise argparse.ArgumentTypeError(f"{text!r} rounds measure nothing; give a whole number from 1 up")
        return int(text)

    shown = f"default {default}" if default else "default: as each has it"
    parser.add_argument(
        "--rounds", dest="num_rounds", metavar="N", type=number, default=default, help=f"turns of each side; {shown}"
    )


def show(title: str, rows: Mapping[str, Mapping[str, Any]], wanted: Mapping[str, str] | None = None) -> None:
    """Print what `Paired.to_json` gave, a line a comparison, with what is wanted of the ratio where something is."""
    table = Table(title=f"{title}; medians [smallest, largest]", title_justify="left")
    for heading in ("", "side", "", "the other", "", "unit", "ratio", "rounds", *(["wanted"] if wanted else [])):
        table.add_column(heading)
    for name, row in rows.items():
        sides = sorted(row["ratio_of"], key=lambda side: side != "ours")
        cells = [cell for side in sides for cell in (side, _shown(row[side]))]
        last = [wanted.get(name, "")] if wanted else []
        table.add_row(name, *cells, row["unit"], _shown(row["ratio"]), str(row["num_rounds"]), *last)
    Console(width=160).print(table)


def _shown(row: Mapping[str, Any]) -> str:
    return str(Spread(median=row["median"], low=row["low"], high=row["high"]))
