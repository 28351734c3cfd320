"""Log-probabilities of sampled tokens, by one forward pass over packed rows, for any transformers decoder.

Shapes: R rows, T tokens, N sampled tokens, H width, V vocabulary; see `stages.packed.packing`.

Two things are saved where the model allows it, which is tried on a made-up group before it is relied on. The prompt of
a group is computed once (`shares`), by a mask of what sees what or, on a GPU, by FlexAttention, which leaves out what
is masked (`by_blocks`; Dong et al. 2024, arXiv 2412.05496). The output head sees the N predicting states alone, some at
a time, so that the logits of a whole batch are never in memory (`trims`).
"""

import logging
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Any, Literal

import torch
from torch import Tensor
from torch.utils.checkpoint import checkpoint

from rollout.engine import Precision
from stages.base import StageError
from stages.packed.head import CHUNK, read_head
from stages.packed.packing import Answer, Costs, PackedRows, pack

logger = logging.getLogger(__name__)

Attention = Literal["sdpa", "flex_attention"]
TOLERANCE: dict[Precision, float] = {"float32": 1e-4, "bfloat16": 0.1, "float16": 0.02}
"""How far the trial's log-probabilities may lie from those of a plain forward pass, in nats."""
TRIAL = [
    Answer(group=0, prompt=(1, 5, 9, 2, 7), token_ids=token_ids)
    for token_ids in ((3, 4, 8, 6), (11,), (12, 3, 10), (5, 5, 14, 2, 13, 6))
]


@dataclass(frozen=True, slots=True, kw_only=True)
class Scored:
    """What a model says of the sampled tokens."""

    logprobs_N: Tensor
    """[N] log-probability of each, in nats, in float32."""
    entropies_N: Tensor | None
    """[N] entropy of the distribution that it was drawn from, in nats, where that is asked for."""


class AnswerForward:
    """Computes log-probabilities of answers under models of one architecture."""

    def __init__(
        self,
        model: Any,
        *,
        temperature: float = 1.0,
        precision: Precision = "float32",
        with_entropy: bool = False,
        attention: Attention | None = None,
    ) -> None:
        """Find out by a trial what the architecture allows; ``temperature`` divides the logits, as in sampling.

        ``attention`` computes rows with a mask: by default FlexAttention on a GPU, where the architecture has it.
        """
        self._temperature = temperature
        self._with_entropy = with_entropy
        self._plain_attention = model.config._attn_implementation
        self.shares = self.trims = self.by_blocks = False
        tolerance = TOLERANCE[precision]
        alone = [[at] for at in range(len(TRIAL))]
        plain_N = self._trial(model, alone)
        if not _agree(plain_N, lambda: self._trial(model, alone), tolerance):
            raise StageError(
                f"two passes of {type(model).__name__} over the same tokens differ, as they would with a dropout that "
                "could not be turned off; ratios of two such passes mean nothing"
            )
        self.trims = True
        self.trims = _agree(plain_N, lambda: self._trial(model, alone), tolerance)
        if not _has_windows(model.config):
            together = [list(range(len(TRIAL)))]
            wanted = attention or ("flex_attention" if plain_N.is_cuda else "sdpa")
            for self.by_blocks in [True, False] if wanted == "flex_attention" else [False]:
                self.shares = _agree(plain_N, lambda: self._trial(model, together), tolerance)
                if self.shares:
                    break
        if not (self.shares and self.trims):
            kind = type(model).__name__
            logger.warning("%s: prompts are shared: %s; the head is trimmed: %s", kind, self.shares, self.trims)

    def __call__(self, model: Any, rows: PackedRows, temperature: float | None = None) -> Scored:
        """Score the sampled tokens, with gradients where they are enabled; at the sampling temperature unless said."""
        at = self._temperature if temperature is None else temperature
        given: dict[str, Any] = {"input_ids": rows.tokens_RT, "position_ids": rows.positions_RT, "use_cache": False}
        mask = rows.block_mask() if self.by_blocks else rows.mask()
        if mask is not None:
            given["attention_mask"] = mask
        self._attend(model, "flex_attention" if self.by_blocks else self._plain_attention)
        if not self.trims:
            logits_NV = model(**given).logits.flatten(0, 1)[rows.predictors_N]
            return self._unpacked(self._read(lambda logits_CV: logits_CV, logits_NV, rows.targets_N, at))
        head = model.get_output_embeddings()
        plain = head.forward

        def read(hidden_RTH: Tensor) -> Tensor:
            states_NH = hidden_RTH.flatten(0, 1)[rows.predictors_N]
            if type(head) is torch.nn.Linear:
                weight, bias = head.weight, head.bias
                return read_head(states_NH, weight, bias, rows.targets_N, at, self._with_entropy)
            return self._read(plain, states_NH, rows.targets_N, at)

        with _acting_as(head, read):
            return self._unpacked(model(**given).logits)

    def _attend(self, model: Any, implementation: str) -> None:
        """Choose who computes attention; for good, since layers that are recomputed in a backward pass ask again."""
        if model.config._attn_implementation != implementation:
            model.set_attn_implementation(implementation)

    def _unpacked(self, told_NX: Tensor) -> Scored:
        return Scored(logprobs_N=told_NX[:, 0], entropies_N=told_NX[:, 1] if self._with_entropy else None)

    def _read(self, logits_of: Any, states_NX: Tensor, targets_N: Tensor, temperature: float) -> Tensor:
        """Return what `read_head` does, by a head of any kind, or from logits."""
        parts = zip(states_NX.split(CHUNK), targets_N.split(CHUNK), strict=True)
        return torch.cat(
            [
                checkpoint(self._read_some, logits_of, states, targets, temperature, use_reentrant=False)
                for states, targets in parts
            ]
        )

    def _read_some(self, logits_of: Any, states_CX: Tensor, targets_C: Tensor, temperature: float) -> Tensor:
        logprobs_CV = torch.log_softmax(logits_of(states_CX).float() / temperature, dim=1)
        logprobs_C1 = logprobs_CV.gather(1, targets_C.unsqueeze(1))
        if not self._with_entropy:
            return logprobs_C1
        return torch.cat([logprobs_C1, -(logprobs_CV.exp() * logprobs_CV).sum(dim=1, keepdim=True)], dim=1)

    @torch.no_grad()
    def _trial(self, model: Any, rows: Sequence[Sequence[int]]) -> Tensor:
        packed = pack(TRIAL, rows).to(next(model.parameters()).device)
        return self(model, packed).logprobs_N


def costs_of(config: Any, num_parameters: int) -> Costs:
    """Return the floating-point operations of a model's forward pass: two a parameter and token, four a pair of tokens
    and unit of width in each layer."""
    text = config.get_text_config()
    in_embeddings = text.vocab_size * text.hidden_size
    heads = text.num_attention_heads * (getattr(text, "head_dim", None) or text.hidden_size // text.num_attention_heads)
    return Costs(a_token=2.0 * max(1, num_parameters - in_embeddings), a_pair=4.0 * heads * text.num_hidden_layers)


def _agree(plain_N: Tensor, tried: Any, tolerance: float) -> bool:
    """Say whether a trial gives the same values; a model that cannot be used so at all raises something."""
    try:
        return bool((plain_N - tried()).abs().max() <= tolerance)
    except Exception as error:
        logger.warning("the trial failed: %s", error)
        return False


def _has_windows(config: Any) -> bool:
    """Say whether some layers see the last tokens only: a mask of ours would let them see all."""
    text = config.get_text_config()
    kinds = getattr(text, "layer_types", None)
    if kinds is not None:
        return any(kind != "full_attention" for kind in kinds)
    return getattr(text, "sliding_window", None) is not None


@contextmanager
def _acting_as(module: torch.nn.Module, forward: Any) -> Iterator[None]:
    """Have a module do something else inside the block, whoever calls it."""
    before = vars(module).get("forward")
    module.forward = forward
    try:
        yield
    finally:
        if before is None:
            del module.forward
        else:
            module.forward = before
