"""Text that is not ours, made harmless for terminals and logs: what would act is written out.

It lies in this package since all others may import it. What rewards print comes by here (`rewards.process`), and what
the command line and the processes of stages write to standard error.
"""

import re
from collections.abc import Iterable
from typing import Any, TextIO, cast

_STYLE = re.compile(r"\x1b\[[0-9;]*m")
_ACTING = re.compile(r"[^\x20-\x7e\n\t]")
"""What may act; plain ASCII, which most text is, never does."""


def printable(text: str) -> str:
    """Return the text with all that would act on a terminal written out, an escape as ``\\x1b``.

    Newlines and tabs stay. Written out are control characters, those of C1 too, what turns the direction of a text
    around, what is invisible, and halves of characters.
    """
    return _ACTING.sub(lambda found: _written_out(found[0]), text)


def log_text(text: str) -> str:
    """Return it as it is to stand in a log: without colours, and what would begin its line anew on a line of its own.

    So progress bars, which do that, can be read.
    """
    return printable(_STYLE.sub("", text).replace("\r\n", "\n").replace("\r", "\n"))


class LogStream:
    """A stream that writes `log_text` of what it is given; all else is as of the stream below.

    Rich writes escapes on purpose, and finds the stream below by ``rich_proxied_file``.
    """

    def __init__(self, below: TextIO) -> None:
        self.rich_proxied_file = below

    def write(self, text: str) -> int:
        """Write the text."""
        self.rich_proxied_file.write(log_text(text))
        return len(text)

    def writelines(self, lines: Iterable[str]) -> None:
        """Write each line."""
        for line in lines:
            self.write(line)

    def __getattr__(self, name: str) -> Any:
        return getattr(self.rich_proxied_file, name)


def log_stream(below: TextIO) -> TextIO:
    """Return the stream as a `LogStream`; one that is already stays itself."""
    return below if isinstance(below, LogStream) else cast(TextIO, LogStream(below))


def _written_out(character: str) -> str:
    return character if character.isprintable() else repr(character)[1:-1]
