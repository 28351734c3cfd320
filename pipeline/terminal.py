"""What all commands share of the terminal: where they print, and how errors become messages and exit codes."""

import signal
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import typer
from rich.console import Console
from rich.text import Text

from pipeline.config import ConfigError
from pipeline.state import RunFolderError
from rewards.printable import log_stream, printable
from stages.base import StageError
from stages.data.rows import DataError
from stages.model_folder import ModelFolderError
from stages.preflight import RewardError

console = Console(width=None if sys.stdout.isatty() else 120)
errors = Console(stderr=True, soft_wrap=True)
UNBROKEN = 2000
"""Columns for what no terminal shows: lines stay whole, to be searched."""
PATH: dict[str, Any] = {"parser": lambda text: Path(text).expanduser(), "metavar": "PATH"}
"""Of options that are paths: shells leave a `~` that stands after `=`."""


def say(text: str, *, on: Console = console, style: str = "") -> None:
    """Print a text as it is, its lines whole: nothing in it is markup, nothing is coloured, and nothing acts."""
    on.print(Text(printable(text), style=style), soft_wrap=True)


def guard_standard_error() -> None:
    """Have what libraries, loggers and stack traces write to standard error act as little as what `say` prints."""
    sys.stderr = log_stream(sys.stderr)


def has_view() -> bool:
    """Say whether whoever looks on sees a terminal on which a view can be redrawn."""
    return sys.stdout.isatty() and not console.is_dumb_terminal


@contextmanager
def endings_as_ctrl_c() -> Iterator[None]:
    """Have what else ends a program politely, a scheduler's SIGTERM or a terminal that goes, raise KeyboardInterrupt.

    Once: what comes after it, as from a shell and the kernel both, ends no cleaning up. What is ignored already, as
    under nohup, stays so.
    """
    taken = [each for each in (signal.SIGTERM, signal.SIGHUP) if signal.getsignal(each) is signal.SIG_DFL]

    def end(*_: object) -> None:
        for each in taken:
            signal.signal(each, signal.SIG_IGN)
        raise KeyboardInterrupt

    for each in taken:
        signal.signal(each, end)
    try:
        yield
    finally:
        for each in taken:
            signal.signal(each, signal.SIG_DFL)


@contextmanager
def readable_errors() -> Iterator[None]:
    """Turn what the user can mend into a message and exit code 2; everything else is a bug and shows its trace."""
    try:
        yield
    except (
        ConfigError,
        DataError,
        ModelFolderError,
        RewardError,
        RunFolderError,
        StageError,
        BlockingIOError,
    ) as error:
        say(str(error), on=errors, style="red")
        raise typer.Exit(2) from error
    except OSError as error:
        say(f"{type(error).__name__}: {error}", on=errors, style="red")
        raise typer.Exit(1) from error
