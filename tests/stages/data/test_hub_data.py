"""Data sets on the Hub, read by the real `datasets` in processes of their own: it takes its settings as it begins."""

import json
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest

from tests.hub import serving

ROOT = Path(__file__).parents[3]
SCRIPT = """
import json, sys
from stages.data.config import DataSetConfig
from stages.data.rows import DataError, load_rows

told = []
for revision in sys.argv[1:]:
    config = DataSetConfig(path="org/rows", revision=revision)
    try:
        told.append([row["answer"] for row in load_rows(config, ("prompt",))])
    except DataError as error:
        told.append(str(error))
print(json.dumps(told))
"""


def answers(*revisions: str) -> list[Any]:
    """Return what a process of its own reads of the data set at these commits, one after the other."""
    command = [sys.executable, "-c", SCRIPT, *revisions]
    ended = subprocess.run(command, capture_output=True, text=True, timeout=120, cwd=ROOT)
    assert ended.returncode == 0, ended.stderr
    found: list[Any] = json.loads(ended.stdout.splitlines()[-1])
    return found


@pytest.mark.processes
def test_rows_are_those_of_the_commit_or_none(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Without the Hub `datasets` would take whatever version was read last."""
    with serving(monkeypatch, tmp_path / "home") as hub:
        first, second = (
            hub.push("datasets/org/rows", {"train.jsonl": json.dumps({"prompt": "1+1", "answer": each}).encode()})
            for each in ("two", "three")
        )
        assert answers(first, second) == [["two"], ["three"]]
        monkeypatch.setenv("HF_HUB_OFFLINE", "1")
        newest, other = answers(second, first)
    assert newest == ["three"]
    assert f"dataset org/rows@{first} cannot be loaded: the Hub is not reached" in other
    assert f"this machine's cache has commit {second} for the newest" in other
