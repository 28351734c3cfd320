"""What rewards see of tokens: marks of thoughts stay in a text, and what the template has begun of it is known."""

import json
from pathlib import Path
from typing import Any

import transformers

from stages.answer_text import decoder
from stages.data.config import DataSetConfig
from stages.data.prompts import load_prompts
from tests.models import write_tiny_model

OPENS = (
    "{% for m in messages %}<s>{{ m.role }}{{ m.content }}</s>{% endfor %}{% if add_generation_prompt %}<s>assistant"
)


def tokenizer(tmp_path: Path, begins: str) -> Any:
    found = transformers.AutoTokenizer.from_pretrained(write_tiny_model(tmp_path / "model"))
    found.chat_template = OPENS + begins + "{% endif %}"
    return found


def openings(tmp_path: Path, begins: str, question: str = "3 4") -> list[str]:
    path = tmp_path / "d.jsonl"
    path.write_text(json.dumps({"prompt": question}) + "\n")
    config = DataSetConfig(path=str(path))
    return [one.opening for one in load_prompts(config, ["prompt"], [], tokenizer(tmp_path, begins), room=200)]


def test_a_prompt_knows_the_tag_that_its_template_has_opened(tmp_path: Path) -> None:
    assert openings(tmp_path, "<think>\n") == ["<think>\n"]
    assert openings(tmp_path, "<think>\n\n</think>\n\n") == ["<think>\n\n</think>\n\n"]
    assert openings(tmp_path, "<answer>") == ["<answer>"]
    assert openings(tmp_path, "") == [""]


def test_a_tag_that_the_user_writes_opens_nothing(tmp_path: Path) -> None:
    assert openings(tmp_path, "", question="think in <think>") == [""]
    assert openings(tmp_path, "<think>", question="answer in <answer>") == ["<think>"]


def test_thinking_tags_stay_in_the_text_where_they_are_special_tokens(tmp_path: Path) -> None:
    found = tokenizer(tmp_path, "")
    found.add_special_tokens({"additional_special_tokens": ["[THINK]", "[/THINK]", "<|other|>"]})
    ids = found("[THINK]3[/THINK]4<|other|>", add_special_tokens=False)["input_ids"]
    assert "".join(decoder(found)(ids).split()) == "[THINK]3[/THINK]4"
