"""What is said of folders for temporary files that will not do for Ray or vLLM."""

import tempfile
from pathlib import Path
from typing import Any

import pytest

from pipeline.config import RunConfig
from pipeline.temporary import problems


def config(engine: str = "vllm") -> RunConfig:
    grpo = {"kind": "grpo", "prompts": "p.jsonl", "num_steps": 1, "rewards": ["math"]}
    tree: dict[str, Any] = {"name": "r", "model": "m", "engine": {"type": engine}, "stages": {"grpo": grpo}}
    return RunConfig.model_validate(tree)


@pytest.fixture(autouse=True)
def short(monkeypatch: pytest.MonkeyPatch) -> None:
    for name in ("TMPDIR", "RAY_TMPDIR", "VLLM_RPC_BASE_PATH"):
        monkeypatch.delenv(name, raising=False)
    monkeypatch.setattr(tempfile, "tempdir", "/tmp")


def test_the_usual_folder_will_do() -> None:
    assert not list(problems(config()))


def test_a_name_that_leaves_no_room_for_sockets_is_refused(monkeypatch: pytest.MonkeyPatch) -> None:
    long = "/tmp/" + "x" * 45
    monkeypatch.setenv("TMPDIR", long)
    [said] = problems(config())
    assert f"Ray keeps its files in {long}, whose name of 50 bytes is too long" in said and "set RAY_TMPDIR" in said
    monkeypatch.setenv("RAY_TMPDIR", "/tmp")
    assert not list(problems(config()))
    monkeypatch.setattr(tempfile, "tempdir", "/tmp/" + "x" * 66)
    [said] = problems(config())
    assert "vLLM puts its sockets into" in said and "at most 70 bytes" in said
    assert not list(problems(config("transformers")))
    monkeypatch.setenv("VLLM_RPC_BASE_PATH", "/tmp")
    assert not list(problems(config()))


def test_a_folder_that_cannot_be_written_to_is_refused(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("RAY_TMPDIR", "/proc")
    [said] = problems(config())
    assert said.startswith("Ray keeps its files in /proc, which cannot be written to; set RAY_TMPDIR to a folder that")


def test_no_folder_at_all_is_said(monkeypatch: pytest.MonkeyPatch) -> None:
    def none() -> str:
        raise FileNotFoundError("No usable temporary directory found")

    monkeypatch.setattr(tempfile, "gettempdir", none)
    assert any("there is no folder for temporary files" in said for said in problems(config()))
