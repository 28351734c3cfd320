"""What libraries warn of in a stage. Its processes write each warning down once; whoever looks at the run reads them.

Taken is what would be printed: records of loggers from WARNING on, and Python's own warnings, which both stay in
`stage.log`. Engines are vLLM's processes, and are read by what they print.
"""

import json
import logging
import re
import threading
import time
import warnings
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager, suppress
from functools import lru_cache
from pathlib import Path
from typing import Any

from pipeline.secrecy import without_secrets
from stages.base import warnings_in

MOST, LONGEST = 20, 300
"""Warnings of an attempt that are told, and characters of each."""
LOG_BYTES = 256 * 1024
"""So much of an engine's log is read: it warns as it starts."""
OURS = ("stages", "rollout", "rewards", "pipeline", "examples")
_STYLE = re.compile(r"\x1b\[[0-9;]*m")
_LIBRARY = re.compile(r"(?:site|dist)-packages/(\w+)")


class WarningsFile:
    """A process's warnings, one line of JSON each; the same text with other numbers in it is the same warning."""

    def __init__(self, path: Path) -> None:
        self._path = path
        self._told = set[str]()
        self._lock = threading.Lock()

    @contextmanager
    def kept(self) -> Iterator[None]:
        """Write down what is warned of until the block ends, whichever handlers a library has."""
        make, show = logging.getLogRecordFactory(), warnings.showwarning

        def made(name: str, level: int, *rest: Any, **named: Any) -> logging.LogRecord:
            record: logging.LogRecord = make(name, level, *rest, **named)
            if level >= logging.WARNING:
                with suppress(Exception):  # a text that does not fit its arguments is the logger's to tell
                    self.add(record.name.split(".")[0], record.getMessage())
            return record

        def shown(message: Any, category: Any, filename: str, *rest: Any, **named: Any) -> None:
            show(message, category, filename, *rest, **named)
            self.add(_library(filename), str(message))

        logging.setLogRecordFactory(made)
        warnings.showwarning = shown
        try:
            yield
        finally:
            logging.setLogRecordFactory(make)
            warnings.showwarning = show

    def add(self, library: str, text: str) -> None:
        """Write a warning down, if it is new; a disk that is full loses it, and the stage itself tells of that."""
        told = warning(library, text)
        with self._lock:
            if len(self._told) < MOST and kind(told) not in self._told:
                self._told.add(kind(told))
                with suppress(OSError), self._path.open("a", encoding="utf-8") as file:
                    file.write(json.dumps({"time": round(time.time(), 3), "text": told}) + "\n")


def file_name(index: int) -> str:
    """Return the name of the file in which a rank's warnings are."""
    return f"warnings_{index}.jsonl" if index else "warnings.jsonl"


def warnings_of(attempt: Path) -> list[str]:
    """Return what the processes of an attempt warned of, each once, no more than `MOST`."""
    found: dict[str, str] = {}
    for file in [*sorted(attempt.glob("warnings*.jsonl")), *sorted(attempt.glob("engine_*.log"))]:
        with suppress(OSError):  # it is gone
            stat = file.stat()
            for text in _read(file, stat.st_mtime_ns, stat.st_size):
                found.setdefault(kind(text), text)
    return list(found.values())[:MOST]


def told_once(by_stage: Mapping[str, Sequence[str]]) -> Iterator[tuple[str, str]]:
    """Yield stages with what they warned of, each warning by the first stage alone that has it."""
    told = set[str]()
    for stage, texts in by_stage.items():
        for text in texts:
            if kind(text) not in told:
                told.add(kind(text))
                yield stage, text


def warning(library: str, text: str) -> str:
    """Return a warning as it is told: who warns, one line, no secrets, no more than `LONGEST` characters."""
    line = without_secrets(" ".join(_STYLE.sub("", text).split()))
    line = line if len(line) <= LONGEST else f"{line[:LONGEST]} ..."
    return line if library in OURS else f"{library}: {line}"


@lru_cache(maxsize=128)
def _read(file: Path, mtime_ns: int, size: int) -> tuple[str, ...]:
    """Read a file that may be growing; one that has not changed since is known."""
    with file.open("rb") as stream:
        text = stream.read(LOG_BYTES).decode(errors="replace")
    if file.suffix == ".jsonl":
        return tuple(_lines(text))
    return tuple(warning(_library(of), told) for of, told in warnings_in(text))


def _lines(text: str) -> Iterator[str]:
    for line in text.splitlines():
        with suppress(ValueError, TypeError, KeyError):  # it is being written
            yield str(json.loads(line)["text"])


def _library(filename: str) -> str:
    """Return whose file it is; a user's own is called by its name."""
    found = _LIBRARY.findall(filename)
    return found[-1] if found else Path(filename).stem


def kind(text: str) -> str:
    """Return what two warnings share that differ in numbers alone."""
    return re.sub(r"\d+(\.\d+)?", "0", text)
