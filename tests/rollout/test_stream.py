import pytest

from rollout.collector import Collector
from rollout.config import SamplingConfig
from rollout.episodes import OneTurn
from rollout.prompts import PromptSource
from rollout.stream import GroupStream, staleness
from rollout.types import Prompt, Rollout, RolloutError, RolloutGroup, request_seed
from tests.fakes import FakePool, FakeScorer, completion

PROMPTS = [Prompt(id=f"p{i}", messages=[], token_ids=(i,)) for i in range(5)]
SCRIPT = {(i,): [completion(10 + i), completion(20 + i)] for i in range(5)}
VALUES = {str(value): float(value % 2) for value in range(40)}


def make(pool: FakePool, source: PromptSource | None = None) -> tuple[GroupStream, PromptSource]:
    source = source or PromptSource(PROMPTS, seed=3)
    collector = Collector(pool, FakeScorer(VALUES), OneTurn(pool, lambda ids: str(ids[0])), SamplingConfig(), (9,))
    return GroupStream(collector, source, group_size=2, seed=7), source


def test_groups_come_in_the_order_of_the_prompts_however_they_are_answered() -> None:
    pool = FakePool(SCRIPT)
    pool.holds = True
    stream, _ = make(pool)
    stream.request(4, step=1)
    assert stream.num_ahead == 4
    for at in (2, 1, 1, 0):
        pool.release(at)
    expected = [prompt.id for prompt in PromptSource(PROMPTS, seed=3).take(4)]
    assert [group.prompt.id for group in stream.take(3)] == expected[:3]
    assert stream.num_ahead == 1
    assert [group.prompt.id for group in stream.take(1)] == expected[3:]


def test_prompt_n_has_seed_n_however_many_are_asked_for_at_once() -> None:
    together, apart = FakePool(SCRIPT), FakePool(SCRIPT)
    make(together)[0].request(7, step=1)  # past the end of the data
    stream, _ = make(apart)
    for _ in range(7):
        stream.request(1, step=1)
    seeds = [[request.seed for request in pool.requests] for pool in (together, apart)]
    assert seeds[0] == seeds[1] == [request_seed(7, n) for n in range(7)]
    assert [r.prompt_ids for r in together.requests] == [r.prompt_ids for r in apart.requests]


def test_what_is_settled_goes_on_in_another_stream_as_if_nothing_had_happened() -> None:
    stream, source = make(FakePool(SCRIPT))
    stream.request(3, step=1)
    stream.take(1)
    state, groups = source.state_dict(), stream.settled()
    other_source = PromptSource(PROMPTS, seed=3)
    other_source.load_state_dict(state)
    other, _ = make(FakePool(SCRIPT), other_source)
    other.restore(groups)
    for one in (stream, other):
        one.request(2, step=2)
    assert stream.take(4) == other.take(4)


def test_a_failed_answer_reaches_who_takes_it() -> None:
    pool = FakePool(SCRIPT)
    pool.holds = True
    stream, _ = make(pool)
    stream.request(2, step=1)
    pool.held[1][0].set_exception(RolloutError("no engine is left"))
    with pytest.raises(RolloutError, match="no engine is left"):
        stream.take(2)


def test_the_oldest_token_says_how_stale_a_group_is() -> None:
    rollouts = [
        Rollout(completion=completion(1, 2, version=version), response="", score=None)  # type: ignore[arg-type]
        for version in (5, 4)
    ]
    group = RolloutGroup(prompt=PROMPTS[0], rollouts=tuple(rollouts))
    assert staleness(group, 6) == 2
