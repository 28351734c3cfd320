"""Adapters put on a model without weights, in a process of its own: what PEFT says of a recipe's. `adapter_check` asks.

Reads {folder, trust_remote_code, adapters: [[params, task, adapts_head], ...]} as JSON, writes a list of what is wrong
with each.
"""

import json
import re
import sys
import warnings
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any, get_type_hints

import peft
import torch
import transformers
from peft.tuners.tuners_utils import BaseTunerLayer
from peft.utils.other import TrainableTokensWrapper
from pydantic import TypeAdapter, ValidationError

from stages.adapter_config import OTHER_STARTS, LoraParams
from stages.params import is_said_to_be_tied, lora_config, merged

AUTO_CLASSES = {
    "CAUSAL_LM": transformers.AutoModelForCausalLM,
    "SEQ_CLS": transformers.AutoModelForSequenceClassification,
}


def main() -> None:
    """Answer what standard input asks."""
    asked = json.load(sys.stdin)
    warnings.simplefilter("ignore")
    transformers.logging.set_verbosity_error()
    config = transformers.AutoConfig.from_pretrained(
        Path(asked["folder"]), trust_remote_code=asked["trust_remote_code"], num_labels=1
    )
    problems = [
        list(
            problems_of(
                LoraParams.model_validate(params),
                task,
                config,
                trust_remote_code=asked["trust_remote_code"],
                adapts_head=adapts_head,
            )
        )
        for params, task, adapts_head in asked["adapters"]
    ]
    print(json.dumps(problems))


def _wrong_types(params: LoraParams) -> Iterator[str]:
    """Say which of an adapter's further fields have another type than PEFT's: it would take `"no"` for true."""
    types = get_type_hints(peft.LoraConfig)
    for name, value in params.extra.items():
        if name not in types or name == "init_lora_weights":
            continue  # PEFT refuses by itself what it does not know, here also words such as pissa_niter_0
        try:
            TypeAdapter(types[name]).validate_json(json.dumps(value), strict=True)
        except ValidationError as error:
            yield f"extra.{name}: {json.dumps(value):.80}: {error.errors()[0]['msg'].lower()}"


def problems_of(
    params: LoraParams, task: Any, config: Any, *, trust_remote_code: bool, adapts_head: bool = True
) -> Iterator[str]:
    """Say what is wrong with an adapter on a model of this config."""
    with torch.device("meta"):
        model = AUTO_CLASSES[task].from_config(config, trust_remote_code=trust_remote_code)
    inner = [name for name, module in model.named_modules() if isinstance(module, torch.nn.Linear | torch.nn.Embedding)]
    num_layers, num_rows = config.get_text_config().num_hidden_layers, model.get_input_embeddings().num_embeddings
    if mistyped := list(_wrong_types(params)):
        yield from mistyped
        return
    try:
        config_of_adapter = lora_config(params, task)
        if str(params.start).lower().startswith(OTHER_STARTS):  # they read the weights, of which there are none
            config_of_adapter.init_lora_weights = True
        adapted = peft.get_peft_model(model, config_of_adapter)
    except Exception as error:  # PEFT raises many kinds
        told = str(error).splitlines()[0] if str(error) else type(error).__name__
        yield f"PEFT refuses the adapter: {told:.300}; modules that can have one are {_ends(inner)}"
        return
    if not any(parameter.requires_grad for name, parameter in adapted.named_parameters() if "lora_" in name):
        yield "nothing of the adapter trains"
    head = adapted.get_base_model().get_output_embeddings()
    if not adapts_head and isinstance(head, BaseTunerLayer | TrainableTokensWrapper):
        tied = ", or on embeddings that it shares its weight with" if is_said_to_be_tied(model) else ""
        yield (
            f"the adapter is on the output layer{tied}, whose own weight is what this stage's loss multiplies by, so "
            "it would never be trained; leave that out, or train the layer whole by extra.modules_to_save"
        )
    extra = params.extra
    targets = params.target_modules if isinstance(params.target_modules, list) else []
    for key, names in {"target_modules": targets, **{f"extra.{key}": extra.get(key) for key in BY_NAME}}.items():
        for name in names if isinstance(names, list | dict) else []:
            if not _matches(str(name), inner, is_pattern=key.endswith("_pattern")):
                yield f"{key} has {name!r}, which no module is called; they are {_ends(inner)}"
    layers = extra.get("layers_to_transform")
    if wrong := [n for n in (layers if isinstance(layers, list) else [layers]) if n is not None and n >= num_layers]:
        yield f"extra.layers_to_transform has {wrong[0]}, and the model's layers are 0 to {num_layers - 1}"
    yield from _about_tokens(extra.get("trainable_token_indices"), num_rows)
    yield from _about_merge(adapted)


BY_NAME = ("rank_pattern", "alpha_pattern", "exclude_modules", "modules_to_save")
"""Fields that name modules, which PEFT passes over where there are none."""


def _about_tokens(given: Any, num_rows: int) -> Iterator[str]:
    """Say which of the tokens that are to be trained alone have no row in the embedding."""
    for ids in given.values() if isinstance(given, dict) else [given or []]:
        if wrong := [one for one in ids if isinstance(one, int) and not 0 <= one < num_rows]:
            yield f"extra.trainable_token_indices has {wrong[0]}, and the model's tokens are 0 to {num_rows - 1}"


def _about_merge(adapted: Any) -> Iterator[str]:
    """Say whether the adapter can be added to the weights, which is how it is handed over."""
    try:
        merged(adapted)
    except NotImplementedError:  # without weights not everything can be computed
        return
    except (RuntimeError, ValueError) as error:
        yield f"PEFT cannot merge the adapter into the weights: {str(error).splitlines()[0]:.300}"


def _matches(name: str, inner: Sequence[str], *, is_pattern: bool) -> bool:
    if is_pattern:  # as PEFT reads them
        return any(re.match(rf"(.*\.)?({name})$", each) for each in inner)
    return any(each == name or each.endswith(f".{name}") for each in inner)


def _ends(names: Sequence[str]) -> str:
    return ", ".join(sorted({name.rpartition(".")[2] for name in names}))


if __name__ == "__main__":
    main()
