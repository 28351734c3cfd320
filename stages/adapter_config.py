"""Which parameters train: all, or an adapter by PEFT, and which adapters fit which stages. Imports nothing heavy."""

from typing import Literal, Self

from pydantic import Field, JsonValue, model_validator

from stages.base import Config

NAMED_ELSEWHERE = {
    "r": "r",
    "lora_alpha": "alpha",
    "lora_dropout": "dropout",
    "target_modules": "target_modules",
    "task_type": None,
    "peft_type": None,
    "inference_mode": None,
    "base_model_name_or_path": None,
    "revision": None,
}
"""Fields of PEFT's LoraConfig that `extra` cannot have, and their own keys; None: the stage sets them."""
UNFIT_FIELDS = {
    "layer_replication": "it makes another model of the base, with more layers",
    "alora_invocation_tokens": "such an adapter acts on some tokens alone, and cannot be merged",
    "arrow_config": "it routes between several adapters, and a stage trains one",
    "kasa_config": "it cuts the base's weights down, and needs terms of its own in the loss",
    "monteclora_config": "it needs terms of its own in the loss",
    "loftq_config": "it quantises the base, and weights are handed over whole",
    "corda_config": "it needs passes of its own over data",
    "lora_ga_config": "it needs gradients of its own over data",
    "use_qalora": "it is for quantised bases",
    "megatron_config": "it is for Megatron's layers",
    "megatron_core": "it is for Megatron's layers",
}
"""Fields of LoraConfig with which an adapter would be trained or handed over as something else, and why."""
UNFIT_STARTS = {"loftq": "loftq_config", "corda": "corda_config", "lora_ga": "lora_ga_config"}
"""Values of init_lora_weights that need a field which is not fit."""
OTHER_STARTS = ("olora", "pissa")
"""Values of init_lora_weights, or their beginnings, that move part of the base's weights into the adapter."""
NOT_SERVED = ("use_dora", "lora_bias", "modules_to_save", "target_parameters", "trainable_token_indices")
"""Fields of LoraConfig whose effect is not in the adapter's two matrices, so that engines would not get it."""


class FullParams(Config):
    """Every parameter trains."""

    type: Literal["full"] = "full"


class LoraParams(Config):
    """A low-rank adapter trains, by PEFT; the finished artifact has it merged, and keeps it in `adapter/`.

    Embeddings and output layer that share a weight, and of which it taught one, are handed over apart.
    """

    type: Literal["lora"] = "lora"
    r: int = Field(default=16, ge=1)
    """Rank."""
    alpha: float = 32.0
    """The adapter's effect is scaled by alpha / r."""
    dropout: float = Field(default=0.0, ge=0, lt=1)
    target_modules: list[str] | str = "all-linear"
    """Module names, or `all-linear`."""
    extra: dict[str, JsonValue] = Field(default_factory=dict)
    """Any further field of PEFT's LoraConfig."""

    @property
    def start(self) -> JsonValue:
        """How the adapter's weights begin: PEFT's init_lora_weights."""
        return self.extra.get("init_lora_weights", True)

    @model_validator(mode="after")
    def _extra_is_fit(self) -> Self:
        for name, key in NAMED_ELSEWHERE.items():
            if name in self.extra:
                raise ValueError(f"extra.{name} is " + (f"params.{key} here" if key else "set by the stage"))
        for name in self.extra:
            if name in UNFIT_FIELDS and self.extra[name]:
                raise ValueError(f"extra.{name} does not fit here: {UNFIT_FIELDS[name]}; leave it out")
        if isinstance(self.start, str) and self.start.lower() in UNFIT_STARTS:
            why = UNFIT_FIELDS[UNFIT_STARTS[self.start.lower()]]
            raise ValueError(
                f"extra.init_lora_weights: {self.start} does not fit here: {why}; take true, gaussian, eva, "
                "orthogonal, mica, or in stages without a reference pissa or olora"
            )
        return self

    @model_validator(mode="after")
    def _eva_keeps_ranks(self) -> Self:
        eva = self.extra.get("eva_config")
        if eva is not None and (not isinstance(eva, dict) or eva.get("rho", 1.0) != 1.0):
            raise ValueError("extra.eva_config.rho is 1.0 here: each layer keeps the rank that the recipe gives it")
        return self


def require_start_of_reference(params: FullParams | LoraParams) -> None:
    """Raise ValueError where an adapter begins as another model than the reference, which is the base without it."""
    if not isinstance(params, LoraParams):
        return
    start = params.start
    if start is False or (isinstance(start, str) and start.lower().startswith(OTHER_STARTS)):
        raise ValueError(
            f"params.extra.init_lora_weights: {str(start).lower()} begins as another model than the reference, which "
            "is the base without the adapter; take true, gaussian, eva, orthogonal or mica in this stage"
        )


def require_still_base(params: FullParams | LoraParams) -> None:
    """Raise ValueError where more than the adapter's matrices train: the base without them is no reference then."""
    if isinstance(params, LoraParams) and params.extra.get("bias", "none") != "none":
        raise ValueError(
            f"params.extra.bias: {params.extra['bias']} trains biases of the base, which the reference then has too; "
            "leave it out of this stage"
        )


def require_fixed_data(params: FullParams | LoraParams) -> None:
    """Raise ValueError where an adapter begins by data that the stage has yet to sample."""
    if isinstance(params, LoraParams) and params.start == "eva":
        raise ValueError(
            "params.extra.init_lora_weights: eva begins by the data that are learned from, and this stage samples its "
            "own; take true, gaussian, orthogonal or mica here, or eva in the stage before"
        )


def require_servable(params: FullParams | LoraParams) -> None:
    """Raise ValueError where engines cannot be sent all that an adapter changes."""
    wrong = [name for name in NOT_SERVED if isinstance(params, LoraParams) and params.extra.get(name)]
    if wrong:
        raise ValueError(f"params.extra.{wrong[0]} changes more than engines are sent; leave it out of this stage")


def require_no_dropout(params: FullParams | LoraParams) -> None:
    """Raise ValueError where an adapter drops out: a comparison of two passes would show it as a change."""
    if isinstance(params, LoraParams) and params.dropout > 0:
        raise ValueError(
            f"params.dropout is {params.dropout:g}, and must be 0 in a stage that compares two passes over the same "
            "tokens: it would show as a change of the policy"
        )
