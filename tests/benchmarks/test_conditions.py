"""What results say of the machine and of the code."""

import json
import os
import subprocess
from pathlib import Path

import pytest
import torch

from benchmarks import conditions
from benchmarks.conditions import code_state, keep, kept


def git(folder: Path, *arguments: str) -> str:
    named = ("-c", "user.name=a", "-c", "user.email=a@b", "-c", "commit.gpgsign=false")
    done = subprocess.run(["git", *named, *arguments], cwd=folder, capture_output=True, text=True, check=True)
    return done.stdout.strip()


@pytest.fixture
def tree(tmp_path: Path) -> Path:
    git(tmp_path, "init", "--quiet")
    (tmp_path / "learner.py").write_text("a = 1\n")
    (tmp_path / "benchmarks/results").mkdir(parents=True)
    (tmp_path / "benchmarks/results/rl.json").write_text("{}\n")
    git(tmp_path, "add", ".")
    git(tmp_path, "commit", "--quiet", "--message", "first")
    return tmp_path


def test_code_is_named_by_its_commit(tree: Path) -> None:
    assert code_state(tree) == {"commit": git(tree, "rev-parse", "HEAD"), "changed": False}


def test_results_that_were_written_are_no_change_of_the_code(tree: Path) -> None:
    (tree / "benchmarks/results/rl.json").write_text('{"a": 1}\n')
    assert code_state(tree)["changed"] is False


@pytest.mark.parametrize("file", ["learner.py", "another.py"])
def test_code_that_was_changed_or_added_since_is_said_to_be(tree: Path, file: str) -> None:
    (tree / file).write_text("a = 2\n")
    assert code_state(tree)["changed"] is True


def test_without_a_repository_the_code_has_no_name(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("GIT_CEILING_DIRECTORIES", str(tmp_path.parent))
    assert code_state(tmp_path) == {"commit": None, "changed": None}


def test_conditions_name_the_machine_and_the_versions_and_no_date() -> None:
    found = conditions.conditions(num_threads=3)
    assert (found["num_cores"], found["num_threads"]) == (len(os.sched_getaffinity(0)), 3)
    assert found["versions"]["torch"] == torch.__version__
    assert conditions.conditions()["num_threads"] == torch.get_num_threads()
    assert conditions.conditions(num_threads=3) == found


def test_results_are_kept_under_their_name(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(conditions, "RESULTS", tmp_path / "results")
    assert kept("rl.json") == {}
    keep("rl.json", {"a": 1})
    assert kept("rl.json") == json.loads((tmp_path / "results/rl.json").read_text()) == {"a": 1}
