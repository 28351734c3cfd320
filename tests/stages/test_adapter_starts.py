"""How adapters begin, and what is handed over of each: `eva` really begins by the data, and all resume as they were."""

import json
import shutil
from pathlib import Path
from typing import Any

import peft
import pytest
import torch
import transformers

from stages.adapter_config import LoraParams
from stages.base import StageContext, StageError
from stages.grpo.learner import Learner
from stages.logprobs import sequence_logprobs
from stages.models import load_policy
from stages.params import begin_by_data, lora_config, weights
from stages.preference.train import run as run_preference
from stages.sft.train import run as run_sft
from tests.models import tiny_model, write_tiny_model
from tests.stages.contexts import make_context
from tests.stages.grpo.groups import stage as grpo_stage
from tests.stages.test_supervised import preference_stage, same, sft_stage, tensors

pytestmark = pytest.mark.training

EVA = LoraParams(r=4, extra={"init_lora_weights": "eva"})
GENERATOR = torch.Generator().manual_seed(3)
SEQUENCES = [torch.randint(1, 50, (9,), generator=GENERATOR).tolist() for _ in range(20)]


def adapted(params: LoraParams) -> Any:
    return peft.get_peft_model(tiny_model("qwen3", vocab_size=50), lora_config(params))


def test_eva_begins_along_what_a_layer_is_given_most() -> None:
    model = adapted(EVA)
    before = sequence_logprobs(model, SEQUENCES[:2])
    begin_by_data(model, EVA, SEQUENCES)
    assert sequence_logprobs(model, SEQUENCES[:2]) == before
    layer = model.get_base_model().model.layers[1].mlp.gate_proj
    seen: list[torch.Tensor] = []
    handle = layer.register_forward_pre_hook(lambda _, given: seen.append(given[0].detach().flatten(0, 1)))
    sequence_logprobs(model, [[*tokens[:-1], 0] for tokens in SEQUENCES])
    handle.remove()
    given_NH = torch.cat(seen)[:, : layer.in_features]
    given_NH = given_NH - given_NH.mean(0)
    begun_RH = torch.nn.functional.normalize(layer.lora_A["default"].weight.detach(), dim=1)
    variance = (given_NH @ begun_RH.T).var(0).sum() / given_NH.var(0).sum()
    best = torch.linalg.svdvals(given_NH).square()
    plain_RH = torch.nn.functional.normalize(adapted(LoraParams(r=4)).get_base_model().model.layers[1].mlp.gate_proj
                                             .lora_A["default"].weight.detach(), dim=1)  # fmt: skip
    assert variance > 0.9 * best[:4].sum() / best.sum()
    assert variance > 2 * (given_NH @ plain_RH.T).var(0).sum() / given_NH.var(0).sum()


def test_too_few_tokens_for_eva_end_with_a_word() -> None:
    with pytest.raises(StageError, match=r"eva did not find 4 directions .* over 2 tokens; lower params\.r"):
        begin_by_data(adapted(EVA), EVA, [[1, 2]])


def test_other_adapters_begin_without_data() -> None:
    model = adapted(LoraParams(r=4))
    before = {name: parameter.clone() for name, parameter in model.named_parameters()}
    begin_by_data(model, LoraParams(r=4), SEQUENCES)
    assert all(torch.equal(before[name], parameter) for name, parameter in model.named_parameters())


def resumed(run: Any, stage: Any, context: StageContext) -> dict[str, torch.Tensor]:
    shutil.rmtree(context.output)
    shutil.rmtree(context.checkpoints / "step_000004")
    run(stage, context)
    return tensors(context)


@pytest.mark.training
@pytest.mark.parametrize(
    ("start", "kind"),
    [(False, "sft"), ("pissa", "sft"), ("olora", "sft"), ("eva", "sft"), ("eva", "dpo"),
     pytest.param("mica", "dpo", marks=pytest.mark.exhaustive),
     pytest.param("orthogonal", "dpo", marks=pytest.mark.exhaustive)],
)  # fmt: skip
def test_what_is_handed_over_is_the_base_and_its_adapter_also_after_a_resume(
    tmp_path: Path, start: Any, kind: str
) -> None:
    base = write_tiny_model(tmp_path / "base")
    run, make = (run_sft, sft_stage) if kind == "sft" else (run_preference, preference_stage)
    stage = make(tmp_path, params={"type": "lora", "r": 4, "extra": {"init_lora_weights": start}})
    context = make_context(tmp_path, base)
    run(stage, context)
    whole = tensors(context)
    plain = transformers.AutoModelForCausalLM.from_pretrained(base, dtype=torch.float32)
    merged = peft.PeftModel.from_pretrained(plain, context.output / "adapter").merge_and_unload().state_dict()
    assert all(torch.allclose(merged[name], tensor, atol=1e-6) for name, tensor in whole.items())
    config = json.loads((context.output / "adapter" / "adapter_config.json").read_text())
    assert config["init_lora_weights"] == start
    assert same(whole, resumed(run, stage, context))


@pytest.mark.parametrize("target", [["lm_head"], ["lm_head", "q_proj"]])
@pytest.mark.parametrize("tied", [False, True])
def test_an_adapter_on_the_head_is_sent_to_engines_as_it_acts(tmp_path: Path, target: list[str], tied: bool) -> None:
    folder = write_tiny_model(tmp_path / "base", tie_word_embeddings=tied)
    context = make_context(tmp_path, folder)
    config = grpo_stage(params={"type": "lora", "r": 2, "target_modules": target}, kl={"coef": 0.1})
    learner = Learner(load_policy(context), config, context.facts)
    learner.require_reference(SEQUENCES[:2])
    model = learner.policy().model
    for name, parameter in model.named_parameters():
        if "lora_B" in name:
            torch.nn.init.normal_(parameter, std=0.3)
    fresh = tiny_model("qwen3", vocab_size=model.config.vocab_size, seed=9).eval()
    fresh.load_state_dict(dict(weights(model)))
    sent, acts = sequence_logprobs(fresh, SEQUENCES[:2]), learner.logprobs(SEQUENCES[:2])
    assert [value for row in sent for value in row] == pytest.approx([v for row in acts for v in row], abs=1e-5)
