"""Files of the user's own that are called like our packages: ours are imported, in every process."""

import json
import os
import subprocess
import sys
import tomllib
from pathlib import Path
from typing import Any

import pytest
import yaml

from rewards.importing import PACKAGES, ROOT
from tests.models import write_tiny_model

ROWS = [{"prompt": f"What is {n} plus 1?", "completion": f"\\boxed{{{n + 1}}}", "answer": str(n + 1)} for n in range(9)]
MINE = "def odd(completions, **columns):\n    return [float(len(turns[-1]['content']) % 2) for turns in completions]\n"


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    """Return a folder to call `strop` from, with a module of each name; to import one of ours' is an error."""
    write_tiny_model(tmp_path / "base")
    (tmp_path / "d.jsonl").write_text("".join(json.dumps(row) + "\n" for row in ROWS))
    for name in PACKAGES:
        (tmp_path / f"{name}.py").write_text(f"raise RuntimeError('the user\\'s own {name}.py was imported')\n{MINE}")
    (tmp_path / "mine.py").write_text(MINE)
    return tmp_path


def strop(folder: Path, *arguments: str) -> "subprocess.CompletedProcess[str]":
    """Call the command as its script does: without the folder on the path."""
    command = [sys.executable, "-P", "-m", "pipeline.cli", *arguments]
    environment = {**os.environ, "PYTHONPATH": ROOT}
    return subprocess.run(command, cwd=folder, env=environment, capture_output=True, text=True, timeout=300)


def recipe(folder: Path, reward: str) -> str:
    sft = {"kind": "sft", "data": "d.jsonl", "num_steps": 1, "max_tokens": 64}
    grpo: dict[str, Any] = {
        "kind": "grpo", "init_from": "sft", "prompts": "d.jsonl", "num_steps": 1, "prompts_per_step": 2,
        "group_size": 8, "sampling": {"max_tokens": 16},
        "rewards": ["math", {"import_path": reward, "gold_value": None}],
    }  # fmt: skip
    engine = {"type": "transformers", "max_model_tokens": 128}
    tree = {"name": "r", "model": "base", "engine": engine, "stages": {"sft": sft, "grpo": grpo}}
    (folder / "r.yaml").write_text(yaml.safe_dump(tree))
    return "r.yaml"


def test_all_our_packages_are_known() -> None:
    found = tomllib.loads((Path(ROOT) / "pyproject.toml").read_text())["tool"]["setuptools"]["packages"]["find"]
    assert sorted(name.rstrip("*") for name in found["include"]) == sorted(PACKAGES)


@pytest.mark.processes
def test_rewards_work_next_to_such_files_and_those_in_them_are_refused_by_name(folder: Path) -> None:
    right = strop(folder, "check", recipe(folder, "mine:odd"))
    assert right.returncode == 0, right.stderr
    wrong = strop(folder, "check", recipe(folder, "rewards:odd"))
    assert wrong.returncode == 2
    assert "reward 'rewards:odd' cannot be imported: your module rewards.py has the name of one of" in wrong.stderr
    assert "rename it" in wrong.stderr


@pytest.mark.processes
def test_a_module_that_another_one_hides_is_named_with_it(folder: Path) -> None:
    (folder / "code.py").write_text(MINE)
    hidden = strop(folder, "check", recipe(folder, "code:odd"))
    assert "code.py, is found before your code.py: rename yours" in hidden.stderr.replace("\n", " ")


@pytest.mark.real
def test_a_run_goes_through_next_to_such_files(folder: Path) -> None:
    done = strop(folder, "run", recipe(folder, "mine:odd"), "--runs", "runs")
    assert done.returncode == 0, done.stdout + done.stderr
    assert (folder / "runs" / "r" / "grpo" / "output" / "manifest.json").is_file()
