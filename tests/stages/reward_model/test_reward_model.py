"""Reward models on a tiny policy: what they learn, hold out, hand over and refuse."""

import json
import math
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
import torch
import transformers
import trl
from datasets import Dataset
from pydantic import ValidationError

from rewards.config import ModelRewardConfig
from rewards.model import load
from rewards.types import RewardError
from stages import artifact
from stages.base import StageContext, StageError
from stages.grpo.config import GRPOStage
from stages.preference.source import split
from stages.reward_model.calibration import calibration
from stages.reward_model.config import RewardModelStage
from stages.reward_model.train import load_with_head, run
from tests.models import write_tiny_model
from tests.stages.contexts import make_context
from tests.stages.test_supervised import Killed, KillsAt

pytestmark = pytest.mark.training


@pytest.fixture
def model(tmp_path: Path) -> Path:
    return write_tiny_model(tmp_path / "base")


def stage(tmp_path: Path, num: int = 40, **changes: Any) -> RewardModelStage:
    path = tmp_path / "pairs.jsonl"
    rows = [
        {
            "prompt": f"What is {n} plus 1?", "chosen": f"\\boxed{{{n + 1}}}", "rejected": f"apples {n} and books",
            "score_chosen": 1.0, "score_rejected": -1.0,
        }
        for n in range(num)
    ]  # fmt: skip
    path.write_text("".join(json.dumps(row) + "\n" for row in rows))
    base = {"kind": "reward_model", "data": str(path), "num_steps": 30, "batch_size": 8, "micro_batch_size": 4}
    return RewardModelStage.model_validate({**base, "max_tokens": 64, "learning_rate": 3e-3, **changes})


def metrics(context: StageContext) -> list[dict[str, float]]:
    return [json.loads(line) for line in (context.folder / "metrics.jsonl").read_text().splitlines()]


@pytest.mark.parametrize("params", [{"type": "full"}, {"type": "lora", "r": 4, "target_modules": "all-linear"}])
def test_it_learns_to_tell_pairs_apart_and_is_served_by_the_model_reward(
    tmp_path: Path, model: Path, params: dict[str, Any]
) -> None:
    context = make_context(tmp_path, model)
    rate = 3e-3 if params["type"] == "full" else 3e-2
    told = run(stage(tmp_path, params=params, learning_rate=rate), context).metrics
    assert (told["data/pairs"], told["data/pairs_held_out"]) == (36, 4)
    assert told["reward_model/accuracy"] == 1.0 and told["reward_model/accuracy_low"] < 1.0
    assert told["reward_model/log_loss_nats"] < math.log(2) / 2
    manifest = artifact.read(context.output, "reward_model")
    assert manifest.started_from == artifact.weights_digest(model) and manifest.version == 30
    reward = load(ModelRewardConfig(model=str(context.output)))
    answers = [[{"role": "assistant", "content": text}] for text in ("\\boxed{100}", "apples 99 and books")]
    good, bad = reward([[{"role": "user", "content": "What is 99 plus 1?"}]] * 2, answers)  # type: ignore[misc]
    assert good > bad + 1
    with pytest.raises(StageError, match="holds reward_model, and model was asked for"):
        artifact.read(context.output, "model")


def test_the_first_loss_is_trls_and_a_margin_raises_it(tmp_path: Path, model: Path) -> None:
    plain, wide = (make_context(tmp_path / name, model) for name in ("plain", "wide"))
    run(stage(tmp_path, num_steps=1, center=None), plain)
    run(stage(tmp_path, num_steps=1, center=None, margin=True), wide)
    first, with_margin = (metrics(context)[0]["train/loss"] for context in (plain, wide))
    assert first == pytest.approx(math.log(2), abs=0.05), "a fresh head tells nothing apart"
    assert with_margin == pytest.approx(math.log1p(math.exp(2)), abs=0.1), "-log sigmoid(0 - 2)"


def test_the_head_and_all_that_follows_come_from_the_seed(tmp_path: Path, model: Path) -> None:
    one, two = (make_context(tmp_path / name, model) for name in ("one", "two"))
    for context in (one, two):
        run(stage(tmp_path, num_steps=3), context)
    assert artifact.weights_digest(one.output) == artifact.weights_digest(two.output)


def test_a_stage_killed_after_a_checkpoint_ends_with_the_same_weights(tmp_path: Path, model: Path) -> None:
    config = stage(tmp_path, num_steps=4, checkpoint={"every_steps": 2})
    whole, killed = (make_context(tmp_path / name, model) for name in ("whole", "killed"))
    run(config, whole)
    with pytest.raises(Killed):
        run(config, replace(killed, metrics=KillsAt(killed.folder / "metrics.jsonl", 3)))
    run(config, killed)
    assert artifact.weights_digest(whole.output) == artifact.weights_digest(killed.output)


def test_all_pairs_of_a_prompt_are_on_one_side() -> None:
    pairs = [{"prompt": f"p{n % 10}", "chosen": n} for n in range(50)]
    learned, held_out = split(pairs, 0.3, seed=1)
    assert (len(learned), len(held_out)) == (35, 15)
    assert not {pair["prompt"] for pair in learned} & {pair["prompt"] for pair in held_out}
    assert split(pairs, 0.3, seed=1) == (learned, held_out) != split(pairs, 0.3, seed=2)
    with pytest.raises(StageError, match="leaves nothing to keep apart"):
        split(pairs[:4], 0.1, seed=1)


def test_calibration_by_hand() -> None:
    # differences ln 3 (sure 0.75, right), ln 3 (sure 0.75, wrong): right half the time, sure three quarters
    found = calibration([math.log(3), 0.0], [0.0, math.log(3)])
    assert (found.accuracy, found.error) == (0.5, pytest.approx(0.25))
    assert found.log_loss == pytest.approx((math.log(4 / 3) + math.log(4)) / 2)
    even = calibration([1.0, 2.0], [1.0, 2.0])
    assert (even.accuracy, even.error, even.log_loss) == (0.5, 0.0, pytest.approx(math.log(2)))
    assert calibration([1e6], [-1e6]).log_loss == 0.0


@pytest.mark.parametrize(
    ("changes", "says"),
    [
        ({"data": {"stage": "pairs", "answers": {"good_from": 1}}}, "a reward model learns from pairs"),
        ({"held_out": 0}, "held_out"),
    ],
)
def test_settings_that_make_no_sense_are_refused(tmp_path: Path, changes: dict[str, Any], says: str) -> None:
    with pytest.raises(ValidationError, match=says):
        stage(tmp_path, **changes)


def test_a_stage_reads_the_reward_model_of_another(tmp_path: Path) -> None:
    values: dict[str, Any] = {"kind": "grpo", "init_from": "sft", "prompts": "x.jsonl", "num_steps": 1}
    grpo = GRPOStage.model_validate({**values, "rewards": [{"type": "model", "stage": "rm"}, "math"]})
    role = "reward 'model'"
    assert grpo.inputs() == {"policy": "sft", role: "rm"}
    assert (grpo.input_kind(role), grpo.input_kind("policy")) == ("reward_model", "model")
    resolved, other = grpo.rewards_with({role: tmp_path / "rm"})
    assert isinstance(resolved, ModelRewardConfig) and resolved.model == str(tmp_path / "rm")
    assert other == grpo.rewards[1]
    with pytest.raises(ValidationError, match="either model"):
        ModelRewardConfig(model="a", stage="b")
    with pytest.raises(RewardError, match="in its run alone"):
        load(ModelRewardConfig(stage="rm"))


def test_trl_takes_margins_without_handing_them_to_the_model(tmp_path: Path, model: Path) -> None:
    """The library's own loss, by hand: what our settings rely on."""
    tokenizer = transformers.AutoTokenizer.from_pretrained(model)
    head = load_with_head(make_context(tmp_path, model))
    arguments = trl.RewardConfig(output_dir=str(tmp_path), use_cpu=True, bf16=False, report_to="none")
    rows = Dataset.from_list([{"chosen": "0 1 2", "rejected": "3", "margin": 0.5}])
    trainer = trl.RewardTrainer(model=head, args=arguments, train_dataset=rows, processing_class=tokenizer)
    inputs = trainer.data_collator(list(trainer.train_dataset))
    with torch.no_grad():
        loss = trainer.compute_loss(head, dict(inputs))
        chosen, rejected = head(inputs["input_ids"], inputs["attention_mask"]).logits[:, 0]
    assert loss.item() == pytest.approx(math.log1p(math.exp(-(chosen - rejected - 0.5).item())), abs=1e-5)
