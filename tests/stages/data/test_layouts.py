"""Rows as common data sets have them, each from a small file of that schema in `tests/layouts`."""

import json
from pathlib import Path
from typing import Any

import pytest

from stages.data.config import DataSetConfig
from stages.data.rows import DataError, Row, load_rows

FILES = Path(__file__).parents[2] / "layouts"


def rows_of(name: str, *needs: str, **settings: Any) -> list[Row]:
    config = DataSetConfig.model_validate({"path": str(FILES / f"{name}.jsonl"), **settings})
    return load_rows(config, needs)


def said(turns: list[dict[str, Any]]) -> list[tuple[str, Any]]:
    return [(turn["role"], turn["content"]) for turn in turns]


def test_ultrachat() -> None:
    one, two = rows_of("ultrachat_200k", "prompt", "completion")
    assert said(one["prompt"]) == [
        ("user", "Name a river."), ("assistant", "The Nile."), ("user", "How long is it?")
    ]  # fmt: skip
    assert said(one["completion"]) == [("assistant", "6650 km.")]
    assert said(two["prompt"]) == [("system", "Be brief."), ("user", "What is 2+2?")]


def test_ultrafeedback() -> None:
    one, two = rows_of("ultrafeedback_binarized", "prompt", "chosen", "rejected", "score_chosen", "score_rejected")
    assert said(one["prompt"]) == [("user", "What is 2+2?")]
    assert (said(one["chosen"]), said(one["rejected"])) == ([("assistant", "4.")], [("assistant", "5.")])
    assert (one["score_chosen"], one["score_rejected"]) == (8.5, 3.0)
    assert said(two["prompt"]) == [("system", "Be kind."), ("user", "Hello")]
    assert said(rows_of("ultrafeedback_binarized", "prompt", "completion")[0]["completion"]) == [("assistant", "4.")]


def test_tulu() -> None:
    [row] = rows_of("tulu-3-sft-mixture", "prompt", "completion")
    assert (said(row["prompt"]), said(row["completion"])) == ([("user", "Say hi.")], [("assistant", "Hi!")])
    assert row["source"] == "ai2-adapt-dev/oasst1_converted"


def test_sharegpt_with_and_without_tools() -> None:
    plain, tools, asked = rows_of("sharegpt", "prompt")
    assert said(plain["prompt"]) == [("system", "Be brief."), ("user", "What is 2+2?")]
    assert said(plain["completion"]) == [("assistant", "4.")]
    assert [turn["role"] for turn in tools["prompt"]] == ["system", "user", "assistant", "tool"]
    [call] = tools["prompt"][2]["tool_calls"]
    assert call["function"] == {"name": "weather", "arguments": {"city": "Paris"}}
    assert tools["prompt"][2]["content"] is None and tools["prompt"][3]["content"] == '{"sky": "blue"}'
    assert tools["tools"] == [{"type": "function", "function": {"name": "weather", "parameters": {}}}]
    assert said(asked["prompt"]) == [("user", "And who answers?")] and "completion" not in asked


def test_alpaca() -> None:
    bare, with_input = rows_of("alpaca", "prompt", "completion")
    assert (said(bare["prompt"]), said(bare["completion"])) == ([("user", "Name a colour.")], [("assistant", "Red.")])
    assert said(with_input["prompt"]) == [("user", "Add the numbers.\n\n2 and 3")]


def test_openai_chat_functions_and_weights() -> None:
    chat, functions, weighted = rows_of("openai", "prompt", "completion")
    assert chat["prompt"][1]["content"] == "Weather in Paris?" and chat["tools"][0]["function"]["name"] == "weather"
    assert chat["completion"][0]["content"] is None
    assert chat["completion"][0]["tool_calls"][0]["function"]["arguments"] == '{"city": "Paris"}'
    assert [turn["role"] for turn in functions["prompt"]] == ["user", "assistant", "tool"]
    assert functions["prompt"][1]["tool_calls"][0]["function"]["name"] == "weather"
    assert functions["tools"] == [{"type": "function", "function": {"name": "weather", "parameters": {}}}]
    assert [turn.get("weight") for turn in weighted["prompt"] + weighted["completion"]] == [None, 0, None, 1]


def test_openai_preferences() -> None:
    [row] = rows_of("openai_preference", "prompt", "chosen", "rejected")
    assert said(row["prompt"]) == [("user", "Hello, how cold is Rome?")]
    assert (said(row["chosen"]), said(row["rejected"])) == ([("assistant", "3 degrees.")], [("assistant", "Cold.")])


def test_hh_rlhf() -> None:
    one, two = rows_of("hh-rlhf", "prompt", "chosen", "rejected")
    assert said(one["prompt"]) == [("user", "Hi"), ("assistant", "Hello!"), ("user", "Tell me\n\na joke")]
    assert (said(one["chosen"]), said(one["rejected"])) == ([("assistant", "Knock.")], [("assistant", "No.")])
    assert said(two["prompt"]) == [("user", "Why?")] and said(two["chosen"]) == [("assistant", "Because.")]


def test_nested_arguments_stay_as_they_are_in_each_row() -> None:
    first, second = rows_of("nested_arguments", "prompt", "completion")
    assert first["completion"][0]["tool_calls"][0]["function"]["arguments"] == {"city": "P"}
    assert second["completion"][0]["tool_calls"][0]["function"]["arguments"] == {"a": 1, "b": [2]}


USER, ANSWER = {"role": "user", "content": "1+1"}, {"role": "assistant", "content": "2"}


def load(tmp_path: Path, row: dict[str, Any], *needs: str, **settings: Any) -> Row:
    path = tmp_path / "d.jsonl"
    path.write_text(json.dumps(row) + "\n")
    config = DataSetConfig.model_validate({"path": str(path), **settings})
    return load_rows(config, needs or ("prompt", "completion"))[0]


def test_a_prompt_of_null_is_none(tmp_path: Path) -> None:
    assert load(tmp_path, {"prompt": None, "messages": [USER, ANSWER]})["prompt"] == [USER]


@pytest.mark.parametrize(
    ("row", "says"),
    [
        ({"prompt": "2+2", "messages": [USER, ANSWER]}, "'prompt' and 'messages', and the prompt is no beginning"),
        ({"messages": [USER, ANSWER], "conversations": [{"from": "human", "value": "?"}]}, "which differ"),
        ({"messages": [USER, ANSWER], "instruction": "Add.", "output": "2"}, "a conversation and 'instruction'"),
        ({"conversations": [{"from": "narrator", "value": "?"}]}, "a turn is from 'narrator'; known are human"),
        ({"messages": [USER]}, "a conversation that ends with a turn of 'user', so there is no answer to learn"),
        ({"messages": [USER, {"role": "assistant", "content": None}]}, "which may be null next to 'tool_calls' alone"),
        ({"messages": [USER, {**ANSWER, "weight": 0.5}]}, "a turn of weight 0.5"),
        ({"messages": [USER, {**ANSWER, "content": None, "tool_calls": [{"id": 1}]}]}, "a tool call is {'id': 1}"),
        ({"messages": [USER, ANSWER], "tools": "[{]"}, "'tools' holds .* which is not JSON"),
        ({"messages": [USER, ANSWER], "tools": [{"type": "function"}]}, "expected a list of functions' schemas"),
        ({"prompt": "a", "completion": "b", "chat_template_kwargs": "no"}, "expected an object of settings by name"),
    ],
)
def test_a_row_without_one_meaning_is_refused_by_line(tmp_path: Path, row: dict[str, Any], says: str) -> None:
    with pytest.raises(DataError, match=rf"d\.jsonl, line 1.*{says}"):
        load(tmp_path, row)


def test_a_prompt_that_is_not_what_the_two_sides_begin_with_is_refused(tmp_path: Path) -> None:
    row = {"prompt": "2+2", "chosen": [USER, ANSWER], "rejected": [USER, {**ANSWER, "content": "3"}]}
    with pytest.raises(DataError, match="what the two sides begin with is not the prompt"):
        load(tmp_path, row, "prompt", "chosen", "rejected")


def test_columns_that_the_recipe_maps_come_before_the_layout(tmp_path: Path) -> None:
    columns = {"messages": "dialog"}
    assert load(tmp_path, {"dialog": [USER, ANSWER]}, columns=columns)["completion"] == [ANSWER]
    row = {"question": "2+2", "messages": [USER, ANSWER], "answer": "4"}
    mapped = load(tmp_path, row, "prompt", "answer", columns={"prompt": "question"})
    assert said(mapped["prompt"]) == [("user", "2+2")] and "completion" not in mapped


def test_template_settings_of_recipe_and_row_are_one(tmp_path: Path) -> None:
    row = {"prompt": "1+1", "completion": "2", "chat_template_kwargs": {"enable_thinking": True, "date": None}}
    found = load(tmp_path, row, chat_template_kwargs={"enable_thinking": False, "level": 3})
    assert found["chat_template_kwargs"] == {"enable_thinking": True, "level": 3}


def test_half_of_a_character_is_named_by_line_column_and_place(tmp_path: Path) -> None:
    path = tmp_path / "d.jsonl"
    path.write_text('{"prompt": "\\ud83d\\ude00 whole", "completion": "2"}\n{"messages": [{"content": "ab\\ud83d"}]}\n')
    says = r"d\.jsonl, line 2, column 'messages\[0\]\.content': character 3 is '\\ud83d', half of a character"
    with pytest.raises(DataError, match=says):
        load_rows(DataSetConfig(path=str(path)), ["prompt"])
    assert load_rows(DataSetConfig(path=str(path), limit=1), ["prompt"])[0]["prompt"][0]["content"] == "😀 whole"
