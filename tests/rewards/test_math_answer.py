"""What the math reward calls equal."""

import random
import threading
import time

import pytest
from math_verify import parse, verify

from rewards.config import MathRewardConfig
from rewards.math_answer import equals, load
from tests.rewards.attempts import group


def box(text):
    return rf"\boxed{{{text}}}"


@pytest.mark.parametrize(
    ("response", "gold"),
    [
        (box("633"), "633"),
        (box("633"), box("633")),
        (f"5, no, {box('5')}, no: {box('633')}. Done by 7.", "633"),
        ("the answer is 633", "633"),
        ("633 apples", "633"),
        (box("633.0"), "633"),
        (box("1,234"), "1234"),
        (box("1234"), "1,234"),
        (box("-7"), "-7"),
        (box("x = 5"), "5"),
        (box("5"), "x=5"),
        (box(r"5\text{ cm}"), "5"),
        (box("1/2"), r"\frac{1}{2}"),
        (box(r"\frac12"), "0.5"),
        (box(r"1\frac{1}{2}"), "3/2"),
        (box(r"50\%"), "0.5"),
        (box("0.333333"), "1/3"),
        (box(r"5 \times 10^3"), "5000"),
        (box("2^{10}"), "1024"),
        (box(r"\sqrt{2}"), "1.41421356237"),
        (box("x^2+2x+1"), "(x+1)^2"),
        (box("1+x"), "x+1"),
        (box(r"1+\sqrt{2}"), r"\sqrt{2}+1"),
        (box("2, 1"), r"\{1, 2\}"),
        (box(r"\text{Paris}"), "Paris"),
    ],
)
def test_these_answers_equal_gold(response, gold):
    assert equals(response, gold)


@pytest.mark.parametrize(
    ("response", "gold"),
    [
        (box("634"), "633"),
        (box("-633"), "633"),
        (box("633.001"), "633"),
        (box("0.33"), "1/3"),
        (f"{box('633')}, no: {box('5')}", "633"),
        (f"{box('5')} and {box('633')}", "5633"),
        (f"{box('5')} and {box('633')}", "633"),
        (box("1, 2, 633"), "633"),
        (box("345+288"), "633"),
        (box("700-67"), "633"),
        (box(r"3 \cdot 211"), "633"),
        (box("3(200+11)"), "633"),
        (r"633 is \boxed{633", "633"),
        (r"\boxed{}", "633"),
        ("", "633"),
        ("nothing to see", "633"),
        (r"\frac{\boxed{", "633"),
    ],
)
def test_these_answers_do_not_equal_gold(response, gold):
    assert not equals(response, gold)


def test_gold_gets_full_marks_and_wrong_and_malformed_answers_none():
    reward = load(MathRewardConfig(answer_column="truth"))
    turns = [attempt.completion for attempt in group(box("633"), box("634"), r"\boxed{", "")]
    marks = reward(prompts=[None] * 4, completions=turns, truth=[633, "633", "633", "633"])
    assert [(mark.value, mark.read) for mark in marks] == [(1.0, "633"), (0.0, "634"), (0.0, ""), (0.0, "")]


def test_a_gold_answer_that_holds_none_is_an_error_that_shows_it():
    with pytest.raises(ValueError, match="the gold answer '' holds no answer"):
        equals(box("633"), "")


def test_an_answer_that_takes_too_long_equals_nothing(monkeypatch):
    monkeypatch.setattr("rewards.reader.ANSWER_LIMIT_S", 0.3)
    reward = load(MathRewardConfig())
    hostile, right = group(box("9^{9^{9^{9}}}"), box("633"))
    values = reward(prompts=[None] * 2, completions=[hostile.completion, right.completion], answer=["633"] * 2)
    assert (values[0].value, values[0].detail) == (0.0, "it was not read in 0.3 s of processor time")
    assert values[1].value == 1.0


def test_an_answer_on_which_the_comparison_raises_is_wrong_and_counted(monkeypatch):
    def raises(*_: object) -> bool:
        raise RecursionError("too deep")

    monkeypatch.setattr("rewards.math_answer.compare.equal", raises)
    logged = {}
    turns = [group(box("631"))[0].completion, group("none")[0].completion]
    marks = load(MathRewardConfig())(
        prompts=[None] * 2, completions=turns, answer=["633"] * 2, log_metric=logged.__setitem__
    )
    assert (marks[0].value, marks[0].detail) == (0.0, "comparing it raised RecursionError: too deep")
    assert logged["raised/count"] == sum(bool(mark.detail) for mark in marks)


def test_it_scores_right_answers_in_threads_too():
    """math-verify's own time limit raises there, and a framework that swallows that scores everything 0."""
    reward = load(MathRewardConfig())
    values = []
    turns = [group(box("633"))[0].completion]
    thread = threading.Thread(target=lambda: values.extend(reward(prompts=[None], completions=turns, answer=["633"])))
    thread.start()
    thread.join(10)
    assert [mark.value for mark in values] == [1.0]


@pytest.mark.parametrize("blank", [" ", "\n", " \n"])
def test_blanks_without_end_cost_no_time(blank):
    start = time.monotonic()
    assert equals(f"x{blank * 50_000}{box('5')}{blank * 50_000}", "5")
    assert not equals(f"{blank * 100_000}6", "5")
    assert time.monotonic() - start < 5


def math_verify_says(answer, gold):
    return verify(
        parse(box(gold), parsing_timeout=None), parse(box(answer), parsing_timeout=None), timeout_seconds=None
    )


def a_plain_number(draw):
    over, under = draw.randint(0, 9), draw.randint(1, 9)
    return draw.choice(
        [
            f"{draw.randint(-50, 50)}",
            f"{draw.uniform(-3, 3):.{draw.randint(1, 6)}f}",
            f"{draw.randint(1, 20)},{draw.randint(0, 999):03d}{draw.choice(['', '.5', '.50'])}",
            f"{over}/{under}",
            rf"-\frac{{{over}}}{{{under}}}",
            rf"\dfrac{{{over}}}{{{under}}}",
        ]
    )


def test_plain_numbers_are_compared_as_math_verify_would():
    draw = random.Random(7)
    for _ in range(200):
        answer = a_plain_number(draw)
        gold = draw.choice([answer, f"{answer}0" if "." in answer else answer, a_plain_number(draw)])
        assert equals(box(answer), gold) == math_verify_says(answer, gold), (answer, gold)
