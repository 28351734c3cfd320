"""Supervised fine-tuning: model, data, trainer, train, save."""

from collections import Counter
from collections.abc import Iterable, Iterator
from dataclasses import replace
from itertools import chain, islice
from typing import Any

import trl

from stages.base import StageContext, StageResult
from stages.data.arrow import as_dataset
from stages.data.control_text import num_spelled
from stages.data.examples import Example, examples
from stages.data.rendering import TokenizerChat
from stages.data.rows import load_rows
from stages.hand_over import save_policy
from stages.models import load_policy
from stages.params import MOST_FOR_EVA, begin_by_data, lora_config
from stages.sft.config import SFTStage
from stages.trainer import train, trainer_arguments

NUM_PROBED = 16
"""Examples of which the hand-over's probe is made."""


def run(config: SFTStage, context: StageContext) -> StageResult:
    """Teach the policy to answer as the data set does."""
    rows = load_rows(config.data, config.needs_columns)
    policy = load_policy(context)
    chat = TokenizerChat(policy.tokenizer, policy.eos_ids)
    spelled = num_spelled(chat.control, rows, ["prompt", "completion"])
    learned = (example for row in rows for example in examples(chat, row, "completion", config.train_on))
    first, data = list(islice(learned, max(NUM_PROBED, MOST_FOR_EVA))), Counter[str]()
    tokens = (in_trl(example) for example in counted(chain(first, learned), config.max_tokens, data))
    trainer = trl.SFTTrainer(
        model=policy.model,
        args=to_trl(config, context),
        train_dataset=as_dataset(tokens, context.metrics.alive),
        processing_class=policy.tokenizer,
        peft_config=lora_config(config.params),
    )
    read = [example.whole_ids[: config.max_tokens] for example in first[:MOST_FOR_EVA]]
    begin_by_data(trainer.model, config.params, read)
    version = train(trainer, config, context)
    trained = replace(policy, model=trainer.model)
    probes = [example.whole_ids for example in first[:NUM_PROBED]]
    save_policy(context, trained, version=version, data=[("data", config.data)], probes=probes)
    counts = {"data/rows": len(rows), "data/rows_with_control_text": spelled, **data}
    return StageResult(metrics={"train/steps": version, **counts})


def to_trl(config: SFTStage, context: StageContext) -> trl.SFTConfig:
    """Return TRL's settings for ours: the one place where the names meet."""
    return trl.SFTConfig(
        **trainer_arguments(config, context),
        loss_type=config.loss.type,
        packing=False,
    )


def in_trl(example: Example) -> dict[str, Any]:
    """Return an example as TRL takes what is in tokens already: -100 labels what is not learned."""
    labels = [token if bit else -100 for token, bit in zip(example.token_ids, example.learned, strict=True)]
    return {"input_ids": example.whole_ids, "labels": [-100] * len(example.prompt_ids) + labels}


def counted(examples: Iterable[Example], max_tokens: int, data: Counter[str]) -> Iterator[Example]:
    """Yield the examples; count, as metrics, those of which something is learned, and their learned tokens.

    What is beyond ``max_tokens`` is cut, and TRL leaves out an example of which nothing that is learned remains.
    """
    for example in examples:
        num_learned = sum(example.learned[: max(0, max_tokens - len(example.prompt_ids))])
        data["data/examples"] += num_learned > 0
        data["data/learned_tokens"] += num_learned
        yield example
