"""Data files of a check, each read once however many stages and rewards look at it."""

from collections.abc import Sequence

from stages.data.config import DataSetConfig
from stages.data.rows import Row, load_rows


class ReadOnce:
    """Rows of data files, kept in memory."""

    def __init__(self) -> None:
        self._read: dict[str, list[Row]] = {}

    def rows(self, data: DataSetConfig, needs: Sequence[str]) -> list[Row]:
        """Return what `load_rows` returns. Raises DataError."""
        same = f"{data.model_dump_json()} {needs}"
        if same not in self._read:
            self._read[same] = load_rows(data, needs)
        return self._read[same]
