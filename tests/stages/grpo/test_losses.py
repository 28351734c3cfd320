"""Losses and corrections by hand, and the identities that they keep on fresh samples."""

from typing import Any

import pytest
import torch
from pydantic import TypeAdapter, ValidationError

from stages.grpo.loss_config import (
    ClippedRatio,
    CorrectionConfig,
    KLConfig,
    LossConfig,
    MaskedWeights,
    SequenceRatio,
    TruncatedWeights,
    Uncorrected,
)
from stages.grpo.losses import LOSSES, correction, kl, mean_by_answer, sum_by_answer

ANSWERS = torch.tensor([4, 4, 4, 9])
ADVANTAGES = torch.tensor([1.0, 1.0, 1.0, -2.0])


def losses(config: LossConfig, logprobs: torch.Tensor, old: torch.Tensor) -> torch.Tensor:
    return LOSSES[config.type](logprobs, old, ADVANTAGES, ANSWERS, config)


def test_clipped_ratio_by_hand() -> None:
    # ratios 1.5 and 0.5; advantage 1: min(1.5, 1.2) = 1.2 and min(0.5, 0.8) = 0.5; advantage -1: -1.5 and -0.8
    new, old = torch.log(torch.tensor([1.5, 0.5, 1.5, 0.5])), torch.zeros(4)
    advantages, answers = torch.tensor([1.0, 1.0, -1.0, -1.0]), torch.arange(4)
    found = LOSSES["clipped_ratio"](new, old, advantages, answers, ClippedRatio())
    torch.testing.assert_close(found, torch.tensor([-1.2, -0.5, 1.5, 0.8]))
    bounded = LOSSES["clipped_ratio"](new, old, advantages, answers, ClippedRatio(most=1.3))
    torch.testing.assert_close(bounded, torch.tensor([-1.2, -0.5, 1.3, 0.8]))


def test_the_ratio_of_an_answer_is_the_geometric_mean_of_its_tokens() -> None:
    new = torch.log(torch.tensor([1.2, 1.0, 1.0, 3.0]))
    found = losses(SequenceRatio(clip_low=0.5, clip_high=0.5), new, torch.zeros(4))
    mean = 1.2 ** (1 / 3)
    torch.testing.assert_close(found, torch.tensor([-mean, -mean, -mean, 6.0]))


def test_a_cut_weight_keeps_its_gradient() -> None:
    new = torch.log(torch.tensor([9.0, 1.0, 0.5, 1.0])).requires_grad_()
    config: LossConfig = TypeAdapter(LossConfig).validate_python({"type": "clipped_weight", "clip_high": 1.0})
    losses(config, new, torch.zeros(4)).sum().backward()
    torch.testing.assert_close(new.grad, torch.tensor([-2.0, -1.0, -0.5, 2.0]))


def test_regression_is_at_rest_where_the_log_ratio_is_the_advantage() -> None:
    new = torch.tensor([0.25, 0.25, 0.0, -1.0]).requires_grad_()
    config: LossConfig = TypeAdapter(LossConfig).validate_python({"type": "advantage_regression", "scale": 0.5})
    found = losses(config, new, torch.zeros(4))
    torch.testing.assert_close(found.detach(), torch.zeros(4))
    found.sum().backward()
    torch.testing.assert_close(new.grad, torch.zeros(4))


@pytest.mark.parametrize(
    ("config", "factor"),
    [
        ({"type": "clipped_ratio"}, [1, 1, 1, 1]),
        ({"type": "sequence_ratio"}, [1, 1, 1, 1]),
        ({"type": "clipped_weight"}, [1, 1, 1, 1]),
        ({"type": "soft_gate", "sharpness_good": 3.0}, [1, 1, 1, 1]),
        ({"type": "policy_gradient"}, [1, 1, 1, 1]),
        ({"type": "advantage_regression", "scale": 2.0}, [3, 3, 3, 1]),
    ],
)
def test_on_fresh_samples_every_loss_is_the_policy_gradient(config: dict[str, Any], factor: list[int]) -> None:
    """By tokens, but for the regression, whose every token bears the gradient of the whole answer."""
    loss: LossConfig = TypeAdapter(LossConfig).validate_python(config)
    new = torch.tensor([-0.5, -1.0, -2.0, -0.1]).requires_grad_()
    losses(loss, new, new.detach()).sum().backward()
    torch.testing.assert_close(new.grad, -ADVANTAGES * torch.tensor(factor, dtype=torch.float32))


def test_corrections_by_hand() -> None:
    current, engine = torch.log(torch.tensor([3.0, 1.0, 0.4, 0.5])), torch.zeros(4)
    found = {
        "truncated by token": correction(current, engine, ANSWERS, TruncatedWeights(most=2.0)),
        "truncated by sequence": correction(current, engine, ANSWERS, TruncatedWeights(level="sequence", most=1.1)),
        "masked by token": correction(current, engine, ANSWERS, MaskedWeights(least=0.5, most=2.0)),
        "masked by sequence": correction(current, engine, ANSWERS, MaskedWeights(level="sequence", least=0.6)),
    }
    expected = {
        "truncated by token": [2.0, 1.0, 0.4, 0.5],
        "truncated by sequence": [1.1, 1.1, 1.1, 0.5],  # 3 * 1 * 0.4 = 1.2
        "masked by token": [0.0, 1.0, 0.0, 0.5],
        "masked by sequence": [1.2, 1.2, 1.2, 0.0],
    }
    for name, weights in found.items():
        torch.testing.assert_close(weights, torch.tensor(expected[name]), msg=name)


def test_who_says_so_takes_old_samples_as_they_are() -> None:
    current, engine = torch.tensor([-1.0, -5.0]), torch.tensor([-3.0, -1.0])
    weights = correction(current, engine, torch.tensor([0, 0]), Uncorrected())
    assert weights.tolist() == [1.0, 1.0]


@pytest.mark.parametrize("config", [{"type": "truncated"}, {"type": "masked", "level": "sequence"}])
def test_what_the_policy_itself_sampled_needs_no_correction(config: dict[str, Any]) -> None:
    one = torch.randn(4)
    found = correction(one, one, ANSWERS, TypeAdapter(CorrectionConfig).validate_python(config))
    assert torch.equal(found, torch.ones(4))


def test_the_kl_estimates_by_hand_and_zero_for_the_reference_itself() -> None:
    # d = log(0.5 / 0.25) = log 2: k1 -0.693147, k2 0.240227, k3 2 - 0.693147 - 1 = 0.306853
    policy, reference = torch.log(torch.tensor([0.25])), torch.log(torch.tensor([0.5]))
    for estimate, value in {"k1": -0.693147, "k2": 0.240227, "k3": 0.306853}.items():
        config = KLConfig.model_validate({"estimate": estimate})
        assert kl(policy, reference, config).item() == pytest.approx(value, abs=1e-6)
        assert kl(policy, policy, config).item() == 0.0


def test_sums_and_means_by_answer_whatever_their_names() -> None:
    values = torch.tensor([1.0, 2.0, 6.0, 5.0])
    assert sum_by_answer(values, ANSWERS).tolist() == [9, 9, 9, 5]
    assert mean_by_answer(values, ANSWERS).tolist() == [3, 3, 3, 5]


def test_a_second_clip_below_the_first_is_refused() -> None:
    with pytest.raises(ValidationError, match="must lie above 1"):
        ClippedRatio(most=1.1)
