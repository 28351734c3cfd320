from typing import Any

from rewards.types import Score
from rollout.types import Completion, FinishReason, Prompt, Rollout, RolloutGroup
from stages.pairs.build import best_vs_worst
from stages.pairs.config import BestVsWorst


def group(*answers: tuple[str, float | None, FinishReason]) -> RolloutGroup:
    rollouts = [
        Rollout(
            completion=Completion(token_ids=(1,), logprobs=(0.0,), versions=(0,), finish_reason=finish),
            response=text,
            score=Score(value=value, cause="ok" if value is not None else "timeout"),
        )
        for text, value, finish in answers
    ]
    prompt = Prompt(id="p", messages=[{"role": "user", "content": "q"}], token_ids=(1,))
    return RolloutGroup(prompt=prompt, rollouts=tuple(rollouts))


def test_the_best_answer_is_chosen_and_the_worst_rejected_with_both_scores() -> None:
    pair: Any = best_vs_worst(group(("a", 0.5, "stop"), ("b", 1.0, "stop"), ("c", 0.0, "length")), BestVsWorst())
    assert (pair["chosen"][0]["content"], pair["rejected"][0]["content"]) == ("b", "c")
    assert (pair["score_chosen"], pair["score_rejected"], pair["id"]) == (1.0, 0.0, "p")


def test_an_answer_that_was_cut_is_never_chosen() -> None:
    pair: Any = best_vs_worst(group(("a", 0.5, "stop"), ("b", 1.0, "length"), ("c", 0.0, "stop")), BestVsWorst())
    assert pair["chosen"][0]["content"] == "a"
    assert best_vs_worst(group(("a", 1.0, "length"), ("b", 0.0, "length")), BestVsWorst()) is None


def test_what_could_not_be_scored_is_neither_good_nor_bad() -> None:
    pair: Any = best_vs_worst(group(("a", 0.5, "stop"), ("b", None, "stop"), ("c", 0.4, "stop")), BestVsWorst())
    assert (pair["chosen"][0]["content"], pair["rejected"][0]["content"]) == ("a", "c")


def test_an_answer_that_says_nothing_is_no_side_of_a_pair() -> None:
    pair: Any = best_vs_worst(group(("a", 1.0, "stop"), (" ", 0.0, "stop"), ("c", 0.5, "stop")), BestVsWorst())
    assert (pair["chosen"][0]["content"], pair["rejected"][0]["content"]) == ("a", "c")


def test_small_gaps_and_equal_texts_make_no_pair() -> None:
    assert best_vs_worst(group(("a", 0.5, "stop"), ("b", 0.4, "stop")), BestVsWorst(min_gap=0.2)) is None
    assert best_vs_worst(group(("a", 1.0, "stop"), ("a", 0.0, "stop")), BestVsWorst()) is None
