import json

import pytest

from rewards.types import Score
from rollout.config import ByDifficulty
from rollout.prompts import PromptSource
from rollout.types import Prompt, Rollout, RolloutGroup
from tests.fakes import completion


def prompts(count: int) -> list[Prompt]:
    return [Prompt(id=f"row-{i}", messages=[], token_ids=(i,)) for i in range(count)]


def ids(taken: list[Prompt]) -> list[str]:
    return [prompt.id for prompt in taken]


def test_an_epoch_holds_every_prompt_once_and_epochs_differ_in_order() -> None:
    source = PromptSource(prompts(20), seed=1)
    first, second = ids(source.take(20)), ids(source.take(20))
    assert sorted(first) == sorted(second) == sorted(ids(prompts(20)))
    assert first != second != ids(prompts(20))


def test_the_order_depends_on_the_seed_alone_and_not_on_how_many_are_taken_at_a_time() -> None:
    at_once, by_threes = PromptSource(prompts(7), seed=1), PromptSource(prompts(7), seed=1)
    assert ids(at_once.take(21)) == [name for _ in range(7) for name in ids(by_threes.take(3))]
    assert ids(PromptSource(prompts(7), seed=2).take(7)) != ids(PromptSource(prompts(7), seed=1).take(7))


def test_taking_across_the_border_starts_the_next_epoch() -> None:
    source = PromptSource(prompts(4), seed=0)
    taken = ids(source.take(6))
    assert sorted(taken[:4]) == ids(prompts(4))
    assert len(set(taken[4:])) == 2


@pytest.mark.parametrize("num_taken", [0, 3, 5, 10, 13])
def test_a_resumed_source_goes_on_as_if_nothing_had_happened(num_taken: int) -> None:
    source, resumed = PromptSource(prompts(5), seed=3), PromptSource(prompts(5), seed=3)
    source.take(num_taken)
    resumed.load_state_dict(json.loads(json.dumps(source.state_dict())))
    assert ids(resumed.take(12)) == ids(source.take(12))


def test_a_cursor_of_other_prompts_or_another_seed_is_refused() -> None:
    state = PromptSource(prompts(5), seed=3).state_dict()
    with pytest.raises(ValueError, match="prompts"):
        PromptSource(prompts(6), seed=3).load_state_dict(state)
    with pytest.raises(ValueError, match="seed"):
        PromptSource(prompts(5), seed=4).load_state_dict(state)


def test_no_prompts_empty_prompts_and_shared_ids_are_refused() -> None:
    with pytest.raises(ValueError, match="no prompts"):
        PromptSource([], seed=0)
    with pytest.raises(ValueError, match="'a' has no tokens"):
        PromptSource([Prompt(id="a", messages=[], token_ids=())], seed=0)
    with pytest.raises(ValueError, match="2 prompts have the id 'row-0'"):
        PromptSource([*prompts(2), *prompts(1)], seed=0)


def group(prompt: Prompt, *marks: float | None) -> RolloutGroup:
    rollouts = tuple(
        Rollout(completion=completion(1), response="", score=Score(value=mark, cause="ok", parts={"math": mark}))
        for mark in marks
    )
    return RolloutGroup(prompt=prompt, rollouts=rollouts)


def test_what_is_always_or_never_passed_comes_more_rarely_and_the_rest_every_epoch() -> None:
    source = PromptSource(prompts(300), seed=1, config=ByDifficulty(reward="math", floor=0.2))
    first = source.take(300)
    assert sorted(ids(first)) == sorted(ids(prompts(300)))
    kinds = {prompt.id: at % 3 for at, prompt in enumerate(prompts(300))}
    marks = {0: (1.0, 1.0), 1: (0.0, None), 2: (1.0, 0.5)}
    source.observe([group(prompt, *marks[kinds[prompt.id]]) for prompt in first])
    again = ids(source.take(150))
    counts = [sum(kinds[name] == kind for name in again) for kind in range(3)]
    assert counts[2] >= 100 and all(5 < counts[kind] < 40 for kind in (0, 1))  # 20 each are expected
    assert source.num_taken == 450


def test_the_running_pass_rate_by_hand() -> None:
    source = PromptSource(prompts(1), seed=1, config=ByDifficulty(reward="math", floor=0.1, newest=0.5))
    for marks in ((1.0, 1.0), (0.0, 0.0), (0.0, None)):
        source.observe([group(prompts(1)[0], *marks)])
    assert source.state_dict()["rates"] == {"row-0": 0.25}  # 1, then 0.5, then 0.25
    assert source._chance("row-0") == pytest.approx(2 * (0.25 * 0.75) ** 0.5)


@pytest.mark.parametrize("num_taken", [3, 8, 20])
def test_a_source_by_difficulty_goes_on_as_if_nothing_had_happened(num_taken: int) -> None:
    config = ByDifficulty(reward="math")
    source, resumed = (PromptSource(prompts(8), seed=3, config=config) for _ in range(2))
    for at, prompt in enumerate(source.take(num_taken)):
        source.observe([group(prompt, float(at % 2), float(at % 3 > 0))])
    resumed.load_state_dict(json.loads(json.dumps(source.state_dict())))
    for _ in range(3):
        expected = source.take(5)
        assert ids(resumed.take(5)) == ids(expected)
        for one in (source, resumed):
            one.observe([group(prompt, 1.0, 0.0) for prompt in expected[:2]])
