"""The losses of pairs as functions of log-probabilities, against formulas and against TRL's own training."""

import math
from pathlib import Path
from types import SimpleNamespace
from typing import Any, get_args

import pytest
import torch
import trl
from pydantic import ValidationError

from stages.base import StageError
from stages.preference.loss_config import CPOLoss, DPOLoss, ODPOLoss, SimPOLoss, TRLLossType
from stages.preference.pair_loss import AnswerLogprobs, price
from tests.stages.preference.test_shared_prompt import loss_and_gradients


def answer(policy: list[float], reference: list[float]) -> AnswerLogprobs:
    return AnswerLogprobs(policy_T=torch.tensor(policy), reference_T=torch.tensor(reference))


CHOSEN, REJECTED = answer([-1.0, -2.0], [-1.5, -2.5]), answer([-3.0], [-2.0])
"""Log-ratios 1 and -1."""


def test_dpo_by_hand() -> None:
    # margin 0.1 * (1 - (-1)) = 0.2: loss log(1 + e^-0.2) = 0.598139, derivative -0.1 * sigmoid(-0.2) = -0.045017
    found = price([(CHOSEN, REJECTED)], [1.0], DPOLoss())
    assert found.loss == pytest.approx(0.598139, abs=1e-6)
    assert found.gradients[0].tolist() == pytest.approx([-0.0450166] * 2, abs=1e-6)
    assert found.gradients[1].tolist() == pytest.approx([0.0450166], abs=1e-6)
    assert found.metrics["preference/margin_beyond_offset"] == pytest.approx(0.2)
    assert found.metrics["preference/accuracy_beyond_offset"] == 1.0


def test_an_offset_asks_for_a_larger_margin() -> None:
    # the margin 0.2 less the offset 0.5 * log(e^2) = 1
    found = price([(CHOSEN, REJECTED)], [math.exp(2)], ODPOLoss(alpha=0.5))
    assert found.loss == pytest.approx(math.log1p(math.exp(0.8)), abs=1e-6)
    assert found.metrics["preference/accuracy_beyond_offset"] == 0.0
    with pytest.raises(StageError, match="a score gap below 1"):
        price([(CHOSEN, REJECTED)], [0.5], ODPOLoss())


def test_the_loss_is_the_mean_over_pairs_of_any_lengths() -> None:
    even = (answer([-1.0], [-1.0]), answer([-1.0, -1.0, -1.0], [-1.0, -1.0, -1.0]))
    found = price([(CHOSEN, REJECTED), even], [1.0, 1.0], DPOLoss())
    assert found.loss == pytest.approx((0.598139 + math.log(2)) / 2, abs=1e-6)
    assert [len(row) for row in found.gradients] == [2, 1, 1, 3]
    assert found.gradients[3].tolist() == pytest.approx([0.1 * 0.5 / 2] * 3)


FREE_CHOSEN, FREE_REJECTED = answer([-1.0, -2.0], [0.0, 0.0]), answer([-3.0], [0.0])
"""The same answers without a reference."""


def test_simpo_by_hand() -> None:
    # 2 * (-1.5 - (-3)) - 1 = 2: loss log(1 + e^-2) = 0.126928, derivative -2 * sigmoid(-2) = -0.238406, by token
    found = price([(FREE_CHOSEN, FREE_REJECTED)], [0.0], SimPOLoss(type="simpo"))
    assert found.loss == pytest.approx(0.126928, abs=1e-6)
    assert found.gradients[0].tolist() == pytest.approx([-0.119203] * 2, abs=1e-6)
    assert found.gradients[1].tolist() == pytest.approx([0.238406], abs=1e-6)


@pytest.mark.parametrize("loss", [SimPOLoss(type="simpo"), CPOLoss(type="cpo", alpha=0.5)])
def test_losses_without_a_reference_are_those_of_trls_own_trainer_for_them(loss: SimPOLoss | CPOLoss) -> None:
    from trl.experimental.cpo import CPOTrainer

    drawn = torch.Generator().manual_seed(5)
    rows = [-3 * torch.rand(length, generator=drawn) for length in (4, 2, 1, 7, 3, 3)]
    chosen, rejected = rows[::2], rows[1::2]
    by_length = isinstance(loss, SimPOLoss)
    trainer = SimpleNamespace(
        alpha=0.0,
        beta=loss.beta,
        label_smoothing=0.0,
        loss_type="simpo" if by_length else "sigmoid",
        simpo_gamma=getattr(loss, "gamma", None),
        accelerator=SimpleNamespace(device=torch.device("cpu")),
    )
    sides = [torch.stack([row.mean() if by_length else row.sum() for row in side]) for side in (chosen, rejected)]
    expected = CPOTrainer.cpo_loss(trainer, *sides)[0].mean()
    if isinstance(loss, CPOLoss):
        expected -= loss.alpha * torch.cat(chosen).mean()
    pairs = [
        (answer(a.tolist(), [0.0] * len(a)), answer(b.tolist(), [0.0] * len(b)))
        for a, b in zip(chosen, rejected, strict=True)
    ]
    assert price(pairs, [0.0] * 3, loss).loss == pytest.approx(expected.item(), abs=1e-5)


@pytest.mark.parametrize("variant", get_args(TRLLossType))
def test_every_loss_has_trls_value_and_by_the_chain_rule_its_gradients(tmp_path: Path, variant: str) -> None:
    smoothing: dict[str, Any] = {"label_smoothing": 0.1} if variant in ("robust", "exo_pair") else {}
    expected, theirs, trainer = loss_and_gradients(trl.DPOTrainer, tmp_path, loss_type=[variant], **smoothing)
    rows = list(trainer.train_dataset)
    pairs, logprobs = [], []
    reference = loss_and_gradients(trl.DPOTrainer, tmp_path, moved=False)[2].model
    for row in rows:
        sides = []
        for side in ("chosen_ids", "rejected_ids"):
            tokens = torch.tensor([row["prompt_ids"] + row[side]])
            under = [_token_logprobs(model, tokens, len(row["prompt_ids"])) for model in (trainer.model, reference)]
            logprobs.append(under[0])
            sides.append(AnswerLogprobs(policy_T=under[0].detach(), reference_T=under[1].detach()))
        pairs.append((sides[0], sides[1]))
    found = price(pairs, [1.0] * len(pairs), DPOLoss(variants=[variant], **smoothing))
    assert found.loss == pytest.approx(expected.item(), abs=1e-5)
    trainer.model.zero_grad()
    surrogate = sum((row * weights).sum() for row, weights in zip(logprobs, found.gradients, strict=True))
    assert isinstance(surrogate, torch.Tensor)
    surrogate.backward()
    for name, parameter in trainer.model.named_parameters():
        torch.testing.assert_close(parameter.grad, theirs[name], atol=1e-5, rtol=1e-4)


def _token_logprobs(model: Any, tokens: torch.Tensor, start: int) -> torch.Tensor:
    logprobs = torch.log_softmax(model(input_ids=tokens).logits[0, :-1], dim=-1)
    return logprobs.gather(1, tokens[0, 1:, None])[start - 1 :, 0]


def test_what_needs_whole_distributions_is_refused_online() -> None:
    from stages.grpo.loss_config import OnlinePreference

    with pytest.raises(ValidationError, match="weighted"):
        OnlinePreference.model_validate({"type": "online_preference", "of": {"type": "dpo", "weighted": True}})
