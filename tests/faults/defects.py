"""Defects of a resume, to be planted in a process: what the tests of this folder must find out."""

import shutil
from pathlib import Path
from typing import Any

import transformers

from rollout.prompts import PromptSource
from stages import checkpoints
from stages.base import StageContext
from stages.grpo.state import LearnerState
from stages.pairs import build
from stages.pairs.config import PairsStage


def a_trainer_forgets_its_random_state() -> None:
    transformers.Trainer._load_rng_state = _nothing


def a_trainer_forgets_its_optimizer() -> None:
    transformers.Trainer._load_optimizer_and_scheduler = _nothing


def the_learner_forgets_its_optimizer() -> None:
    load = LearnerState.load

    def forgetful(self: LearnerState, folder: Path) -> None:
        load(self, folder)
        self.optimizer.state.clear()

    LearnerState.load = forgetful  # type: ignore[method-assign]


def prompts_start_over() -> None:
    PromptSource.load_state_dict = _nothing  # type: ignore[method-assign]


def checkpoints_are_passed_over() -> None:
    checkpoints.latest = _nothing  # type: ignore[assignment]


def chunks_are_sampled_anew() -> None:
    sample = build.sample

    def forgetful(config: PairsStage, context: StageContext, *more: Any) -> None:
        shutil.rmtree(context.rollouts)
        sample(config, context, *more)

    build.sample = forgetful  # type: ignore[assignment]


def _nothing(*arguments: Any, **named: Any) -> None:
    pass
