"""A reward model: pairs, a head of one number on the policy, TRL's trainer, train, save, put to the test."""

import logging
from collections.abc import Sequence
from typing import Any

import torch
import transformers
import trl

from rewards.model import load_model
from stages import artifact
from stages.base import StageContext, StageError, StageResult
from stages.data.arrow import as_dataset
from stages.data.control_text import num_spelled
from stages.data.rendering import Chat, TokenizerChat, whole_ids
from stages.data.rows import Row
from stages.evaluate.intervals import wilson
from stages.hand_over import rendered_probe
from stages.models import (
    device,
    end_tokens,
    load_tokenizer,
    policy_folder,
    require_model,
    verify_files,
)
from stages.params import MOST_FOR_EVA, begin_by_data, lora_config
from stages.preference.source import load_pairs, split
from stages.reward_model.calibration import calibration
from stages.reward_model.config import RewardModelStage
from stages.reward_model.hand_over import as_served, save
from stages.reward_model.pad import give_own_pad, require_no_pad
from stages.trainer import train, trainer_arguments


def run(config: RewardModelStage, context: StageContext) -> StageResult:
    """Teach a copy of the policy with a head of one number to give chosen answers more than rejected ones."""
    pairs = load_pairs(config, context, config.columns(), config.loss_of_pairs())
    learned, held_out = split(pairs.rows, config.held_out, context.seed)
    folder = policy_folder(context)
    require_model(folder)
    tokenizer = load_tokenizer(folder, context.facts)
    if (folder / artifact.MANIFEST).is_file():
        verify_files(folder, tokenizer, context.facts)
    model, chat = load_with_head(context), TokenizerChat(tokenizer)
    give_own_pad(tokenizer, model, {*end_tokens(folder, tokenizer), *rendered_probe(tokenizer)})
    trainer = trl.RewardTrainer(
        model=model,
        args=to_trl(config, context),
        train_dataset=as_dataset((in_tokens(chat, pair, config) for pair in learned), context.metrics.alive),
        processing_class=tokenizer,
        peft_config=lora_config(config.params, "SEQ_CLS"),
    )
    require_no_pad(trainer.train_dataset, tokenizer)
    read = [whole_ids(chat, pair, "chosen")[: config.max_tokens] for pair in learned[:MOST_FOR_EVA]]
    begin_by_data(trainer.model, config.params, read)
    version = train(trainer, config, context)
    save(trainer.model, tokenizer, config, context, version, learned)
    return StageResult(
        metrics={
            "train/steps": version,
            "data/pairs": len(learned),
            "data/pairs_dropped": pairs.num_dropped,
            "data/rows_with_control_text": num_spelled(chat.control, learned, ["prompt", "chosen", "rejected"]),
            "data/pairs_trained_on": len(trainer.train_dataset),  # TRL drops those that are too long
            "data/pairs_held_out": len(held_out),
            **put_to_the_test(config, context, held_out),
        }
    )


def load_with_head(context: StageContext) -> Any:
    """Load the policy's layers in float32 under a fresh head of one label, whose weights follow from the seed.

    Raises StageError where more than the head is new.
    """
    transformers.set_seed(context.seed)
    report = logging.getLogger("transformers.modeling_utils")  # of what is new, which is looked at here
    report.disabled = True
    try:
        model, found = transformers.AutoModelForSequenceClassification.from_pretrained(
            policy_folder(context),
            dtype=torch.float32,
            use_safetensors=True,
            num_labels=1,
            trust_remote_code=context.facts.trust_remote_code,
            attn_implementation="sdpa",
            output_loading_info=True,
        )
    finally:
        report.disabled = False
    if lacking := sorted(name for name in found["missing_keys"] if name.startswith(f"{model.base_model_prefix}.")):
        raise StageError(
            f"the weights in {policy_folder(context)} lack {len(lacking)} of the model's, such as {lacking[0]}: random "
            "numbers would take their place; name a whole model"
        )
    model.config.use_cache = False
    return model.to(device())


def to_trl(config: RewardModelStage, context: StageContext) -> trl.RewardConfig:
    """Return TRL's settings for ours: the one place where the names meet."""
    return trl.RewardConfig(**trainer_arguments(config, context), center_rewards_coefficient=config.center)


def put_to_the_test(config: RewardModelStage, context: StageContext, pairs: Sequence[Row]) -> dict[str, float]:
    """Return accuracy, with its 95 % interval, and calibration on held-out pairs, by the reward that serves it."""
    served = load_model(as_served(config, context, context.output))
    chosen, rejected = (
        served.logits([[*pair["prompt"], *pair[side]] for pair in pairs], pairs) for side in ("chosen", "rejected")
    )
    found = calibration(chosen, rejected)
    interval = wilson(round(found.accuracy * len(pairs)), len(pairs))
    return {
        "reward_model/accuracy": found.accuracy,
        "reward_model/accuracy_low": interval.low,
        "reward_model/accuracy_high": interval.high,
        "reward_model/log_loss_nats": found.log_loss,
        "reward_model/calibration_error": found.error,
    }


def in_tokens(chat: Chat, pair: Row, config: RewardModelStage) -> dict[str, Any]:
    """Return a pair as TRL takes what is in tokens already: two whole conversations."""
    row: dict[str, Any] = {f"{side}_ids": whole_ids(chat, pair, side) for side in ("chosen", "rejected")}
    return {**row, "margin": float(pair["score_chosen"] - pair["score_rejected"])} if config.margin else row
