"""What is seen of a run in each state, and that no text in it acts on the terminal."""

import io
import json
import os
import time
from dataclasses import replace
from pathlib import Path

import pytest
from rich.console import Console

from pipeline.standing import standing_of
from pipeline.state import RunFolder, RunState, StageState
from pipeline.view import view
from stages.base import Estimate, StageResult
from tests.pipeline.folders import STAGES, grpo_line, running, write_lines, write_run

DONE = StageState(status="done", attempts=1, wall_s=270.0)
HOSTILE = "[red]mine[/red]\x1b[2J\x1b]0;title\x07\u202e\r\ud800"


@pytest.fixture(autouse=True)
def now(monkeypatch: pytest.MonkeyPatch) -> float:
    """Stop the clock, for seconds are shown."""
    now = float(int(time.time()))
    monkeypatch.setattr(time, "time", lambda: now)
    return now


def seen(folder: RunFolder, *, width: int = 140, height: int | None = None, terminal: bool = False) -> str:
    console = Console(width=width, file=io.StringIO(), force_terminal=terminal, color_system=None)
    console.print(view(standing_of(folder), height=height))
    return console.file.getvalue()  # type: ignore[attr-defined, no-any-return]


def line_of(text: str, title: str) -> str:
    [line] = [line for line in text.splitlines() if line.strip().startswith(title)]
    return " ".join(line.split())


def test_a_running_stage_shows_all_that_its_metrics_tell(tmp_path: Path, now: float) -> None:
    folder = write_run(tmp_path / "r", sft=DONE, grpo=running(attempts=2))
    attempt = write_lines(folder, "grpo", grpo_line(43, 14), grpo_line(44, 9), grpo_line(45, 4))
    os.utime(attempt / "metrics.jsonl", (now, now - 3))
    wait = {"what": "37 of 64 groups to be answered", "since": now - 12, "limit_s": 600.0}
    (attempt / "waits.json").write_text(json.dumps([wait]))
    with folder.locked():
        text = seen(folder)
    assert line_of(text, "sft ") == "sft sft done 270 s"
    assert line_of(text, "grpo ") == "grpo grpo running 100 s"
    assert line_of(text, "exam ") == "exam evaluate waiting"
    assert "grpo, attempt 2" in text
    assert "45/80, 5 s each, about 171 s left" in line_of(text, "step")
    assert line_of(text, "reward ") == "reward mean 0.75 math 0.5"
    assert line_of(text, "staleness") == "staleness mean 0.5 max 2"
    assert line_of(text, "drift") == "drift probe max 7e-06 batch max 3e-05"
    assert line_of(text, "KL") == "KL from reference 0.0125"
    assert line_of(text, "queues") == "queues groups ahead 64 groups before a reward, at most 10"
    assert line_of(text, "tokens/s") == "tokens/s sampled 400 learned 200"
    assert "waits for          37 of 64 groups to be answered, for 12 s (at most 600 s)" in text
    assert line_of(text, "last sign of life") == "last sign of life 3 s ago"
    assert "not scored" not in text and "engines replaced" not in text and "interrupted" not in text


def test_what_went_wrong_of_late_is_told_of_a_stage_that_runs_and_of_one_that_is_done(tmp_path: Path) -> None:
    folder = write_run(tmp_path / "r", sft=DONE, grpo=DONE)
    write_lines(folder, "grpo", grpo_line(79, 9, **{"rollout/engine_restarts": 1.0}))
    write_lines(folder, "grpo", grpo_line(80, 4, **{"reward/cause/timeout/count": 3.0}))
    text = seen(folder)
    assert line_of(text, "engines replaced") == "engines replaced 1 by the last 2 lines of metrics"
    assert line_of(text, "not scored") == "not scored 3 timeout; of 1027, by the last 2 lines of metrics"
    assert "step" not in text, "nothing more is told of what is done"


def test_a_driver_that_is_gone_is_told_with_the_way_on(tmp_path: Path, now: float) -> None:
    folder = write_run(tmp_path / "r", sft=running())
    attempt = write_lines(folder, "sft", {"step": 1, "num_steps": 10, "time": now, "train/loss": 2.5})
    os.utime(attempt / "metrics.jsonl", (now, now - 3))
    (attempt / "waits.json").write_text('[{"what": "something", "since": 1, "limit_s": 60}]')
    text = seen(folder)
    assert line_of(text, "sft ") == "sft sft interrupted 97 s"
    assert f"its driver is gone; go on with: strop resume {folder.root}" in text
    assert "left" not in text and "waits for" not in text, "nobody waits"
    again = replace(running(), status="interrupted", wall_s=97.0)
    folder.save(RunState(name="r", stages={"sft": again}))
    assert seen(folder) == text, "whoever has written it down"
    with folder.locked():
        text = seen(folder)
    there = "the run has a driver again, which is not at this stage yet"
    assert line_of(text, "interrupted") == f"interrupted {there}"
    assert line_of(text, "sft ") == "sft sft interrupted 97 s" and "waits for" not in text, "nothing of the old attempt"


def test_why_a_stage_was_begun_again_is_told(tmp_path: Path, now: float) -> None:
    why = "changed since: config learning_rate 1e-05 -> 3e-05"
    folder = write_run(tmp_path / "r", sft=running(why=why), grpo=running(why="never ran"))
    text = seen(folder)
    assert line_of(text, "why again") == f"why again {why}" and "never ran" not in text


def test_a_failed_stage_shows_its_cause_whole_and_where_its_log_is(tmp_path: Path) -> None:
    cause = "StageError: " + "very long, " * 40 + "the end"
    folder = write_run(tmp_path / "r", sft=StageState(status="failed", attempts=1, wall_s=5.0, cause=cause))
    text = seen(folder, width=80)
    assert cause in " ".join(text.split()), "folded, not cut"
    assert f"{folder.root}/sft/latest/stage.log" in "".join(text.split("\n")).replace(" ", "")
    assert line_of(text, "step") == "step none yet"


def test_a_run_that_has_not_begun_is_all_waiting(tmp_path: Path) -> None:
    folder = write_run(tmp_path / "r")
    (folder.root / "run.json").unlink()
    assert seen(folder).count("waiting") == 3


def test_exams_stand_next_to_the_stages_and_running_ones_among_the_rewards(tmp_path: Path) -> None:
    folder = write_run(tmp_path / "r", sft=DONE, grpo=DONE, exam=DONE)
    half = Estimate(mean=0.495, low=0.465, high=0.526, num=1024)
    folder.save_result("exam", StageResult(exams={"sft": {"dev/accuracy": half}}))
    assert "49.5% [46.5%, 52.6%]" in line_of(seen(folder), "sft ")
    (folder.stage("exam") / "result.json").write_text("{")
    assert line_of(seen(folder), "sft ") == "sft sft done 270 s", "one damaged result hides nothing else"
    assert "exam/result.json is damaged" in seen(folder, width=400)
    folder = write_run(tmp_path / "other", sft=DONE, grpo=DONE, exam=running())
    line = {"step": 1, "num_steps": 2, "sft/dev/accuracy/reward/mean": 0.5, "sft/dev/accuracy/reward/math/mean": 0.5}
    write_lines(folder, "exam", line)
    with folder.locked():
        assert line_of(seen(folder), "reward") == "reward sft/dev/accuracy 0.5"


@pytest.mark.parametrize("width", [80, 140])
def test_no_line_is_wider_than_the_terminal_and_none_is_cut(tmp_path: Path, width: int) -> None:
    folder = write_run(tmp_path / "r", sft=DONE, grpo=running())
    write_lines(folder, "grpo", grpo_line(44, 9), grpo_line(45, 4, **{"reward/cause/timeout/count": 3.0}))
    with folder.locked():
        text = seen(folder, width=width)
    assert max(map(len, text.splitlines())) <= width
    whole = " ".join(text.split())
    for told in (
        "grpo grpo running 100 s", "45/80, 5 s each, about 171 s left", "drift probe max 7e-06 batch max 3e-05",
        "queues groups ahead 64 groups before a reward, at most 10", "tokens/s sampled 400 learned 200",
        "not scored 3 timeout; of 1027, by the last 2 lines of metrics",
    ):  # fmt: skip
        assert told in whole


def test_of_many_stages_those_around_the_one_that_runs_are_shown_where_room_is_short(tmp_path: Path) -> None:
    stages = {f"s{at:02d}": STAGES["sft"] for at in range(30)}
    states = {f"s{at:02d}": DONE for at in range(20)}
    folder = write_run(tmp_path / "r", stages=stages, **states, s20=running())
    text = seen(folder, height=24)
    assert len(text.splitlines()) <= 24 and "s20" in text
    assert "16 more" in text and "6 more" in text, "8 of 30 are shown"
    assert "more" not in seen(folder)


def test_texts_from_outside_are_shown_and_do_not_act(tmp_path: Path) -> None:
    stages = {"[red]": {"kind": HOSTILE}, "grpo": STAGES["grpo"], "exam": STAGES["exam"]}
    failed = StageState(status="failed", attempts=1, wall_s=1.0, cause=f"ValueError: {HOSTILE}")
    folder = write_run(tmp_path / "r", stages=stages, grpo=running(), exam=DONE, **{"[red]": failed})
    attempt = write_lines(folder, "grpo", grpo_line(1, 3, **{f"reward/{HOSTILE}/mean": 0.5}))
    (attempt / "waits.json").write_text(json.dumps([{"what": HOSTILE, "since": time.time(), "limit_s": 5}]))
    half = Estimate(mean=0.5, low=0.4, high=0.6, num=9)
    folder.save_result("exam", StageResult(exams={"grpo": {HOSTILE: half}}))
    with folder.locked():
        text = seen(folder, width=300, terminal=True)
    assert text.count("[red]mine[/red]\\x1b[2J\\x1b]0;title\\x07\\u202e\\r\\ud800") >= 5
    assert not set(text) & set("\x1b\x07\r\u202e\ud800")


def test_a_run_of_another_version_can_be_looked_at(tmp_path: Path) -> None:
    folder = write_run(tmp_path / "r", sft=DONE)
    recipe = json.loads(folder.resolved.read_text())
    folder.resolved.write_text(json.dumps({**recipe, "unheard_of": 1}))
    state = json.loads((folder.root / "run.json").read_text())
    state["stages"]["sft"] = {"status": "done", "unheard_of": True}
    (folder.root / "run.json").write_text(json.dumps(state))
    assert line_of(seen(folder), "sft ") == "sft sft done"


def test_looking_writes_nothing(tmp_path: Path) -> None:
    folder = write_run(tmp_path / "r", sft=running())

    def files() -> list[tuple[Path, bytes, int]]:
        found = sorted(tmp_path.rglob("*"))
        return [(path, path.read_bytes() if path.is_file() else b"", path.lstat().st_mtime_ns) for path in found]

    before = files()
    seen(folder)
    assert files() == before
