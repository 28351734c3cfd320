import math
from typing import Any

import pytest

from rewards.types import Score
from rollout.types import Prompt, Rollout, RolloutGroup
from stages.readiness.config import ReadinessStage
from stages.readiness.report import pass_rate, report
from tests.fakes import completion


def stage(**changes: Any) -> ReadinessStage:
    values = {"kind": "readiness", "prompts": "none.jsonl", "rewards": ["math", "format"], **changes}
    return ReadinessStage.model_validate(values)


def group(*marks: float | None) -> RolloutGroup:
    rollouts = tuple(
        Rollout(
            completion=completion(1),
            response="",
            score=Score(value=mark, cause="ok" if mark is not None else "timeout", parts={"math": mark, "format": 1.0}),
        )
        for mark in marks
    )
    return RolloutGroup(prompt=Prompt(id="p", messages=[], token_ids=(1,)), rollouts=rollouts)


def test_a_report_by_hand() -> None:
    groups = [group(0, 0, 0, 0), group(1, 1, 1, 1), group(1, 0, 0, 0), group(1, 1, 1, 0), group(1, None, 0, None)]
    found = report(groups, stage())
    assert found == pytest.approx(
        {
            "readiness/prompts/count": 5,
            "readiness/signal_fraction": 3 / 5,
            "readiness/pass_rate/mean": (0 + 1 + 0.25 + 0.75 + 0.5) / 5,
            "readiness/expected_signal/mean": (2 * math.sqrt(3 / 16) + 0.5) / 5,
            "readiness/pass_rate/0/fraction": 0.2,
            "readiness/pass_rate/to_0.25/fraction": 0.2,
            "readiness/pass_rate/to_0.5/fraction": 0.2,
            "readiness/pass_rate/to_0.75/fraction": 0.2,
            "readiness/pass_rate/to_1/fraction": 0.0,
            "readiness/pass_rate/1/fraction": 0.2,
        }
    )


def test_what_passes_is_the_recipe_s_to_say_and_a_group_without_marks_has_no_rate() -> None:
    assert pass_rate(group(0.5, 0.6, 0.7, 0.8), stage(passes=0.7)) == 0.5
    assert pass_rate(group(None, None), stage()) is None
    assert report([group(None, None)], stage()) == {"readiness/prompts/count": 0, "readiness/signal_fraction": 0}
