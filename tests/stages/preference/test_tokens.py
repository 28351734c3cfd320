"""Answers of several turns: what somebody else said in them is neither learned nor counted."""

import json
import math
from pathlib import Path
from typing import Any

import pytest
import torch

from stages.data.examples import answer
from stages.data.rendering import TokenizerChat
from stages.logprobs import sequence_logprobs
from stages.models import load_policy
from stages.preference.config import PreferenceStage
from stages.preference.tokens import MaskedCollator, cut, in_tokens, is_learned
from stages.preference.train import run
from tests.chats import chat_of
from tests.models import write_tiny_model
from tests.stages.contexts import make_context
from tests.stages.test_supervised import losses

USER = {"role": "user", "content": "What is 12 plus 30?"}
TOLD = {"role": "tool", "content": "3 4 5 6 7 8 9"}


def said(text: str) -> dict[str, str]:
    return {"role": "assistant", "content": text}


def pairs() -> list[dict[str, Any]]:
    """Two pairs whose chosen answers have a tool's words between two turns."""
    return [{"prompt": [USER], "chosen": [said(f"{n}+1"), TOLD, said("42")], "rejected": [said("7")]} for n in range(2)]


def stage(tmp_path: Path, rows: list[dict[str, Any]], **changes: Any) -> PreferenceStage:
    path = tmp_path / "pairs.jsonl"
    path.write_text("".join(json.dumps(row) + "\n" for row in rows))
    base = {"kind": "preference", "data": str(path), "num_steps": 1, "batch_size": 2, "micro_batch_size": 2}
    return PreferenceStage.model_validate({**base, "max_tokens": 96, "monitor": {"max_tokens": 2}, **changes})


def test_a_pair_in_tokens_has_a_mask_for_each_side() -> None:
    chat = chat_of("llama3")
    row = in_tokens(chat, pairs()[0], ("chosen", "rejected"))
    assert row["prompt_ids"] == list(answer(chat, pairs()[0], "chosen").prompt_ids)
    learned = [token for token, bit in zip(row["chosen_ids"], row["chosen_mask"], strict=True) if bit]
    assert chat.decode(learned) == "0+1<|eot_id|>42<|eot_id|>"
    assert (chat.decode(row["rejected_ids"]), set(row["rejected_mask"])) == ("7<|eot_id|>", {1})


@pytest.mark.parametrize(("max_tokens", "learned"), [(2, False), (3, False), (4, True), (9, True)])
def test_a_pair_is_learned_where_something_of_both_answers_fits(max_tokens: int, learned: bool) -> None:
    row = {"prompt_ids": [1, 2], "chosen_mask": [0, 1, 1], "rejected_mask": [1, 1]}
    assert is_learned(row, max_tokens) == learned


def test_a_collator_takes_out_what_is_masked_where_it_is_not_cut() -> None:
    def inner(examples: Any) -> dict[str, torch.Tensor]:
        return {"completion_mask": torch.tensor([[0, 0, 1, 1, 1], [0, 1, 1, 0, 0], [0, 0, 1, 1, 0], [0, 1, 1, 1, 0]])}

    batch = MaskedCollator(inner)(
        [
            {"prompt_ids": [1, 2], "chosen_mask": [1, 0, 1, 1, 1], "rejected_mask": [0, 1]},
            {"prompt_ids": [1], "chosen_mask": [1, 1], "rejected_mask": [1, 0, 1]},
        ]
    )
    assert batch["completion_mask"].tolist() == [[0, 0, 1, 0, 1], [0, 1, 1, 0, 0], [0, 0, 0, 1, 0], [0, 1, 0, 1, 0]]


def test_what_nobody_learns_within_the_limit_is_left_out() -> None:
    example = answer(chat_of("llama3"), pairs()[0], "chosen")
    start = len(example.prompt_ids)
    assert cut(example, start) is None
    kept = cut(example, start + 5)
    assert kept is not None and len(kept.token_ids) == 5 and len(kept.learned) == 5


@pytest.mark.training
@pytest.mark.parametrize("micro_batch_tokens", [2048, None])
def test_the_loss_of_a_pair_sums_over_the_turns_of_the_assistant_alone(
    tmp_path: Path, micro_batch_tokens: int | None
) -> None:
    context = make_context(tmp_path, write_tiny_model(tmp_path / "base"))
    loss = {"type": "cpo", "alpha": 0.0}  # without a reference: -log sigmoid(beta * (chosen - rejected))
    run(stage(tmp_path, pairs(), loss=loss, micro_batch_tokens=micro_batch_tokens), context)
    policy = load_policy(make_context(tmp_path / "again", tmp_path / "base"))
    chat, expected = TokenizerChat(policy.tokenizer), 0.0
    for row in pairs():
        sums = []
        for side in ("chosen", "rejected"):
            example = answer(chat, row, side)
            found = sequence_logprobs(policy.model, [example.whole_ids])[0][len(example.prompt_ids) - 1 :]
            sums.append(sum(value for value, bit in zip(found, example.learned, strict=True) if bit))
        expected += math.log1p(math.exp(-0.1 * (sums[0] - sums[1]))) / 2
    assert losses(context)[0] == pytest.approx(expected, abs=1e-4)


@pytest.mark.training
@pytest.mark.parametrize("loss", [{"type": "dpo"}, {"type": "kto", "from_pairs": True}, {"type": "simpo"}])
def test_policy_and_reference_agree_on_answers_of_several_turns(tmp_path: Path, loss: dict[str, Any]) -> None:
    context = make_context(tmp_path, write_tiny_model(tmp_path / "base"))
    run(stage(tmp_path, pairs(), loss=loss), context)  # would raise where the two differ
    if loss["type"] == "dpo":
        assert losses(context)[0] == pytest.approx(math.log(2), abs=1e-4)
