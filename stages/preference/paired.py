"""Learning from pairs: DPO, its family, and ODPO."""

import math
from collections.abc import Mapping, Sequence
from functools import partial
from typing import Any

import trl

from stages.base import StageContext
from stages.data.arrow import as_dataset
from stages.data.control_text import num_spelled
from stages.data.rendering import Chat, TokenizerChat
from stages.data.rows import Row, with_columns
from stages.models import Policy
from stages.params import lora_config
from stages.preference.config import PreferenceStage
from stages.preference.loss_config import KTOLoss, LossOfPairs
from stages.preference.losses import pair_offsets, raise_of_chosen
from stages.preference.monitor import Watched, watched_pairs
from stages.preference.objective import NUM_CHECKED, ReferencedAnswer, reference_cache, require_reference
from stages.preference.reference_cache import NoReference
from stages.preference.source import load_pairs, split
from stages.preference.token_weights import COLUMNS
from stages.preference.tokens import in_tokens
from stages.preference.trainer import PairTrainer
from stages.trainer import trainer_arguments


class Paired:
    """An `Objective` on rows with `prompt`, `chosen`, `rejected`."""

    def __init__(self) -> None:
        self._num_dropped = 0
        self._num_spelled = 0

    def load(self, config: PreferenceStage, context: StageContext) -> list[Row]:
        """Return the pairs, each with the loss's `offset` in nats."""
        found = load_pairs(config, context, config.columns(), config.loss)
        self._num_dropped = found.num_dropped
        offsets = pair_offsets(found.rows, config.loss)
        return [with_columns(row, offset=offset) for row, offset in zip(found.rows, offsets, strict=True)]

    def split(self, rows: Sequence[Row], fraction: float, seed: int) -> tuple[list[Row], list[Row]]:
        """Split by prompts."""
        return split(rows, fraction, seed)

    def trainer(self, rows: Sequence[Row], policy: Policy, config: PreferenceStage, context: StageContext) -> Any:
        """Return TRL's, its reference computed and raised by the offsets."""
        assert not isinstance(config.loss, KTOLoss)
        chat = TokenizerChat(policy.tokenizer, policy.eos_ids)
        self._num_spelled = num_spelled(chat.control, rows, ["prompt", "chosen", "rejected"])
        pairs = (_in_tokens(chat, row, config) for row in rows)
        return PairTrainer(
            model=policy.model,
            args=to_trl(config, context),
            train_dataset=as_dataset(pairs, context.metrics.alive),
            processing_class=policy.tokenizer,
            peft_config=lora_config(config.params),
            reference=reference_cache(policy, config, context),
            precision=context.facts.precision,
            row_tokens=config.row_tokens,
            token_weights=config.token_weights,
            raised_by=partial(raised_by, loss=config.loss, max_tokens=config.max_tokens),
        )

    def check_start(self, trainer: Any, policy: Policy, context: StageContext) -> Mapping[str, float]:
        """Return DPO's loss on a few pairs by our own forward; it is ln 2 for the reference itself.

        Nothing without a reference, or under LD-DPO: its sums are weighted ones, and nothing can be compared.
        """
        if trainer.ld_alpha is not None or isinstance(trainer.reference, NoReference):
            return {}
        rows = list(trainer.train_dataset.select(range(min(NUM_CHECKED, len(trainer.train_dataset)))))
        sides = [
            ReferencedAnswer(
                prompt=row["prompt_ids"],
                tokens=row[f"{side}_ids"],
                weights=weights_of(row, side),
                reference=row[f"ref_{side}_logps"] - (trainer.raised_by(row) if side == "chosen" else 0.0),
            )
            for row in rows
            for side in ("chosen", "rejected")
        ]
        gaps = require_reference(policy, sides, context, trainer.args.max_length)
        losses = [
            math.log1p(math.exp(-trainer.beta * (chosen - rejected)))
            for chosen, rejected in zip(gaps[::2], gaps[1::2], strict=True)
        ]
        return {"preference/loss_at_start": sum(losses) / len(losses)}

    def report(self, rows: Sequence[Row], trainer: Any) -> Mapping[str, float]:
        """Return how many pairs there were, and their offsets."""
        return {
            "data/pairs": len(rows),
            "data/pairs_dropped": self._num_dropped,
            "data/rows_with_control_text": self._num_spelled,
            "data/pairs_trained_on": len(trainer.train_dataset),  # TRL drops those that leave no room for an answer
            "preference/offset_mean_nats": sum(row["offset"] for row in rows) / len(rows),
        }

    def watched(self, rows: Sequence[Row], policy: Policy, config: PreferenceStage) -> Watched:
        """Return some pairs."""
        assert config.monitor is not None
        chosen = rows[:: max(1, len(rows) // config.monitor.num_prompts)][: config.monitor.num_prompts]
        return watched_pairs(chosen, TokenizerChat(policy.tokenizer, policy.eos_ids), config.max_tokens)

    def token_ids(self, trainer: Any, num: int) -> list[list[int]]:
        """Return prompts with their chosen answers."""
        rows = trainer.train_dataset.select(range(min(num, len(trainer.train_dataset))))
        return [row["prompt_ids"] + row["chosen_ids"] for row in rows]


def to_trl(config: PreferenceStage, context: StageContext) -> trl.DPOConfig:
    """Return TRL's settings for ours: the one place where the names meet. The reference is computed once, up front."""
    assert not isinstance(config.loss, KTOLoss)
    loss = config.loss.in_trl()
    return trl.DPOConfig(
        **trainer_arguments(config, context),
        precompute_ref_log_probs=True,
        beta=loss.beta,
        loss_type=list(loss.variants),
        loss_weights=loss.weights,
        label_smoothing=loss.label_smoothing,
        f_divergence_type=loss.f_divergence,
        ld_alpha=loss.ld_alpha,
        use_weighting=loss.weighted,
    )


def _in_tokens(chat: Chat, row: Row, config: PreferenceStage) -> dict[str, Any]:
    weights = {name: [float(weight) for weight in row[name]] for name in COLUMNS if config.token_weights}
    return {**in_tokens(chat, row, ("chosen", "rejected")), "offset": float(row["offset"]), **weights}


def raised_by(row: Row, *, loss: LossOfPairs, max_tokens: int) -> float:
    """Return by how many nats the reference's log-probability of a tokenised pair's chosen answer is raised."""
    return raise_of_chosen(row["offset"], sum(row["chosen_mask"][: max_tokens - len(row["prompt_ids"])]), loss)


def weights_of(row: Row, side: str) -> list[float]:
    """Return what each token of a tokenised answer counts: nothing where somebody else wrote it."""
    mask = row[f"{side}_mask"]
    weights = row.get(f"{side}_weights") or [1.0] * len(mask)
    return [weight * bit for weight, bit in zip(weights, mask, strict=True)]
