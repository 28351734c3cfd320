"""What is said of adapters before a run: by the recipe's own rules, and by PEFT on a model without weights."""

from typing import Any

import pytest
import transformers
from pydantic import ValidationError

from stages.adapter_config import LoraParams
from stages.adapter_trial import problems_of
from stages.grpo.config import GRPOStage
from stages.preference.config import PreferenceStage
from stages.sft.config import SFTStage
from tests.models import write_tiny_model


@pytest.fixture(scope="module")
def config(tmp_path_factory: pytest.TempPathFactory) -> Any:
    return transformers.AutoConfig.from_pretrained(write_tiny_model(tmp_path_factory.mktemp("m") / "base"))


def found(config: Any, params: dict[str, Any], task: str = "CAUSAL_LM", **how: Any) -> list[str]:
    given = LoraParams.model_validate({"type": "lora", "r": 4, **params})
    return list(problems_of(given, task, config, trust_remote_code=False, **how))


@pytest.mark.parametrize(
    ("params", "says"),
    [
        ({"target_modules": ["nope"]}, "'nope'} not found in the base model"),
        ({"target_modules": ".*zzz"}, "zzz not found in the base model"),
        ({"target_modules": ["norm"]}, "Target module Qwen3RMSNorm"),
        ({"target_modules": ["q_proj", "nope"]}, "target_modules has 'nope', which no module is called"),
        ({"extra": {"rang": 3}}, "unexpected keyword argument 'rang'"),
        ({"extra": {"init_lora_weights": "nonsense"}}, "nonsense"),
        ({"extra": {"alpha_pattern": {"q_proj": "x"}}}, "unsupported operand"),
        ({"extra": {"use_rslora": "no"}}, """extra.use_rslora: "no": input should be a valid boolean"""),
        ({"extra": {"layers_to_transform": "0"}}, "extra.layers_to_transform: "),
        ({"extra": {"bias": "some"}}, "extra.bias: "),
        ({"r": 3, "extra": {"init_lora_weights": "orthogonal"}}, "PEFT refuses the adapter"),
        ({"extra": {"rank_pattern": {"qq_proj": 2}}}, "extra.rank_pattern has 'qq_proj'"),
        ({"extra": {"exclude_modules": ["qq_proj"]}}, "extra.exclude_modules has 'qq_proj'"),
        ({"extra": {"modules_to_save": ["nope"]}}, "extra.modules_to_save has 'nope'"),
        ({"extra": {"layers_to_transform": [0]}}, "layers_to_transform"),
        ({"target_modules": ["q_proj"], "extra": {"layers_to_transform": [0, 7]}}, "and the model's layers are 0 to 1"),
        ({"target_modules": ["q_proj"], "extra": {"layers_to_transform": 7}}, "layers_to_transform"),
        ({"extra": {"trainable_token_indices": [0, 100_000]}}, "trainable_token_indices has 100000, and the model's"),
        ({"extra": {"trainable_token_indices": {"embed_tokens": [-1]}}}, "trainable_token_indices has -1"),
    ],
)
def test_an_adapter_that_does_not_go_on_the_model_is_refused(config: Any, params: dict[str, Any], says: str) -> None:
    assert says in " ".join(found(config, params))


@pytest.mark.parametrize(
    "params",
    [
        {},
        {"target_modules": ["lm_head"]},
        {"target_modules": ["model.layers.0.self_attn.q_proj"]},
        {"target_modules": r".*\.[qv]_proj"},
        {"target_modules": ["q_proj"], "extra": {"layers_to_transform": [1], "use_rslora": True}},
        {"extra": {"rank_pattern": {r"layers\.0\.mlp\..*": 2}, "alpha_pattern": {"q_proj": 8}}},
        *(
            {"extra": {"init_lora_weights": start}}
            for start in ("eva", "orthogonal", "pissa", "pissa_niter_4", "olora")
        ),
        {"extra": {"trainable_token_indices": [0, 3]}},
        {"extra": {"exclude_modules": ["down_proj"], "bias": "all"}},
    ],
)
def test_an_adapter_that_goes_on_the_model_is_not(config: Any, params: dict[str, Any]) -> None:
    assert found(config, params) == []
    if params.get("target_modules") != ["lm_head"]:
        assert found(config, params, "SEQ_CLS") == []


def test_an_adapter_on_the_head_is_refused_where_it_would_not_train(config: Any) -> None:
    params = LoraParams(r=4, target_modules=["lm_head", "q_proj"])
    [told] = problems_of(params, "CAUSAL_LM", config, trust_remote_code=False, adapts_head=False)
    assert "on the output layer" in told and "never be trained" in told
    assert (SFTStage.adapts_head, PreferenceStage.adapts_head, GRPOStage.adapts_head) == (False, False, True)


@pytest.mark.parametrize(
    ("extra", "says"),
    [
        ({"lora_alpha": 3}, "extra.lora_alpha is params.alpha here"),
        ({"task_type": "SEQ_CLS"}, "set by the stage"),
        ({"layer_replication": [[0, 2], [1, 2]]}, "layer_replication does not fit here"),
        ({"kasa_config": {"beta": 1.0}}, "kasa_config does not fit here"),
        ({"init_lora_weights": "corda"}, "corda does not fit here"),
        ({"init_lora_weights": "loftq"}, "it quantises the base"),
        ({"init_lora_weights": "lora_ga"}, "lora_ga does not fit here"),
        ({"init_lora_weights": "eva", "eva_config": {"rho": 2.0}}, "eva_config.rho is 1.0 here"),
    ],
)
def test_fields_that_make_something_else_of_an_adapter_are_refused(extra: dict[str, Any], says: str) -> None:
    with pytest.raises(ValidationError, match=says):
        LoraParams.model_validate({"type": "lora", "extra": extra})


@pytest.mark.parametrize("start", [False, "pissa", "pissa_niter_4", "olora"])
def test_an_adapter_that_begins_as_another_model_fits_where_there_is_no_reference(start: Any) -> None:
    params = {"type": "lora", "extra": {"init_lora_weights": start}}
    data, says = {"data": "x.jsonl", "num_steps": 1, "params": params}, "begins as another model than the reference"
    SFTStage.model_validate({"kind": "sft", **data})
    with pytest.raises(ValidationError, match=says):
        PreferenceStage.model_validate({"kind": "preference", **data})
    grpo = {"kind": "grpo", "prompts": "x.jsonl", "num_steps": 1, "params": params, "rewards": ["math"]}
    GRPOStage.model_validate({**grpo, "kl": {"coef": 0.0}})
    with pytest.raises(ValidationError, match=says):
        GRPOStage.model_validate({**grpo, "kl": {"coef": 0.1}})


def test_what_moves_the_base_or_wants_data_is_refused_where_answers_are_sampled() -> None:
    grpo = {"kind": "grpo", "prompts": "x.jsonl", "num_steps": 1, "rewards": ["math"], "kl": {"coef": 0.1}}
    for extra, says in (
        ({"bias": "all"}, "trains biases of the base"),
        ({"init_lora_weights": "eva"}, "its own; take"),
    ):
        with pytest.raises(ValidationError, match=says):
            GRPOStage.model_validate({**grpo, "params": {"type": "lora", "extra": extra}})


def test_an_adapter_that_cannot_be_handed_over_is_refused_before_it_is_trained(config: Any) -> None:
    [problem] = found(config, {"extra": {"lora_bias": True}})  # Qwen3's layers have no bias to add it to
    assert "PEFT cannot merge the adapter into the weights" in problem


@pytest.mark.parametrize(
    ("params", "tied", "is_refused"),
    [
        ({"target_modules": ["q_proj", "lm_head"]}, False, True),
        ({"target_modules": ["embed_tokens"], "extra": {"ensure_weight_tying": True}}, True, True),
        ({"target_modules": ["embed_tokens"]}, True, False),
        ({"extra": {"modules_to_save": ["lm_head"]}}, False, False),
        ({"extra": {"trainable_token_indices": [1, 2]}}, True, True),
        ({"extra": {"trainable_token_indices": [1, 2]}}, False, False),
    ],
)
def test_an_adapter_on_the_head_is_refused_where_trl_trains(
    config: Any, params: dict[str, Any], tied: bool, is_refused: bool
) -> None:
    changed = type(config).from_dict({**config.to_dict(), "tie_word_embeddings": tied})
    assert found(changed, params) == []
    told = " ".join(found(changed, params, adapts_head=False))
    assert ("the adapter is on the output layer" in told) == is_refused, told
