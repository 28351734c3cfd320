"""Weights of tokens, against formulas, with prompts forwarded once and as TRL forwards them."""

import json
from pathlib import Path
from typing import Any

import pytest
import torch
from pydantic import ValidationError

from stages.base import StageError
from stages.logprobs import sequence_logprobs
from stages.models import load_policy
from stages.preference.config import PreferenceStage
from stages.preference.token_weights import WeightedCollator, require_one_a_token
from stages.preference.train import run
from tests.models import write_tiny_model
from tests.stages.contexts import make_context
from tests.stages.test_supervised import losses, preference_stage, same, tensors

pytestmark = pytest.mark.training


@pytest.fixture
def model(tmp_path: Path) -> Path:
    return write_tiny_model(tmp_path / "base")


def with_weights(tmp_path: Path, model: Path, weight: Any, **changes: Any) -> PreferenceStage:
    """Return a stage whose rows have ``weight(place)`` for each token."""
    stage = preference_stage(tmp_path, token_weights=True, **changes)
    tokenizer = load_policy(make_context(tmp_path / "loading", model)).tokenizer
    path = tmp_path / "pairs.jsonl"
    rows = [json.loads(line) for line in path.read_text().splitlines()]
    for row in rows:
        prompt = [{"role": "user", "content": row["prompt"]}]
        start = tokenizer.apply_chat_template(prompt, add_generation_prompt=True, return_dict=False)
        for side in ("chosen", "rejected"):
            whole = tokenizer.apply_chat_template(
                [*prompt, {"role": "assistant", "content": row[side]}], return_dict=False
            )
            row[f"{side}_weights"] = [weight(place) for place in range(len(whole) - len(start))]
    path.write_text("".join(json.dumps(row) + "\n" for row in rows))
    return stage


@pytest.mark.parametrize("micro_batch_tokens", [2048, None])
def test_weights_of_one_change_nothing(tmp_path: Path, model: Path, micro_batch_tokens: int | None) -> None:
    plain, weighted = (make_context(tmp_path / name, model) for name in ("plain", "weighted"))
    run(preference_stage(tmp_path, micro_batch_tokens=micro_batch_tokens), plain)
    run(with_weights(tmp_path, model, lambda place: 1.0, micro_batch_tokens=micro_batch_tokens), weighted)
    assert losses(weighted) == pytest.approx(losses(plain), abs=1e-6) and same(tensors(plain), tensors(weighted))


@pytest.mark.parametrize("micro_batch_tokens", [2048, None])
def test_the_second_loss_is_that_of_weighted_sums(tmp_path: Path, model: Path, micro_batch_tokens: int | None) -> None:
    """The first is ln 2 whatever the weights; one step later policy and reference differ."""
    context = make_context(tmp_path, model)
    stage = with_weights(
        tmp_path, model, lambda place: [0.5, 2.0, -1.0, 0.0][place % 4], num_steps=1, batch_size=8, micro_batch_size=8,
        micro_batch_tokens=micro_batch_tokens, learning_rate=1e-2,
    )  # fmt: skip
    told = run(stage, context).metrics
    assert told["preference/loss_at_start"] == pytest.approx(0.693147, abs=1e-4)
    two = make_context(tmp_path / "two", model)
    run(stage.model_copy(update={"num_steps": 2, "schedule": "constant"}), two)
    start = load_policy(make_context(tmp_path / "a", model))
    after = load_policy(make_context(tmp_path / "b", model, name="next", inputs={"policy": context.output}))
    rows = [json.loads(line) for line in (tmp_path / "pairs.jsonl").read_text().splitlines()]
    margins = []
    for row in rows:
        sums = []
        for side in ("chosen", "rejected"):
            prompt = [{"role": "user", "content": row["prompt"]}]
            first = start.tokenizer.apply_chat_template(prompt, add_generation_prompt=True, return_dict=False)
            answer = {"role": "assistant", "content": row[side]}
            whole = start.tokenizer.apply_chat_template([*prompt, answer], return_dict=False)
            now, before = (
                torch.tensor(sequence_logprobs(each.model, [whole])[0][len(first) - 1 :]) for each in (after, start)
            )
            sums.append((torch.tensor(row[f"{side}_weights"]) * (now - before)).sum())
        margins.append(sums[0] - sums[1])
    expected = -torch.nn.functional.logsigmoid(0.1 * torch.stack(margins)).mean().item()
    assert losses(two)[1] == pytest.approx(expected, abs=1e-4)


def test_a_collator_puts_weights_where_their_tokens_are_predicted() -> None:
    def inner(examples: Any) -> dict[str, torch.Tensor]:
        return {"input_ids": torch.zeros(2, 6, dtype=torch.long)}

    example = {"prompt_ids": [1, 2], "chosen_weights": [3.0, 4.0], "rejected_weights": [5.0, 6.0, 7.0, 8.0, 9.0]}
    found = WeightedCollator(inner)([example])["token_weights"]
    assert found.tolist() == [[1.0, 3.0, 4.0, 1.0, 1.0], [1.0, 5.0, 6.0, 7.0, 8.0]]


@pytest.mark.parametrize(
    ("weights", "says"), [([1.0], "row 1 has 1 chosen_weights for 2 tokens"), ([1.0, float("nan")], "not finite")]
)
def test_weights_that_do_not_fit_are_refused_by_row(weights: list[float], says: str) -> None:
    row = {"chosen_ids": [1, 2], "rejected_ids": [3], "chosen_weights": weights, "rejected_weights": [1.0]}
    with pytest.raises(StageError, match=says):
        require_one_a_token([row])


@pytest.mark.parametrize(
    ("changes", "says"),
    [({"loss": {"type": "kto"}}, "kto has none"), ({"data": {"stage": "pairs"}}, "a stage of pairs makes none")],
)
def test_weights_where_there_can_be_none_are_refused(tmp_path: Path, changes: dict[str, Any], says: str) -> None:
    with pytest.raises(ValidationError, match=says):
        preference_stage(tmp_path, token_weights=True, **changes)
