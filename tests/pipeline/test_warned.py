"""What a stage's libraries warn of reaches whoever looks at the run: once, short, and without secrets."""

import json
import logging
import sys
import warnings
from pathlib import Path
from typing import Any

import pytest

from pipeline import job as under_test
from pipeline.job import run_job
from pipeline.lines import Lines
from pipeline.live import LiveView
from pipeline.plan import Step
from pipeline.standing import standing_of
from pipeline.warned import LONGEST, MOST, WarningsFile, warnings_of
from stages import registry
from stages.base import StageResult
from tests.pipeline.folders import write_run
from tests.pipeline.test_job import job_of
from tests.pipeline.test_view import DONE, seen

TOKEN = "hf_" + "a1B2" * 8


def keep(folder: Path, *texts: str, name: str = "warnings.jsonl") -> None:
    file = WarningsFile(folder / name)
    for text in texts:
        file.add("peft", text)


def test_a_stages_warnings_are_kept_and_still_printed(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capfd: pytest.CaptureFixture[str]
) -> None:
    aloof = logging.getLogger("aloof.inner")  # as transformers' is: a handler of its own, and none above it
    aloof.parent.propagate = False  # type: ignore[union-attr]
    aloof.parent.addHandler(logging.StreamHandler())  # type: ignore[union-attr]

    def warns(*_: Any) -> StageResult:
        for step in range(3):
            aloof.warning("sequence of %d tokens is too long", 1000 + step)
        aloof.info("all is well")
        logging.getLogger("stages.sft").warning("nothing was\nlearned")
        warnings.warn("this adapter is odd", UserWarning, stacklevel=1)
        warnings.warn("nobody asked", DeprecationWarning, stacklevel=1)
        return StageResult()

    monkeypatch.setattr(registry, "run_stage", warns)
    monkeypatch.setattr(under_test, "log_to", lambda path: None)
    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr(sys, "path", [*sys.path])
    job, factory = job_of(tmp_path, {}), logging.getLogRecordFactory()
    with warnings.catch_warnings():
        warnings.resetwarnings()
        warnings.simplefilter("ignore", DeprecationWarning)
        assert run_job(job).result is not None
    told = warnings_of(job.attempt)
    assert told == ["aloof: sequence of 1000 tokens is too long", "nothing was learned", told[-1]]
    assert told[-1] == "test_warned: this adapter is odd"
    assert "sequence of 1002 tokens" in capfd.readouterr().err
    assert logging.getLogRecordFactory() is factory


@pytest.mark.parametrize(
    "text",
    [
        f"could not log in with {TOKEN}",
        "no answer from https://me:correct-horse@hub.example/x",
        "no answer from https://hub.example/x?api_key=correct-horse",
        "token correct-horse was refused",
    ],
)
def test_no_secret_is_in_a_warning(text: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("HUB_TOKEN", "correct-horse")
    keep(tmp_path, text)
    assert TOKEN not in (tmp_path / "warnings.jsonl").read_text()
    assert "correct-horse" not in (tmp_path / "warnings.jsonl").read_text() and "***" in warnings_of(tmp_path)[0]


def test_warnings_are_few_short_and_each_there_once(tmp_path: Path) -> None:
    keep(tmp_path, *(f"{chr(97 + number % 26) * (1 + number // 26)} is odd" for number in range(60)), "x" * 9999)
    keep(tmp_path, "a is odd", "y" * 9999, name="warnings_1.jsonl")  # another rank
    told = warnings_of(tmp_path)
    assert len(told) == len(set(told)) == MOST and told[0] == "peft: a is odd"
    (tmp_path / "warnings.jsonl").unlink()
    assert [len(text) for text in warnings_of(tmp_path)] == [len("peft: a is odd"), LONGEST + len("peft:  ...")]


def test_engines_are_read_by_what_they_print(tmp_path: Path) -> None:
    (tmp_path / "engine_0.log").write_text(
        "INFO 11-25 18:00:00 [core.py:1] all is well\n"
        "\x1b[0;36m(EngineCore_DP0 pid=7)\x1b[0m WARNING 11-25 18:00:00 [cpu.py:166] no KV cache space is set\n"
        "(EngineCore pid=7) WARNING 11-25 18:00:00 [layerwise.py:2] RotaryEmbedding: Failed to load weights\n"
        "(EngineCore pid=7) WARNING 11-25 18:00:00 [layerwise.py:2] Linear: Failed to load weights\n"
        "/x/lib/python3.11/site-packages/torch/cuda/__init__.py:65: FutureWarning: pynvml is old\n  import pynvml\n"
        "the word WARNING alone is none\n"
    )
    (tmp_path / "engine_1.log").write_text("WARNING 11-25 18:00:09 [cpu.py:166] no KV cache space is set\n")
    assert warnings_of(tmp_path) == [
        "vllm: no KV cache space is set",
        "vllm: Linear: Failed to load weights",
        "torch: pynvml is old",
    ]


def test_a_file_that_is_being_written_leaves_a_gap(tmp_path: Path) -> None:
    (tmp_path / "warnings.jsonl").write_text('{"time": 1, "text": "peft: a"}\n[1]\n{"text": "pe')
    assert warnings_of(tmp_path) == ["peft: a"]


@pytest.mark.parametrize("kind", [Lines, LiveView])
def test_each_warning_is_printed_once(kind: type[Lines], tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    step, observer = Step(name="sft", action="run", why="never ran", identity={}), kind()
    observer.begins(step)
    keep(tmp_path, "a is [odd]\x1b[2J")
    for _ in range(3):
        observer.works(step, tmp_path)
    keep(tmp_path, "b is odd")
    observer.works(step, tmp_path)
    lines = [line for line in capsys.readouterr().out.splitlines() if "warned" in line]
    assert lines == ["stage sft warned: peft: a is [odd]\\x1b[2J", "stage sft warned: peft: b is odd"]


def test_status_tells_what_finished_stages_warned_of_and_a_view_that_is_redrawn_does_not(tmp_path: Path) -> None:
    folder = write_run(tmp_path / "r", sft=DONE, grpo=DONE)
    keep(folder.new_attempt("sft", 1), "a is odd")
    keep(folder.new_attempt("grpo", 1), "a is odd")
    assert [list(stage.warnings) for stage in standing_of(folder).stages] == [
        ["peft: a is odd"],
        ["peft: a is odd"],
        [],
    ]
    assert "stage sft warned: peft: a is odd" in seen(folder) and "stage grpo warned" not in seen(folder)
    assert "warned" not in seen(folder, height=40)


def test_a_line_of_the_file_is_json(tmp_path: Path) -> None:
    keep(tmp_path, 'a "b" \ud800')
    [line] = (tmp_path / "warnings.jsonl").read_text().splitlines()
    assert json.loads(line)["text"] == 'peft: a "b" \ud800'
