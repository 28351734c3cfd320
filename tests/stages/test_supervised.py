"""SFT and preference stages in this process, on a tiny model: what they learn, refuse, hand over and take up again."""

import json
import math
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
import torch
import transformers
from safetensors.torch import load_file

from stages import artifact, checkpoints
from stages.base import StageContext, StageError
from stages.logprobs import sequence_logprobs
from stages.models import load_policy
from stages.preference.config import PreferenceStage
from stages.preference.train import run as run_preference
from stages.sft.config import SFTStage
from stages.sft.train import run as run_sft
from tests.models import write_tiny_model
from tests.stages.contexts import make_context

pytestmark = pytest.mark.training


@pytest.fixture
def model(tmp_path: Path) -> Path:
    return write_tiny_model(tmp_path / "base")


def sft_stage(tmp_path: Path, **changes: Any) -> SFTStage:
    path = tmp_path / "train.jsonl"
    rows = [{"prompt": f"What is {n} plus 1?", "completion": f"\\boxed{{{n + 1}}}"} for n in range(1, 9)]
    path.write_text("".join(json.dumps(row) + "\n" for row in rows))
    base = {"kind": "sft", "data": str(path), "num_steps": 4, "batch_size": 4, "micro_batch_size": 2, "max_tokens": 64}
    return SFTStage.model_validate({**base, "learning_rate": 1e-2, "checkpoint": {"every_steps": 2}, **changes})


def preference_stage(tmp_path: Path, **changes: Any) -> PreferenceStage:
    path = tmp_path / "pairs.jsonl"
    rows = [
        {
            "prompt": f"What is {n} plus 1?", "chosen": f"\\boxed{{{n + 1}}}", "rejected": f"\\boxed{{{n}}} 3",
            "score_chosen": 1.0, "score_rejected": n / 10,
        }
        for n in range(1, 9)
    ]  # fmt: skip
    path.write_text("".join(json.dumps(row) + "\n" for row in rows))
    base = {"kind": "preference", "data": str(path), "num_steps": 4, "batch_size": 4, "micro_batch_size": 2}
    return PreferenceStage.model_validate(
        {**base, "max_tokens": 64, "learning_rate": 1e-3, "checkpoint": {"every_steps": 2}, **changes}
    )


def tensors(context: StageContext) -> dict[str, torch.Tensor]:
    return load_file(context.output / "model.safetensors")


def same(one: dict[str, torch.Tensor], other: dict[str, torch.Tensor]) -> bool:
    return one.keys() == other.keys() and all(torch.equal(one[name], other[name]) for name in one)


def metrics(context: StageContext) -> list[dict[str, float]]:
    return [json.loads(line) for line in (context.folder / "metrics.jsonl").read_text().splitlines()]


def losses(context: StageContext) -> list[float]:
    return [row["train/loss"] for row in metrics(context) if "train/loss" in row]


def test_sft_lowers_the_loss_and_hands_over_a_verified_model(tmp_path: Path, model: Path) -> None:
    context = make_context(tmp_path, model)
    run_sft(sft_stage(tmp_path, num_steps=30), context)
    told = losses(context)
    assert len(told) == 30 and told[-1] < told[0] / 2
    manifest = artifact.read(context.output, "model")
    assert (manifest.version, manifest.dtype, manifest.adapter) == (30, "float32", "none")
    assert manifest.started_from == artifact.weights_digest(model) != manifest.weights_sha256
    transformers.AutoModelForCausalLM.from_pretrained(context.output)  # a plain Hugging Face folder
    load_policy(make_context(tmp_path, model, name="next", inputs={"policy": context.output}))


def test_sft_teaches_the_end_of_the_turn_and_nothing_of_the_prompt(tmp_path: Path, model: Path) -> None:
    context = make_context(tmp_path, model)
    run_sft(sft_stage(tmp_path, num_steps=60), context)
    policy = load_policy(make_context(tmp_path, model, name="next", inputs={"policy": context.output}))
    prompt = policy.tokenizer.apply_chat_template(
        [{"role": "user", "content": "What is 3 plus 1?"}],
        add_generation_prompt=True,
        return_tensors="pt",
        return_dict=False,
    )
    answer = policy.model.generate(prompt, max_new_tokens=20, do_sample=False)[0, prompt.shape[1] :]
    assert answer[-1] == policy.tokenizer.eos_token_id and "boxed" in policy.tokenizer.decode(answer)


@pytest.mark.parametrize("params", [{"type": "full"}, {"type": "lora", "r": 4}])
@pytest.mark.parametrize("kind", ["sft", "odpo", "kto"])
def test_a_stage_killed_after_a_checkpoint_ends_with_the_same_weights(
    kind: str, params: dict[str, Any], tmp_path: Path, model: Path
) -> None:
    def go(name: str, *, stop_at: int | None = None) -> StageContext:
        context = make_context(tmp_path, model, name=name)
        if stop_at is not None:
            context = replace(context, metrics=KillsAt(context.folder / "metrics.jsonl", stop_at))
        if kind == "sft":
            dropout = {"dropout": 0.1} if params["type"] == "lora" else {}
            run_sft(sft_stage(tmp_path, params={**params, **dropout}), context)
        elif kind == "kto":
            run_preference(kto_stage(tmp_path, params=params, checkpoint={"every_steps": 2}), context)
        else:
            loss = {"type": "odpo", "scale": "linear"}
            run_preference(preference_stage(tmp_path, params=params, loss=loss), context)
        return context

    whole = go("whole")
    with pytest.raises(Killed):
        go("killed", stop_at=3)
    assert checkpoints.steps(tmp_path / "killed" / "checkpoints") == [2]
    assert same(tensors(whole), tensors(go("killed")))


@pytest.mark.parametrize("params", [{"type": "full"}, {"type": "lora", "r": 4}])
def test_a_stage_that_was_killed_after_its_last_step_takes_no_other(
    params: dict[str, Any], tmp_path: Path, model: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    # three steps of four among eight rows end within an epoch
    stage = sft_stage(tmp_path, num_steps=3, schedule="constant", params=params)
    whole, context = make_context(tmp_path, model, name="whole"), make_context(tmp_path, model, name="killed")
    assert run_sft(stage, whole).metrics["train/steps"] == 3
    with monkeypatch.context() as patch, pytest.raises(Killed):
        patch.setattr("stages.sft.train.save_policy", _die)
        run_sft(stage, context)
    assert checkpoints.steps(context.checkpoints) == [2, 3]
    assert run_sft(stage, context).metrics["train/steps"] == 3
    assert same(tensors(whole), tensors(context)) and artifact.read(context.output, "model").version == 3


def _die(*_: Any, **__: Any) -> None:
    raise Killed


class Killed(BaseException):
    """Not an Exception, as a kill is none."""


class KillsAt:
    """A metrics file that ends the stage at a step."""

    def __init__(self, path: Path, step: int) -> None:
        self._step = step

    def write(self, step: int, values: dict[str, float], *, of: int | None = None) -> None:
        if step == self._step:
            raise Killed

    def alive(self) -> None:
        """No metrics, no sign of life."""


def test_lora_trains_only_the_adapter_and_hands_over_merged_weights(tmp_path: Path, model: Path) -> None:
    context = make_context(tmp_path, model)
    run_sft(sft_stage(tmp_path, params={"type": "lora", "r": 4}, learning_rate=3e-2), context)
    before, after = load_file(model / "model.safetensors"), tensors(context)
    changed = {name for name in before if not torch.equal(before[name], after[name])}
    assert changed and all("proj" in name for name in changed) and before.keys() == after.keys()
    assert (context.output / "adapter" / "adapter_model.safetensors").is_file()
    assert artifact.read(context.output, "model").adapter == "merged"


def test_dpo_starts_at_ln_2_and_prefers_the_chosen(tmp_path: Path, model: Path) -> None:
    context = make_context(tmp_path, model)
    result = run_preference(preference_stage(tmp_path, num_steps=20), context)
    first, *_, last = [row for row in metrics(context) if "train/loss" in row]
    assert first["train/loss"] == pytest.approx(math.log(2), abs=1e-4)
    assert result.metrics["preference/loss_at_start"] == pytest.approx(math.log(2), abs=1e-4)
    assert last["train/loss"] < 0.6 and last["preference/accuracy_beyond_offset"] == 1.0


def test_dpo_after_sft_with_an_adapter_starts_at_ln_2_too(tmp_path: Path, model: Path) -> None:
    sft = make_context(tmp_path, model, name="sft")
    run_sft(sft_stage(tmp_path, params={"type": "lora", "r": 4}, learning_rate=3e-2), sft)
    context = make_context(tmp_path, model, name="dpo", inputs={"policy": sft.output})
    run_preference(preference_stage(tmp_path, params={"type": "lora", "r": 4}), context)
    assert losses(context)[0] == pytest.approx(math.log(2), abs=1e-4)


def test_odpo_with_offset_zero_is_dpo_to_the_last_bit(tmp_path: Path, model: Path) -> None:
    dpo, odpo = make_context(tmp_path, model, name="dpo"), make_context(tmp_path, model, name="odpo")
    run_preference(preference_stage(tmp_path), dpo)
    run_preference(preference_stage(tmp_path, loss={"type": "odpo", "alpha": 0.0}), odpo)
    assert same(tensors(dpo), tensors(odpo))


def test_odpo_s_first_loss_is_that_of_its_offsets(tmp_path: Path, model: Path) -> None:
    # at step 0 both margins are equal, so a pair's loss is -log sigmoid(-offset) = log(1 + e^offset), offset = 2 * gap;
    # the gaps are 0.9, 0.8, ... 0.2 and one batch holds all eight pairs
    context = make_context(tmp_path, model)
    loss = {"type": "odpo", "alpha": 2.0, "scale": "linear"}
    run_preference(preference_stage(tmp_path, loss=loss, batch_size=8, num_steps=1), context)
    expected = sum(math.log1p(math.exp(2 * (1 - n / 10))) for n in range(1, 9)) / 8
    assert losses(context)[0] == pytest.approx(expected, abs=1e-4)


@pytest.mark.parametrize("loss", [{"type": "simpo"}, {"type": "cpo", "alpha": 0.5}])
@pytest.mark.parametrize("max_tokens", [64, 36])
def test_losses_without_a_reference_start_at_what_the_policy_says(
    loss: dict[str, Any], max_tokens: int, tmp_path: Path, model: Path
) -> None:
    context = make_context(tmp_path, model)
    stage = preference_stage(tmp_path, loss=loss, batch_size=8, micro_batch_size=8, num_steps=1, max_tokens=max_tokens)
    result = run_preference(stage, context)
    assert not {"preference/loss_at_start", "preference/reference_was_on_disk"} & result.metrics.keys()
    policy = load_policy(make_context(tmp_path / "again", model))
    expected, chosen_tokens = 0.0, []
    for row in map(json.loads, (tmp_path / "pairs.jsonl").read_text().splitlines()):
        prompt = [{"role": "user", "content": row["prompt"]}]
        start = policy.tokenizer.apply_chat_template(prompt, add_generation_prompt=True, return_dict=False)
        sides = []
        for side in ("chosen", "rejected"):
            turns = [*prompt, {"role": "assistant", "content": row[side]}]
            whole = policy.tokenizer.apply_chat_template(turns, return_dict=False)[:max_tokens]
            sides.append(sequence_logprobs(policy.model, [whole])[0][len(start) - 1 :])
        chosen, rejected = sides
        if loss["type"] == "simpo":
            margin = 2.0 * (sum(chosen) / len(chosen) - sum(rejected) / len(rejected)) - 1.0
        else:
            margin = 0.1 * (sum(chosen) - sum(rejected))
        expected += math.log1p(math.exp(-margin)) / 8
        chosen_tokens += chosen
    if loss["type"] == "cpo":
        expected -= 0.5 * sum(chosen_tokens) / len(chosen_tokens)
    assert losses(context)[0] == pytest.approx(expected, abs=1e-4)


@pytest.mark.parametrize(
    "variant",
    ["hinge", "ipo", "exo_pair", "nca_pair", "robust", "bco_pair", "sppo_hard", "aot", "aot_unpaired", "apo_zero",
     "apo_down", "discopop", "sft", "sigmoid_norm"],
)  # fmt: skip
def test_every_dpo_loss_of_trl_trains(variant: str, tmp_path: Path, model: Path) -> None:
    loss = {"type": "dpo", "variants": [variant], "label_smoothing": 0.1 if variant in ("exo_pair", "robust") else 0.0}
    context = make_context(tmp_path, model)
    run_preference(preference_stage(tmp_path, num_steps=1, loss=loss), context)
    assert math.isfinite(losses(context)[0])


def test_a_loss_that_is_not_finite_ends_the_stage_and_leaves_the_last_checkpoint(tmp_path: Path, model: Path) -> None:
    context = make_context(tmp_path, model)
    stage = sft_stage(tmp_path, learning_rate=1e30, max_grad_norm=1e30, checkpoint={"every_steps": 1}, num_steps=9)
    with pytest.raises(StageError, match=r"is (nan|inf) at step"):
        run_sft(stage, context)
    assert checkpoints.latest(context.checkpoints) is not None


def test_a_hand_over_that_was_touched_is_refused_by_name(tmp_path: Path, model: Path) -> None:
    context = make_context(tmp_path, model)
    run_sft(sft_stage(tmp_path, num_steps=1), context)
    after = make_context(tmp_path, model, name="next", inputs={"policy": context.output})
    (context.output / "chat_template.jinja").write_text("{{ messages[0].content }}")
    with pytest.raises(StageError, match=r"chat_template.jinja in .* differs from what its stage wrote"):
        load_policy(after)


def test_a_hand_over_in_another_precision_is_refused(tmp_path: Path, model: Path) -> None:
    context = make_context(tmp_path, model)
    run_sft(sft_stage(tmp_path, num_steps=1), context)
    after = make_context(tmp_path, model, name="next", inputs={"policy": context.output}, precision="bfloat16")
    with pytest.raises(
        StageError, match=r"the precision loaded from .*bfloat16.* is not what stage 'stage' handed over"
    ):
        load_policy(after)


def test_a_stage_that_did_not_finish_hands_nothing_over(tmp_path: Path, model: Path) -> None:
    with pytest.raises(StageError, match=r"has no manifest.json: the stage that makes it did not finish"):
        artifact.read(model, "model")


def test_equal_sides_of_a_pair_are_refused(tmp_path: Path, model: Path) -> None:
    stage = preference_stage(tmp_path)
    row = {"prompt": "a", "chosen": "b", "rejected": "b"}
    Path(stage.data.path).write_text(json.dumps(row) + "\n")
    with pytest.raises(StageError, match="1 pairs have the same answer on both sides"):
        run_preference(stage, make_context(tmp_path, model))


def kto_stage(tmp_path: Path, labels: list[bool] | None = None, **changes: Any) -> PreferenceStage:
    path = tmp_path / "answers.jsonl"
    rows = [
        {"prompt": f"What is {n} plus 1?", "completion": f"\\boxed{{{n + (1 if good else 3)}}}", "label": good}
        for n in range(1, 9)
        for good in (labels or [True, False, False])
    ]
    path.write_text("".join(json.dumps(row) + "\n" for row in rows))
    base = {"kind": "preference", "data": str(path), "num_steps": 4, "batch_size": 4, "micro_batch_size": 2}
    return PreferenceStage.model_validate(
        {**base, "max_tokens": 64, "learning_rate": 1e-3, "loss": {"type": "kto"}, **changes}
    )


@pytest.mark.parametrize("variant", ["kto", "apo_zero_unpaired"])
def test_kto_starts_at_the_reference_and_tells_good_answers_from_bad_ones(
    variant: str, tmp_path: Path, model: Path
) -> None:
    context = make_context(tmp_path, model)
    loss = {"type": "kto", "variant": variant}
    result = run_preference(kto_stage(tmp_path, num_steps=60, learning_rate=1e-2, loss=loss), context)
    first, *rest = [row for row in metrics(context) if "train/loss" in row]
    # a half of each class's weight: a batch of 4 has k good ones of weight 2 and 4 - k bad ones of weight 1
    assert first["train/loss"] in [pytest.approx((k * 2 + (4 - k)) / 8, abs=1e-4) for k in range(5)]
    margins = [row["preference/margin_beyond_offset"] for row in rest[-8:] if "preference/margin_beyond_offset" in row]
    assert sum(margins) / len(margins) > 0.5
    told = result.metrics
    assert (told["data/answers"], told["data/desirable"]) == (24, 8)
    assert (told["preference/desirable_weight"], told["preference/undesirable_weight"]) == (2.0, 1.0)


def test_kto_learns_from_pairs_too_and_takes_its_reference_from_disk(tmp_path: Path, model: Path) -> None:
    stage = preference_stage(tmp_path, loss={"type": "kto", "from_pairs": True})
    results = [run_preference(stage, make_context(tmp_path / run, model)) for run in ("one", "two")]
    assert [result.metrics["data/answers"] for result in results] == [16, 16]
    assert [result.metrics["preference/reference_was_on_disk"] for result in results] == [0.0, 1.0]
    one, two = (make_context(tmp_path / run, model) for run in ("one", "two"))
    assert same(tensors(one), tensors(two))


def test_kto_compares_policy_and_reference_without_dropout(tmp_path: Path, model: Path) -> None:
    # at the reference every answer's loss is half of its weight
    config = json.loads((model / "config.json").read_text())
    (model / "config.json").write_text(json.dumps({**config, "attention_dropout": 0.5}))
    context = make_context(tmp_path, model)
    weights = {"desirable_weight": 1.0, "undesirable_weight": 1.0}
    run_preference(kto_stage(tmp_path, num_steps=1, loss={"type": "kto", **weights}), context)
    assert losses(context)[0] == pytest.approx(0.5, abs=1e-6)


def test_kto_refuses_answers_of_one_class(tmp_path: Path, model: Path) -> None:
    with pytest.raises(StageError, match="all 8 answers are good"):
        run_preference(kto_stage(tmp_path, [True]), make_context(tmp_path, model))


def test_bad_pairs_are_dropped_and_counted_where_the_recipe_allows_it(tmp_path: Path, model: Path) -> None:
    stage = preference_stage(tmp_path, loss={"type": "odpo", "scale": "linear"}, bad_pairs="drop")
    path = tmp_path / "pairs.jsonl"
    bad = {"prompt": "What is 1 plus 1?", "chosen": "2", "rejected": "3", "score_chosen": 0.0, "score_rejected": 1.0}
    path.write_text(path.read_text() + json.dumps(bad) + "\n")
    told = run_preference(stage, make_context(tmp_path, model)).metrics
    assert (told["data/pairs"], told["data/pairs_dropped"]) == (8, 1)
    with pytest.raises(StageError, match=r"outscores its chosen one \(pair 9\)"):
        run_preference(stage.model_copy(update={"bad_pairs": "refuse"}), make_context(tmp_path / "other", model))
