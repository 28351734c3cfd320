"""A terminal to run the command line in: a pseudo-terminal, and what its screen shows in the end."""

import codecs
import os
import pty
import re
import select
import signal
import subprocess
import sys
import termios
import time
from collections.abc import Callable
from pathlib import Path

ROOT = Path(__file__).parents[2]
HIDE, SHOW = "\x1b[?25l", "\x1b[?25h"
_PIECE = re.compile(r"\x1b\[(?P<arguments>[?0-9;]*)(?P<act>[A-Za-z])|(?P<text>[^\x1b])", re.DOTALL)


class Terminal:
    """A process whose standard streams are a terminal of its own, so that Ctrl-C reaches it as a person's would."""

    def __init__(self, *command: str | Path, columns: int = 80, lines: int = 40, **environment: str) -> None:
        self._master, slave = pty.openpty()
        termios.tcsetwinsize(slave, (lines, columns))
        kept = {name: value for name, value in os.environ.items() if name not in ("COLUMNS", "LINES", "NO_COLOR")}
        self.process = subprocess.Popen(
            [sys.executable, *map(str, command)],
            preexec_fn=lambda: _log_in(slave),
            cwd=ROOT,
            env={**kept, "TERM": "xterm-256color", "OMP_NUM_THREADS": "1", **environment},
        )
        os.close(slave)
        self.output = ""
        self._decoder = codecs.getincrementaldecoder("utf-8")(errors="replace")  # a read can end within a character

    def press(self, keys: str) -> None:
        """Type something."""
        os.write(self._master, keys.encode())

    def read_until(self, is_enough: Callable[[str], bool], *, timeout_s: float = 120.0) -> None:
        """Read what is printed until there is enough of it, or the process has ended."""
        deadline = time.monotonic() + timeout_s
        while not is_enough(self.output):
            assert time.monotonic() < deadline, f"not seen within {timeout_s:.0f} s: {self.output[-3000:]!r}"
            if select.select([self._master], [], [], 1.0)[0]:
                try:
                    self.output += self._decoder.decode(os.read(self._master, 65536))
                except OSError:  # the other end is closed
                    return

    def end(self, *, timeout_s: float = 120.0) -> int:
        """Read to the end and return the exit status."""
        self.read_until(lambda _: False, timeout_s=timeout_s)
        os.close(self._master)
        return self.process.wait(timeout=timeout_s)

    def kill(self) -> None:
        """End the process, whatever it does."""
        self.process.kill()
        self.process.wait()


def _log_in(slave: int) -> None:
    """Take the terminal, and Ctrl-C as whoever sits before one gets it: tests in the background inherit it ignored."""
    os.login_tty(slave)
    signal.signal(signal.SIGINT, signal.SIG_DFL)


def screen(output: str) -> list[str]:
    """Return the lines that a terminal shows after an output: as far as it moves up and erases, as the view does."""
    lines, row, column = [""], 0, 0
    for piece in _PIECE.finditer(output):
        number = int(piece["arguments"]) if (piece["arguments"] or "").isdigit() else 1
        if piece["act"] == "A":
            row = max(0, row - number)
        elif piece["act"] == "K":
            lines[row] = ""
        elif piece["act"] in ("m", "h", "l"):
            pass
        elif piece["act"]:
            raise AssertionError(f"the view was not known to print {piece[0]!r}")
        elif piece["text"] == "\n":
            row, lines = row + 1, lines if row + 1 < len(lines) else [*lines, ""]
        elif piece["text"] == "\r":
            column = 0
        else:
            lines[row] = lines[row][:column].ljust(column) + piece["text"] + lines[row][column + 1 :]
            column += 1
    return [line.rstrip() for line in lines]
