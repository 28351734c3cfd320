r"""Rewards by rule: what is gold, what is wrong, and what is malformed, for each."""

import math

import pytest
from pydantic import TypeAdapter, ValidationError

from rewards import registry
from rewards.config import RewardConfig, RewardConfigBase
from rewards.grading import arguments
from rewards.types import Attempt, Mark


def reward(**fields: object) -> RewardConfigBase:
    return TypeAdapter(RewardConfig).validate_python(fields)


def marks(
    config: RewardConfigBase, *texts: str, ids: int = 0, logprobs: tuple[float, ...] = (), **columns: object
) -> list:
    attempts = [
        Attempt(
            prompt=[{"role": "user", "content": "?"}],
            completion=[{"role": "assistant", "content": text}],
            completion_ids=tuple(range(ids)),
            completion_logprobs=logprobs,
            columns=columns,
        )
        for text in texts
    ]
    function = registry.build(config)
    found = function(**arguments(function, attempts))
    return [mark.value if isinstance(mark, Mark) else mark for mark in found]


def test_exact_reads_the_box_the_announced_answer_or_the_whole_text() -> None:
    texts = [
        r"so \boxed{Paris}",
        "Thus the answer is: Paris",
        "  Paris ",
        "paris",
        r"Paris \boxed{Lyon}",
        r"\boxed{Paris",
        "",
    ]
    assert marks(reward(type="exact"), *texts, answer="Paris") == [1, 1, 1, 0, 0, 0, 0]
    assert marks(reward(type="exact", ignore_case=True), "paris  ", "LYON", answer=["Paris", "Lyon"]) == [1, 1]


def test_exact_reads_past_thoughts_and_styling() -> None:
    texts = [
        "The answer is Paris.",
        "**Paris**",
        "<think>Lyon</think>Paris",
        r"\boxed{\text{Paris}}",
        "<answer>Paris</answer>",
    ]
    wrong = ["<think>Paris", "<think>Paris</think>Lyon"]
    assert marks(reward(type="exact"), *texts, *wrong, answer="Paris") == [1, 1, 1, 1, 1, 0, 0]


def test_choice_takes_the_one_letter_that_stands_alone() -> None:
    texts = ["B", "(B)", "The answer is B. Paris", r"\boxed{B}", "answer: **B**", "A or B", "Paris", "ABBA", "C", ""]
    assert marks(reward(type="choice"), *texts, answer="B") == [1, 1, 1, 1, 1, 0, 0, 0, 0, 0]
    assert marks(reward(type="choice"), "B", "A", answer=1) == [1, 0]


def test_choice_reads_past_quotes_and_punctuation_of_other_languages() -> None:
    texts = ['"B"', "'B'", "“B”", "B;", "B。", "答案是B。", "答案\uff1aB"]
    assert marks(reward(type="choice"), *texts, answer="B") == [1] * 7


@pytest.mark.parametrize(
    ("text", "picked"), [("I pick (B)", "B"), ("A triangle, so C", "C"), ("A or B", ""), ("(A), not B", ""), ("I", "I")]
)
def test_words_of_one_letter_are_no_picks(text: str, picked: str) -> None:
    assert marks(reward(type="choice"), text, text, answer=picked or "B") == [float(bool(picked))] * 2


def test_choice_reads_elements_and_latex() -> None:
    texts = ["<answer>B</answer>", r"\boxed{\text{B}}", r"\boxed{\textbf{(B)}}", "<think>A</think>B", "<think>B"]
    assert marks(reward(type="choice"), *texts, answer="B") == [1, 1, 1, 1, 0]


def test_choice_refuses_a_gold_answer_that_is_no_letter() -> None:
    with pytest.raises(ValueError, match="'Paris' is none of the letters"):
        marks(reward(type="choice"), "B", answer="Paris")


def test_format_by_tags_wants_each_once_in_order_and_nothing_else() -> None:
    texts = [
        "<think>a</think><answer>b</answer>", " <think>a</think>\n<answer>b</answer>\n",
        "<answer>b</answer><think>a</think>", "<think>a</think> so <answer>b</answer>",
        "<think></think><answer>b</answer>", "<think>a<answer>b</answer></think>",
        "<think>a</think><answer>b</answer><answer>c</answer>", "b", "",
    ]  # fmt: skip
    assert marks(reward(type="format", tags=["think", "answer"]), *texts) == [1, 1, 0, 0, 0, 0, 0, 0, 0]


@pytest.mark.parametrize(("num", "value"), [(1, 0), (80, 0), (85, -0.25), (100, -1), (500, -1)])
def test_length_falls_softly_before_the_limit(num: int, value: float) -> None:
    assert marks(reward(type="length", limit=100, buffer=20), "x", ids=num) == [value]


@pytest.mark.parametrize(("num", "value"), [(10, 1), (5, 0.5), (15, 0.5), (20, 0), (99, 0)])
def test_length_around_a_target(num: int, value: float) -> None:
    assert marks(reward(type="length", target=10), "x", ids=num) == [value]


def test_length_of_text_alone_is_not_known() -> None:
    assert marks(reward(type="length", limit=100), "x") == [None]


def test_repetition_is_the_share_of_runs_that_came_before() -> None:
    found = marks(reward(type="repetition", ngram=2), "a b c d", "a b a b", "A b a B a b", "a", "")
    assert found == [0, pytest.approx(-1 / 3), pytest.approx(-3 / 5), 0, 0]


def test_vote_follows_the_most_frequent_answer_and_ties_count_each() -> None:
    boxed = [rf"\boxed{{{answer}}}" for answer in ("1,234.50", "1234.5", "7", "")]
    assert marks(reward(type="vote"), *boxed) == [1, 1, 0, 0]
    assert marks(reward(type="vote"), "7", "8", r"\boxed{") == [1, 1, 0]
    assert marks(reward(type="vote", least_share=0.6), "7", "8", "7", "9") == [None] * 4
    assert marks(reward(type="vote"), "", "") == [0, 0]
    forms = ["<answer>18</answer>", "The answer is **18**.", "18 eggs", "She makes $18.", "<think>20</think>18.0"]
    assert marks(reward(type="vote"), *forms, r"\boxed{20}") == [1] * 5 + [0]


def test_confidence_is_the_probability_of_what_was_sampled() -> None:
    logprobs = (math.log(0.5), math.log(0.25))
    assert marks(reward(type="confidence"), "x", logprobs=logprobs) == [pytest.approx(0.125)]
    assert marks(reward(type="confidence", per="token"), "x", logprobs=logprobs) == [pytest.approx(math.sqrt(0.125))]
    assert marks(reward(type="confidence"), "x") == [None]


@pytest.mark.parametrize(
    ("fields", "says"),
    [
        ({"type": "length"}, "either a limit or a target"),
        ({"type": "length", "limit": 5, "target": 5}, "either a limit or a target"),
        ({"type": "length", "limit": 5, "buffer": 9}, "buffer 9 is more than the limit"),
        ({"type": "choice", "letters": "abc"}, "letters"),
    ],
)
def test_settings_that_make_no_sense(fields: dict[str, object], says: str) -> None:
    with pytest.raises(ValidationError, match=says):
        reward(**fields)
