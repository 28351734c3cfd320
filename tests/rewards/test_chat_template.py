"""What a chat template is given, and what people and judges are shown of a turn."""

import json

import pytest

from rewards.chat_template import TemplateError, spoken, write
from rewards.model import RewardModel
from tests.chats import chat_of

ASKED = {"role": "user", "content": "Paris?"}
CALL = {"role": "assistant", "content": None, "tool_calls": [{"function": {"name": "weather", "arguments": {"a": 1}}}]}
TOOL = {"type": "function", "function": {"name": "weather", "parameters": {}}}


def test_a_reward_model_reads_the_tools_and_settings_of_a_row() -> None:
    served = RewardModel(None, chat_of("qwen3").tokenizer, batch_size=1, max_tokens=99)
    turns = [ASKED, {"role": "assistant", "content": "sunny"}]
    assert json.dumps(TOOL) in served.text(turns, {"tools": [TOOL], "answer": "x"})
    assert served.text(turns, {"tools": None}) == served.text(turns)


def test_calls_of_tools_are_shown_as_what_is_said() -> None:
    assert spoken(ASKED) == "Paris?"
    assert spoken(CALL) == '{"name": "weather", "arguments": {"a": 1}}'
    assert spoken({**CALL, "content": "Let me see."}).splitlines()[0] == "Let me see."
    with pytest.raises(ValueError, match="only text can be shown"):
        spoken({"role": "user", "content": [{"type": "image_url"}]})


def test_arguments_that_are_no_object_reach_the_template_as_they_are() -> None:
    call = {"function": {"name": "weather", "arguments": "[1, 2"}}
    text = write(chat_of("qwen3").render, [ASKED, {**CALL, "tool_calls": [call]}], add_generation_prompt=False)
    assert '"arguments": [1, 2}' in text


def test_two_calls_at_once_and_their_answers_get_ids_in_their_order() -> None:
    calls = [{"id": f"call_{n}", "function": {"name": "weather", "arguments": {}}} for n in range(2)]
    turns = [ASKED, {**CALL, "tool_calls": calls}]
    answers = [{"role": "tool", "content": f"answer {n}", "tool_call_id": f"call_{n}"} for n in (1, 0)]
    told = write(chat_of("mistral").render, [*turns, *answers], add_generation_prompt=True)
    assert '"answer 1", "call_id": "call00001"' in told and '"answer 0", "call_id": "call00000"' in told
    nameless = [{"role": "tool", "content": f"answer {n}"} for n in (0, 1)]
    told = write(chat_of("mistral").render, [*turns, *nameless], add_generation_prompt=True)
    assert '"answer 0", "call_id": "call00000"' in told and '"answer 1", "call_id": "call00001"' in told


def test_what_the_template_says_of_a_conversation_it_refuses_is_told() -> None:
    calls = [{"function": {"name": "weather", "arguments": {}}}] * 2
    with pytest.raises(TemplateError, match="only one tool call at once"):
        write(chat_of("llama3").render, [ASKED, {**CALL, "tool_calls": calls}], add_generation_prompt=False)


CALLS = "{% for call in m.tool_calls or [] %}{{ call.function.name + (call.function.arguments | tojson) }}{% endfor %}"


@pytest.mark.parametrize(
    ("writes", "expected"),
    [
        ("{{ m.content }}" + CALLS, 'Paris?weather{"a": 1}'),  # would write None
        ("{{ m.content | trim }}" + CALLS, 'Paris?weather{"a": 1}'),  # likewise
        ("{{ 'said ' + m.content }}" + CALLS, 'said Paris?said weather{"a": 1}'),  # would fail
        ("{% if m.content is none %}" + CALLS + "{% else %}{{ m.content }}{% endif %}", 'Paris?weather{"a": 1}'),
    ],
)
def test_content_that_is_null_is_written_as_none_by_no_template(writes: str, expected: str) -> None:
    template = "{% for m in messages %}" + writes + "{% endfor %}"
    assert write(chat_of("qwen3", template).render, [ASKED, CALL], add_generation_prompt=False) == expected
    named = {**ASKED, "content": "None?"}
    assert "None?" in write(chat_of("qwen3", template).render, [named, CALL], add_generation_prompt=False)
