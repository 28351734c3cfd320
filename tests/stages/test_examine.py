"""What exams are made of: files that do not collide, marks by problem, gains on the same problems."""

from pathlib import Path

import pytest

from rewards.types import Score
from rollout.records import write_groups
from rollout.types import Prompt, Rollout, RolloutGroup
from stages.evaluate.config import EvaluateStage
from stages.evaluate.examine import answer_file, gains, run
from tests.fakes import completion
from tests.stages.contexts import make_context

TASKS = {"long-dev": {"data": "d.jsonl"}, "dev": {"data": "d.jsonl"}}


def group(name: str, *values: float | None) -> RolloutGroup:
    scores = [Score(value=value, cause="ok" if value is not None else "timeout") for value in values]
    rollouts = tuple(Rollout(completion=completion(1), response="", score=score) for score in scores)
    return RolloutGroup(prompt=Prompt(id=name, messages=[], token_ids=(1,), columns={}), rollouts=rollouts)


def test_answers_of_models_and_exams_with_like_names_lie_apart(tmp_path: Path) -> None:
    context = make_context(tmp_path, Path("none"))
    names = [(model, f"{task}/accuracy") for model in ("sft", "sft-long") for task in TASKS]
    assert len({answer_file(context, *name) for name in names}) == len(names)


def test_an_exam_that_was_sat_is_read_and_what_cannot_be_scored_is_not_right(tmp_path: Path) -> None:
    context = make_context(tmp_path, Path("none"))
    config = EvaluateStage.model_validate({"kind": "evaluate", "of": ["sft", "grpo"], "tasks": {"dev": TASKS["dev"]}})
    write_groups(answer_file(context, "sft", "dev/accuracy"), [group("a", 1.0), group("b", None), group("c", 0.0)])
    write_groups(answer_file(context, "grpo", "dev/accuracy"), [group("c", 1.0), group("a", 1.0), group("b", 1.0)])
    result = run(config, context)  # everything was sat: no model is loaded, no engine started
    assert result.exams["sft"]["dev/accuracy"].mean == pytest.approx(1 / 3)
    assert result.exams["grpo"]["dev/accuracy"].mean == 1.0
    assert result.gains["sft->grpo"]["dev/accuracy"].mean == pytest.approx(2 / 3)
    assert result.metrics == {"sft/unscorable_answers": 1.0, "grpo/unscorable_answers": 0.0}


def test_gains_pair_by_problem_and_not_by_place() -> None:
    found = gains({"dev/accuracy": {"a": 0.0, "b": 1.0}}, {"dev/accuracy": {"b": 1.0, "a": 1.0}})
    assert (found["dev/accuracy"].mean, found["dev/accuracy"].num) == (0.5, 2)
