"""Rows in which somebody spells a control token, such as `<|im_end|>`: they are counted and said, and read as text."""

import logging
from collections.abc import Iterator, Sequence

from rewards.control_tokens import ControlTokens
from stages.data.rows import SHOWN, Row, place_of

logger = logging.getLogger(__name__)


def num_spelled(control: ControlTokens, rows: Sequence[Row], columns: Sequence[str]) -> int:
    """Return in how many rows somebody spells a control token in these columns of messages, or in what a template is
    given next to them; the log names the first.
    """
    count, note = _counted(control, rows, columns)
    if note:
        logger.warning(note)
    return count


def about_control_text(control: ControlTokens, rows: Sequence[Row], columns: Sequence[str]) -> str | None:
    """Return a sentence on these rows; None where there are none."""
    return _counted(control, rows, columns)[1]


def _counted(control: ControlTokens, rows: Sequence[Row], columns: Sequence[str]) -> tuple[int, str | None]:
    found = [(row, first) for row in rows if (first := next(_spelled(control, row, columns), None))]
    if not found:
        return 0, None
    row, (token, where) = found[0]
    return len(found), (
        f"in {len(found)} of {len(rows)} rows somebody writes the text of a control token ({place_of(row)} has "
        f"{token!r} in {where}); it is read and learned as text, not as the token, since only the chat template begins "
        "turns and ends them. Where a template has written the rows already, take its tokens out and give the turns as "
        "messages"
    )


def _spelled(control: ControlTokens, row: Row, columns: Sequence[str]) -> Iterator[tuple[str, str]]:
    """Yield control tokens that a row spells, and where."""
    for column in columns:
        for turn in row.get(column) or ():
            if token := control.spelled_in(turn):
                yield token, f"a turn of the {turn['role']}"
    for column in SHOWN:
        if row.get(column) and (token := control.spelled_in({"role": "tool", column: row[column]})):
            yield token, repr(column)
