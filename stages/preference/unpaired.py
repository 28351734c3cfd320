"""Learning from answers that are good or bad one by one: KTO (Ethayarajh et al. 2024, arXiv 2402.01306), APO-zero."""

import random
from collections.abc import Mapping, Sequence
from typing import Any

import trl

from stages.base import StageContext
from stages.data.arrow import as_dataset
from stages.data.control_text import num_spelled
from stages.data.rendering import TokenizerChat
from stages.data.rows import Row, load_rows
from stages.models import Policy
from stages.params import lora_config
from stages.preference.config import PreferenceStage, StageData
from stages.preference.labels import by_score, class_weights, from_pairs, require_both
from stages.preference.loss_config import KTOLoss
from stages.preference.monitor import Watched, watched_answers
from stages.preference.objective import NUM_CHECKED, ReferencedAnswer, reference_cache, require_reference
from stages.preference.source import load_answers, load_pairs, split
from stages.preference.tokens import in_tokens
from stages.preference.trainer import AnswerTrainer
from stages.trainer import trainer_arguments


class Unpaired:
    """An `Objective` on rows with `prompt`, `completion`, `label`."""

    def __init__(self) -> None:
        self._num_dropped = 0
        self._num_spelled = 0

    def load(self, config: PreferenceStage, context: StageContext) -> list[Row]:
        """Return the answers in a random order of the stage's seed, in which they stay: KTO compares neighbours."""
        rows = self._rows(config, context)
        require_both(rows)
        return random.Random(context.seed).sample(rows, len(rows))

    def split(self, rows: Sequence[Row], fraction: float, seed: int) -> tuple[list[Row], list[Row]]:
        """Split by prompts; both classes must be on both sides."""
        sides = split(rows, fraction, seed)
        for side in sides:
            require_both(side)
        return sides

    def trainer(self, rows: Sequence[Row], policy: Policy, config: PreferenceStage, context: StageContext) -> Any:
        """Return TRL's, with the weights of the two classes."""
        assert isinstance(config.loss, KTOLoss)
        desirable, undesirable = class_weights(rows, config.loss)
        chat = TokenizerChat(policy.tokenizer, policy.eos_ids)
        self._num_spelled = num_spelled(chat.control, rows, ["prompt", "completion"])
        answers = ({**in_tokens(chat, row, ["completion"]), "label": bool(row["label"])} for row in rows)
        return AnswerTrainer(
            model=policy.model,
            args=trl.KTOConfig(
                **trainer_arguments(config, context),
                beta=config.loss.beta,
                loss_type=config.loss.variant,
                desirable_weight=desirable,
                undesirable_weight=undesirable,
                precompute_ref_log_probs=True,
            ),
            train_dataset=as_dataset(answers, context.metrics.alive),
            processing_class=policy.tokenizer,
            peft_config=lora_config(config.params),
            reference=reference_cache(policy, config, context),
        )

    def check_start(self, trainer: Any, policy: Policy, context: StageContext) -> Mapping[str, float]:
        """Compare a few answers; KTO's own loss is a half of the class's weight where policy and reference agree."""
        rows = trainer.train_dataset.select(range(min(NUM_CHECKED, len(trainer.train_dataset))))
        answers = [
            ReferencedAnswer(
                prompt=row["prompt_ids"],
                tokens=row["completion_ids"],
                weights=[float(bit) for bit in row["completion_mask"]],
                reference=row["ref_logps"],
            )
            for row in rows
        ]
        require_reference(policy, answers, context, trainer.args.max_length)
        return {}

    def report(self, rows: Sequence[Row], trainer: Any) -> Mapping[str, float]:
        """Return how many answers there were of each class, and what they weigh."""
        return {
            "data/answers": len(rows),
            "data/pairs_dropped": self._num_dropped,
            "data/rows_with_control_text": self._num_spelled,
            "data/answers_trained_on": len(trainer.train_dataset),
            "data/desirable": sum(bool(row["label"]) for row in rows),
            "preference/desirable_weight": trainer.desirable_weight,
            "preference/undesirable_weight": trainer.undesirable_weight,
        }

    def watched(self, rows: Sequence[Row], policy: Policy, config: PreferenceStage) -> Watched:
        """Return some good answers, and as many bad ones."""
        assert config.monitor is not None
        num = config.monitor.num_prompts
        sides = [[row for row in rows if bool(row["label"]) is label][:num] for label in (True, False)]
        chat = TokenizerChat(policy.tokenizer, policy.eos_ids)
        return watched_answers([row for side in sides for row in side], chat, config.max_tokens)

    def token_ids(self, trainer: Any, num: int) -> list[list[int]]:
        """Return prompts with their answers."""
        rows = trainer.train_dataset.select(range(min(num, len(trainer.train_dataset))))
        return [row["prompt_ids"] + row["completion_ids"] for row in rows]

    def _rows(self, config: PreferenceStage, context: StageContext) -> list[Row]:
        data, loss = config.data, config.loss
        assert isinstance(loss, KTOLoss)
        if isinstance(data, StageData) and data.answers is not None:
            return list(by_score(load_answers(context), data.answers))
        if isinstance(data, StageData) or loss.from_pairs:
            found = load_pairs(config, context, ["prompt", "chosen", "rejected"], loss)
            self._num_dropped = found.num_dropped
            return list(from_pairs(found.rows))
        return load_rows(data, config.columns())
