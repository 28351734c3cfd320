"""A run as plain lines, where no terminal is looked at: easy to search, and nothing is drawn over."""

import re
import time
from pathlib import Path

from rich.text import Text

from pipeline.plan import Step
from pipeline.progress import Row, newest_lines
from pipeline.standing import waits_of
from pipeline.terminal import console, say
from pipeline.warned import kind, warnings_of
from rewards.printable import printable

SHOWN = re.compile(
    r"train/loss|early_stop/accuracy|preference/accuracy_beyond_offset|(.*/)?reward/.*mean|rollout/no_signal_fraction"
)
"""Metrics that are told: each reward's own mean among them, so that a dead one is seen."""


class Lines:
    """An observer that prints when a stage begins, and every quarter of a minute its newest metrics.

    As long as there are no newer ones, what the stage waits for is printed, if it has waited long.
    """

    EVERY_S = 15.0

    def __init__(self) -> None:
        self._next = 0.0
        self._told: tuple[str, Row] | None = None
        """What was told last, and of which stage; an exam's line may be of the same step as the one before."""
        self._warned = set[str]()

    def tell_warnings(self, step: Step, attempt: Path) -> None:
        """Print what a stage warns of, if no stage or attempt has warned of it yet."""
        for text in warnings_of(attempt):
            if kind(text) not in self._warned:
                self._warned.add(kind(text))
                say(f"stage {step.name} warned: {text}", style="yellow")

    def begins(self, step: Step) -> None:
        """Print what happens with a stage, and why."""
        console.print(
            Text.assemble((printable(step.name), "bold"), f": {step.action}, {printable(step.why)}"), soft_wrap=True
        )
        self._next = time.monotonic() + self.EVERY_S

    def works(self, step: Step, attempt: Path) -> None:
        """Print what the stage warns of, once each, and now and then its newest line of metrics."""
        self.tell_warnings(step, attempt)
        if time.monotonic() < self._next:
            return
        self._next = time.monotonic() + self.EVERY_S
        newest = next(reversed(newest_lines(attempt / "metrics.jsonl")), None)
        if newest is None or (step.name, newest) == self._told:
            for waiting in waits_of(attempt):
                say(f"  {step.name} waits for {waiting}")
            return
        self._told = (step.name, newest)
        shown = [f"{name} {value:.4g}" for name, value in newest.items() if SHOWN.fullmatch(name)]
        of = f"/{newest['num_steps']:.0f}" if "num_steps" in newest else ""
        say(f"  {step.name} step {newest['step']:.0f}{of}  {'  '.join(shown)}")
