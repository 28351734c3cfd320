"""Which function runs which kind of stage. Nothing is imported until a stage starts."""

from collections.abc import Callable
from importlib import import_module
from typing import Any

from stages.base import StageContext, StageResult
from stages.config import AnyStage

STAGES = {
    "sft": "stages.sft.train:run",
    "pairs": "stages.pairs.build:run",
    "preference": "stages.preference.train:run",
    "reward_model": "stages.reward_model.train:run",
    "grpo": "stages.grpo.train:run",
    "readiness": "stages.readiness.report:run",
    "evaluate": "stages.evaluate.examine:run",
}


def run_stage(config: AnyStage, context: StageContext) -> StageResult:
    """Import the stage's module and run it."""
    module, function = STAGES[config.kind].split(":")
    run: Callable[[Any, StageContext], StageResult] = getattr(import_module(module), function)
    return run(config, context)
