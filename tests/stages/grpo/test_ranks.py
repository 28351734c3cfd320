"""Two ranks with half of the weights each, against one with all of them. Real processes, real gloo."""

import json
from pathlib import Path
from typing import Any

import pytest
import torch
import torch.multiprocessing as mp

from stages.base import Rank, RunFacts, StageError
from stages.grpo.batch import TrainingBatch, hint_batch, make_batch
from stages.grpo.config import GRPOStage
from stages.grpo.learner import Learner
from stages.grpo.ranks import Ranks, follow
from stages.models import Policy
from tests.models import tiny_model, write_tiny_model
from tests.stages.grpo.groups import stage
from tests.stages.grpo.test_hints import hinted
from tests.stages.grpo.test_learner import random_groups, with_an_environment

pytestmark = pytest.mark.processes

CASES: dict[str, dict[str, Any]] = {
    "plain": {},
    "reference": {"kl": {"coef": 0.3}, "entropy_coef": 0.1, "loss": {"type": "sequence_ratio"}},
    "adapter": {"params": {"type": "lora", "r": 4}, "kl": {"coef": 0.3}, "hint": {"num_steps": 9, "coef": 0.1}},
    "pairs": {"loss": {"type": "online_preference", "of": {"beta": 0.5}}},
    "one_row": {"micro_batch_tokens": 10_000, "prompts_per_step": 1},
}
KL_IN_REWARD = {"kl": {"coef": 0.5, "where": "reward", "estimate": "k1"}, "advantage": {"type": "mean_only"}}


def config_of(case: dict[str, Any]) -> GRPOStage:
    return stage(**{"micro_batch_tokens": 40, "max_grad_norm": 0.5, **case})


def groups_of(config: GRPOStage) -> list[Any]:
    return with_an_environment(random_groups(num_prompts=min(3, config.prompts_per_step)))


def batch_of(config: GRPOStage) -> TrainingBatch:
    batch = make_batch(groups_of(config), config)
    assert batch is not None
    return batch


def learner_of(config: GRPOStage, folder: Path, ranks: Ranks | None = None, precision: Any = "float32") -> Learner:
    vocabulary = json.loads((folder / "config.json").read_text())["vocab_size"]
    model = tiny_model("qwen3", vocab_size=vocabulary, seed=3)
    policy = Policy(model=model, tokenizer=None, folder=folder, eos_ids=(0,), weights_sha256="")
    return Learner(policy, config, RunFacts(model="none", precision=precision), ranks)


def gradients(learner: Learner, batch: TrainingBatch) -> dict[str, torch.Tensor]:
    """Run on every rank, each by itself."""
    batch, _ = learner._priced(batch)
    for part in learner._parts(batch):
        loss, _ = learner._loss(part)
        learner._backward(loss, part)
    trained = {name: p.grad for name, p in learner._model.named_parameters() if p.grad is not None}
    return {name: g.full_tensor() if hasattr(g, "full_tensor") else g.clone() for name, g in trained.items()}


def _gradients_on_a_rank(index: int, root: Path) -> None:
    """Save the gradients of all cases, one group of ranks after the other: a process takes long to start."""
    for name, case in CASES.items():
        folder, config = root / name, config_of(case)
        learner = learner_of(config, folder, Ranks(Rank(index=index, num=2), folder))
        if index == 0:
            assert any(hasattr(p, "full_tensor") for p in learner._model.parameters()), "the weights are not spread"
        found = gradients(learner, batch_of(config))
        if index == 0:
            torch.save(found, folder / "gradients.pt")
        learner.ranks.settle(learner._model)
        torch.distributed.barrier()
        torch.distributed.destroy_process_group()


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    """A folder with a reference of the policy's own weights' shape."""
    return write_tiny_model(tmp_path / "model", seed=5)


@pytest.fixture(scope="module")
def of_two_ranks(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A folder a case, with such a reference and the gradients that two ranks came to."""
    root = tmp_path_factory.mktemp("ranks")
    for name in CASES:
        write_tiny_model(root / name, seed=5)
    mp.spawn(_gradients_on_a_rank, (root,), nprocs=2)
    return root


@pytest.mark.parametrize("name", CASES)
def test_two_ranks_have_the_gradients_of_one(name: str, of_two_ranks: Path) -> None:
    folder, config = of_two_ranks / name, config_of(CASES[name])
    alone = gradients(learner_of(config, folder), batch_of(config))
    together = torch.load(folder / "gradients.pt")
    assert together.keys() == alone.keys() and any(float(g.abs().max()) > 1e-3 for g in alone.values())
    for parameter, gradient in alone.items():
        torch.testing.assert_close(together[parameter], gradient, atol=1e-5, rtol=1e-4)


def trained(learner: Learner, config: GRPOStage, folder: Path, steps: int = 3) -> dict[str, Any]:
    """Do everything that a stage does with a learner, and return what came of it."""
    learner.require_reference([[1, 2, 3]]) if config.params.type == "lora" else None
    hints = hint_batch(hinted((20, 21), (22,))) if config.hint else None
    metrics = [learner.update(batch_of(config), 1.0, hints) for _ in range(steps)]
    groups = learner.with_kl_in_reward(groups_of(config))
    products = learner.gradient_products({"a": batch_of(config), "b": batch_of(config)})
    learner.save(folder / "saved")
    metrics.append(learner.update(batch_of(config), 0.5))
    return {
        "metrics": metrics,
        "values": [r.score.value for group in groups for r in group.rollouts],
        "products": products,
        "weights": {name: tensor.clone() for name, tensor in learner.policy().model.state_dict().items()},
    }


def _train_on_a_rank(index: int, case: dict[str, Any], folder: Path) -> None:
    config = config_of(case)
    learner = learner_of(config, folder, Ranks(Rank(index=index, num=2), folder))
    if index > 0:
        follow(learner)
        return
    found = trained(learner, config, folder)
    torch.save(found, folder / "found.pt")
    learner.load(folder / "saved")
    again = learner.update(batch_of(config), 0.5)
    assert again == found["metrics"][-1], "what was saved does not go on as what was not"
    learner.ranks.close()


@pytest.mark.parametrize(
    "case",
    [
        pytest.param({**CASES["plain"], **KL_IN_REWARD}, id="full", marks=pytest.mark.exhaustive),
        pytest.param(CASES["adapter"], id="adapter"),
    ],
)
def test_the_first_rank_is_asked_and_the_others_do_the_same(case: dict[str, Any], folder: Path, tmp_path: Path) -> None:
    mp.spawn(_train_on_a_rank, (case, folder), nprocs=2)
    together = torch.load(folder / "found.pt", weights_only=False)
    (tmp_path / "alone").mkdir()
    config = config_of(case)
    learner = learner_of(config, folder)
    alone = trained(learner, config, tmp_path / "alone")
    assert together["values"] == pytest.approx(alone["values"], abs=1e-5)
    assert together["products"] == pytest.approx(alone["products"], rel=1e-3)
    for ours, theirs in zip(together["metrics"], alone["metrics"], strict=True):
        assert ours.keys() == theirs.keys()
        del ours["train/forwarded_tokens"], theirs["train/forwarded_tokens"]  # rows are padded to those of their rank
        assert ours == pytest.approx(theirs, rel=1e-3, abs=1e-5)
    for name, tensor in alone["weights"].items():
        torch.testing.assert_close(together["weights"][name], tensor, atol=1e-4, rtol=1e-3)
    learner.load(folder / "saved")  # what two ranks have saved, one takes up
    assert learner.update(batch_of(config), 0.5)["train/loss"] == pytest.approx(
        together["metrics"][-1]["train/loss"], abs=1e-5
    )


def test_a_loss_that_several_ranks_cannot_scale_together_is_refused(folder: Path) -> None:
    ranks = Ranks()
    ranks.num = 2
    with pytest.raises(StageError, match="take bfloat16"):
        learner_of(config_of({}), folder, ranks, "float16")
