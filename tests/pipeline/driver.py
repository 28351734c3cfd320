"""The command line with a launcher that only pretends: `python driver.py SCRIPT run recipe.yaml --runs ...`.

SCRIPT says what a stage does: `works`, `fails` or `hangs`.
"""

import logging
import os
import sys
import time
import warnings
from collections.abc import Callable
from contextlib import nullcontext
from dataclasses import asdict

from pipeline import cli, lines, live
from pipeline.job import Job, Outcome
from pipeline.state import write_json
from rewards.waits import Waiting
from stages.base import StageResult
from stages.metrics import MetricsFile

NUM_STEPS = 4
STEP_S = 0.6


class Pretending:
    """Writes metrics, and prints as libraries do: by Python, by a logger, and past both to standard error itself."""

    def __init__(self, script: str) -> None:
        self._script = script

    def start(self) -> "Pretending":
        """Be there."""
        return self

    def run(self, job: Job, on_poll: Callable[[], None]) -> Outcome:
        """Do as the script says."""
        file = MetricsFile(job.attempt / "metrics.jsonl")
        wait = Waiting(what="the teacher", since=time.time() - 30, limit_s=60.0)
        write_json(job.attempt / "waits.json", [asdict(wait)])
        for step in range(1, NUM_STEPS + 1):
            file.write(step, {"train/loss": 1.0 / step}, of=NUM_STEPS)
            on_poll()
            file.write(step, {"early_stop/accuracy": 0.5})
            on_poll()
            on_poll()
            time.sleep(STEP_S)
            if step == 2:
                os.write(2, b"\x1b[31mraw words\x1b[0m of a library\n")
                logging.getLogger("some.library").warning("a logged line %s", "x" * 100)
                warnings.warn("a warning", stacklevel=1)
                print("a printed line", flush=True)
            while step == 3 and self._script == "hangs":
                time.sleep(STEP_S)  # a signal can go to another thread, and then ends no sleep
        if self._script == "fails":
            return Outcome(cause="StageError: it would not, \x1b[2J[red]for " + "a long reason, " * 20 + "truly")
        (job.folder / "output").mkdir(exist_ok=True)
        (job.folder / "output" / "manifest.json").write_text("{}")
        return Outcome(result=StageResult())


if __name__ == "__main__":
    script = sys.argv.pop(1)
    lines.Lines.EVERY_S = 0.0
    live.DRAW_EVERY_S = STEP_S / 6  # no step goes by unseen
    cli._ray = lambda config, folder: nullcontext(Pretending(script))  # type: ignore[assignment,return-value]
    cli.app()
