"""What is said of a batch that teaches nothing: the cause, and the way out."""

from dataclasses import replace
from typing import Any

import pytest

from rewards.types import Score
from rollout.types import FinishReason, RolloutGroup
from stages.grpo.no_signal import why
from tests.stages.grpo.groups import group, stage


def groups(*values: float | None, end: FinishReason = "stop") -> list[RolloutGroup]:
    """Return two groups of answers with these values, all different texts."""
    return [group([n], [([at], value) for at, value in enumerate(values)], finish_reasons=[end] * 4) for n in (1, 2)]


def scored(found: list[RolloutGroup], score: Score) -> list[RolloutGroup]:
    return [replace(one, rollouts=tuple(replace(r, score=score) for r in one.rollouts)) for one in found]


@pytest.mark.parametrize(
    ("found", "config", "says"),
    [
        (
            groups(0.0, 1.0, end="length"),
            {"mask_truncated": True},
            "all answers were cut at max_tokens (4 length); raise sampling.max_tokens (and with it "
            "engine.max_model_tokens), or set mask_truncated: false",
        ),
        (groups(0.0, 0.0, end="length"), {}, "all answers were cut at max_tokens"),
        (groups(0.0, 0.0, end="turns"), {}, "raise environment.max_turns"),
        (groups(None, None), {}, "no answer has a value (4 timeout): none could be scored"),
        (
            scored(groups(1.0, 1.0), Score(value=None, cause="not_applicable")),
            {},
            "(4 not_applicable): no reward applies; look at the columns",
        ),
        (
            scored(groups(1.0, 1.0), Score(value=None, cause="error", detail="reward 'f' raised KeyError")),
            {},
            "for instance reward 'f' raised KeyError",
        ),
        (groups(None, 1.0), {}, "2 of 4 answers do not count, which leaves no two of one prompt to compare (2 "),
        (
            [*groups(0.0, 0.0, end="length"), groups(0.0, 0.0)[0]],
            {},
            "And 4 of 6 answers were cut, most of them at max_tokens: raise sampling.max_tokens",
        ),
        (groups(0.0, 0.0), {}, "all answers that count got the same reward, 0: the task is too hard or too easy"),
        ([groups(0.0, 0.0)[0], groups(1.0, 1.0)[1]], {}, "are equal, though they go from 0 to 1"),
        (
            [group([1], [([7], 1.0)] * 2), group([2], [([8], 0.0)] * 2)],
            {"sampling": {"temperature": 0.1}},
            "are all the same text; raise sampling.temperature (it is 0.1)",
        ),
    ],
    ids=[
        "masked",
        "cut",
        "turns",
        "late",
        "applies",
        "raised",
        "alone",
        "mostly cut",
        "equal",
        "always or never",
        "same text",
    ],
)
def test_each_cause_is_told_by_its_name(found: list[RolloutGroup], config: dict[str, Any], says: str) -> None:
    assert says in why(found, stage(**config))
