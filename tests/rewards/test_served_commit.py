"""A judge that we serve is the commit of the recipe: its server is told so, and its replies are kept apart."""

import asyncio
from pathlib import Path
from typing import ClassVar

import pytest

from rewards import chat, serving
from rewards.chat import Chat, Meter
from rewards.config import JudgeRewardConfig
from rewards.questions import Question
from rewards.types import RewardError
from tests.rewards.endpoint import endpoint

FIRST, SECOND = "a" * 40, "b" * 40


class Ended:
    """A server that is over as soon as it is begun."""

    commands: ClassVar[list[list[str]]] = []
    returncode = 1

    def __init__(self, command: list[str], **_: object) -> None:
        self.commands.append(command)

    def poll(self) -> int:
        return self.returncode

    def kill(self) -> None:
        pass


def test_weights_tokenizer_and_code_are_the_commit_s(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(serving.subprocess, "Popen", Ended)
    monkeypatch.setattr(serving, "_for_cpu", lambda max_model_tokens: [])
    for revision in (FIRST, None):
        with pytest.raises(RewardError, match="ended with exit code 1"):
            serving.serve("org/judge", 512, 0.3, revision=revision)
    pinned, unpinned = Ended.commands
    told = [argument for argument in pinned if "revision" in argument]
    assert told == [f"--revision={FIRST}", f"--tokenizer-revision={FIRST}", f"--code-revision={FIRST}"]
    assert not [argument for argument in unpinned if "revision" in argument]


def test_the_replies_of_one_commit_are_not_those_of_another(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    with endpoint(lambda text: f"reply {len(served.requests)}") as served:
        monkeypatch.setattr(serving, "serve", lambda *_, **__: (None, "key"))
        monkeypatch.setattr(serving, "HOST", served.url.removeprefix("http://").removesuffix("/v1"))
        monkeypatch.setattr(chat, "of_folder", lambda *_: None)

        def reply(revision: str | None) -> str:
            config = JudgeRewardConfig(model="org/judge", model_revision=revision, cache=str(tmp_path / "replies"))
            return asyncio.run(Chat(config).ask(Question(template="how good?", material={}), Meter()))

        assert [reply(FIRST), reply(SECOND), reply(FIRST), reply(None)] == ["reply 1", "reply 2", "reply 1", "reply 3"]
