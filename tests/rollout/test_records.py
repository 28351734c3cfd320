from contextlib import suppress
from dataclasses import replace
from pathlib import Path

import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from rewards.types import Score
from rollout.records import read_groups, write_groups
from rollout.types import Completion, Prompt, Rollout, RolloutGroup

SCORES = [
    Score(value=0.1, cause="ok", parts={"math": 1.0, "format": None}, reads={"math": "4"}, seconds=0.25),
    Score(value=None, cause="timeout", parts={"math": None}, detail="math: 20 s"),
]


def group(name: str) -> RolloutGroup:
    prompt = Prompt(
        id=name,
        messages=[{"role": "user", "content": f"{name} → ü?"}],
        token_ids=(1, 2),
        opening="<think>",
        columns={"answer": "4", "levels": [1, 2]},
    )
    answer = Completion(token_ids=(3, 4), logprobs=(-0.1, -1.0000001), versions=(7, 8), finish_reason="length")
    talk = replace(answer, finish_reason="turns", given=((1, 2),))
    turns = ({"role": "assistant", "content": "ü"}, {"role": "tool", "name": "x", "content": "5"})
    rollouts = (
        Rollout(completion=answer, response="ü", score=SCORES[0]),
        Rollout(completion=talk, response="ü", score=SCORES[1], turns=turns, columns={"won": True}),
    )
    return RolloutGroup(prompt=prompt, rollouts=rollouts)


def test_groups_are_read_as_they_were_written(tmp_path: Path) -> None:
    groups = [group("a"), group("b"), group("a")]
    write_groups(tmp_path / "rollouts" / "step_000001.parquet", groups)
    assert read_groups(tmp_path / "rollouts" / "step_000001.parquet") == groups


def test_a_file_is_one_row_a_rollout_and_stands_alone_in_its_folder(tmp_path: Path) -> None:
    write_groups(tmp_path / "x.parquet", [group("a"), group("b")])
    rows = pq.read_table(tmp_path / "x.parquet").to_pylist()
    assert [(row["prompt_id"], row["score"], row["cause"]) for row in rows] == [
        ("a", 0.1, "ok"),
        ("a", None, "timeout"),
        ("b", 0.1, "ok"),
        ("b", None, "timeout"),
    ]
    assert [path.name for path in tmp_path.iterdir()] == ["x.parquet"]


def test_a_column_that_json_cannot_hold_is_named_and_nothing_is_left(tmp_path: Path) -> None:
    bad = RolloutGroup(
        prompt=Prompt(id="p", messages=[], token_ids=(1,), columns={"x": {1, 2}}),
        rollouts=group("a").rollouts,
    )
    with pytest.raises(ValueError, match="'p' has a column"):
        write_groups(tmp_path / "x.parquet", [bad])
    assert list(tmp_path.iterdir()) == []


def flipped(content: bytes, place: int) -> bytes:
    """Return a file of which one bit has fallen over."""
    return content[:place] + bytes([content[place] ^ 1 << place % 8]) + content[place + 1 :]


def test_whatever_bit_of_a_file_is_wrong_the_error_is_a_value_error(tmp_path: Path) -> None:
    file = tmp_path / "x.parquet"
    write_groups(file, [group("a"), group("b")])
    whole = file.read_bytes()
    for place in range(0, len(whole), 17):
        file.write_bytes(flipped(whole, place))
        with suppress(ValueError):
            read_groups(file)


def test_no_damaged_value_passes_for_one(tmp_path: Path) -> None:
    file = tmp_path / "x.parquet"
    write_groups(file, [group("a"), group("b")])
    whole, columns = file.read_bytes(), pq.read_metadata(file).row_group(0)
    for number in range(columns.num_columns):
        column = columns.column(number)
        end = (column.dictionary_page_offset or column.data_page_offset) + column.total_compressed_size
        file.write_bytes(flipped(whole, end - 1))  # the last byte of its last page
        with pytest.raises(ValueError, match=r"x\.parquet holds no groups of a run"):
            read_groups(file)


def test_what_something_else_wrote_is_no_file_of_groups_and_a_missing_one_is_missing(tmp_path: Path) -> None:
    file = tmp_path / "x.parquet"
    write_groups(file, [group("a")])
    pq.write_table(pq.read_table(file).drop_columns("versions"), tmp_path / "less.parquet")
    with pytest.raises(ValueError, match=r"holds no groups of a run .*versions"):
        read_groups(tmp_path / "less.parquet")
    rows = pq.read_table(file).to_pylist()
    rows[0]["versions"] = rows[0]["versions"][:1]
    pq.write_table(pa.Table.from_pylist(rows, schema=pq.read_schema(file)), file)
    with pytest.raises(ValueError, match="an answer to 'a' has not as many log-probabilities and versions as tokens"):
        read_groups(file)
    with pytest.raises(FileNotFoundError):
        read_groups(tmp_path / "none.parquet")
