"""The judge reward: what does a language model think of the answer, by a rubric of yours?

Judges like what comes first, what is long and what sounds sure. Pairs are therefore shown in both orders, and a judge
should be put to a test on answers of known worth (`strop rewards check`) before a run learns to please it.
"""

import math
import statistics
from collections.abc import Sequence
from itertools import combinations
from typing import TYPE_CHECKING, Any

from rewards.chat import Chat, Meter, gathered
from rewards.questions import Question, transcript
from rewards.replies import closing_verdict, line_pattern, unreadable
from rewards.types import LogMetric, Mark, RewardFunction

if TYPE_CHECKING:
    from rewards.config import JudgeRewardConfig

POINTWISE = """You judge an answer by this rubric:

{rubric}

{note}

{question}
{reference}
{answer}

Say in a few sentences how the answer does by the rubric. Then end with your mark, a number from {lowest} (worst) to
{highest} (best), in double brackets, on a line of its own with nothing else on it:
[[mark]]"""
PAIRWISE = """You compare two answers by this rubric:

{rubric}

{note}

{question}
{reference}
{first}
{second}

Say in a few sentences how they do by the rubric; neither their order nor their length matters. Then end with your
verdict in double brackets, [[A]], [[B]], or [[C]] for a tie, on a line of its own with nothing else on it:
[[verdict]]"""
_MARK = line_pattern(
    r"\[\[\s*(?:(?:mark|score|rating)\s*[:=]?\s*)?(-?[0-9]{1,9}(?:\.[0-9]{1,9})?)"
    r"(?:\s*/\s*([0-9]{1,9}(?:\.[0-9]{1,9})?))?\s*\]\]"
)
_VERDICT = line_pattern(r"\[\[\s*(?:answer\s*)?([ABC])\s*\]\]")
WINS = {"A": 1.0, "B": 0.0, "C": 0.5}
"""What a verdict is worth to the answer shown first."""


def load(config: "JudgeRewardConfig") -> RewardFunction:
    """Connect to the judge and return a reward from 0.0, the worst by the rubric, to 1.0, the best.

    Pointwise it is the judge's mark, scaled; pairwise the share of comparisons won against others of the group, a tie
    being half a win. What the endpoint refused, or has not said in time or so that it can be read, fails its answer.
    """
    chat = Chat(config)
    judged = _pairwise if config.compare == "pairwise" else _pointwise

    async def judge(
        prompts: list[Any], completions: list[Any], log_metric: LogMetric, **columns: list[Any]
    ) -> list[float | Mark | None]:
        meter = Meter()
        references = columns[config.reference_column] if config.reference_column else [""] * len(prompts)
        known = {"question": transcript(prompts[0])}
        known |= {"reference": _text(references[0])} if references[0] else {}
        answers = [turns[-1]["content"] for turns in completions]
        marks = await judged(config, chat, meter, known, answers)
        for name, count in {**meter.counts, "spent_usd": chat.spent_usd}.items():
            log_metric(name, count)
        return marks

    return judge


async def _pointwise(
    config: "JudgeRewardConfig", chat: Chat, meter: Meter, known: dict[str, str], answers: Sequence[str]
) -> list[float | Mark | None]:
    asked = [_question(config, POINTWISE, {**known, "answer": answer}) for answer in answers]
    replies = await gathered([chat.ask(question, meter) for question in asked], config.seconds)
    return [reply if isinstance(reply, Mark) else _read(reply, config) for reply in replies]


async def _pairwise(
    config: "JudgeRewardConfig", chat: Chat, meter: Meter, known: dict[str, str], answers: Sequence[str]
) -> list[float | Mark | None]:
    met = opponents(len(answers), config.opponents)
    pairs = [(a, b) for a, b in met if answers[a] != answers[b]]
    shown = [order for a, b in pairs for order in ([(a, b), (b, a)] if config.swap else [(a, b)])]
    asked = [_question(config, PAIRWISE, {**known, "first": answers[a], "second": answers[b]}) for a, b in shown]
    replies = await gathered([chat.ask(question, meter) for question in asked], config.seconds)
    won: list[list[float]] = [[] for _ in answers]
    failed: list[Mark | None] = [None for _ in answers]
    for (first, second), reply in zip(shown, replies, strict=True):
        win = None if isinstance(reply, Mark) else winner(reply)
        if win is not None:
            won[first].append(win)
            won[second].append(1 - win)
        else:
            failed[first] = failed[second] = reply if isinstance(reply, Mark) else unreadable(reply)
    for a, b in set(met) - set(pairs):  # the same text needs no judge
        won[a].append(0.5)
        won[b].append(0.5)
    return [statistics.fmean(wins) if wins else failure for wins, failure in zip(won, failed, strict=True)]


def opponents(num_answers: int, each: int) -> list[tuple[int, int]]:
    """Return pairs in which every answer meets the next ``each`` of its group, round about; at most all pairs, once."""
    if 2 * each >= num_answers - 1:
        return list(combinations(range(num_answers), 2))
    return [(at, (at + step) % num_answers) for step in range(1, each + 1) for at in range(num_answers)]


def winner(reply: str) -> float | None:
    """Return what the verdict is worth to the answer shown first; None where there is no verdict."""

    def of_line(line: str) -> float | None:
        found = _VERDICT.fullmatch(line)
        return WINS[found[1].upper()] if found else None

    return closing_verdict(reply, of_line)


def scaled(reply: str, lowest: float, highest: float) -> float | None:
    """Return the mark on the scale from 0 to 1; None where the reply has none, or one off the scale."""

    def of_line(line: str) -> float | None:
        found = _MARK.fullmatch(line)
        if found is None:
            return None
        return float(found[1]) if found[2] is None or float(found[2]) == highest else math.inf

    mark = closing_verdict(reply, of_line)
    return None if mark is None or not lowest <= mark <= highest else (mark - lowest) / (highest - lowest)


def _read(reply: str, config: "JudgeRewardConfig") -> float | Mark:
    mark = scaled(reply, config.lowest, config.highest)
    return unreadable(reply) if mark is None else mark


def _question(config: "JudgeRewardConfig", template: str, material: dict[str, str]) -> Question:
    settings = {"rubric": config.rubric, "lowest": f"{config.lowest:g}", "highest": f"{config.highest:g}"}
    absent = {} if "reference" in material else {"reference": ""}
    return Question(template=config.template or template, material=material, settings={**settings, **absent})


def _text(reference: Any) -> str:
    return transcript(reference) if isinstance(reference, list) else str(reference)
