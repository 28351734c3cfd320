"""A recipe that is changed after its run was killed: what runs again, what goes on, what is said, and what is kept."""

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from pipeline.config import RunConfig
from pipeline.job import Job, Outcome
from pipeline.plan import Planner
from pipeline.run import run
from pipeline.state import RunFolder
from stages.base import StageResult
from tests.faults.child import Silent

Recipe = dict[str, Any]
Told = tuple[str, str]
"""What the plan says of a stage: the action, and why."""
SKIPPED: Told = ("skip", "done with this config, data and inputs")
BEGUN: Told = ("continue", "was stopped in the middle")
NEW: Told = ("run", "never ran")
AS_LEFT = {"sft": SKIPPED, "other": SKIPPED, "pairs": SKIPPED, "dpo": BEGUN, "grpo": NEW}
"""What the plan says after `dpo` was killed, where nothing was changed."""


class Killed(BaseException):
    """The driver is gone; nothing catches this."""


class Launcher:
    """Has each stage hand over something of its own, and the driver killed in the middle of one stage."""

    def __init__(self, killed_in: str | None = None) -> None:
        self.begun: list[str] = []
        self._killed_in = killed_in

    def run(self, job: Job, on_poll: Callable[[], None]) -> Outcome:
        self.begun.append(job.name)
        (job.folder / "checkpoints" / "step_000002").mkdir(parents=True, exist_ok=True)
        if job.name == self._killed_in:
            raise Killed
        (job.folder / "output").mkdir(exist_ok=True)
        (job.folder / "output" / "manifest.json").write_text(json.dumps({"of": job.fingerprint}))
        return Outcome(result=StageResult())


@pytest.fixture
def files(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """Return a folder with data, a base model and a reward; it is importable."""
    rows = [{"prompt": f"{n}+1", "completion": str(n + 1)} for n in range(4)]
    for name in ("train", "more", "asked"):
        (tmp_path / f"{name}.jsonl").write_text("".join(json.dumps({**row, "from": name}) + "\n" for row in rows))
    (tmp_path / "own_reward.py").write_text("def marks(prompts, completions, **columns): return [0.0]\n")
    (tmp_path / "base").mkdir()
    (tmp_path / "base" / "config.json").write_text("{}")
    monkeypatch.syspath_prepend(str(tmp_path))
    monkeypatch.chdir(tmp_path)  # paths in the texts are short, then
    return tmp_path


def recipe() -> Recipe:
    learns = {"num_steps": 4, "learning_rate": 1e-5}
    rewards = [{"import_path": "own_reward:marks"}, {"type": "length", "target": 6}]
    return {
        "name": "r",
        "model": "base",
        "seed": 5,
        "stages": {
            "sft": {"kind": "sft", "data": "train.jsonl", **learns},
            "other": {"kind": "sft", "data": "more.jsonl", **learns},
            "pairs": {"kind": "pairs", "init_from": "sft", "prompts": "asked.jsonl", "rewards": rewards},
            "dpo": {"kind": "preference", "init_from": "sft", "data": {"stage": "pairs"}, **learns},
            "grpo": {"kind": "grpo", "init_from": "dpo", "prompts": "asked.jsonl", "rewards": rewards, "num_steps": 4},
        },
    }


def changed_since(*what: str) -> Told:
    return "run", f"changed since: {', '.join(what)}"


def at(path: str, value: Any) -> Callable[[Recipe], None]:
    """Return a change of one key."""

    def change(tree: Recipe) -> None:
        *parents, leaf = (int(key) if key.isdigit() else key for key in path.split("."))
        node: Any = tree
        for key in parents:
            node = node[key] if isinstance(node, list) else node.setdefault(key, {})
        node[leaf] = value

    return change


def edited(name: str, text: str) -> Callable[[Recipe], None]:
    """Return a change of a file: a line more."""

    def change(tree: Recipe) -> None:
        with Path(name).open("a") as file:
            file.write(text)

    return change


def renamed(tree: Recipe) -> None:
    tree["stages"] = {"start" if name == "sft" else name: stage for name, stage in tree["stages"].items()}
    for stage in tree["stages"].values():
        if stage.get("init_from") == "sft":
            stage["init_from"] = "start"


def added(tree: Recipe) -> None:
    tree["stages"]["more"] = {"kind": "sft", "init_from": "dpo", "data": "more.jsonl", "num_steps": 4}


def removed(tree: Recipe) -> None:
    del tree["stages"]["other"]


def in_another_order(tree: Recipe) -> None:
    tree["stages"] = dict(reversed(tree["stages"].items()))


ROW = '{"prompt": "9+1", "completion": "10"}\n'
CHANGES: dict[str, tuple[Callable[[Recipe], None], dict[str, Told | None]]] = {
    "nothing": (lambda tree: None, {}),
    "learning rate of the stage that was killed": (
        at("stages.dpo.learning_rate", 0.5),
        {"dpo": changed_since("config learning_rate 1e-05 -> 0.5")},
    ),
    "learning rate of the first stage": (
        at("stages.sft.learning_rate", 0.5),
        {
            "sft": changed_since("config learning_rate 1e-05 -> 0.5"),
            "pairs": changed_since("input sft"),
            "dpo": changed_since("input pairs", "input sft"),
        },
    ),
    "learning rate of a stage that nothing reads": (
        at("stages.other.learning_rate", 0.5),
        {"other": changed_since("config learning_rate 1e-05 -> 0.5")},
    ),
    "learning rate of a stage that never ran": (at("stages.grpo.learning_rate", 0.5), {}),
    "length of the stage that was killed": (
        at("stages.dpo.num_steps", 9),
        {"dpo": changed_since("config num_steps 4 -> 9")},
    ),
    "content of data that one stage reads": (
        edited("more.jsonl", ROW),
        {"other": changed_since("content of data more.jsonl")},
    ),
    "content of data that two stages read": (
        edited("asked.jsonl", ROW),
        {"pairs": changed_since("content of data asked.jsonl"), "dpo": changed_since("input pairs")},
    ),
    "engine settings that do not matter": (
        at("engine", {"request_timeout_s": 9, "max_num_seqs": 3, "num_engines": 2}),
        {},
    ),
    "checkpoints of the stage that was killed": (at("stages.dpo.checkpoint", {"every_steps": 1, "keep": 5}), {}),
    "limits of the run": (at("stall_timeout_s", 60), {}),
    "the engine's context": (
        at("engine.max_model_tokens", 512),
        {"pairs": changed_since("run engine max_model_tokens 1024 -> 512"), "dpo": changed_since("input pairs")},
    ),
    "sampling": (
        at("stages.pairs.sampling.temperature", 0.7),
        {"pairs": changed_since("config sampling temperature 1.0 -> 0.7"), "dpo": changed_since("input pairs")},
    ),
    "name of the first stage": (
        renamed,
        {
            "sft": None,
            "start": NEW,
            "pairs": changed_since('config init_from "sft" -> "start"', "input sft", "input start"),
            "dpo": changed_since('config init_from "sft" -> "start"', "input pairs", "input sft", "input start"),
        },
    ),
    "a stage more": (added, {"more": NEW}),
    "a stage less": (removed, {"other": None}),
    "order in the file": (in_another_order, {}),
    "seed": (
        at("seed", 6),
        {
            "sft": changed_since("run seed 5 -> 6"),
            "other": changed_since("run seed 5 -> 6"),
            "pairs": changed_since("input sft", "run seed 5 -> 6"),
            "dpo": changed_since("input pairs", "input sft", "run seed 5 -> 6"),
        },
    ),
    "source of a reward": (
        edited("own_reward.py", "# marks otherwise\n"),
        {"pairs": changed_since("code of reward marks"), "dpo": changed_since("input pairs")},
    ),
    "parameter of a reward": (
        at("stages.pairs.rewards.1.target", 7),
        {"pairs": changed_since("config rewards [1] target 6 -> 7"), "dpo": changed_since("input pairs")},
    ),
    "gold value of a reward": (at("stages.pairs.rewards.1.gold_value", 0.5), {}),
    "files of the base model": (
        edited("base/config.json", " "),
        {
            "sft": changed_since("base model"),
            "other": changed_since("base model"),
            "pairs": changed_since("base model", "input sft"),
            "dpo": changed_since("base model", "input pairs", "input sft"),
        },
    ),
}
"""By what is changed: the change, and of which stages the plan then says something else; None: nothing."""


@pytest.mark.parametrize("what", CHANGES)
def test_after_a_kill_a_changed_recipe_re_runs_what_follows_from_the_change_says_why_and_throws_nothing_away(
    what: str, files: Path
) -> None:
    change, otherwise = CHANGES[what]
    folder, tree = RunFolder(files / "runs" / "r"), recipe()
    with pytest.raises(Killed):
        run(RunConfig.model_validate(tree), folder, lambda: Launcher(killed_in="dpo"), Silent())
    change(tree)
    changed = RunConfig.model_validate(tree)
    expected = {name: told for name, told in {**AS_LEFT, **otherwise}.items() if told is not None}
    assert {step.name: (step.action, step.why) for step in Planner(changed, folder).plan()} == expected

    launcher = Launcher()
    run(changed, folder, lambda: launcher, Silent())
    assert set(launcher.begun) == {name for name, (action, _) in expected.items() if action != "skip"}
    started_over = {name for name, (action, _) in expected.items() if action == "run" and name in AS_LEFT} - {"grpo"}
    assert {path.name for path in folder.root.glob("*.old-*")} == {f"{name}.old-1" for name in started_over}
    for name in started_over:
        assert (folder.root / f"{name}.old-1" / "checkpoints" / "step_000002").is_dir()
        assert [path.name for path in folder.stage(name).glob("attempt_*")] == ["attempt_001"]
    assert (folder.stage("sft") / "output" / "manifest.json").is_file(), "nothing reads it, but it was computed"
    assert {step.action for step in Planner(changed, folder).plan()} == {"skip"}
