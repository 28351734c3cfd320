from dataclasses import replace
from pathlib import Path

import pytest

from rewards.types import RewardError, Score
from rollout.collector import Collector, has_signal, summarize
from rollout.config import SamplingConfig
from rollout.episodes import OneTurn
from rollout.records import read_groups, write_groups
from rollout.types import Prompt, Rollout, RolloutError, RolloutGroup, request_seed
from tests.fakes import FakePool, FakeScorer, completion

EOS = 9
PROMPTS = [
    Prompt(id=f"p{i}", messages=[{"role": "user", "content": f"ask {i}"}], token_ids=(i,), columns={"answer": i})
    for i in range(3)
]
SCRIPT = {(i,): [completion(10 + i, EOS), completion(20 + i, 20 + i, finish_reason="length")] for i in range(3)}
VALUES = {"10": 1.0, "11": 1.0, "12": None, "20 20": 0.0, "21 21": 1.0, "22 22": 0.5}


def decode(token_ids: tuple[int, ...]) -> str:
    return " ".join(str(token) for token in token_ids if token != EOS)


def make(pool: FakePool, scorer: FakeScorer, **options: float) -> Collector:
    return Collector(
        pool, scorer, OneTurn(pool, decode), SamplingConfig(temperature=0.5, max_tokens=7), (EOS,), **options
    )


def test_groups_come_in_the_order_of_the_prompts_though_answers_do_not() -> None:
    pool = FakePool(SCRIPT)
    pool.holds = True
    collector = make(pool, FakeScorer(VALUES))
    futures = [collector.submit(prompt, 2, seed) for seed, prompt in enumerate(PROMPTS)]
    for _ in futures:
        pool.release(-1)
    groups = collector.wait(futures)
    assert [group.prompt for group in groups] == PROMPTS
    assert [[r.response for r in group.rollouts] for group in groups] == [
        ["10", "20 20"],
        ["11", "21 21"],
        ["12", "22 22"],
    ]
    assert [[r.score.value for r in group.rollouts] for group in groups] == [[1, 0], [1, 1], [None, 0.5]]


def test_each_group_is_scored_as_soon_as_it_is_there_and_the_budget_last() -> None:
    events: list[str] = []
    make(FakePool(SCRIPT, events=events), FakeScorer(VALUES, events)).collect(PROMPTS, 2, seed=5)
    assert events == [
        *("generated 0", "submitted", "generated 1", "submitted", "generated 2", "submitted"),
        "checked budget",
    ]


def test_an_attempt_carries_the_conversation_the_tokens_and_the_columns() -> None:
    scorer = FakeScorer(VALUES)
    make(FakePool(SCRIPT), scorer).collect([replace(PROMPTS[0], opening="<think>")], 2, seed=5)
    attempt = scorer.groups[0][0]
    assert (attempt.prompt, attempt.opening) == (PROMPTS[0].messages, "<think>")
    assert list(attempt.completion) == [{"role": "assistant", "content": "10"}]
    assert (attempt.completion_ids, attempt.columns) == ((10, EOS), {"answer": 0})


def test_a_greedy_answer_is_scored_with_the_others_and_kept_apart(tmp_path: Path) -> None:
    pool, scorer = FakePool(SCRIPT), FakeScorer(VALUES)
    group = make(pool, scorer).submit(PROMPTS[0], 2, 5, with_greedy=True).result(5)
    assert [(request.num_completions, request.temperature) for request in pool.requests] == [(2, 0.5), (1, 0.0)]
    assert [attempt.completion[0]["content"] for attempt in scorer.groups[0]] == ["10", "20 20", "10"]
    assert [rollout.response for rollout in group.rollouts] == ["10", "20 20"]
    assert group.greedy is not None and group.greedy.score.value == 1.0
    write_groups(tmp_path / "g.parquet", [group])
    assert read_groups(tmp_path / "g.parquet") == [group]


def test_requests_carry_the_sampling_and_seeds_of_their_own_that_repeat() -> None:
    pool = FakePool(SCRIPT)
    for seed in (5, 5, 6):
        make(pool, FakeScorer(VALUES)).collect(PROMPTS, 2, seed)
    seeds = [request.seed for request in pool.requests]
    assert seeds[:3] == seeds[3:6] == [request_seed(5, index) for index in range(3)]
    assert len({*seeds}) == 6
    request = pool.requests[0]
    assert (request.prompt_ids, request.num_completions, request.eos_ids) == ((0,), 2, (EOS,))
    assert (request.temperature, request.max_tokens) == (0.5, 7)


def test_scores_that_never_come_end_in_an_error_that_counts_them() -> None:
    collector = make(FakePool(SCRIPT), FakeScorer(VALUES, hangs=True), score_timeout_s=0.05)
    with pytest.raises(RolloutError, match="3 of 3 groups to be scored; a reward hangs"):
        collector.collect(PROMPTS, 2, seed=0)


def test_a_spent_budget_stops_the_collection() -> None:
    scorer = FakeScorer(VALUES)
    scorer.budget_error = RewardError("too many failures")
    with pytest.raises(RewardError, match="too many"):
        make(FakePool(SCRIPT), scorer).collect(PROMPTS, 2, seed=0)


def test_the_summary_counts_what_happened() -> None:
    groups = make(FakePool(SCRIPT), FakeScorer(VALUES)).collect(PROMPTS, 2, seed=5)
    metrics = summarize(groups)
    # values 1, 0, 1, 1, 0.5 and one that failed: mean 3.5 / 5; squared deviations .09 .49 .09 .09 .04
    assert metrics == pytest.approx(
        {
            "reward/mean": 0.7,
            "reward/std": 0.4,  # sqrt(.8 / 5)
            "reward/fake/mean": 0.7,
            "reward/unscorable_fraction": 1 / 6,
            "reward/cause/ok/count": 5,
            "reward/cause/timeout/count": 1,
            "rollout/sampled_tokens": 12,  # 6 answers
            "rollout/length/mean_tokens": 2,
            "rollout/turns/mean": 1,
            "rollout/truncated_fraction": 0.5,
            "reward/group_s_max": 0.0,
            "reward/attempts_per_s": 6 / 1e-9,  # the fake takes no time
            "rollout/no_signal_fraction": 2 / 3,  # one group is all 1, one has a single value
        }
    )
    assert summarize([]) == {}


@pytest.mark.parametrize(
    ("values", "expected"),
    [((0.0, 1.0), True), ((0.5, 0.5 + 1e-9), False), ((None, 1.0), False), ((None, None), False)],
)
def test_a_group_has_signal_when_its_rewards_differ_by_more_than_rounding(
    values: tuple[float | None, ...], expected: bool
) -> None:
    rollouts = tuple(
        Rollout(
            completion=completion(1),
            response="",
            score=Score(value=value, cause="ok" if value is not None else "error"),
        )
        for value in values
    )
    assert has_signal(RolloutGroup(prompt=PROMPTS[0], rollouts=rollouts), tolerance=1e-6) is expected
