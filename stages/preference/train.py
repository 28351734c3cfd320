"""Preference optimisation: policy, pairs, trainer, the offset where there is one, train, save."""

import math
from dataclasses import replace
from typing import Any

import trl
from datasets import Dataset

from stages import artifact
from stages.base import StageContext, StageError, StageResult
from stages.data.config import DataSetConfig
from stages.data.rows import Row, load_rows
from stages.logprobs import sequence_logprobs
from stages.models import Policy, load_policy, save_policy
from stages.params import lora_config
from stages.preference.config import ODPOLoss, PreferenceStage, StageData
from stages.preference.losses import pair_offsets
from stages.trainer import train, trainer_arguments

REFERENCE_TOLERANCE = {"float32": 1e-4, "float16": 0.02, "bfloat16": 0.1}
"""How far TRL's reference, computed under autocast, may differ from our float32 forward, in nats a token."""


def run(config: PreferenceStage, context: StageContext) -> StageResult:
    """Teach the policy to prefer the chosen answers; the reference is the policy that the stage starts from."""
    pairs = load_pairs(config, context)
    policy = load_policy(context)
    trainer = trl.DPOTrainer(
        model=policy.model,
        args=to_trl(config, context),
        train_dataset=Dataset.from_list(
            [{name: pair[name] for name in (*config.needs_columns, "offset")} for pair in pairs]
        ),
        processing_class=policy.tokenizer,
        peft_config=lora_config(config.params),
    )
    policy = replace(policy, model=trainer.model)
    loss_at_start = check_policy_is_reference(trainer, policy, context)
    trainer.train_dataset = with_offsets(trainer.train_dataset, config.loss.beta)
    version = train(trainer, config, context)
    save_policy(
        context, policy, version=version, data=list(config.datasets().items()), probes=_tokens(trainer.train_dataset)
    )
    return StageResult(
        metrics={
            "train/steps": version,
            "data/pairs": len(pairs),
            "data/pairs_trained_on": len(trainer.train_dataset),  # TRL drops those that leave no room for an answer
            "preference/offset_mean_nats": sum(pair["offset"] for pair in pairs) / len(pairs),
            **({} if loss_at_start is None else {"preference/loss_at_start": loss_at_start}),
        }
    )


def load_pairs(config: PreferenceStage, context: StageContext) -> list[Row]:
    """Return rows with `prompt`, `chosen`, `rejected` and the loss's `offset`. Raises before any model is loaded."""
    data = config.data
    if isinstance(data, StageData):
        artifact.read(context.inputs["pairs"], "pairs")
        data = DataSetConfig(path=str(context.inputs["pairs"] / "pairs.jsonl"))
    rows = load_rows(data, config.columns())
    return [{**row, "offset": offset} for row, offset in zip(rows, pair_offsets(rows, config.loss), strict=True)]


def to_trl(config: PreferenceStage, context: StageContext) -> trl.DPOConfig:
    """Return TRL's settings for ours: the one place where the names meet. The reference is computed once, up front."""
    shared = {**trainer_arguments(config, context), "beta": config.loss.beta, "precompute_ref_log_probs": True}
    if isinstance(config.loss, ODPOLoss):
        return trl.DPOConfig(**shared)
    return trl.DPOConfig(
        **shared,
        loss_type=list(config.loss.variants),
        loss_weights=config.loss.weights,
        label_smoothing=config.loss.label_smoothing,
        f_divergence_type=config.loss.f_divergence,
        ld_alpha=config.loss.ld_alpha,
        use_weighting=config.loss.weighted,
    )


def with_offsets(dataset: Dataset, beta: float) -> Dataset:
    """Return TRL's tokenised pairs with the reference's chosen log-probability raised by offset / beta."""
    if not any(dataset["offset"]):
        return dataset
    logprobs, feature = dataset["ref_chosen_logps"], dataset.features["ref_chosen_logps"]
    raised = [logprob + offset / beta for logprob, offset in zip(logprobs, dataset["offset"], strict=True)]
    return dataset.remove_columns("ref_chosen_logps").add_column("ref_chosen_logps", raised, feature=feature)


def check_policy_is_reference(trainer: Any, policy: Policy, context: StageContext, *, num: int = 8) -> float | None:
    """Return DPO's loss before the first step on a few pairs, by our own forward; it is ln 2 for the reference itself.

    Raises StageError where an answer's mean log-probability by token is not the reference's: an adapter loaded
    wrongly, say. None under LD-DPO: the reference's sums are weighted ones, and nothing can be compared.
    """
    if trainer.ld_alpha is not None:
        return None
    rows = list(trainer.train_dataset.select(range(min(num, len(trainer.train_dataset)))))
    losses, drifts = [], []
    for row in rows:
        gaps = {}
        for side in ("chosen", "rejected"):
            logprobs = _answer_logprobs(policy, row, side, trainer.args.max_length)
            gaps[side] = sum(logprobs) - row[f"ref_{side}_logps"]
            drifts.append(abs(gaps[side]) / len(logprobs))
        losses.append(math.log1p(math.exp(-trainer.beta * (gaps["chosen"] - gaps["rejected"]))))
    limit = REFERENCE_TOLERANCE[context.facts.precision]
    if not max(drifts) <= limit:
        raise StageError(
            f"before the first step the policy gives an answer {max(drifts):.3g} nats a token more or less than the "
            f"reference it is held to (limit {limit:g}), although both were loaded from {policy.folder}"
        )
    return sum(losses) / len(losses)


def _answer_logprobs(policy: Policy, row: Row, side: str, max_tokens: int) -> list[float]:
    tokens: list[int] = (row["prompt_ids"] + row[f"{side}_ids"])[:max_tokens]
    logprobs: list[float] = sequence_logprobs(policy.model, [tokens])[0]
    return logprobs[len(row["prompt_ids"]) - 1 :]


def _tokens(pairs: Dataset) -> list[list[int]]:
    return [row["prompt_ids"] + row["chosen_ids"] for row in pairs.select(range(min(16, len(pairs))))]
