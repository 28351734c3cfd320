"""Prompts that leave no room for an answer: refused, or dropped where the recipe says so."""

import json
from pathlib import Path
from typing import Any

import pytest
import transformers

from rollout.types import Prompt
from stages.data.config import DataSetConfig
from stages.data.prompts import load_prompts
from stages.data.rows import DataError
from tests.chats import chat_of
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


TOOL = {"type": "function", "function": {"name": "weather", "description": "It tells.", "parameters": {}}}
OTHER = {"type": "function", "function": {"name": "clock", "description": "It ticks.", "parameters": {}}}


def prompts_of(tmp_path: Path, name: str, row: dict[str, Any], **more: Any) -> tuple[str, Prompt]:
    """The text that an engine gets for a row, under the template of a real model, and the prompt."""
    path, chat = tmp_path / "d.jsonl", chat_of(name)
    path.write_text(json.dumps(row) + "\n")
    config = DataSetConfig.model_validate({"path": str(path), **more.pop("data", {})})
    [prompt] = load_prompts(config, ["prompt"], [], chat.tokenizer, room=999, **more)
    return chat.decode(prompt.token_ids), prompt


def test_engines_get_the_tools_and_settings_of_a_row(tmp_path: Path) -> None:
    row = {"prompt": "Paris?", "tools": [TOOL], "chat_template_kwargs": {"enable_thinking": False}}
    text, prompt = prompts_of(tmp_path, "qwen3", row)
    assert json.dumps(TOOL) in text and text.endswith("<|im_start|>assistant\n<think>\n\n</think>\n\n")
    assert prompt.columns["tools"] == [TOOL], "for a reward model, and for the pairs made of the answers"
    recipe = {"chat_template_kwargs": {"enable_thinking": False}}
    assert prompts_of(tmp_path, "qwen3", {"prompt": "Paris?"}, data=recipe)[0].endswith("</think>\n\n")
    assert prompts_of(tmp_path, "qwen3", {"prompt": "Paris?"})[0].endswith("assistant\n")


def test_a_row_chooses_among_the_tools_of_its_environment(tmp_path: Path) -> None:
    both = [TOOL, OTHER]
    assert '"clock"' in prompts_of(tmp_path, "qwen3", {"prompt": "Paris?"}, tools=both)[0]
    text, prompt = prompts_of(tmp_path, "qwen3", {"prompt": "Paris?", "tools": [TOOL]}, tools=both)
    assert '"weather"' in text and '"clock"' not in text and prompt.columns["tools"] == [TOOL]
    with pytest.raises(DataError, match=r"line 1: the row shows the policy the tool 'clock', which the environment"):
        prompts_of(tmp_path, "qwen3", {"prompt": "Paris?", "tools": [OTHER]}, tools=[TOOL])


def test_earlier_calls_of_tools_are_in_the_context(tmp_path: Path) -> None:
    call = {"id": "call_1", "function": {"name": "weather", "arguments": '{"city": "Paris"}'}}
    turns = [
        {"role": "user", "content": "Paris?"},
        {"role": "assistant", "content": None, "tool_calls": [call]},
        {"role": "tool", "tool_call_id": "call_1", "content": "sunny"},
    ]
    text, _ = prompts_of(tmp_path, "mistral", {"messages": turns, "tools": [TOOL]})
    assert '[TOOL_CALLS] [{"name": "weather", "arguments": {"city": "Paris"}, "id": "call00000"}]</s>' in text
    assert text.endswith('[TOOL_RESULTS] {"content": "sunny", "call_id": "call00000"}[/TOOL_RESULTS]')
