r"""Where a text answers, and what its final answer is."""

import pytest

from rewards import thinking
from rewards.config import ExactRewardConfig, FormatRewardConfig
from rewards.final_answer import answer_part, ends_in_box, final_answer, plain
from rewards.registry import build
from rewards.types import Mark


@pytest.mark.parametrize(
    ("text", "opening", "part"),
    [
        ("18", "", "18"),
        ("<think>20</think>18", "", "18"),
        ("20</think>18", "", "18"),  # the tag was opened by the template, or lost
        ("20</think>18", "<think>\n", "18"),
        ("20", "<think>\n", ""),
        ("18", "<think>\n\n</think>\n\n", "18"),
        ("<think>20", "", ""),
        ("<think>a</think>x<think>b</think>y", "", "y"),
        ("<thinking>20</thinking>18", "", "18"),
        ("<reasoning>20</reasoning>18", "", "18"),
        ("[THINK]20[/THINK]18", "", "18"),
        ("<seed:think>20</seed:think>18", "", "18"),
        ("◁think▷20◁/think▷18", "", "18"),
        ("<|begin_of_thought|>20<|end_of_thought|>18", "", "18"),
        ("<|START_THINKING|>20<|END_THINKING|>18", "", "18"),
        ("<|channel|>analysis<|message|>20<|end|><|start|>assistant<|channel|>final<|message|>18<|return|>", "", "18"),
        ("<think>20</think><answer>18 eggs</answer>", "", "18 eggs"),
        ("<think>20</think><answer>18", "", ""),
        ("18</answer>", "<answer>", "18"),
        ("<answer>17</answer>, no: <answer>18</answer>.", "", "18"),
        ("a <b> c", "", "a <b> c"),
    ],
)
def test_the_answer_stands_after_the_thoughts_and_in_the_last_answer_element(
    text: str, opening: str, part: str
) -> None:
    assert answer_part(text, opening) == part


@pytest.mark.parametrize(
    ("text", "parts", "how"),
    [
        (r"\boxed{5}", ("5",), "box"),
        (r"\fbox{5}", ("5",), "box"),
        (r"\boxed {5}", ("5",), "box"),
        (r"\boxed{\frac{1}{2}}", (r"\frac{1}{2}",), "box"),
        (r"\boxed{\left\{ 1 \right.}", (r"\left\{ 1 \right.",), "box"),
        (r"\boxed{1}, \boxed{2}", ("1", "2"), "box"),
        (r"$\boxed{1}$ \quad \text{and} \quad $\boxed{2}$", ("1", "2"), "box"),
        (r"\boxed{1} papers or \boxed{2} bins", ("1", "2"), "box"),
        (r"$y=\boxed{4}$, $x=\boxed{3}$", ("y = 4", "x = 3"), "box"),
        (r"\boxed{1}. No: \boxed{2}", ("2",), "box"),
        (r"\boxed{1}, no, \boxed{2}", ("2",), "box"),
        (r"\boxed{20} percent", ("20 percent",), "box"),
        (r"\boxed{1} \boxed{2", (), "box"),
        ("The answer is **73**.", ("73",), "announced"),
        ("The answer is __73__", ("73",), "announced"),
        ("**Answer:** __init__.py", ("__init__.py",), "announced"),
        ("18\n答案是\uff1a73。", ("73",), "announced"),
        ("Final answer: Paris. It is large.", ("Paris",), "announced"),
        ("The answer is St. Paul.", ("St. Paul",), "announced"),
        ("**Final Answer**\n\n7", ("7",), "announced"),
        ("9 * 2 = 18\n#### 18", ("18",), "announced"),
        ("So it is **Tuesday**.", ("Tuesday",), "emphasis"),
        ("<answer>18 eggs</answer>", ("18 eggs",), "element"),
        ("Paris.", ("Paris",), "all"),
        ("", (), "all"),
    ],
)
def test_it_is_boxed_or_announced_or_in_bold_at_the_end_or_all(text: str, parts: tuple[str, ...], how: str) -> None:
    found = final_answer(text)
    assert (found.parts, found.how) == (parts, how)


def test_styling_is_no_part_of_an_answer() -> None:
    texts = ["**Paris**", "*Paris*", "`Paris`", "Paris.", r"\text{Paris}", r"$\textbf{Paris}$", " Paris \n"]
    assert {plain(text) for text in texts} == {"Paris"}


@pytest.mark.parametrize(
    ("text", "ends"),
    [
        (r"so \boxed{5}", True),
        (r"\boxed{\frac{1}{2}}", True),
        (r"$\boxed{5}$.", True),
        (r"\[\boxed{5}\]", True),
        (r"**$\boxed{5}$**", True),
        (r"<answer>\boxed{5}</answer>", True),
        (r"\begin{align*}x=\boxed{5}\end{align*}", True),
        (r"\boxed{5}。", True),
        (r"\boxed{5} apples", False),
        (r"\boxed{}", False),
        (r"\boxed{5", False),
        (r"<think>\boxed{5}", False),
        ("5", False),
    ],
)
def test_by_default_format_wants_a_box_at_the_end(text: str, ends: bool) -> None:
    assert ends_in_box(text) is ends
    reward = build(FormatRewardConfig())
    assert reward(prompts=[None], completions=[[{"role": "assistant", "content": text}]]) == [float(ends)]


def test_what_the_template_has_opened_is_part_of_what_format_reads() -> None:
    reward = build(FormatRewardConfig(tags=["think", "answer"]))
    turns = [[{"role": "assistant", "content": "reasoning</think>\n<answer>5</answer>"}]] * 2
    assert reward(prompts=[None] * 2, completions=turns, openings=["<think>\n", ""]) == [1.0, 0.0]
    by_pattern = build(FormatRewardConfig(pattern=r"(?s)<think>.*</think>\s*<answer>.*</answer>"))
    assert by_pattern(prompts=[None] * 2, completions=turns, openings=["<think>\n", ""]) == [1.0, 0.0]


def test_a_reward_says_what_it_read() -> None:
    reward = build(ExactRewardConfig())
    turns = [[{"role": "assistant", "content": "<think>Lyon?</think>The answer is **Paris**."}]]
    assert reward(prompts=[None], completions=turns, answer=["Paris"]) == [Mark(value=1.0, read="Paris")]


@pytest.mark.parametrize(
    ("rendered", "begun"),
    [
        ("<|im_start|>assistant\n", ""),
        ("<|im_start|>assistant\n<think>\n", "<think>\n"),
        ("<start_of_turn>model\n", ""),
        ("[/INST][THINK]", "[THINK]"),
        ("<|assistant|><answer>", "<answer>"),
        ("<|im_start|>assistant\n<think>\n\n</think>\n\n", "<think>\n\n</think>\n\n"),
    ],
)
def test_a_template_begins_an_answer_by_a_tag(rendered: str, begun: str) -> None:
    assert thinking.begun(rendered) == begun
