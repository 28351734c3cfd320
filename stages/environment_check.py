"""Whether a stage's environment can be had, can begin, and can be understood by the chat template. `check` asks."""

from collections.abc import Iterator, Mapping, Sequence
from typing import Any

from rewards.types import RewardError
from rollout.config import ToolsConfig
from rollout.environment import Move, open_environment
from stages.answering import AnsweringStageConfig
from stages.chat_format import ChatFormat, ModelFolderError
from stages.data.rows import Row, reward_columns

TRIED_ROWS = 8
Tools = Sequence[Mapping[str, Any]]


def try_environment(
    stage: AnsweringStageConfig, rows: Sequence[Row], chat: ChatFormat
) -> tuple[Tools | None, list[str]]:
    """Begin a conversation for some rows; return the schemas of tools, and what is wrong."""
    if stage.environment is None:
        return None, []
    try:
        with open_environment(stage.environment, stage.scoring) as lane:
            assert lane is not None
            tools: Tools | None = lane.wait_ready()
            begun = [
                lane.submit(Move(state=None, prompt=row["prompt"], columns=reward_columns(row), response=None))
                for row in rows[:TRIED_ROWS]
            ]
            replies = [future.result() for future in begun]
    except RewardError as error:
        return None, [str(error)]
    failed = [(at, reply.failure.detail) for at, reply in enumerate(replies, start=1) if reply.failure is not None]
    problems = [f"{detail}, when it was to begin with row {at}" for at, detail in failed[:1]]
    return tools, problems + list(_about_template(stage, tools, chat))


def _about_template(stage: AnsweringStageConfig, tools: Tools | None, chat: ChatFormat) -> Iterator[str]:
    asked = [{"role": "user", "content": "What is 1 plus 1?"}]
    if isinstance(stage.environment, ToolsConfig):
        told = [*asked, {"role": "assistant", "content": "x"}, {"role": "tool", "name": "x", "content": "two-of-them"}]
        try:
            if "two-of-them" not in chat.render(told, add_generation_prompt=True, tools=tools):
                yield "the model's chat template leaves out what tools answer; mend it, or take a class as environment"
        except ModelFolderError as error:
            yield f"what tools answer cannot be shown to the model: {error}"
    if tools:
        shown = [chat.render(asked, add_generation_prompt=True, tools=given) for given in (tools, None)]
        if shown[0] == shown[1]:
            yield "note: the model's chat template does not show tools, so the policy must know of them by itself"
