"""Prompts that leave no room for an answer: refused, or dropped where the recipe says so."""

import json
from pathlib import Path

import pytest
import transformers

from rollout.types import Prompt
from stages.data.config import DataSetConfig
from stages.data.prompts import load_prompts
from stages.data.rows import DataError
from tests.models import write_tiny_model

QUESTIONS = ["3 4 5", "3 4 5 6 7 8 9 " * 4, "6"]


def load(tmp_path: Path, room: int, **settings: object) -> list[Prompt]:
    path = tmp_path / "d.jsonl"
    path.write_text("".join(json.dumps({"prompt": question}) + "\n" for question in QUESTIONS))
    tokenizer = transformers.AutoTokenizer.from_pretrained(write_tiny_model(tmp_path / "model"))
    config = DataSetConfig.model_validate({"path": str(path), **settings})
    return load_prompts(config, ["prompt"], [], tokenizer, room=room)


def test_a_prompt_without_room_is_refused_before_anything_is_sampled(tmp_path: Path) -> None:
    with pytest.raises(DataError, match=r"1 of 3 prompts .* more than the 30 tokens .*too_long: drop"):
        load(tmp_path, room=30)


def test_or_it_is_dropped(tmp_path: Path) -> None:
    assert [prompt.messages[0]["content"] for prompt in load(tmp_path, 30, too_long="drop")] == ["3 4 5", "6"]


def test_but_not_when_none_is_left(tmp_path: Path) -> None:
    with pytest.raises(DataError, match="3 of 3 prompts"):
        load(tmp_path, room=1, too_long="drop")
