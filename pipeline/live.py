"""A run on a terminal while it goes on: the view, redrawn each second, with what is printed meanwhile above it."""

import logging
import os
import sys
import threading
import time
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import IO

from rich.live import Live
from rich.text import Text

from pipeline.lines import Lines
from pipeline.plan import Step
from pipeline.standing import standing_of
from pipeline.state import RunFolder, RunFolderError
from pipeline.terminal import console
from pipeline.view import view
from rewards.printable import printable

logger = logging.getLogger(__name__)

DRAW_EVERY_S = 1.0
LAST_DRAWING_S = 10.0
"""How long a drawing may take, once the run has ended."""
DRIVER_LOG = "driver.log"
"""File of a run's folder with what libraries print in the driver's process."""


class LiveView(Lines):
    """An observer that announces stages as `Lines` does, and what they warn of, above what is drawn: all else."""

    def works(self, step: Step, attempt: Path) -> None:
        """Print what the stage warns of; how it goes on is drawn."""
        self.tell_warnings(step, attempt)


@contextmanager
def live(folder: RunFolder) -> Iterator[LiveView]:
    """Draw a run until the block ends: a run that went well leaves the closing table alone, any other its last view."""
    with _kept_aside(folder.root / DRIVER_LOG) as printed, _drawn(folder, printed) as drawing:
        yield LiveView()
        drawing.transient = True


def watch(folder: RunFolder) -> None:
    """Draw a run that some other process drives, until that ends."""
    with _drawn(folder, None), suppress(KeyboardInterrupt):
        while folder.is_driven():
            time.sleep(DRAW_EVERY_S)


@contextmanager
def _drawn(folder: RunFolder, printed: IO[bytes] | None) -> Iterator[Live]:
    """Draw each second, in a thread, and a last time at the end. What cannot be drawn is logged, once."""
    is_over, is_told = threading.Event(), threading.Event()

    def draw(drawing: Live) -> None:
        seen = drawing.get_renderable()
        try:
            for line in printed or ():
                text = printable(Text.from_ansi(line.decode(errors="replace")).plain)
                drawing.console.print(Text(text), soft_wrap=True)
            drawing.update(view(standing_of(folder), height=console.height), refresh=True)
        except Exception as error:  # no run ends because it cannot be looked at
            drawing.update(seen)
            is_passing = isinstance(error, OSError | RunFolderError)  # a file is being moved
            if not is_passing and not is_told.is_set():
                is_told.set()
                logger.exception("where the run stands could not be drawn; what was drawn before stays")

    def draw_on(drawing: Live) -> None:
        while not is_over.wait(DRAW_EVERY_S):
            draw(drawing)

    with Live(console=console, auto_refresh=False, redirect_stderr=False) as drawing:
        draw(drawing)
        thread = threading.Thread(target=draw_on, args=(drawing,), daemon=True)
        thread.start()
        try:
            yield drawing
        finally:
            is_over.set()
            thread.join(LAST_DRAWING_S)
            if not thread.is_alive():  # or else the disk hangs
                draw(drawing)


@contextmanager
def _kept_aside(log: Path) -> Iterator[IO[bytes] | None]:
    """Send this process's standard error to a file, and yield that for reading, so that it tears no view.

    Into a file and not a pipe: what a library says as it ends the process is then to be found. Where standard error
    goes somewhere else than to the terminal already, it is left alone, and None is yielded.
    """
    if not sys.stderr.isatty():
        yield None
        return
    log.parent.mkdir(parents=True, exist_ok=True)
    terminal = os.dup(2)
    with log.open("ab") as written, log.open("rb") as printed:
        printed.seek(0, os.SEEK_END)
        sys.stderr.flush()
        os.dup2(written.fileno(), 2)
        try:
            yield printed
        finally:
            sys.stderr.flush()
            os.dup2(terminal, 2)
            os.close(terminal)
