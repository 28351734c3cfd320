"""What follows a turn of the policy, by chat templates of several kinds."""

from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import pytest
import trl

from examples.arithmetic.base_model import CHAT_TEMPLATE, END, make_tokenizer
from rollout.types import Prompt
from stages.base import StageError
from stages.generation import after_turn
from tests.models import TEXTS

ASKED = [{"role": "user", "content": "What is 12 plus 30?"}]
TOLD = [{"role": "tool", "content": "42"}, {"role": "user", "content": "apples 3"}]
PROMPT = Prompt(id="p", messages=ASKED, token_ids=())
WITH_BREAKS = CHAT_TEMPLATE.replace("'<|im_end|>'", "'<|im_end|>\n'")
WITHOUT_THOUGHTS = CHAT_TEMPLATE.replace(
    "message.content", "(message.content if loop.last else message.content.split('+')[-1])"
)


THINKS_LAST = CHAT_TEMPLATE.replace(
    "message.content", "('<think></think>' if loop.last and message.role == 'assistant' else '') + message.content"
)
"""As Qwen3's: thoughts are in the last turn alone."""


@pytest.mark.parametrize("template", [CHAT_TEMPLATE, WITH_BREAKS, WITHOUT_THOUGHTS, THINKS_LAST])
def test_what_was_sampled_and_what_follows_are_the_whole_conversation(template: str) -> None:
    tokenizer = make_tokenizer(TEXTS)
    tokenizer.chat_template = template
    prompt = tokenizer.apply_chat_template(ASKED, add_generation_prompt=True, return_dict=False)
    said = [*tokenizer.encode("0+1=1\n\\boxed{42}"), tokenizer.eos_token_id]
    follows = after_turn(tokenizer, [tokenizer.eos_token_id])(TOLD, PROMPT)
    rendered = tokenizer.decode([*prompt, *said, *follows])
    break_ = "\n" if template == WITH_BREAKS else ""
    assert rendered == (
        f"<|im_start|>user\nWhat is 12 plus 30?{END}{break_}<|im_start|>assistant\n0+1=1\n\\boxed{{42}}{END}{break_}"
        f"<|im_start|>tool\n42{END}{break_}<|im_start|>user\napples 3{END}{break_}<|im_start|>assistant\n"
    )


@pytest.mark.parametrize("name", ["qwen2_5", "qwen3", "qwen3_instruct_2507", "qwen3_8"])
def test_qwen_s_own_templates_go_on_from_what_was_sampled(name: str) -> None:
    tokenizer = make_tokenizer(TEXTS)
    tokenizer.chat_template = (Path(trl.__file__).parent / "chat_templates" / f"{name}.jinja").read_text()
    follows = tokenizer.decode(after_turn(tokenizer, [tokenizer.eos_token_id])(TOLD, PROMPT))
    told = "\n<|im_start|>user\n<tool_response>\n42\n</tool_response><|im_end|>\n<|im_start|>user\napples 3<|im_end|>\n"
    assert follows.removesuffix("<think>\n") == f"{told}<|im_start|>assistant\n"


@pytest.mark.parametrize(
    ("template", "message"),
    [
        (CHAT_TEMPLATE.replace("<|im_end|>", ""), "without an end-of-turn token"),
        (
            "{% if messages[-1].role == 'user' %}{{ no.such }}{% endif %}" + CHAT_TEMPLATE,
            r"refuses .*\['tool', 'user'\]",
        ),
    ],
)
def test_a_template_by_which_one_cannot_go_on_is_refused(template: str, message: str) -> None:
    tokenizer = make_tokenizer(TEXTS)
    tokenizer.chat_template = template
    with pytest.raises((StageError, ValueError), match=message):
        after_turn(tokenizer, [tokenizer.eos_token_id])(TOLD, PROMPT)


def test_many_threads_may_ask() -> None:
    tokenizer = make_tokenizer(TEXTS)
    follows = after_turn(tokenizer, [tokenizer.eos_token_id])
    with ThreadPoolExecutor(8) as threads:
        assert len(set(threads.map(lambda _: follows(TOLD, PROMPT), range(200)))) == 1
