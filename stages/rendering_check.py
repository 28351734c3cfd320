"""Whether rows can be learned in the context in which the model answers, by its chat template. `check` asks.

A bounded sample of the rows is rendered; a stage renders all of them, and says the same of each.
"""

from collections.abc import Iterator, Sequence

from stages.answering import AnsweringStageConfig
from stages.base import Problem, StageConfig
from stages.data.control_text import about_control_text
from stages.data.examples import answer, examples, merges
from stages.data.prompts import require_answered
from stages.data.rendering import Chat, Tools, prompt_text
from stages.data.rows import DataError, Row, place_of, with_columns
from stages.sft.config import SFTStage
from stages.training import SupervisedConfig

MOST_ROWS = 128
"""Rows that are rendered, evenly spread."""


def about_rendering(stage: StageConfig, rows: Sequence[Row], chat: Chat, tools: Tools | None) -> Iterator[Problem]:
    """Say what is wrong with the first row that the template cannot write, and what of the rows it does not show."""
    sample = rows[:: max(1, -(-len(rows) // MOST_ROWS))]
    try:
        for row in sample:
            if isinstance(stage, AnsweringStageConfig):
                require_answered(row, tools)
            prompt_text(chat, row, tools)
            if isinstance(stage, SupervisedConfig):
                _render(stage, row, chat)
    except DataError as error:
        yield str(error)
        return
    columns = ["prompt", *(sides_of(stage) if isinstance(stage, SupervisedConfig) else [])]
    if spelled := about_control_text(chat.control, rows, columns):
        yield f"note: {spelled}"
    with_tools = next((row for row in sample if row.get("tools")), None)
    if with_tools and prompt_text(chat, with_tools) == prompt_text(chat, with_columns(with_tools, tools=None)):
        yield f"note: {place_of(with_tools)}: the model's chat template does not show the row's tools"
    if isinstance(stage, SupervisedConfig) and not stage.leaves_out_too_long:
        yield from _about_merges(stage, sample, chat)


def sides_of(stage: SupervisedConfig) -> list[str]:
    """Return the columns of answers that a stage learns from."""
    return [side for side in ("completion", "chosen", "rejected") if side in stage.columns()]


def up_to_first_learned(row: Row, stage: SupervisedConfig) -> Row:
    """Return the row with as much of its prompt as comes before anything that is learned."""
    if not isinstance(stage, SFTStage) or stage.train_on == "last":
        return row
    first = next((at for at, turn in enumerate(row["prompt"]) if turn["role"] == "assistant"), len(row["prompt"]))
    return with_columns(row, prompt=row["prompt"][:first])


def _render(stage: SupervisedConfig, row: Row, chat: Chat) -> None:
    """Raise DataError where a row's answers cannot be learned in the context that they answer."""
    for side in sides_of(stage):
        if isinstance(stage, SFTStage):
            examples(chat, row, side, stage.train_on)
        else:
            answer(chat, row, side)


def _about_merges(stage: SupervisedConfig, rows: Sequence[Row], chat: Chat) -> Iterator[Problem]:
    found = [(row, text) for row in rows for side in sides_of(stage)[:1] if (text := merges(chat, row, side))]
    if found:
        row, text = found[0]
        yield (
            f"note: in {len(found)} of {len(rows)} rows that were looked at, the end of the prompt and the beginning "
            f"of the answer would be one token ({text!r} in {place_of(row)}); they are learned apart, since the "
            "engine is given the prompt alone"
        )
