"""Tokens of many rows as one data set of Arrow's, which is what TRL's trainers take."""

from collections.abc import Callable, Iterable, Iterator, Mapping
from itertools import islice
from typing import Any

from datasets import Dataset, concatenate_datasets

AT_ONCE = 1000
"""Rows that are lists of Python's integers at a time, at some thirty bytes a token."""


def as_dataset(rows: Iterable[Mapping[str, Any]], alive: Callable[[], None]) -> Dataset:
    """Return the rows as a data set; a column has values of one type in all of them.

    ``alive`` is called after every thousand rows: a million of them take longer than a stage may be silent.
    """
    return concatenate_datasets([Dataset.from_list(part) for part in _parts(iter(rows), alive)])


def _parts(rows: Iterator[Mapping[str, Any]], alive: Callable[[], None]) -> Iterator[list[dict[str, Any]]]:
    while part := [dict(row) for row in islice(rows, AT_ONCE)]:
        yield part
        alive()
