"""Pairs of hand-made groups, by every way to make them."""

from collections.abc import Sequence
from dataclasses import replace
from typing import Any

import pytest
from pydantic import ValidationError

from rewards.types import Score
from rollout.types import Completion, FinishReason, Prompt, Rollout, RolloutGroup
from stages.pairs.build import _hardest_first, _row, answers, report
from stages.pairs.config import (
    BestVsWorst,
    Diverse,
    FlippedSystem,
    Graded,
    MarginLimited,
    NearMiss,
    PairsStage,
    Shorter,
    Threshold,
)
from stages.pairs.pairings import Made, NoPair, Pair, pairs_of

Answer = tuple[str, float | None] | tuple[str, float | None, FinishReason]


def group(*answers: Answer, logprobs: tuple[float, ...] = (), name: str = "p") -> RolloutGroup:
    """An answer has as many tokens as its text has letters."""
    rollouts = []
    for at, (text, value, *finish) in enumerate(answers):
        tokens = tuple(range(1, 1 + max(1, len(text))))
        logprob = logprobs[at] if logprobs else -1.0
        completion = Completion(
            token_ids=tokens,
            logprobs=(logprob,) * len(tokens),
            versions=(0,) * len(tokens),
            finish_reason=finish[0] if finish else "stop",
        )
        score = Score(value=value, cause="ok" if value is not None else "timeout")
        rollouts.append(Rollout(completion=completion, response=text, score=score))
    prompt = Prompt(id=name, messages=[{"role": "user", "content": "q"}], token_ids=(1,))
    return RolloutGroup(prompt=prompt, rollouts=tuple(rollouts))


def no_embedding(prompt: Sequence[int], rollouts: Sequence[Rollout]) -> list[list[float]]:
    raise AssertionError("nobody asked for vectors")


def made(found: RolloutGroup, pairing: Any, embed: Any = no_embedding) -> Any:
    [(_, result)] = pairs_of([found], pairing, embed)
    return result.reason if isinstance(result, NoPair) else texts(result)


def texts(found: Made) -> list[tuple[str, str]]:
    assert not isinstance(found, NoPair)
    return [(pair.chosen.response, pair.rejected.response) for pair in found]


def test_the_best_answer_is_chosen_and_the_worst_rejected() -> None:
    assert made(group(("a", 0.5), ("b", 1.0), ("c", 0.0, "length")), BestVsWorst()) == [("b", "c")]


def test_an_answer_that_was_cut_is_never_chosen() -> None:
    assert made(group(("a", 0.5), ("b", 1.0, "length"), ("c", 0.0)), BestVsWorst()) == [("a", "c")]
    assert made(group(("a", 1.0, "length"), ("b", 0.0, "length")), BestVsWorst()) == "no finished answer"


def test_what_could_not_be_scored_is_neither_good_nor_bad() -> None:
    assert made(group(("a", 0.5), ("b", None), ("c", 0.4)), BestVsWorst()) == [("a", "c")]


def test_an_answer_that_says_nothing_is_no_side_of_a_pair() -> None:
    assert made(group(("a", 1.0), (" ", 0.0), ("c", 0.5)), BestVsWorst()) == [("a", "c")]


def test_small_gaps_and_equal_texts_make_no_pair() -> None:
    assert made(group(("a", 0.5), ("b", 0.4)), BestVsWorst(min_gap=0.2)) == "scores too close"
    assert made(group(("a", 1.0), ("a ", 0.0)), BestVsWorst()) == "scores too close"


def test_good_ones_meet_bad_ones_in_their_order_and_what_is_between_meets_nobody() -> None:
    answers = group(("a", 0.9), ("b", 0.5), ("c", 0.1), ("d", 1.0), ("e", 0.0), ("f", 0.95))
    wide = Threshold(type="threshold", good_from=0.9, bad_below=0.2, most_pairs=5)
    assert made(answers, wide) == [("a", "c"), ("d", "e")]
    assert wide.least_gap == pytest.approx(0.7)
    assert made(answers, Threshold(type="threshold", good_from=0.9)) == [("a", "b")]
    assert made(answers, Threshold(type="threshold", good_from=2.0)) == "no good answer"
    assert made(answers, Threshold(type="threshold", good_from=0.0)) == "no bad answer"


def test_graded_pairs_have_gaps_from_the_smallest_to_the_largest() -> None:
    answers = group(("a", 0.0), ("b", 1.0), ("c", 3.0), ("d", 7.0))  # gaps 1, 2, 3, 4, 6, 7
    found = pairs_of([answers], Graded(type="graded", most_pairs=3), no_embedding)[0][1]
    assert not isinstance(found, NoPair)
    assert [pair.gap for pair in found] == [1.0, 3.0, 7.0]  # places 0, 2.5 -> 2, 5
    assert made(answers, Graded(type="graded", most_pairs=1)) == [("d", "a")]
    assert len(made(answers, Graded(type="graded", most_pairs=9, min_gap=3.5))) == 3
    assert made(group(("a", 1.0), ("b", 1.0)), Graded(type="graded")) == "scores too close"


def test_the_largest_gap_within_the_limits_is_taken() -> None:
    answers = group(("a", 0.0), ("b", 1.0), ("c", 3.0))
    assert made(answers, MarginLimited(type="margin_limited", max_gap=2.5)) == [("c", "b")]
    assert made(answers, MarginLimited(type="margin_limited", max_gap=0.5)) == "no gap within the limits"


def test_a_near_miss_is_the_best_that_fails() -> None:
    answers = group(("a", 0.2), ("b", 0.9, "length"), ("c", 1.0), ("d", 0.0))
    assert made(answers, NearMiss(type="near_miss")) == [("c", "b")]
    assert made(group(("a", 1.0), ("b", 1.0)), NearMiss(type="near_miss")) == "all have full marks"
    assert made(group(("a", 0.9), ("b", 0.0)), NearMiss(type="near_miss")) == "none has full marks"


def test_the_same_text_is_never_both_sides_however_it_was_scored() -> None:
    noisy = group(("a", 1.0), ("a", 0.0))
    for pairing in (
        Threshold(type="threshold", good_from=0.5),
        NearMiss(type="near_miss"),
        Diverse(type="diverse", good_from=0.5),
    ):
        assert made(noisy, pairing) == "the same is good and bad"


def test_the_shortest_is_chosen_over_the_longest_that_are_good() -> None:
    answers = group(("aa", 1.0), ("bbbb", 1.0), ("c", 0.0), ("dddddd", 0.0))
    assert made(answers, Shorter(type="shorter", good_from=1.0)) == [("aa", "bbbb")]
    assert made(answers, Shorter(type="shorter")) == [("c", "dddddd")]
    assert made(answers, Shorter(type="shorter", good_from=1.0, min_ratio=2.5)) == "lengths too close"


def test_the_rarest_good_answer_meets_the_commonest_bad_one() -> None:
    answers = group(("same", 1.0), ("same", 1.0), ("rare", 1.0), ("bad", 0.0), ("usual", 0.0), ("usual", 0.0))
    assert made(answers, Diverse(type="diverse", good_from=0.5)) == [("rare", "usual")]
    likely = group(("a", 1.0), ("b", 1.0), ("c", 0.0), ("d", 0.0), logprobs=(-1.0, -3.0, -2.0, -0.5))
    assert made(likely, Diverse(type="diverse", good_from=0.5, measure="probability")) == [("b", "d")]
    # a and c point the same way, d nearly; b stands across: cosine sums by hand are a 2.8, b 1.6, c 2.8, d 3.0
    vectors = {"a": [1.0, 0.0], "b": [0.0, 1.0], "c": [1.0, 0.0], "d": [0.8, 0.6]}
    far = Diverse(type="diverse", good_from=0.5, measure="embedding")
    assert made(likely, far, lambda prompt, rollouts: [vectors[r.response] for r in rollouts]) == [("b", "d")]
    assert made(group(("a", 0.0), ("b", 0.0)), Diverse(type="diverse", good_from=0.5)) == "no good answer"


def test_flipped_system_prompts_make_two_pairs_that_are_each_others_mirror() -> None:
    polite, rude = group(("yes", 1.0), ("y", 0.5), name="polite"), group(("no", 1.0), name="rude")
    flipped = FlippedSystem(type="flipped_system", systems=("be polite", "be rude"))
    found = pairs_of([polite, rude], flipped, no_embedding)
    assert [each.prompt.id for each, _ in found] == ["polite", "rude"]
    assert [texts(result) for _, result in found] == [[("yes", "no")], [("no", "yes")]]
    strict = FlippedSystem(type="flipped_system", systems=("a", "b"), good_from=2.0)
    reasons = [result for _, result in pairs_of([polite, rude], strict, no_embedding)]
    assert reasons == [NoPair("no good answer under one of the two")] * 2


def test_the_hardest_prompts_come_first_and_the_others_are_counted() -> None:
    groups = [group(("a", value), ("b", 0.0), name=name) for name, value in (("easy", 1.0), ("hard", 0.2), ("no", 0.0))]
    kept = _hardest_first(pairs_of(groups, BestVsWorst(), no_embedding), 1)
    assert [(each.prompt.id, isinstance(result, NoPair)) for each, result in kept] == [
        ("hard", False), ("easy", True), ("no", True),
    ]  # fmt: skip
    assert _hardest_first(kept, None) == kept


def test_a_report_says_what_was_made_and_why_not() -> None:
    groups = [group(("aaa", 1.0), ("b", 0.25)), group(("a", 0.5), ("b", 0.5)), group(("a", None), ("b", None))]
    found = report(groups, pairs_of(groups, BestVsWorst(), no_embedding))
    assert found == {
        "pairs/made": 1,
        "pairs/skipped_prompts": 2,
        "pairs/skipped/no_finished_answer": 1,
        "pairs/skipped/scores_too_close": 1,
        "pairs/gap/mean": 0.75,
        "pairs/gap/min": 0.75,
        "pairs/gap/max": 0.75,
        "pairs/chosen_tokens/mean": 3,
        "pairs/rejected_tokens/mean": 1,
        "reward/mean": pytest.approx(2.25 / 4),
    }


@pytest.mark.parametrize(
    ("pairing", "says"),
    [
        ({"type": "threshold", "good_from": 0.1, "bad_below": 0.5}, "some would be both"),
        ({"type": "margin_limited", "max_gap": 0.1, "min_gap": 0.5}, "no gap is between them"),
        ({"type": "flipped_system", "systems": ["a", "a"]}, "nothing is preferred under either"),
        ({"type": "flipped_system", "systems": ["a", "b"]}, "under one of its two system prompts"),
    ],
)
def test_a_pairing_that_could_make_nothing_is_refused(pairing: dict[str, Any], says: str) -> None:
    with pytest.raises(ValidationError, match=says):
        PairsStage.model_validate(
            {
                "kind": "pairs",
                "prompts": {"path": "x.jsonl", "too_long": "drop"},
                "rewards": ["math"],
                "pairing": pairing,
            }
        )


def test_a_pair_knows_its_gap() -> None:
    better, worse = group(("a", 1.0), ("b", 0.25)).rollouts
    assert Pair(better, worse).gap == 0.75


def test_pairs_and_answers_keep_what_the_chat_template_was_given() -> None:
    shown = {"tools": [{"function": {"name": "weather"}}], "chat_template_kwargs": {"enable_thinking": False}}
    found = group(("good", 1.0), ("bad", 0.0))
    told = replace(found, prompt=replace(found.prompt, columns={**shown, "answer": "x"}))
    pair = Pair(*told.rollouts)
    for row in (_row(told, pair), *answers([told])):
        assert {name: row[name] for name in shown} == shown and "answer" not in row
    assert not shown.keys() & _row(found, pair).keys()
