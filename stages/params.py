"""Which parameters train, and what acts in the end: adapters by PEFT."""

from collections.abc import Iterator, Sequence
from typing import Any, Literal

import peft
import torch
from peft.tuners.lora import LoraLayer

from rollout.weight_sync import policy_weights
from stages.adapter_config import FullParams, LoraParams
from stages.base import StageError

EVA_SEQUENCES, EVA_PASSES = 8, 16
"""How many sequences EVA is given at once, and how often all of them at most."""
MOST_FOR_EVA = 256
"""Sequences that are enough for it."""


def lora_config(params: FullParams | LoraParams, task: Literal["CAUSAL_LM", "SEQ_CLS"] = "CAUSAL_LM") -> Any:
    """Return PEFT's config of the adapter that is to train; None where every parameter is.

    For `SEQ_CLS`, the fresh head trains as a whole.
    """
    if isinstance(params, FullParams):
        return None
    extra: dict[str, Any] = dict(params.extra)
    if params.start == "eva":
        extra["eva_config"] = peft.EvaConfig(**{"rho": 1.0, **(extra.get("eva_config") or {})})
    return peft.LoraConfig(
        task_type=task,
        r=params.r,
        lora_alpha=params.alpha,
        lora_dropout=params.dropout,
        target_modules=params.target_modules,
        **extra,
    )


def begin_by_data(model: Any, params: FullParams | LoraParams, sequences: Sequence[Sequence[int]]) -> None:
    """Have an adapter with `init_lora_weights: eva` begin along what the base's layers are given on these tokens most.

    Paischer et al. 2024, arXiv 2410.07170; with others nothing is done. Raises StageError where the tokens are too few
    to tell that.
    """
    if isinstance(params, FullParams) or params.start != "eva":
        return
    device = next(model.parameters()).device
    groups = [sequences[start : start + EVA_SEQUENCES] for start in range(0, len(sequences), EVA_SEQUENCES)]
    told = f"{params.r} directions that stay the same within {EVA_PASSES} passes over {sum(map(len, sequences))} tokens"
    passes = _Passes([_padded(group, device) for group in groups], told)
    peft.initialize_lora_eva_weights(model, passes, show_progress_bar=False)


class _Passes:
    """Batches again and again, as EVA reads them until it knows enough; it has a last pass."""

    def __init__(self, batches: Sequence[dict[str, torch.Tensor]], sought: str) -> None:
        self._batches = batches
        self._sought = sought

    def __len__(self) -> int:
        return len(self._batches)

    def __iter__(self) -> Iterator[dict[str, torch.Tensor]]:
        for _ in range(EVA_PASSES):
            yield from self._batches
        raise StageError(
            f"params.extra.init_lora_weights: eva did not find {self._sought}; lower params.r, give more data, or take "
            "gaussian"
        )


def _padded(sequences: Sequence[Sequence[int]], device: torch.device) -> dict[str, torch.Tensor]:
    longest = max(map(len, sequences))
    ids = [[*tokens, *[0] * (longest - len(tokens))] for tokens in sequences]
    mask = [[1] * len(tokens) + [0] * (longest - len(tokens)) for tokens in sequences]
    return {"input_ids": torch.tensor(ids, device=device), "attention_mask": torch.tensor(mask, device=device)}


def weights(model: Any) -> Iterator[tuple[str, torch.Tensor]]:
    """Yield the weights that act: for a model with an adapter, each base weight plus what the adapter adds to it."""
    if not isinstance(model, peft.PeftModel):
        yield from policy_weights(model)
        return
    base = model.get_base_model()
    adapted = {f"{name}.": module for name, module in base.named_modules() if isinstance(module, LoraLayer)}
    for name, tensor in policy_weights(base):
        inside = next((prefix for prefix in adapted if name.startswith(prefix)), None)
        if inside is None:
            yield name, tensor
        elif name == f"{inside}base_layer.weight":
            yield f"{inside}weight", tensor + adapted[inside].get_delta_weight("default").detach()
        elif name.startswith(f"{inside}base_layer."):
            yield name.replace("base_layer.", "", 1), tensor


def merged(model: Any) -> Any:
    """Return the model below an adapter with what the adapter adds in its weights, in place.

    A weight that embeddings and output head share becomes two first, where the adapter touches either: PEFT adds what
    was learned for one of them to the weight of both. `settle_tie` says what becomes of the two.
    """
    base = model.get_base_model()
    ends = [base.get_input_embeddings(), base.get_output_embeddings()]
    if not any(isinstance(end, ADAPTED) for end in ends):
        return model.merge_and_unload()
    was_tied = is_said_to_be_tied(base)
    _say_tied(base, False)
    _part(base)
    plain = model.merge_and_unload()
    _say_tied(plain, was_tied)
    return plain


ADAPTED = (peft.tuners.tuners_utils.BaseTunerLayer, peft.utils.other.AuxiliaryTrainingWrapper)
"""Layers that PEFT has put something around."""


def is_tied(model: Any) -> bool:
    """Say whether embeddings and output head are one weight."""
    embeddings, head = model.get_input_embeddings(), model.get_output_embeddings()
    return head is not None and getattr(head, "weight", None) is embeddings.weight


def is_said_to_be_tied(model: Any) -> bool:
    """Say whether a model's config has embeddings and output head share a weight."""
    return bool(model.config.tie_word_embeddings or model.config.get_text_config().tie_word_embeddings)


def settle_tie(model: Any) -> None:
    """Make a model's config true: embeddings and head that are said to share a weight do so, if they are equal.

    Else each keeps its own, and the config says so: whoever reads the folder would give the head the embeddings'.
    """
    embeddings, head = model.get_input_embeddings(), model.get_output_embeddings()
    if head is None or not is_said_to_be_tied(model) or is_tied(model):
        return
    if torch.allclose(head.weight, embeddings.weight, rtol=1e-5, atol=1e-7):
        head.weight = embeddings.weight
    else:
        _say_tied(model, False)


def _say_tied(model: Any, is_so: bool) -> None:
    model.config.tie_word_embeddings = model.config.get_text_config().tie_word_embeddings = is_so


def _part(base: Any) -> None:
    """Give each module a parameter of its own where several have the same."""
    seen = set[int]()
    for name, parameter in list(base.named_parameters(remove_duplicate=False)):
        if id(parameter) in seen:
            place, _, own = name.rpartition(".")
            fresh = torch.nn.Parameter(parameter.detach().clone(), requires_grad=parameter.requires_grad)
            setattr(base.get_submodule(place), own, fresh)
        seen.add(id(parameter))
