"""Which tokens are learned, in which context: against segments written by hand, on templates of four real models."""

import json
from pathlib import Path
from typing import Any

import pytest

from stages.data.config import DataSetConfig
from stages.data.examples import Example, answer, examples, merges
from stages.data.rendering import Chat, TokenizerChat, longer_than, prompt_ids
from stages.data.rows import DataError, Row, load_rows
from tests.chats import TEMPLATES, chat_of

ASKED = {"role": "user", "content": "weather in Paris?"}
AGAIN = {"role": "user", "content": "And then?"}
CALL = {
    "role": "assistant",
    "content": None,
    "tool_calls": [
        {"id": "call_7", "type": "function", "function": {"name": "weather", "arguments": '{"city": "Paris"}'}}
    ],
}
TOLD = {"role": "tool", "content": "sunny", "tool_call_id": "call_7"}
ANSWER = {"role": "assistant", "content": "It is sunny."}
LATER = {"role": "assistant", "content": "3 stars."}
TOOLS = [{"type": "function", "function": {"name": "weather", "description": "It tells."}}]

Segments = list[tuple[str, bool]]
"""Text, and whether it is learned."""


def assert_is(example: Example, segments: Segments, chat: Chat) -> None:
    """Compare an example with its text and mask, segment by segment; the prompt ends where the first is learned."""
    tokens = [(token, learned) for text, learned in segments for token in chat.token_ids(text)]
    assert chat.decode(example.whole_ids) == "".join(text for text, _ in segments)
    assert example.whole_ids == [token for token, _ in tokens]
    assert [0] * len(example.prompt_ids) + example.learned == [int(learned) for _, learned in tokens]


def learned_texts(found: list[Example], chat: Chat) -> list[str]:
    return [
        "".join(chat.decode([token]) for token, bit in zip(each.token_ids, each.learned, strict=True) if bit)
        for each in found
    ]


LLAMA = "<|begin_of_text|><|start_header_id|>system<|end_header_id|>\n\nToday Date: 26 Jul 2024\n\n<|eot_id|>"
USER_L = "<|start_header_id|>user<|end_header_id|>\n\n"
MODEL_L = "<|start_header_id|>assistant<|end_header_id|>\n\n"
TOOLS_M = "[AVAILABLE_TOOLS] " + json.dumps(TOOLS) + "[/AVAILABLE_TOOLS]"


@pytest.mark.parametrize(
    ("name", "row", "segments"),
    [
        (
            "qwen3",
            {"prompt": [ASKED], "completion": [{**ANSWER, "content": "<think>\nclouds?\n</think>\n\nIt is sunny."}]},
            [
                ("<|im_start|>user\nweather in Paris?<|im_end|>\n<|im_start|>assistant\n", False),
                ("<think>\nclouds?\n</think>\n\nIt is sunny.<|im_end|>", True),
            ],
        ),
        (
            "qwen3",
            {
                "prompt": [ASKED],
                "completion": [ANSWER],
                "chat_template_kwargs": {"enable_thinking": False},
            },
            [
                ("<|im_start|>user\nweather in Paris?<|im_end|>\n<|im_start|>assistant\n", False),
                ("<think>\n\n</think>\n\n", False),
                ("It is sunny.<|im_end|>", True),
            ],
        ),
        (
            "llama3",
            {"prompt": [ASKED], "completion": [CALL, TOLD, ANSWER]},
            [
                (LLAMA + USER_L + "weather in Paris?<|eot_id|>" + MODEL_L, False),
                ('{"name": "weather", "parameters": {"city": "Paris"}}<|eot_id|>', True),
                ('<|start_header_id|>ipython<|end_header_id|>\n\n"sunny"<|eot_id|>' + MODEL_L, False),
                ("It is sunny.<|eot_id|>", True),
            ],
        ),
        (
            "gemma",
            {"prompt": [ASKED], "completion": [ANSWER, AGAIN, LATER]},
            [
                ("<bos><start_of_turn>user\nweather in Paris?<end_of_turn>\n<start_of_turn>model\n", False),
                ("It is sunny.<end_of_turn>", True),
                ("\n<start_of_turn>user\nAnd then?<end_of_turn>\n<start_of_turn>model\n", False),
                ("3 stars.<end_of_turn>", True),
            ],
        ),
        (
            "mistral",
            {"prompt": [ASKED], "completion": [CALL, TOLD, ANSWER], "tools": TOOLS},
            [
                (f"<s>{TOOLS_M}[INST] weather in Paris?[/INST]", False),
                (
                    '[TOOL_CALLS] [{"name": "weather", "arguments": {"city": "Paris"}, "id": "call00000"}]</s>',
                    True,
                ),
                ('[TOOL_RESULTS] {"content": "sunny", "call_id": "call00000"}[/TOOL_RESULTS]', False),
                (" It is sunny.</s>", True),
            ],
        ),
    ],
)
def test_what_the_assistant_wrote_is_learned_to_the_end_of_its_turn(name: str, row: Row, segments: Segments) -> None:
    chat = chat_of(name)
    [example] = examples(chat, row, "completion", "last")
    assert_is(example, segments, chat)
    assert example == answer(chat, row, "completion") and example.prompt_ids == prompt_ids(chat, row)


@pytest.mark.parametrize("name", ["llama3", "gemma"])
def test_all_turns_of_a_conversation_are_learned_in_one_example(name: str) -> None:
    chat = chat_of(name)
    row = {"prompt": [ASKED, ANSWER, AGAIN], "completion": [LATER]}
    [example] = examples(chat, row, "completion", "all")
    end = chat.tokenizer.eos_token
    assert learned_texts([example], chat) == [f"It is sunny.{end}3 stars.{end}"]
    assert example.whole_ids[: len(prompt_ids(chat, row))] == list(prompt_ids(chat, row))
    assert learned_texts(examples(chat, row, "completion", "last"), chat) == [f"3 stars.{end}"]


def test_turns_that_a_template_writes_otherwise_later_are_learned_each_in_its_own_context() -> None:
    chat = chat_of("qwen3")
    thinks = {"role": "assistant", "content": "Sunny.", "reasoning_content": "clouds?"}
    row = {"prompt": [ASKED, thinks, AGAIN], "completion": [{**LATER, "reasoning_content": "stars?"}]}
    first, second = examples(chat, row, "completion", "all")
    start = "<|im_start|>user\nweather in Paris?<|im_end|>\n<|im_start|>assistant\n"
    assert_is(first, [(start, False), ("<think>\nclouds?\n</think>\n\nSunny.<|im_end|>", True)], chat)
    middle = "Sunny.<|im_end|>\n<|im_start|>user\nAnd then?<|im_end|>\n<|im_start|>assistant\n"
    assert_is(second, [(start + middle, False), ("<think>\nstars?\n</think>\n\n3 stars.<|im_end|>", True)], chat)


def test_tools_move_with_the_last_question_of_mistral_and_so_does_the_context() -> None:
    chat = chat_of("mistral")
    row = {"prompt": [ASKED, ANSWER, AGAIN], "completion": [LATER], "tools": TOOLS}
    first, second = examples(chat, row, "completion", "all")
    assert_is(first, [(f"<s>{TOOLS_M}[INST] weather in Paris?[/INST]", False), (" It is sunny.</s>", True)], chat)
    start = f"<s>[INST] weather in Paris?[/INST] It is sunny.</s>{TOOLS_M}[INST] And then?[/INST]"
    assert_is(second, [(start, False), (" 3 stars.</s>", True)], chat)


def test_a_side_of_a_pair_goes_on_from_its_turns_as_they_were_written() -> None:
    chat = chat_of("qwen3")
    row = {"prompt": [ASKED], "chosen": [{**CALL, "reasoning_content": "where?"}, TOLD, ANSWER, AGAIN, LATER]}
    assert_is(
        answer(chat, row, "chosen"),
        [
            ("<|im_start|>user\nweather in Paris?<|im_end|>\n<|im_start|>assistant\n", False),
            (
                '<think>\nwhere?\n</think>\n\n<tool_call>\n{"name": "weather", "arguments": {"city": "Paris"}}\n'
                "</tool_call><|im_end|>",
                True,
            ),
            ("\n<|im_start|>user\n<tool_response>\nsunny\n</tool_response><|im_end|>\n<|im_start|>assistant\n", False),
            ("<think>\n\n</think>\n\nIt is sunny.<|im_end|>", True),
            ("\n<|im_start|>user\nAnd then?<|im_end|>\n<|im_start|>assistant\n", False),
            ("<think>\n\n</think>\n\n3 stars.<|im_end|>", True),
        ],
        chat,
    )


def test_a_turn_of_weight_0_is_context() -> None:
    chat = chat_of("llama3")
    row = {"prompt": [ASKED, {**ANSWER, "weight": 0}, AGAIN], "completion": [LATER]}
    assert learned_texts(examples(chat, row, "completion", "all"), chat) == ["3 stars.<|eot_id|>"]
    row = {"prompt": [ASKED], "completion": [{**ANSWER, "weight": 0}, AGAIN, {**LATER, "weight": 1}]}
    example = answer(chat, row, "completion")
    assert example.prompt_ids == prompt_ids(chat, row) and learned_texts([example], chat) == ["3 stars.<|eot_id|>"]
    with pytest.raises(DataError, match="every turn that could be learned has weight 0; train_on: all"):
        examples(chat, {"prompt": [ASKED], "completion": [{**ANSWER, "weight": 0}]}, "completion", "last")


def test_a_call_as_the_last_turn_is_learned_whatever_the_form_of_its_arguments() -> None:
    as_object = {**CALL, "tool_calls": [{"function": {"name": "weather", "arguments": {"city": "Paris"}}}]}
    for name in ("qwen3", "llama3", "mistral"):
        chat = chat_of(name)
        found = [
            examples(chat, {"prompt": [ASKED], "completion": [call]}, "completion", "last")[0]
            for call in (CALL, as_object)
        ]
        assert found[0].token_ids == found[1].token_ids
        assert '{"city": "Paris"}' in learned_texts(found, chat)[0]


def test_a_template_that_takes_arguments_as_text_gets_them_so() -> None:
    template = (
        "{% for m in messages %}{% if m.role == 'assistant' and m.content is none %}"
        "{{ 'CALL ' + m.tool_calls[0].function.name + ' ' + m.tool_calls[0].function.arguments + eos_token }}"
        "{% else %}{{ m.role + ': ' + m.content + eos_token }}{% endif %}{% endfor %}"
    )
    row = {"prompt": [ASKED], "completion": [CALL]}
    assert learned_texts(examples(chat_of("qwen3", template), row, "completion", "last"), chat_of("qwen3")) == [
        'CALL weather {"city": "Paris"}<|im_end|>'
    ]


@pytest.mark.parametrize("role", ["system", "developer", "user"])
def test_a_template_that_leaves_out_what_somebody_says_is_refused_by_role_and_turn(role: str) -> None:
    given = "{% for m in messages %}{% if m.role != '" + role + "' or loop.index == 2 %}"
    chat = chat_of("qwen3", given + "{{ m.role + (m.content or '') + eos_token }}{% endif %}{% endfor %}")
    turns = [{"role": role, "content": "Be brief."}, ASKED]
    with pytest.raises(DataError, match=f"leaves out what the {role} says in turn 1"):
        examples(chat, {"prompt": turns, "completion": [ANSWER]}, "completion", "last")


def test_a_template_may_write_what_somebody_says_otherwise() -> None:
    chat = chat_of("qwen3", "{% for m in messages %}{{ m.role + (m.content | upper) + eos_token }}{% endfor %}")
    assert examples(chat, {"prompt": [ASKED], "completion": [ANSWER]}, "completion", "last")


def test_a_template_that_leaves_out_calls_or_what_tools_answer_is_refused() -> None:
    chat = chat_of("gemma", "{% for m in messages %}{{ m.role + (m.content or '') + eos_token }}{% endfor %}")
    with pytest.raises(DataError, match="leaves out calls of tools"):
        examples(chat, {"prompt": [ASKED], "completion": [CALL]}, "completion", "last")


def test_what_a_template_refuses_is_said_with_file_and_line(tmp_path: Path) -> None:
    path = tmp_path / "d.jsonl"
    turns = [{"role": "system", "content": "Be brief."}, ASKED]
    path.write_text("\n" + json.dumps({"prompt": turns, "completion": "Sunny."}) + "\n")
    [row] = load_rows(DataSetConfig(path=str(path)), ["prompt", "completion"])
    with pytest.raises(DataError, match=r"d\.jsonl, line 2: the chat template refuses .*System role not supported"):
        examples(chat_of("gemma"), row, "completion", "last")


OPENS = (
    (TEMPLATES / "qwen3.jinja")
    .read_text()
    .replace(
        "{{- '<|im_start|>assistant\\n' -}}\n    {%- if enable_thinking",
        "{{- '<|im_start|>assistant\\n<think>\\n' -}}\n    {%- if enable_thinking",
    )
)
"""As the thinking models of 2507: the prompt opens the thinking part."""
STRIPS = (
    "{% for m in messages %}{{ '<|im_start|>' + m.role + '\n' + m.content.split('</think>')[-1] + '<|im_end|>' }}"
    "{% endfor %}{% if add_generation_prompt %}{{ '<|im_start|>assistant\n<think>\n' }}{% endif %}"
)
"""As DeepSeek's R1: it opens the thinking part, and leaves it out once it is answered."""
START = "<|im_start|>user\nweather in Paris?<|im_end|>\n<|im_start|>assistant\n<think>\n"
THOUGHTS = [
    {"role": "assistant", "content": "<think>\nclouds?\n</think>\n\nIt is sunny."},
    {"role": "assistant", "content": "clouds?\n</think>\n\nIt is sunny."},
    {"role": "assistant", "content": "It is sunny.", "reasoning_content": "clouds?"},
]


@pytest.mark.parametrize("turn", THOUGHTS)
@pytest.mark.parametrize("template", [OPENS, STRIPS])
def test_thoughts_are_learned_from_where_the_prompt_opened_them(template: str, turn: dict[str, str]) -> None:
    chat = chat_of("qwen3", template)
    [example] = examples(chat, {"prompt": [ASKED], "completion": [turn]}, "completion", "last")
    start = START if template == OPENS else START.replace("<|im_end|>\n", "<|im_end|>")
    assert_is(example, [(start, False), ("clouds?\n</think>\n\nIt is sunny.<|im_end|>", True)], chat)


@pytest.mark.parametrize(
    ("opened", "closed"),
    [("[THINK]", "[/THINK]"), ("◁think▷", "◁/think▷"), ("<reason>\n", "\n</reason>\n\n"),
     ("<|START_THINKING|>", "<|END_THINKING|>"), ("<|begin_of_thought|>\n", "\n<|end_of_thought|>\n\n"),
     ("<|channel>thought\n", "\n<channel|>\n\n")],
)  # fmt: skip
@pytest.mark.parametrize("is_apart", [True, False])
def test_thoughts_are_learned_behind_each_familys_tag(opened: str, closed: str, is_apart: bool) -> None:
    strips = STRIPS.replace("<think>\n", opened).replace("</think>", closed.strip())
    turn = {"role": "assistant", "content": f"{opened}clouds?{closed}It is sunny."}
    apart = {"role": "assistant", "content": "It is sunny.", "reasoning_content": "clouds?"}
    row = {"prompt": [ASKED], "completion": [apart if is_apart else turn]}
    [example] = examples(chat_of("qwen3", strips), row, "completion", "last")
    start = START.replace("<|im_end|>\n", "<|im_end|>").replace("<think>\n", opened)
    assert_is(example, [(start, False), (f"clouds?{closed}It is sunny.<|im_end|>", True)], chat_of("qwen3"))


def test_tokens_that_merge_across_the_border_are_learned_as_the_engine_meets_them() -> None:
    chat = chat_of("qwen3", OPENS)
    row = {"prompt": [ASKED], "completion": [ANSWER]}
    [example] = examples(chat, row, "completion", "last")
    assert chat.token_ids("\n\n") != chat.token_ids("\n") * 2
    assert_is(example, [(START, False), ("\n</think>\n\nIt is sunny.<|im_end|>", True)], chat)
    assert merges(chat, row, "completion") is not None
    for template in (OPENS, STRIPS):
        assert merges(chat_of("qwen3", template), {**row, "completion": [THOUGHTS[0]]}, "completion") is None


def test_a_context_that_is_another_one_once_it_is_answered_is_refused_with_both_texts() -> None:
    with pytest.raises(DataError, match=r"Asked, .*<think>.* with the answer .*It is sunny") as caught:
        examples(chat_of("qwen3", STRIPS), {"prompt": [ASKED], "completion": [ANSWER]}, "completion", "last")
    assert "chat_template_kwargs" in str(caught.value)


def test_rows_that_may_be_long_are_counted_with_all_that_the_template_writes() -> None:
    chat = chat_of("llama3")
    rows: list[dict[str, Any]] = [
        {"prompt": [ASKED], "completion": [CALL]},
        {"prompt": [ASKED], "completion": [ANSWER]},
        {"prompt": [ASKED], "tools": TOOLS, "completion": [ANSWER]},
    ]
    lengths = [len(chat.token_ids(chat.render(row["prompt"], add_generation_prompt=True))) for row in rows[:2]]
    lengths.append(len(chat.token_ids(chat.render([ASKED], tools=TOOLS, add_generation_prompt=True))))
    assert dict(longer_than(chat, 1, rows)) == dict(enumerate(lengths))
    assert list(longer_than(chat, lengths[0], rows)) == [(2, lengths[2])]
    assert [at for at, _ in longer_than(chat, 10_000, rows, "completion")] == []


def test_a_turn_ends_at_the_first_token_that_ends_it() -> None:
    """As Phi-3's template, which ends a conversation a second time."""
    template = (
        "{% for m in messages %}{{ '<|im_start|>' + m.role + '\n' + m.content + '<|im_end|>\n' }}{% endfor %}"
        "{{ '<|im_start|>assistant\n' if add_generation_prompt else '<pad>' }}"
    )
    tokenizer = chat_of("qwen3", template).tokenizer
    chat = TokenizerChat(tokenizer, (tokenizer.eos_token_id, tokenizer.pad_token_id))
    [example] = examples(chat, {"prompt": [ASKED, ANSWER, AGAIN], "completion": [LATER]}, "completion", "all")
    segments = [
        ("<|im_start|>user\nweather in Paris?<|im_end|>\n<|im_start|>assistant\n", False),
        ("It is sunny.<|im_end|>", True),
        ("\n<|im_start|>user\nAnd then?<|im_end|>\n<|im_start|>assistant\n", False),
        ("3 stars.<|im_end|>", True),
    ]
    assert_is(example, segments, chat)
