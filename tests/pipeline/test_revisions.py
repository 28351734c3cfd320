"""Whatever a recipe names on the Hub becomes a commit when its run begins, and stays that commit."""

import json
from collections.abc import Callable, Iterator
from contextlib import nullcontext
from pathlib import Path
from typing import Any

import pytest
import yaml
from typer.testing import CliRunner, Result

from pipeline import cli
from pipeline.config import RunConfig
from pipeline.plan import Planner
from pipeline.revisions import keep, pinned
from pipeline.state import RunFolder, RunFolderError
from tests.hub import FakeHub, serving
from tests.pipeline.test_run import FakeLauncher

ROWS = '{"prompt": "1+1", "completion": "2"}\n'


@pytest.fixture
def hub(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> Iterator[FakeHub]:
    monkeypatch.chdir(tmp_path)
    (tmp_path / "train.jsonl").write_text(ROWS)
    with serving(monkeypatch, tmp_path / "home") as found:
        yield found


def push(hub: FakeHub, path: str, what: str = "first") -> str:
    return hub.push(path, {"config.json": json.dumps({"is": what}).encode()})


def recipe(**changes: Any) -> dict[str, Any]:
    sft = {"kind": "sft", "data": "train.jsonl", "num_steps": 1}
    return {"name": "r", "model": "org/base", "stages": {"sft": sft}, **changes}


def everything() -> RunConfig:
    """A recipe that names models and data sets on the Hub wherever one can."""
    rewards = [
        {"type": "model", "model": "org/rewards"},
        {"type": "judge", "model": "org/judge", "model_revision": "v1"},
        {"type": "verifier", "model": "org/judge", "model_revision": "v1"},
        {"type": "judge", "name": "elsewhere", "model": "org/judge", "base_url": "http://127.0.0.1:1/v1"},
    ]
    mix = [{"path": "org/rows"}, {"path": "org/rows", "revision": "v2"}, {"path": "train.jsonl"}]
    stages = {
        "sft": {"kind": "sft", "data": mix[0], "num_steps": 1},
        "rl": {"kind": "grpo", "prompts": mix[1], "rewards": rewards, "num_steps": 1},
        "more": {"kind": "sft", "data": mix[2], "num_steps": 1},
        "exam": {"kind": "evaluate", "of": ["sft"], "tasks": {"dev": {"data": "org/exam"}}, "reward": rewards[0]},
    }
    return RunConfig.model_validate({"name": "r", "model": "org/base", "stages": stages})


def test_every_model_and_data_set_becomes_the_commit_that_it_is(hub: FakeHub, tmp_path: Path) -> None:
    base, rewards, exam = (push(hub, path) for path in ("models/org/base", "models/org/rewards", "datasets/org/exam"))
    judge = hub.push("models/org/judge", {"a": b"1"}, branch="v1")
    old = hub.push("datasets/org/rows", {"a": b"1"}, branch="v2")
    new = hub.push("datasets/org/rows", {"a": b"2"})
    hub.push("models/org/judge", {"a": b"2"})
    config = everything()
    found = pinned(config, RunFolder(tmp_path / "runs" / "r"))
    assert (found.problems, found.unknown) == ([], [])
    tree = found.config.model_dump()
    assert tree["model_revision"] == base
    assert [each.get("model_revision") for each in tree["stages"]["rl"]["rewards"]] == [rewards, judge, judge, None]
    assert [tree["stages"][name]["data"]["revision"] for name in ("sft", "more")] == [new, None]
    assert tree["stages"]["rl"]["prompts"]["revision"] == old
    sat = tree["stages"]["exam"]
    assert (sat["tasks"]["dev"]["data"]["revision"], sat["reward"]["model_revision"]) == (exam, rewards)
    assert found.config.facts.model_revision == base
    assert found.commits == {
        "model org/base@main": base,
        "model org/rewards@main": rewards,
        "model org/judge@v1": judge,
        "dataset org/rows@main": new,
        "dataset org/rows@v2": old,
        "dataset org/exam@main": exam,
    }
    assert len([path for path in hub.asked if path.startswith("/api/models/org/judge")]) == 1, "each is asked of once"
    assert config.model_revision is None, "what was given is as it was"
    assert pinned(found.config, RunFolder(tmp_path / "runs" / "other")).config == found.config


def test_a_run_keeps_its_commits_though_branches_move_and_the_hub_is_gone(hub: FakeHub, tmp_path: Path) -> None:
    first = push(hub, "models/org/base")
    config, folder = RunConfig.model_validate(recipe()), RunFolder(tmp_path / "runs" / "r")
    keep(folder, pinned(config, folder).commits)
    moved = push(hub, "models/org/base", "second")
    assert pinned(config, folder).config.model_revision == first
    assert pinned(config, RunFolder(tmp_path / "runs" / "another")).config.model_revision == moved
    hub.close()
    assert pinned(config, folder).config.model_revision == first


def test_what_cannot_be_looked_up_is_apart_from_what_is_wrong(hub: FakeHub, tmp_path: Path) -> None:
    folder = RunFolder(tmp_path / "runs" / "r")
    wrong = pinned(RunConfig.model_validate(recipe(model="org/none")), folder)
    assert len(wrong.problems) == 1 and "model 'org/none' is neither here" in wrong.problems[0] and not wrong.unknown
    hub.close()
    unknown = pinned(RunConfig.model_validate(recipe()), folder)
    assert not unknown.problems and "model org/base@main could not be looked up" in unknown.unknown[0]


def test_a_folder_or_a_file_has_no_revision(hub: FakeHub, tmp_path: Path) -> None:
    (tmp_path / "base").mkdir()
    reward = {"type": "model", "model": "base", "model_revision": "v1"}
    stages = {
        "sft": {"kind": "sft", "data": {"path": "train.jsonl", "revision": "v1"}, "num_steps": 1},
        "rl": {"kind": "grpo", "prompts": "train.jsonl", "rewards": [reward], "num_steps": 1},
    }
    config = RunConfig.model_validate(recipe(model="base", model_revision="v1", stages=stages))
    problems = pinned(config, RunFolder(tmp_path / "runs" / "r")).problems
    assert [problem.split(" 'v1'")[0] for problem in problems] == [
        "stages.sft.data.revision",
        "stages.rl.rewards[0].model_revision",
        "model_revision",
    ]
    assert problems[2].endswith(
        "and base is a folder or file here, which has no revision: its content is what it is known by; leave "
        "model_revision out"
    )
    assert hub.asked == []


@pytest.mark.parametrize(
    ("reward", "says"),
    [
        ({"type": "model", "stage": "rm", "model_revision": "v1"}, "what stage 'rm' makes has none"),
        ({"type": "judge", "model": "m", "base_url": "http://a/v1", "model_revision": "v1"}, "http://a/v1 serves what"),
    ],
)
def test_what_is_not_from_the_hub_has_no_revision(reward: dict[str, Any], says: str) -> None:
    stage = {"kind": "grpo", "prompts": "a.jsonl", "rewards": [reward], "num_steps": 1}
    with pytest.raises(ValueError, match=says):
        RunConfig.model_validate(recipe(stages={"rl": stage}))


def test_code_from_the_hub_needs_a_commit_and_is_told_which_it_is_now(hub: FakeHub, tmp_path: Path) -> None:
    base, judge = push(hub, "models/org/base"), push(hub, "models/org/rewards")
    folder = RunFolder(tmp_path / "runs" / "r")

    def problems(trust: bool, base: str | None, reward: str | None) -> list[str]:
        marks = {"type": "model", "model": "org/rewards", "model_revision": reward, "trust_remote_code": trust}
        stages = {"rl": {"kind": "grpo", "prompts": "train.jsonl", "rewards": [marks], "num_steps": 1}}
        config = recipe(model_revision=base, trust_remote_code=trust, stages=stages)
        return pinned(RunConfig.model_validate(config), folder).problems

    found = problems(True, "main", None)
    assert [each.split(":")[0] for each in found] == [
        f"{at}trust_remote_code runs code of model {name}@main, which whoever can write there may change at any time; "
        "read it at one commit and name that by its 40 digits, model_revision"
        for at, name in (("stages.rl.rewards[0].", "org/rewards"), ("", "org/base"))
    ]
    assert f"(which is {judge} now)" in found[0] and f"(which is {base} now)" in found[1]
    assert problems(True, base, judge) == problems(False, "main", None) == []


@pytest.mark.parametrize("damage", ["{", "[]", '{"model org/base@main": 1}'])
def test_damaged_commits_are_said(hub: FakeHub, tmp_path: Path, damage: str) -> None:
    folder = RunFolder(tmp_path)
    folder.revisions.write_text(damage)
    with pytest.raises(RunFolderError, match=r"revisions\.json is damaged"):
        pinned(RunConfig.model_validate(recipe()), folder)


@pytest.mark.parametrize(
    ("extra", "says"),
    [
        ({"tokenizer": "org/other"}, "extra.tokenizer makes vLLM load something else"),
        ({"revision": "v1"}, "extra.revision makes vLLM load something else"),
        ({"speculative_config": {"model": "org/draft"}}, r"speculative_config\.revision is None, and must be a commit"),
        (
            {"speculative_config": {"model": "org/draft", "revision": "a" * 40}},
            r"speculative_config\.code_revision is None, and must be a commit",
        ),
    ],
)
def test_engines_load_nothing_that_may_move(extra: dict[str, Any], says: str) -> None:
    with pytest.raises(ValueError, match=says):
        RunConfig.model_validate(recipe(engine={"type": "vllm", "extra": extra}))


def test_engines_may_have_a_draft_model_of_one_commit_or_none() -> None:
    pin = {"revision": "a" * 40, "code_revision": "a" * 40}
    for draft in ({"model": "org/draft", **pin}, {"method": "ngram"}):
        RunConfig.model_validate(recipe(engine={"type": "vllm", "extra": {"speculative_config": draft}}))


@pytest.fixture
def strop(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> Callable[..., tuple[Result, FakeLauncher]]:
    """The command line, with a launcher that only pretends."""
    (tmp_path / "recipe.yaml").write_text(yaml.safe_dump(recipe()))

    def invoke(*arguments: str) -> tuple[Result, FakeLauncher]:
        launcher = FakeLauncher()
        launcher.start = lambda: launcher  # type: ignore[attr-defined]
        monkeypatch.setattr(cli, "_ray", lambda config, folder: nullcontext(launcher))
        for of_a_whole_process in ("use_own_files", "make_caches_private"):
            monkeypatch.setattr(cli, of_a_whole_process, lambda: None)
        return CliRunner().invoke(cli.app, list(arguments)), launcher

    return invoke


def test_a_moved_branch_changes_nothing_in_a_run_that_was_begun(
    hub: FakeHub, strop: Callable[..., tuple[Result, FakeLauncher]], tmp_path: Path
) -> None:
    first = push(hub, "models/org/base")
    told, launcher = strop("run", "recipe.yaml")
    assert told.exit_code == 0, told.output
    [job] = launcher.jobs
    assert job.facts.model_revision == first
    run = tmp_path / "runs" / "r"
    assert json.loads((run / "resolved.json").read_text())["model_revision"] == first
    assert json.loads((run / "revisions.json").read_text()) == {"model org/base@main": first}

    moved = push(hub, "models/org/base", "second")
    for again in (("resume", "runs/r"), ("run", "recipe.yaml", "--resume")):
        told, launcher = strop(*again)
        assert told.exit_code == 0 and launcher.jobs == [], told.output
    assert f"from org/base@{first[:12]}" in strop("status", "runs/r")[0].output
    assert f"r: org/base@{first[:12]}" in strop("check", "recipe.yaml")[0].output

    told, launcher = strop("run", "recipe.yaml", "--resume", "--set", f"model_revision={moved}")
    [job] = launcher.jobs
    assert job.facts.model_revision == moved
    state = RunFolder(run).load()
    assert state is not None and state.stage("sft").identity["base model"] == f"org/base@{moved}"
    hub.close()
    told, launcher = strop("resume", "runs/r")
    assert told.exit_code == 0 and launcher.jobs == [], told.output


def test_a_run_does_not_begin_with_what_may_be_another_commit_tomorrow(
    hub: FakeHub, strop: Callable[..., tuple[Result, FakeLauncher]], tmp_path: Path
) -> None:
    hub.close()
    checked, _ = strop("check", "recipe.yaml")
    assert checked.exit_code == 0 and "note: model org/base@main could not be looked up" in checked.output
    refused, launcher = strop("run", "recipe.yaml")
    assert refused.exit_code == 2 and "could not be looked up" in refused.output and launcher.jobs == []
    assert not (tmp_path / "runs").exists()


def test_a_plan_says_which_commit_the_base_model_was_and_is(hub: FakeHub, tmp_path: Path) -> None:
    at = {where: RunConfig.model_validate(recipe(model_revision=where * 40)) for where in "ab"}
    folder = RunFolder(tmp_path / "runs" / "r")
    fingerprints = {where: Planner(config, folder).step("sft").fingerprint for where, config in at.items()}
    assert fingerprints["a"] != fingerprints["b"]
    assert Planner(at["a"], folder).step("sft").identity["base model"] == "org/base@" + "a" * 40
