"""What the stages on TRL's trainers share: arguments, checkpoints that are whole, metrics, and a stop on NaN."""

import json
import logging
import math
from collections.abc import Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Any

import torch
import transformers

from stages import checkpoints
from stages.base import StageContext, StageError
from stages.metrics import OF_PAIRS, Clock
from stages.models import load_weights
from stages.training import SCHEDULES, SupervisedConfig

if TYPE_CHECKING:
    from stages.evaluate.early_stop import EarlyStop  # engines, which most stages do without

logger = logging.getLogger(__name__)

TRAINER_STATE = "trainer_state.json"
"""transformers' own, in its checkpoints."""
SEEN = "seen_tokens.json"
"""Ours: how many tokens have been seen."""


def trainer_arguments(config: SupervisedConfig, context: StageContext) -> dict[str, Any]:
    """Return our settings under the names of transformers' TrainingArguments, which all of TRL's configs extend."""
    precision, on_cpu = context.facts.precision, not torch.cuda.is_available()
    return {
        "output_dir": str(context.checkpoints),
        "max_steps": config.num_steps or -1,
        "num_train_epochs": config.num_epochs or 1.0,
        "per_device_train_batch_size": config.micro_batch_size,
        "gradient_accumulation_steps": config.batch_size // config.micro_batch_size,
        "learning_rate": config.learning_rate,
        "lr_scheduler_type": SCHEDULES[config.schedule],
        "warmup_steps": config.warmup_steps,
        "weight_decay": config.weight_decay,
        "max_grad_norm": config.max_grad_norm,
        "max_length": config.max_tokens,
        "seed": context.seed,
        "data_seed": context.seed,
        "use_cpu": on_cpu,
        "bf16": precision == "bfloat16",
        "fp16": precision == "float16",
        "gradient_checkpointing": not on_cpu,
        "dataloader_pin_memory": not on_cpu,
        "save_strategy": "steps",
        "save_steps": config.checkpoint.every_steps or 10**9,
        "logging_steps": 1,
        "logging_nan_inf_filter": False,
        "report_to": "none",
        "disable_tqdm": True,
    }


def train(trainer: Any, config: SupervisedConfig, context: StageContext, early_stop: "EarlyStop | None" = None) -> int:
    """Train from the last whole checkpoint, or from the start; return the version that the model has then.

    It is the last one, or with ``early_stop`` the best.
    """
    context.checkpoints.mkdir(parents=True, exist_ok=True)
    callback = _StageCallback(context, config, early_stop)
    trainer.add_callback(callback)
    step = checkpoints.latest(context.checkpoints)
    if step is None:
        if early_stop is not None:
            early_stop.sit(0)
        _run(trainer, context)
        step = int(trainer.state.global_step)
    else:
        logger.info("continuing from version %d", step)
        folder = checkpoints.step_folder(context.checkpoints, step)
        callback.load(folder)
        if early_stop is not None:
            early_stop.load(folder)
        if _was_last(folder) or (early_stop is not None and early_stop.is_over):
            load_weights(trainer.model, folder)
        else:
            _run(trainer, context, folder)
            step = int(trainer.state.global_step)
    if early_stop is None or early_stop.best in (None, step):
        return step
    assert early_stop.best is not None
    best = checkpoints.step_folder(context.checkpoints, early_stop.best)
    if found := checkpoints.damage(best):
        raise StageError(
            f"the best checkpoint in the exam, {best}, is damaged: {found}; delete {context.folder} to start over"
        )
    load_weights(trainer.model, best)
    return early_stop.best


def _run(trainer: Any, context: StageContext, checkpoint: Path | None = None) -> None:
    """Have the trainer train; where torch's writer of files says no more than that a stream failed, name the disk."""
    try:
        trainer.train(resume_from_checkpoint=str(checkpoint) if checkpoint else None)
    except RuntimeError as error:
        told = checkpoints.of_full_disk(str(error))
        if told is not None:
            raise StageError(f"a checkpoint could not be written to {context.checkpoints}: {told}") from error
        raise


def _was_last(folder: Path) -> bool:
    """Say whether a checkpoint is that of the last step: the trainer, which does not ask, would take another one."""
    state = transformers.TrainerState.load_from_json(str(folder / TRAINER_STATE))
    return bool(state.global_step >= state.max_steps)


class _StageCallback(transformers.TrainerCallback):  # type: ignore[misc]
    """Commits checkpoints, writes metrics, and ends the run on a loss or gradient that is not finite."""

    def __init__(self, context: StageContext, config: SupervisedConfig, early_stop: "EarlyStop | None") -> None:
        self._context = context
        self._config = config
        self._early_stop = early_stop
        self._seen_before = 0.0
        self._seen = 0.0
        self._clock = Clock()

    def load(self, folder: Path) -> None:
        """Take up how many tokens had been seen when a checkpoint was written; TRL counts from 0 in each attempt."""
        self._seen_before = self._seen = json.loads((folder / SEEN).read_text())

    def on_step_begin(self, args: Any, state: Any, control: Any, **_: Any) -> None:
        """Begin to measure the step: its data are there."""
        self._clock = Clock()

    def on_optimizer_step(self, args: Any, state: Any, control: Any, **_: Any) -> None:
        """Measure it before others look at the policy, or have it sit an exam."""
        self._clock.lap("learn")

    def on_log(self, args: Any, state: Any, control: Any, logs: Mapping[str, Any] | None = None, **_: Any) -> None:
        """Write one line of metrics; called after the optimizer step and before any save.

        What the trainer sums up at its end is left out: after a resume it is of the last attempt alone.
        """
        if "train_runtime" in (logs or {}):
            return
        values = {_metric_name(key): float(value) for key, value in (logs or {}).items() if _is_number(value)}
        # with a loss scaler a gradient that overflows is skipped by design, and the scale lowered
        for name in ("train/loss",) if args.fp16 else ("train/loss", "train/grad_norm"):
            if not math.isfinite(values.get(name, 0.0)):
                raise StageError(
                    f"{name} is {values[name]} at step {state.global_step}; the last checkpoint is whole. "
                    "Lower the learning rate or look at the data of this step, then resume"
                )
        if "train/seen_tokens" in values:
            values["train/seen_tokens"] += self._seen_before
            self._seen = values["train/seen_tokens"]
        self._context.metrics.write(state.global_step, {**values, **self._clock.laps}, of=state.max_steps)

    def on_save(self, args: Any, state: Any, control: Any, **_: Any) -> None:
        """Turn the trainer's folder into a whole checkpoint of ours, with the exam that its policy has sat."""
        written = Path(args.output_dir) / f"checkpoint-{state.global_step}"
        (written / SEEN).write_text(json.dumps(self._seen))
        root, keep = self._context.checkpoints, self._config.checkpoint.keep
        if self._early_stop is not None:
            self._early_stop.sit(state.global_step)
            self._early_stop.save(written)
            control.should_training_stop = control.should_training_stop or self._early_stop.is_over
        checkpoints.commit(written, root, state.global_step)
        bests = self._early_stop.bests_of(checkpoints.steps(root)[-keep:]) if self._early_stop is not None else ()
        checkpoints.prune(root, keep, spare=bests)


def _is_number(value: Any) -> bool:
    return isinstance(value, int | float) and not isinstance(value, bool)


_NAMES = {
    "loss": "train/loss",
    "grad_norm": "train/grad_norm",
    "learning_rate": "train/learning_rate",
    "num_tokens": "train/seen_tokens",
    "entropy": "policy/entropy_nats",
    "mean_token_accuracy": "train/token_accuracy",
    **OF_PAIRS,
}


def _metric_name(name: str) -> str:
    return _NAMES.get(name, f"train/{name}" if "/" not in name else name)
