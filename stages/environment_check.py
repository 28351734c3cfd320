"""Whether a stage's environment can be had, can begin, and can be understood by the chat template. `check` asks."""

from collections.abc import Iterator, Mapping, Sequence
from typing import Any

from rewards.chat_template import TemplateError, write
from rewards.types import RewardError
from rewards.waits import Wait
from rollout.config import ToolsConfig
from rollout.environment import Move, open_environment
from stages.answering import AnsweringStageConfig
from stages.chat_format import ChatFormat
from stages.data.rows import Row, reward_columns

TRIED_ROWS = 8
Schemas = Sequence[Mapping[str, Any]]


def try_environment(
    stage: AnsweringStageConfig, rows: Sequence[Row], chat: ChatFormat | None
) -> tuple[Schemas | None, list[str]]:
    """Begin a conversation for some rows; return the schemas of tools, and what is wrong.

    Without ``chat``, the model's template is not tried.
    """
    if stage.environment is None:
        return None, []
    try:
        with open_environment(stage.environment, stage.scoring) as lane:
            assert lane is not None
            tools: Schemas | None = lane.wait_ready()
            begun = [
                lane.submit(Move(state=None, prompt=row["prompt"], columns=reward_columns(row), response=None))
                for row in rows[:TRIED_ROWS]
            ]
            limit_s = 2 * (stage.scoring.start_timeout_s + stage.scoring.deadline_s)
            with Wait("an environment to begin", limit_s, fails=RewardError) as wait:
                replies = [wait.result_of(future) for future in begun]
    except RewardError as error:
        return None, [str(error)]
    failed = [(at, reply.failure.detail) for at, reply in enumerate(replies, start=1) if reply.failure is not None]
    problems = [f"{detail}, when it was to begin with row {at}" for at, detail in failed[:1]]
    return tools, problems + (list(_about_template(stage, tools, chat)) if chat is not None else [])


def _about_template(stage: AnsweringStageConfig, tools: Schemas | None, chat: ChatFormat) -> Iterator[str]:
    asked = [{"role": "user", "content": "What is 1 plus 1?"}]
    role = "tool" if isinstance(stage.environment, ToolsConfig) else "user"
    told = [*asked, {"role": "assistant", "content": "x"}, {"role": role, "name": "x", "content": "two-of-them"}]
    try:
        answered = write(chat.render, told, add_generation_prompt=True, tools=tools)
    except TemplateError as error:
        yield f"what an environment says as {role} cannot be shown to the model: {error}"
        return
    if "two-of-them" not in answered:
        yield f"the model's chat template leaves out what an environment says as {role}; mend it"
    if tools and chat.render(asked, add_generation_prompt=True) == chat.render(
        asked, add_generation_prompt=True, tools=tools
    ):
        yield "note: the model's chat template does not show tools, so the policy must know of them by itself"
