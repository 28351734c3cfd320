r"""Kinds of writing that the math reward reads, each with a neighbour that it must not take for the same."""

import pytest

from rewards.math_answer import equals


def box(text: str) -> str:
    return rf"\boxed{{{text}}}"


@pytest.mark.parametrize(
    ("gold", "right", "wrong"),
    [
        ("3g-h", box("-h+3g"), box("h-3g")),
        ("2m+1", box("1+2m"), box("2m-1")),
        (r"2\sqrt{5}", "The distance is 2*sqrt(5) units.", "The distance is 5*sqrt(2) units."),
        (r"\sqrt[3]{2}", box("cbrt(2)"), box("sqrt(2)")),
        ("e", "The limit is e.", "The limit is 2.718."),
        (r"100\pi", "100π square units", "100 square units"),
        (r"6+2\sqrt{3}", "The perimeter is 6 + 2√3.", "The perimeter is 6 - 2√3."),
        ("(2,5)", "The point is (2, 5).", "The point is (5, 2)."),
        ("40", "答案是40元。", "答案是41元。"),
        ("12, 15", "答案是12和15。", "答案是12和16。"),
        (r"\frac{3}{4}", "Answer: 3/4 ✅", "Answer: 4/3 ✅"),
        (r"\frac{\pi}{3}", "The angle is 60 degrees.", box("60")),
        (r"22.5^\circ", box(r"\frac{\pi}{8}"), box(r"22.5\text{ rad}")),
        ("3.5", box(r"\mathbb{E}[X] = 3.5"), box(r"\mathbb{E}[X] = 3.6")),
        ("5", box(r"|A \cup B| = 5"), box(r"|A \cup B| = 6")),
        ("(2,-1)", box("y=-1, x=2"), box("y=2, x=-1")),
        (
            "x=2, y=-1",
            box(r"\begin{aligned} x &= 2 \\ y &= -1 \end{aligned}"),
            box(r"\begin{cases} x=-1\\y=2 \end{cases}"),
        ),
        (
            "7",
            box(r"\begin{aligned} a+b &= 3+4 \\ &= 7\end{aligned}"),
            box(r"\begin{aligned} a &= 7-4 \\ &= 3\end{aligned}"),
        ),
        (r"(3,\infty)", "The solution set is {x | x > 3}.", "The solution set is {x | x < 3}."),
        (r"(-\infty,2)\cup(2,\infty)", box(r"\mathbb{R}\setminus\{2\}"), box(r"x \neq 3")),
        ("2,350", "It is $3,100 - 750 = 2,350$.", "It is $3,100 - 750 = 2,300$."),
        ("7", box(r"\max(3,7) = 7"), box(r"\max(3,7)")),
        (r"\frac{1}{3}", box(r"\int_0^1 x^2\,dx = \frac{1}{3}"), box(r"\int_0^1 x^2\,dx")),
        (r"\frac{\pi^2}{6}", box(r"\frac{1}{6}\pi^2"), box(r"\sum_{n=1}^{\infty} \frac{1}{n^2}")),
    ],
)
def test_what_is_right_is_told_from_what_looks_like_it(gold: str, right: str, wrong: str) -> None:
    assert (equals(right, gold), equals(wrong, gold)) == (True, False)
