"""What a step learns from, with engines and rewards that do as a test says."""

from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest

from rewards.types import Score
from rollout.collector import Collector
from rollout.config import SamplingConfig
from rollout.episodes import OneTurn
from rollout.prompts import PromptSource
from rollout.records import read_groups
from rollout.stream import GroupStream
from rollout.types import Prompt, RolloutGroup
from stages.base import StageError
from stages.grpo.collect import collect, rollout_file
from stages.grpo.config import GRPOStage
from tests.fakes import FakePool, FakeScorer, completion
from tests.stages.contexts import make_context
from tests.stages.grpo.groups import stage

NUM = 12


def stream_of(lively: set[int], config: GRPOStage, version: int = 0) -> tuple[GroupStream, FakePool]:
    """Return a stream over prompts in their order, and the pool that answers for it."""
    prompts = [Prompt(id=f"{n:02d}", messages=[], token_ids=(n,)) for n in range(NUM)]
    values = {str(value): float(value >= 200) for value in range(100, 300)}
    source = PromptSource(prompts, seed=0)
    source._order = list(range(NUM))
    pool = FakePool(script(lively, version))
    collector = Collector(pool, FakeScorer(values), OneTurn(pool, lambda ids: str(ids[0])), SamplingConfig(), (9,))
    return GroupStream(collector, source, group_size=2, seed=0), pool


def script(lively: set[int], version: int) -> Any:
    return {
        (n,): [completion(100 + n, version=version), completion(200 + n if n in lively else 100 + n, version=version)]
        for n in range(NUM)
    }


def config_of(**changes: Any) -> GRPOStage:
    return stage(**{"prompts_per_step": 3, "group_size": 2, "num_steps": 4, **changes})


def taken(collected: Any) -> list[int]:
    return [int(group.prompt.id) for group in collected.groups]


def test_a_step_takes_its_prompts_and_keeps_what_it_took(tmp_path: Path) -> None:
    config, context = config_of(), make_context(tmp_path, tmp_path)
    stream, pool = stream_of({0, 2}, config)
    found = collect(config, context, stream, step=0)
    assert taken(found) == [0, 1, 2] and len(pool.requests) == 3
    assert len(found.batch.answers) == 4
    assert found.metrics["rollout/no_signal_fraction"] == pytest.approx(1 / 3)
    assert [group.prompt.id for group in read_groups(rollout_file(context, 1))] == ["00", "01", "02"]


def test_groups_without_signal_are_replaced_within_the_budget(tmp_path: Path) -> None:
    config, context = config_of(replace_up_to=3), make_context(tmp_path, tmp_path)
    stream, _ = stream_of({0, 5}, config)
    found = collect(config, context, stream, step=0)
    assert taken(found) == [0, 1, 2, 3, 4, 5]  # two are replaced by two more without signal, of which one is
    assert {answer.group for answer in found.batch.answers} == {0, 5}
    assert len(read_groups(rollout_file(context, 1))) == 6


def test_whole_batches_without_signal_are_replaced_until_there_is_one_or_the_run_stops(tmp_path: Path) -> None:
    config, context = config_of(max_empty_batches=1), make_context(tmp_path, tmp_path)
    stream, _ = stream_of({4}, config)
    assert taken(collect(config, context, stream, step=0)) == [0, 1, 2, 3, 4, 5]
    with pytest.raises(StageError, match="2 batches in a row held no group whose answers differ"):
        collect(config, context, stream, step=0)


def test_a_run_without_any_value_is_not_called_too_hard(tmp_path: Path) -> None:
    config, context = config_of(max_empty_batches=0), make_context(tmp_path, tmp_path)
    stream, _ = stream_of({0}, config)

    def unmarked(groups: Sequence[RolloutGroup]) -> list[RolloutGroup]:
        score = Score(value=None, cause="not_applicable")
        return [replace(g, rollouts=[replace(rollout, score=score) for rollout in g.rollouts]) for g in groups]

    with pytest.raises(StageError, match=r"no answer has a value \(6 not_applicable\): no reward applies"):
        collect(config, context, stream, step=0, adjusted=unmarked)


@pytest.mark.parametrize(("max_staleness", "ahead"), [(0, 0), (1, 3), (2, 6), (9, 9)])
def test_no_more_is_in_flight_than_can_still_be_learned_from(tmp_path: Path, max_staleness: int, ahead: int) -> None:
    config, context = config_of(max_staleness=max_staleness), make_context(tmp_path, tmp_path)
    stream, pool = stream_of(set(range(NUM)), config)
    assert collect(config, context, stream, step=0).metrics["rollout/ahead"] == ahead
    for step in (1, 2, 3):
        pool.script = script(set(range(NUM)), version=step)
        assert taken(collect(config, context, stream, step=step)) == [3 * step, 3 * step + 1, 3 * step + 2]
    assert stream.num_ahead == 0, "the last step leaves nothing in flight"


def test_engines_that_keep_an_old_version_stop_the_run(tmp_path: Path) -> None:
    config, context = config_of(), make_context(tmp_path, tmp_path)
    stream, _ = stream_of(set(range(NUM)), config, version=1)
    with pytest.raises(StageError, match="the engines do not hold what they were sent"):
        collect(config, context, stream, step=2)


@pytest.mark.parametrize(("policy", "expected"), [("drop", [3, 4, 5]), ("keep", [0, 1, 2])])
def test_groups_that_are_too_old_are_dropped_or_kept_and_counted(
    tmp_path: Path, policy: str, expected: list[int]
) -> None:
    config, context = config_of(max_staleness=1, stale_groups=policy, num_steps=9), make_context(tmp_path, tmp_path)
    old, _ = stream_of(set(range(NUM)), config, version=3)
    old.request(3, step=4)
    stream, _ = stream_of(set(range(NUM)), config, version=6)
    stream._prompts.take(3)
    stream.restore(old.settled())
    found = collect(config, context, stream, step=6)
    assert taken(found) == expected
    assert found.metrics["rollout/stale_groups/count"] == 3
    assert found.metrics["rollout/staleness_max"] == (0 if policy == "drop" else 3)
