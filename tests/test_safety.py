"""A recipe is data, and what is secret stays where it is."""

import os
import re
import sys
from pathlib import Path
from typing import Any

import pytest
import yaml

from pipeline.config import ConfigError, load_config
from tests.end_to_end.runs import strop, write_recipe, write_rows
from tests.models import write_tiny_model
from tests.rewards.endpoint import endpoint

SECRET = "sk-a-key-that-nobody-must-see"


@pytest.mark.parametrize("tag", ["!!python/object/apply:os.system", "!!python/name:os.system", "!!python/module:os"])
def test_a_recipe_that_would_run_code_is_refused(tag: str, tmp_path: Path) -> None:
    (tmp_path / "recipe.yaml").write_text(f"name: {tag} ['touch {tmp_path}/was_here']\nmodel: m\nstages: {{}}\n")
    with pytest.raises(ConfigError):
        load_config(tmp_path / "recipe.yaml")
    assert not (tmp_path / "was_here").exists()


def test_reading_a_recipe_imports_nothing_that_it_names(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    (tmp_path / "named_in_a_recipe.py").write_text(f"open('{tmp_path}/was_here', 'w')\ndef f(): pass\n")
    monkeypatch.syspath_prepend(str(tmp_path))
    stages: dict[str, Any] = {
        "grpo": {
            "kind": "grpo", "prompts": "p.jsonl", "num_steps": 1,
            "rewards": [{"import_path": "named_in_a_recipe:f"}], "environment": {"functions": ["named_in_a_recipe:f"]},
        }
    }  # fmt: skip
    config = load_config(write_recipe(tmp_path / "recipe.yaml", name="r", model="m", stages=stages))
    assert config.stages["grpo"].kind == "grpo"
    assert not (tmp_path / "was_here").exists() and "named_in_a_recipe" not in sys.modules


def test_code_in_a_model_s_folder_does_not_run_unless_the_recipe_says_so(tmp_path: Path) -> None:
    config = load_config(
        write_recipe(
            tmp_path / "r.yaml", name="r", model="m", stages={"s": {"kind": "sft", "data": "d", "num_steps": 1}}
        )
    )
    assert config.trust_remote_code is False


@pytest.mark.real
@pytest.mark.exhaustive
def test_a_key_in_the_environment_reaches_nothing_that_a_run_writes(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("THEIR_KEY", SECRET)
    rows = [{"prompt": f"What is {n} plus 1?", "answer": str(n + 1)} for n in range(8)]
    with endpoint(lambda text: "[[7]]") as served:
        judge = {"type": "judge", "model": "m", "base_url": served.url, "api_key_variable": "THEIR_KEY"}
        stages = {
            "grpo": {
                "kind": "grpo", "prompts": write_rows(tmp_path / "train.jsonl", rows), "num_steps": 1, "group_size": 2,
                "prompts_per_step": 2, "sampling": {"max_tokens": 8}, "rewards": [judge], "replace_up_to": 0,
            }
        }  # fmt: skip
        model = str(write_tiny_model(tmp_path / "base"))
        engine = {"type": "transformers", "max_model_tokens": 64}
        recipe = write_recipe(tmp_path / "r.yaml", name="r", model=model, engine=engine, stages=stages)
        done = strop("run", recipe, "--runs", tmp_path / "runs")
        assert served.requests, done.stdout + done.stderr
    written = [path for path in (tmp_path / "runs").rglob("*") if path.is_file() and not path.is_symlink()]
    assert len(written) > 8
    assert [path for path in written if SECRET.encode() in path.read_bytes()] == []
    assert SECRET not in done.stdout + done.stderr and SECRET in os.environ.values()
    assert "THEIR_KEY" in yaml.safe_dump(yaml.safe_load((tmp_path / "runs/r/resolved.json").read_text()))


def test_the_page_on_security_names_tests_that_exist() -> None:
    root = Path(__file__).parents[1]
    named = set(re.findall(r"[\w/]*test_\w+\.py", (root / "docs/security.md").read_text()))
    there = {str(path.relative_to(root)) for path in (root / "tests").rglob("test_*.py")}
    assert len(named) > 20
    assert [
        name for name in sorted(named) if not any(path.endswith(f"/{name}") or path == name for path in there)
    ] == []
