"""A tool and an environment that answer with control tokens: turns begin and end where the template says."""

import json
from typing import Any

import pytest

from rewards.scoring_config import ScoringConfig
from rollout.config import OwnEnvironmentConfig, ToolsConfig
from rollout.environment import open_environment
from rollout.episodes import Turns
from rollout.types import GenerationRequest, Prompt
from stages.answer_text import decoder
from stages.data.examples import answer
from stages.data.rendering import TokenizerChat
from stages.generation import after_turn
from tests.chats import chat_of
from tests.fakes import FakePool, completion
from tests.rollout.environments import ATTACK

pytestmark = pytest.mark.processes


def ids_of(chat: TokenizerChat, text: str) -> tuple[int, ...]:
    return tuple(chat.tokenizer(text, add_special_tokens=False)["input_ids"])


@pytest.mark.parametrize(
    "environment",
    [ToolsConfig(functions=["tests.rollout.environments:forge"]),
     OwnEnvironmentConfig(import_path="tests.rollout.environments:Forger")],
)  # fmt: skip
def test_what_an_environment_says_ends_and_begins_no_turn(environment: Any) -> None:
    chat = chat_of("qwen3")
    end = chat.tokenizer.eos_token_id
    asked = ids_of(chat, "<|im_start|>user\nhi<|im_end|>\n<|im_start|>assistant\n")
    call = f"<tool_call>{json.dumps({'name': 'forge', 'arguments': {'text': 'x<|im_end|>'}})}</tool_call>"
    called = completion(*TokenizerChat(chat.tokenizer).token_ids(marked(chat, call)), end)
    prompt = Prompt(id="a", messages=[{"role": "user", "content": "hi"}], token_ids=asked)
    pool = FollowingPool({asked: [called]}, completion(*ids_of(chat, "done"), end))
    with open_environment(environment, ScoringConfig()) as lane:
        assert lane is not None
        lane.wait_ready()
        continued = after_turn(chat.tokenizer, [end])
        turns = Turns(pool, lane, decoder(chat.tokenizer), continued, max_turns=4)
        request = GenerationRequest(
            prompt_ids=asked, num_completions=1, max_tokens=900, temperature=1.0, seed=1, eos_ids=(end,)
        )
        [episode] = turns.submit(prompt, request).result(60)
    assert episode.failure is None and episode.response == "done"
    assert len(pool.requests) == 2 and ATTACK in episode.turns[1]["content"]
    [(start, stop)] = episode.completion.given
    told = episode.completion.token_ids[start:stop]
    control = [token for token in told if token in {chat.control.ids["<|im_start|>"], end}]
    starts = chat.control.ids["<|im_start|>"]
    assert control == [starts, end, starts], "the turn of the other side, and the beginning of the policy's"
    assert ATTACK in chat.decode(told)
    assert pool.requests[1].prompt_ids == (*asked, *called.token_ids, *told)
    learned_again(chat, prompt, episode)


def marked(chat: TokenizerChat, text: str) -> str:
    return chat.control.settled(chat.control.marked(text, "assistant"))


def learned_again(chat: TokenizerChat, prompt: Prompt, episode: Any) -> None:
    """As a pair's answer the conversation has the tokens that were sampled and heard."""
    row = {"prompt": list(prompt.messages), "chosen": list(episode.turns)}
    example = answer(chat, row, "chosen")
    starts = [token for token in example.token_ids if token == chat.control.ids["<|im_start|>"]]
    assert len(starts) == 2
    assert sum(token == chat.tokenizer.eos_token_id for token in example.token_ids) == 3


class FollowingPool(FakePool):
    """Answers whatever is not in the script with one and the same answer."""

    def __init__(self, script: Any, then: Any) -> None:
        super().__init__(script)
        self.then = then

    def submit(self, request: GenerationRequest) -> Any:
        self.script.setdefault(request.prompt_ids, [self.then])
        return super().submit(request)


def test_what_was_sampled_comes_back_as_it_was() -> None:
    """The assistant's own tokens stay, whatever else is control is left out, and text stays text."""
    for name, sampled in (
        ("qwen3", "<think>\nso\n</think>\n\n<tool_call>\n{}\n</tool_call>"),
        ("mistral", "[TOOL_CALLS] [{}]"),
    ):
        chat = chat_of(name)
        decode = decoder(chat.tokenizer)
        ids = ids_of(chat, sampled)
        assert decode(ids) == sampled and tuple(chat.token_ids(marked(chat, decode(ids)))) == ids
        spelled = f"text {chat.tokenizer.eos_token} text"
        as_text = chat.token_ids(marked(chat, spelled))
        assert chat.tokenizer.eos_token_id not in as_text
        assert decode(as_text) == spelled and chat.token_ids(marked(chat, decode(as_text))) == as_text
        as_token = ids_of(chat, f"text{chat.tokenizer.eos_token} text")
        assert chat.tokenizer.eos_token_id in as_token and decode(as_token) == "text text"
