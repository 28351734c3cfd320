"""Supervised fine-tuning: model, data, trainer, train, save."""

from dataclasses import replace

import trl
from datasets import Dataset

from stages.base import StageContext, StageResult
from stages.data.rows import Row, load_rows
from stages.hand_over import save_policy
from stages.models import Policy, load_policy
from stages.params import lora_config
from stages.sft.config import SFTStage
from stages.trainer import train, trainer_arguments


def run(config: SFTStage, context: StageContext) -> StageResult:
    """Teach the policy to answer as the data set does."""
    policy = load_policy(context)
    rows = load_rows(config.data, config.needs_columns)
    trainer = trl.SFTTrainer(
        model=policy.model,
        args=to_trl(config, context),
        train_dataset=Dataset.from_list([{name: row[name] for name in config.needs_columns} for row in rows]),
        processing_class=policy.tokenizer,
        peft_config=lora_config(config.params),
    )
    version = train(trainer, config, context)
    trained = replace(policy, model=trainer.model)
    save_policy(context, trained, version=version, data=[("data", config.data)], probes=_tokens(policy, rows[:16]))
    return StageResult(metrics={"train/steps": version, "data/rows": len(rows)})


def to_trl(config: SFTStage, context: StageContext) -> trl.SFTConfig:
    """Return TRL's settings for ours: the one place where the names meet."""
    return trl.SFTConfig(
        **trainer_arguments(config, context),
        loss_type=config.loss.type,
        completion_only_loss=True,
        packing=False,
    )


def _tokens(policy: Policy, rows: list[Row]) -> list[list[int]]:
    conversations = [[*row["prompt"], *row["completion"]] for row in rows]
    return [policy.tokenizer.apply_chat_template(turns, return_dict=False) for turns in conversations]
