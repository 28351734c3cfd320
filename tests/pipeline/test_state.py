import json
import os
import subprocess
import sys
from pathlib import Path

import pytest

from pipeline.state import RunFolder, RunState, StageState, write_text
from stages.base import Estimate, StageResult


def test_state_and_results_read_back_as_written(tmp_path: Path) -> None:
    folder = RunFolder(tmp_path)
    state = RunState(name="r", begun_in="/x", stages={"a": StageState(status="done", attempts=2, wall_s=1.5)})
    folder.save(state)
    assert folder.load() == state and state.wall_s == 1.5
    exam = {"a": {"dev/accuracy": Estimate(mean=0.5, low=0.4, high=0.6, num=10)}}
    result = StageResult(metrics={"train/steps": 3.0}, exams=exam, gains={})
    folder.save_result("a", result)
    assert folder.result("a") == result


def test_a_write_that_fails_leaves_the_old_file(tmp_path: Path) -> None:
    path = tmp_path / "run.json"
    write_text(path, "old")
    with pytest.raises(TypeError):
        write_text(path, b"bytes")  # type: ignore[arg-type]
    assert path.read_text() == "old"


def test_a_second_driver_is_refused_and_a_dead_one_holds_nothing(tmp_path: Path) -> None:
    hold = (
        "import sys; from pathlib import Path; from pipeline.state import RunFolder\n"
        "with RunFolder(Path(sys.argv[1])).locked():\n    print('held', flush=True); sys.stdin.read()"
    )
    command = [sys.executable, "-c", hold, str(tmp_path)]
    process = subprocess.Popen(command, stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True, cwd=os.getcwd())
    assert process.stdout is not None and process.stdout.readline() == "held\n"
    with pytest.raises(BlockingIOError, match=f"pid {process.pid}"), RunFolder(tmp_path).locked():
        pass
    process.kill()
    process.wait()
    with RunFolder(tmp_path).locked():
        pass


def test_latest_points_at_the_newest_attempt(tmp_path: Path) -> None:
    folder = RunFolder(tmp_path)
    folder.new_attempt("sft", 1)
    folder.new_attempt("sft", 2)
    assert (tmp_path / "sft" / "latest").readlink() == Path("attempt_002")


def test_an_artifact_is_whole_with_all_of_its_files(tmp_path: Path) -> None:
    folder, output = RunFolder(tmp_path), tmp_path / "sft" / "output"
    assert not folder.is_whole("sft", has_artifact=False)
    folder.save_result("sft", StageResult())
    assert folder.is_whole("sft", has_artifact=False) and not folder.is_whole("sft", has_artifact=True)
    output.mkdir()
    (output / "model.safetensors").touch()
    (output / "manifest.json").write_text(json.dumps({"files": {"model.safetensors": "0123"}}))
    assert folder.is_whole("sft", has_artifact=True)
    (output / "model.safetensors").unlink()
    assert not folder.is_whole("sft", has_artifact=True)
    (output / "manifest.json").write_text("{")
    assert not folder.is_whole("sft", has_artifact=True)


def test_what_a_kill_cut_short_goes_with_the_next_attempt(tmp_path: Path) -> None:
    folder = RunFolder(tmp_path)
    cut_short = folder.new_attempt("sft", 1) / ".waits.json.writing"
    cut_short.write_text("[{")
    folder.new_attempt("sft", 2)
    assert not cut_short.exists() and cut_short.parent.is_dir()


def test_events_are_one_json_object_a_line(tmp_path: Path) -> None:
    folder = RunFolder(tmp_path)
    folder.event("stage begins", stage="sft")
    folder.event("stage ends", stage="sft", status="done")
    lines = [json.loads(line) for line in (tmp_path / "events.jsonl").read_text().splitlines()]
    assert [line["event"] for line in lines] == ["stage begins", "stage ends"]
