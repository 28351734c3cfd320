import sys
from pathlib import Path
from typing import Any

import pytest

from pipeline.config import ConfigError, RunConfig
from pipeline.graph import order
from pipeline.plan import fingerprints, plan
from pipeline.state import RunState, StageState


def sft(data: Path, **changes: Any) -> dict[str, Any]:
    return {"kind": "sft", "data": str(data), "num_steps": 1, **changes}


def run_config(stages: dict[str, Any], **changes: Any) -> RunConfig:
    return RunConfig.model_validate({"name": "r", "model": "m", "stages": stages, **changes})


@pytest.fixture
def data(tmp_path: Path) -> Path:
    path = tmp_path / "a.jsonl"
    path.write_text('{"prompt": "1+1", "completion": "2"}\n')
    return path


def test_stages_run_after_what_they_read_and_otherwise_as_written(data: Path) -> None:
    config = run_config({"c": sft(data, init_from="b"), "a": sft(data), "b": sft(data)})
    assert order(config.stages) == ["a", "b", "c"]


def test_a_missing_stage_names_the_nearest(data: Path) -> None:
    config = run_config({"sft": sft(data), "more": sft(data, init_from="sfft")})
    with pytest.raises(ConfigError, match=r"reads from 'sfft', which is not a stage.*Did you mean 'sft'"):
        order(config.stages)


def test_a_circle_is_shown(data: Path) -> None:
    config = run_config({"a": sft(data, init_from="b"), "b": sft(data, init_from="a")})
    with pytest.raises(ConfigError, match=r"circle: (a -> b -> a|b -> a -> b)"):
        order(config.stages)


def test_a_stage_cannot_start_from_pairs(data: Path) -> None:
    pairs = {"kind": "pairs", "prompts": str(data), "rewards": [{"type": "math"}]}
    config = run_config({"pairs": pairs, "sft": sft(data, init_from="pairs")})
    with pytest.raises(ConfigError, match="hands over pairs, not model"):
        order(config.stages)


def test_a_change_re_runs_the_stage_and_those_that_read_it_and_no_other(data: Path) -> None:
    stages = {"a": sft(data), "b": sft(data, init_from="a"), "other": sft(data)}
    before = run_config(stages)
    old = fingerprints(before, order(before.stages))
    state = RunState(name="r", stages={k: StageState(status="done", fingerprint=v, attempts=1) for k, v in old.items()})
    after = run_config({**stages, "a": sft(data, learning_rate=0.5)})
    steps = plan(order(after.stages), fingerprints(after, order(after.stages)), state, whole={"a", "b", "other"})
    assert [(s.name, s.action) for s in steps] == [("a", "run"), ("b", "run"), ("other", "skip")]


def test_changed_data_re_runs_what_reads_it(data: Path) -> None:
    config = run_config({"a": sft(data)})
    old = fingerprints(config, ["a"])
    data.write_text('{"prompt": "1+1", "completion": "3"}\n')
    assert fingerprints(config, ["a"]) != old


def test_settings_of_the_machine_re_run_nothing(data: Path) -> None:
    stages = {"a": sft(data)}
    here = run_config(stages)
    elsewhere = {"ray_address": "auto", "stall_timeout_s": 5, "engine": {"type": "vllm", "request_timeout_s": 9}}
    there = run_config({"a": sft(data, checkpoint={"every_steps": 7}, micro_batch_size=4)}, **elsewhere)
    assert fingerprints(here, ["a"]) == fingerprints(there, ["a"])


def test_a_base_model_or_a_reward_that_was_edited_re_runs_what_uses_it(data: Path, tmp_path: Path) -> None:
    model, reward = tmp_path / "model", tmp_path / "edited_reward.py"
    model.mkdir()
    (model / "config.json").write_text("{}")
    reward.write_text("x = 1")
    sys.path.insert(0, str(tmp_path))
    try:
        rewards = [{"import_path": "edited_reward:f"}]
        stages = {"a": sft(data), "p": {"kind": "pairs", "prompts": str(data), "rewards": rewards}}
        config = run_config(stages, model=str(model))
        first = fingerprints(config, ["a", "p"])
        reward.write_text("x = 2")
        second = fingerprints(config, ["a", "p"])
        (model / "config.json").write_text('{"a": 1}')
        third = fingerprints(config, ["a", "p"])
    finally:
        sys.path.remove(str(tmp_path))
    assert first["a"] == second["a"] != third["a"] and len({first["p"], second["p"], third["p"]}) == 3


def test_a_stage_that_was_stopped_or_failed_continues() -> None:
    state = RunState(
        name="r",
        stages={
            "a": StageState(status="running", fingerprint="x", attempts=1),
            "b": StageState(status="failed", fingerprint="y", attempts=2, cause="StageError: loss is nan"),
        },
    )
    steps = plan(["a", "b"], {"a": "x", "b": "y"}, state, whole=set())
    assert [(s.action, s.why) for s in steps] == [
        ("continue", "was stopped in the middle"),
        ("continue", "failed: StageError: loss is nan"),
    ]
