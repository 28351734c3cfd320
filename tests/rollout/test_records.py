from dataclasses import replace
from pathlib import Path

import pyarrow.parquet as pq
import pytest

from rewards.types import Score
from rollout.records import read_groups, write_groups
from rollout.types import Completion, Prompt, Rollout, RolloutGroup

SCORES = [
    Score(value=0.1, cause="ok", parts={"math": 1.0, "format": None}, seconds=0.25),
    Score(value=None, cause="timeout", parts={"math": None}, detail="math: 20 s"),
]


def group(name: str) -> RolloutGroup:
    prompt = Prompt(
        id=name,
        messages=[{"role": "user", "content": f"{name} → ü?"}],
        token_ids=(1, 2),
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
