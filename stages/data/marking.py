"""Which rewards mark which rows: a data set may hold tasks of several kinds, each with columns of its own.

A reward applies to the rows that have the columns it needs, and marks no other. Here rows that no reward applies to are
found, and columns that no row has.
"""

from collections import Counter
from collections.abc import Iterator, Sequence
from itertools import zip_longest

from rewards.config import RewardConfig
from stages.data.config import DataSetConfig
from stages.data.rows import DataError, Row, place_of, reward_columns

NAMED_ROWS = 5
"""How many rows an error names."""


def check_marked(data: DataSetConfig, rows: Sequence[Row], rewards: Sequence[RewardConfig]) -> None:
    """Raise DataError where a reward reads a column that no row has, and for rows that no reward applies to."""
    there = {name for row in rows for name, value in reward_columns(row).items() if value is not None}
    for reward in rewards:
        for column in reward.reads():
            if column not in there:
                raise _nowhere(data, rows, reward, column)
    unmarked = [at for at, kind in enumerate(_kinds(rows, rewards)) if not kind]
    if rewards and unmarked:
        needs = " or ".join(f"{' and '.join(map(repr, each.columns()))} for {each.label!r}" for each in rewards)
        own = sorted(name for name, value in rows[unmarked[0]].items() if value is not None)
        places = [place_of(rows[at]).rpartition(", ")[2] for at in unmarked[:NAMED_ROWS]]
        more = f" and {len(unmarked) - NAMED_ROWS} more rows" if len(unmarked) > NAMED_ROWS else ""
        raise DataError(
            f"no reward applies to {', '.join(places)}{more} of {data.path}: a row "
            f"needs {needs}, and the first of these has no more than {', '.join(map(repr, own))}. Give the rows what "
            "is missing, leave them out, or add a reward for them"
        )


def counts(rows: Sequence[Row], rewards: Sequence[RewardConfig]) -> Iterator[str]:
    """Say for each combination of rewards how many rows it marks; nothing where all rows are marked by all rewards."""
    counted = Counter(_kinds(rows, rewards))
    if len(counted) == 1 and len(next(iter(counted))) == len(rewards):
        return
    for labels, count in counted.most_common():
        yield f"{' and '.join(map(repr, labels))} mark{'s' if len(labels) == 1 else ''} {count} of {len(rows)} rows"


def column_names(rows: Sequence[Row]) -> list[str]:
    """Return the columns that rewards may read, of all rows together: where a row lacks one, its value is None."""
    return list(dict.fromkeys(name for row in rows for name in reward_columns(row)))


def varied(rows: Sequence[Row], rewards: Sequence[RewardConfig], num: int) -> list[int]:
    """Return the places of the first rows that the rewards apply to, of each kind of row in turn: the kind is which
    columns a row has."""
    kinds: dict[frozenset[str], list[int]] = {}
    for at, row in enumerate(rows):
        columns = reward_columns(row)
        if any(reward.applies_to(columns) for reward in rewards):
            there = frozenset(name for name, value in columns.items() if value is not None)
            kinds.setdefault(there, []).append(at)
    turns = zip_longest(*(places[:num] for places in kinds.values()))
    return sorted([at for turn in turns for at in turn if at is not None][:num])


def _kinds(rows: Sequence[Row], rewards: Sequence[RewardConfig]) -> Iterator[tuple[str, ...]]:
    """Yield the labels of the rewards that apply to each row."""
    for row in rows:
        columns = reward_columns(row)
        yield tuple(reward.label for reward in rewards if reward.applies_to(columns))


def _nowhere(data: DataSetConfig, rows: Sequence[Row], reward: RewardConfig, column: str) -> DataError:
    own = {name for row in rows for name, value in row.items() if value is not None}
    way_out = f"name the right one under `columns`, for instance columns: {{{column}: THEIR_NAME}}"
    if column in own:  # the one that goes by another name there
        way_out = "a row's own completion is called 'gold_completion' there"
    return DataError(
        f"{data.path} has no {column!r}; its columns are {', '.join(map(repr, sorted(own)))}. Reward {reward.label!r} "
        f"reads it: {way_out}"
    )
