"""Online preference: pairs of a step's groups, and the gradient of their loss."""

from pathlib import Path
from typing import Any

import pytest
import torch
from pydantic import ValidationError
from transformers import AutoModelForCausalLM

from stages.base import RunFacts
from stages.grpo.advantages import advantages_of
from stages.grpo.batch import make_batch
from stages.grpo.learner import Learner
from stages.grpo.pairs import PairPlaces
from stages.models import Policy
from tests.models import write_tiny_model
from tests.stages.grpo.groups import group, stage

ONLINE = {"type": "online_preference"}
GROUPS = [
    group((1, 2), [((3, 4), 0.0), ((5,), 1.0), ((6, 7, 8), 0.5)]),
    group((9,), [((3,), 1.0), ((4,), 1.0)]),
    group((9, 8), [((5, 6), 3.0), ((7,), 1.0), ((8, 9), None)]),
]


def test_a_group_makes_a_pair_and_its_other_answers_train_nothing() -> None:
    config = stage(loss=ONLINE)
    assert advantages_of(GROUPS, config) == [[-1.0, 1.0, None], None, [1.0, -1.0, None]]
    batch = make_batch(GROUPS, config)
    assert batch is not None
    assert [answer.token_ids for answer in batch.answers] == [(3, 4), (5,), (5, 6), (7,)]
    assert batch.pairs == (
        PairPlaces(chosen=1, rejected=0, gap=1.0),
        PairPlaces(chosen=2, rejected=3, gap=2.0),
    )
    assert make_batch(GROUPS[1:2], config) is None


def test_another_pairing_takes_other_answers() -> None:
    near = {**ONLINE, "pairing": {"type": "near_miss"}}
    assert advantages_of(GROUPS[:1], stage(loss=near)) == [[None, 1.0, -1.0]]


@pytest.mark.parametrize("params", [{"type": "full"}, {"type": "lora", "r": 2}])
@pytest.mark.parametrize(
    "of",
    [
        {"beta": 0.3},
        {"type": "odpo", "beta": 0.3, "alpha": 0.5, "allow_negative_offset": True},
        {"type": "cpo", "beta": 0.3, "alpha": 0.0},
    ],
)
def test_the_gradient_is_that_of_the_loss_of_pairs(tmp_path: Path, of: dict[str, Any], params: dict[str, Any]) -> None:
    folder = write_tiny_model(tmp_path / "model")
    reference = AutoModelForCausalLM.from_pretrained(folder)
    config = stage(loss={**ONLINE, "of": of}, params=params, micro_batch_tokens=8)
    model = AutoModelForCausalLM.from_pretrained(folder)
    policy = Policy(model=model, tokenizer=None, folder=folder, eos_ids=(0,), weights_sha256="")
    learner = Learner(policy, config, RunFacts(model="none"))
    with torch.no_grad():
        for at, parameter in enumerate(p for p in learner._model.parameters() if p.requires_grad):
            parameter += 0.05 * torch.randn(parameter.shape, generator=torch.Generator().manual_seed(at))
    expected = 0.0
    offsets = {"odpo": [0.0, 0.5 * torch.log(torch.tensor(2.0))]}.get(of.get("type", ""), [0.0, 0.0])
    for (prompt, chosen, rejected), offset in zip(
        (((1, 2), (5,), (3, 4)), ((9, 8), (5, 6), (7,))), offsets, strict=True
    ):
        ratios = []
        for answer in (chosen, rejected):
            tokens = torch.tensor([[*prompt, *answer]])
            sums = [_sum(each, tokens, len(prompt)) for each in (learner._model, reference)]
            ratios.append(sums[0] - sums[1].detach() if of.get("type") != "cpo" else sums[0])
        expected = expected - torch.nn.functional.logsigmoid(0.3 * (ratios[0] - ratios[1]) - offset) / 2
    assert isinstance(expected, torch.Tensor)
    trained = [p for p in learner._model.parameters() if p.requires_grad]
    theirs = torch.autograd.grad(expected, trained, allow_unused=True)
    batch = make_batch(GROUPS, config)
    assert batch is not None
    priced, metrics = learner._priced(batch)
    assert metrics["train/loss"] == pytest.approx(expected.item(), abs=1e-5)
    for part in learner._parts(priced):
        learner._backward(learner._loss(part)[0], part)
    for parameter, gradient in zip(trained, theirs, strict=True):
        torch.testing.assert_close(parameter.grad, gradient, atol=1e-5, rtol=1e-4)


def _sum(model: Any, tokens: torch.Tensor, start: int) -> torch.Tensor:
    logprobs = torch.log_softmax(model(input_ids=tokens).logits[0, :-1], dim=-1)
    return logprobs.gather(1, tokens[0, 1:, None])[start - 1 :].sum()


def test_updates_widen_the_margin(tmp_path: Path) -> None:
    folder = write_tiny_model(tmp_path / "model")
    model = AutoModelForCausalLM.from_pretrained(folder)
    policy = Policy(model=model, tokenizer=None, folder=folder, eos_ids=(0,), weights_sha256="")
    learner = Learner(policy, config := stage(loss=ONLINE, learning_rate=1e-2), RunFacts(model="none"))
    batch = make_batch(GROUPS, config)
    assert batch is not None
    told = [learner.update(batch) for _ in range(10)]
    assert told[0]["train/loss"] == pytest.approx(0.693147, abs=1e-5)
    assert told[-1]["train/loss"] < 0.4 and told[-1]["preference/accuracy_beyond_offset"] == 1.0


@pytest.mark.parametrize(
    ("changes", "says"),
    [
        ({"advantage": {"type": "mean_only"}}, "advantage: loss online_preference"),
        ({"correction": {"type": "truncated"}}, "correction: loss online_preference"),
        ({"kl": {"coef": 0.1}}, "kl: loss online_preference"),
        ({"hint": {"num_steps": 3}}, "hint: loss online_preference"),
        ({"combine": {"type": "gradient_guided"}}, "combine: loss online_preference"),
        ({"mask_truncated": True}, "mask_truncated: loss online_preference"),
        ({"loss": {**ONLINE, "pairing": {"type": "diverse", "good_from": 1, "measure": "embedding"}}}, "pairs stage"),
        ({"loss": {**ONLINE, "of": {"type": "odpo"}}}, "pairs have gaps from 1e-06"),
        ({"loss": {**ONLINE, "of": {"type": "odpo"}, "pairing": {"type": "shorter"}}}, "pairs have any scores"),
    ],
)
def test_what_pairs_have_no_use_for_is_refused(changes: dict[str, Any], says: str) -> None:
    with pytest.raises(ValidationError, match=says):
        stage(**{"loss": ONLINE, **changes})
