import json
import sys
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest

from pipeline.config import ConfigError, RunConfig
from pipeline.graph import order
from pipeline.plan import identities, plan
from pipeline.state import RunState, StageState
from rewards.hub import HubName
from stages.fingerprints import model_fingerprint


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
    old = identities(before, order(before.stages))
    state = RunState(name="r", stages={k: StageState(status="done", identity=v, attempts=1) for k, v in old.items()})
    after = run_config({**stages, "a": sft(data, learning_rate=0.5)})
    now, whole = identities(after, order(after.stages)), {"a", "b", "other"}
    steps = plan(order(after.stages), now, state, whole=whole, manifests={}, kept={})
    assert [(s.name, s.action) for s in steps] == [("a", "run"), ("b", "run"), ("other", "skip")]
    assert [s.why for s in steps[:2]] == [
        "changed since: config learning_rate 1e-05 -> 0.5", "changed since: input a",
    ]  # fmt: skip


def test_what_read_a_result_that_is_made_anew_runs_again(data: Path) -> None:
    config = run_config({"a": sft(data), "b": sft(data, init_from="a"), "c": sft(data, init_from="b")})
    now = identities(config, ["a", "b", "c"])
    a, b, c = (StageState(status="done", identity=now[name], attempts=1) for name in "abc")
    b, c = replace(b, inputs={"a": "manifest 1"}), replace(c, inputs={"b": "manifest b"})
    state = RunState(name="r", stages={"a": a, "b": b, "c": c})

    def decided(a: str | None, whole: set[str]) -> list[tuple[str, str]]:
        manifests = {"b": "manifest b", **({"a": a} if a else {})}
        steps = plan(["a", "b", "c"], now, state, whole=whole, manifests=manifests, kept={})
        return [(step.action, step.why) for step in steps]

    skip = ("skip", "done with this config, data and inputs")
    again = ("run", "it read what is no longer there: a is made again")
    after = ("run", "b is made again, which it read")
    assert decided("manifest 1", {"a", "b", "c"}) == [skip, skip, skip]
    gone = ("run", "what it made is no longer there, or not all of it")
    assert decided(None, {"b", "c"}) == [gone, again, after]  # the result of a was deleted
    assert decided("manifest 1", {"b", "c"}) == [
        gone,
        ("run", "a is made again, which it read"),
        after,
    ]  # or half
    assert decided("manifest 2", {"a", "b", "c"}) == [
        skip,
        again,
        after,
    ]  # made again, then the driver was killed


def test_a_stage_of_which_the_record_is_lost_says_that_its_folder_is_set_aside(data: Path) -> None:
    [step] = plan(["a"], {"a": {}}, None, whole={"a"}, manifests={}, kept={})
    assert (step.action, step.why) == ("run", "never ran, by run.json; what its folder holds is set aside")


def test_changed_data_re_runs_what_reads_it(data: Path) -> None:
    config = run_config({"a": sft(data)})
    old = identities(config, ["a"])
    data.write_text('{"prompt": "1+1", "completion": "3"}\n')
    assert identities(config, ["a"]) != old


def test_settings_of_the_machine_re_run_nothing(data: Path) -> None:
    stages = {"a": sft(data)}
    here = run_config(stages)
    elsewhere = {"ray_address": "auto", "stall_timeout_s": 5, "engine": {"type": "vllm", "request_timeout_s": 9}}
    there = run_config({"a": sft(data, checkpoint={"every_steps": 7}, micro_batch_size=4)}, **elsewhere)
    assert identities(here, ["a"]) == identities(there, ["a"])


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
        first = identities(config, ["a", "p"])
        reward.write_text("x = 2")
        second = identities(config, ["a", "p"])
        (model / "config.json").write_text('{"a": 1}')
        third = identities(config, ["a", "p"])
    finally:
        sys.path.remove(str(tmp_path))
    assert first["a"] == second["a"] != third["a"]
    assert first["p"] != second["p"] != third["p"] != first["p"]


def test_a_large_base_model_that_was_trained_on_is_another(tmp_path: Path) -> None:
    file = tmp_path / "model.safetensors"
    with file.open("wb") as stream:
        stream.truncate(3 * 2**26)  # sparse
    name = HubName(kind="model", id=str(tmp_path), revision=None)
    before = model_fingerprint(name)
    with file.open("r+b") as stream:
        stream.seek(2**26 + 2**25)
        stream.write(b"\1" * 2**20)
    assert model_fingerprint(name) != before


def test_a_setting_that_is_new_and_unset_changes_nothing(data: Path) -> None:
    config = run_config({"a": sft(data)})
    before = identities(config, ["a"])
    state = RunState(name="r", stages={"a": StageState(status="done", identity=before["a"], attempts=1)})
    now = {"a": {**before["a"], "config": {**before["a"]["config"], "later": None}}}
    [step] = plan(["a"], now, state, whole={"a"}, manifests={}, kept={})
    assert step.action == "skip"


def test_settings_that_only_guard_re_run_nothing(data: Path) -> None:
    grpo = {"kind": "grpo", "prompts": str(data), "num_steps": 1, "rewards": ["math"]}
    here = run_config({"g": grpo})
    there = run_config({"g": {**grpo, "max_empty_batches": 99, "rewards": [{"type": "math", "gold_value": None}]}})
    assert identities(here, ["g"]) == identities(there, ["g"])


def test_what_an_exam_that_may_stop_a_stage_reads_is_part_of_its_identity(tmp_path: Path) -> None:
    pairs, exam = tmp_path / "pairs.jsonl", tmp_path / "exam.jsonl"
    pairs.write_text(json.dumps({"prompt": "a", "chosen": "b", "rejected": "c"}) + "\n")
    exam.write_text(json.dumps({"prompt": "a", "answer": "1"}) + "\n")
    stage = {"kind": "preference", "data": str(pairs), "num_steps": 1, "early_stop": {"exam": str(exam)}}
    config = run_config({"p": stage})
    before = identities(config, ["p"])
    assert before["p"]["run"]["engine"] is not None, "it starts engines"
    exam.write_text(json.dumps({"prompt": "a", "answer": "2"}) + "\n")
    changed = identities(config, ["p"])["p"]
    assert {name for name in changed if changed[name] != before["p"][name]} == {"content of data"}


def test_an_exam_cannot_be_of_pairs_whatever_they_are_called(data: Path) -> None:
    pairs = {"kind": "pairs", "prompts": str(data), "rewards": ["math"]}
    exam = {"kind": "evaluate", "of": ["pairs"], "tasks": {"dev": {"data": str(data)}}}
    with pytest.raises(ConfigError, match="hands over pairs, not model"):
        order(run_config({"pairs": pairs, "exam": exam}).stages)


def test_a_stage_that_was_stopped_or_failed_continues() -> None:
    state = RunState(
        name="r",
        stages={
            "a": StageState(status="running", identity={"x": 1}, attempts=1),
            "b": StageState(status="failed", identity={"y": 1}, attempts=2, cause="StageError: loss is nan"),
        },
    )
    identities = {"a": {"x": 1}, "b": {"y": 1}}
    steps = plan(["a", "b"], identities, state, whole=set(), manifests={}, kept={"b": 40})
    assert [(s.action, s.why) for s in steps] == [
        ("continue", "was stopped in the middle"),
        ("continue", "failed: StageError: loss is nan; its newest checkpoint is of step 40"),
    ]
