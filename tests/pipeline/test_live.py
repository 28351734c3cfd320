"""The view on a terminal: drawn while a run goes on, torn by nothing, and leaving a clean terminal behind."""

import io
import json
import re
import signal
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest
from rich.console import Console

from pipeline import live
from pipeline.state import RunState
from tests.end_to_end.runs import write_recipe, write_rows
from tests.pipeline.folders import running, write_lines, write_run
from tests.pipeline.screen import HIDE, ROOT, SHOW, Terminal, screen

pytestmark = pytest.mark.processes
DRIVER = ROOT / "tests" / "pipeline" / "driver.py"

Begin = Callable[..., Terminal]


@pytest.fixture
def recipe(tmp_path: Path) -> Path:
    data = write_rows(tmp_path / "d.jsonl", [{"prompt": "1+1", "completion": "2"}])
    (tmp_path / "model").mkdir()
    stages = {"sft": {"kind": "sft", "data": data, "num_steps": 4}}
    return write_recipe(tmp_path / "recipe.yaml", name="r", model="no/model", model_revision="a" * 40, stages=stages)


@pytest.fixture
def begin(recipe: Path) -> Iterator[Begin]:
    """Yield what starts a driver on a terminal; each is ended in the end."""
    begun: list[Terminal] = []

    def start(script: str, **how: object) -> Terminal:
        begun.append(Terminal(DRIVER, script, "run", recipe, "--runs", recipe.parent, PYTHONPATH=str(ROOT), **how))  # type: ignore[arg-type]
        return begun[-1]

    yield start
    for terminal in begun:
        terminal.kill()


def is_clean(output: str) -> bool:
    """Say whether the cursor is shown again, and no other mode was set."""
    return output.rfind(SHOW) > output.rfind(HIDE) and "\x1b[?1049" not in output


def test_a_run_that_goes_well_is_drawn_and_leaves_the_closing_table_and_what_was_printed(
    begin: Begin, tmp_path: Path
) -> None:
    terminal = begin("works")
    assert terminal.end() == 0, terminal.output
    assert HIDE in terminal.output and is_clean(terminal.output)
    assert "2/4" in terminal.output and "last sign of life" in terminal.output
    shown = screen(terminal.output)
    noted = next(at for at, line in enumerate(shown) if line.startswith("sft: "))
    assert shown[0].startswith("note: no/model") and shown[noted] == "sft: run, never ran"
    assert shown.count("raw words of a library") == shown.count("a printed line") == 1
    assert "a logged line" in "\n".join(shown) and "UserWarning: a warning" in "\n".join(shown)
    [heading] = [at for at, line in enumerate(shown) if line.startswith("stage")]
    assert shown[heading - 1] == "r, seed 0", "one table: no other is left of the view"
    assert shown[heading + 1].split()[:3] == ["sft", "sft", "done"]
    assert "last sign of life" not in "\n".join(shown)
    assert "raw words" in (tmp_path / "r" / "driver.log").read_text()


def test_a_failure_leaves_the_last_view_and_its_cause_whole_below(begin: Begin) -> None:
    terminal = begin("fails")
    assert terminal.end() == 1
    assert is_clean(terminal.output)
    shown = screen(terminal.output)
    heading = max(at for at, line in enumerate(shown) if line.startswith("stage  "))
    below = shown[heading:]
    assert below[1].split()[:3] == ["sft", "sft", "failed"] and any("4/4" in line for line in below)
    said = "".join(below[next(at for at, line in enumerate(below) if line.startswith("stage 'sft'")) :])
    assert "it would not, \\x1b[2J[red]for " in said and said.count("a long reason") == 20 and "strop resume" in said


@pytest.mark.parametrize("ending", ["Ctrl-C", signal.SIGTERM, signal.SIGHUP])
def test_who_is_told_to_end_leaves_a_clean_terminal_and_where_the_run_stood(
    begin: Begin, ending: signal.Signals | str
) -> None:
    terminal = begin("hangs")
    terminal.read_until(lambda output: "3/4" in output)
    if isinstance(ending, signal.Signals):
        terminal.process.send_signal(ending)
    else:
        terminal.press("\x03")
    assert terminal.end() == 130
    assert is_clean(terminal.output)
    shown = screen(terminal.output)
    assert sum(line.startswith("stage  ") for line in shown) == 1 and any("3/4" in line for line in shown)
    assert shown[-2].startswith("stopped; to go on: strop resume") and "Traceback" not in "\n".join(shown)


@pytest.mark.parametrize("environment", [{"TERM": "dumb"}, {"NO_COLOR": "1"}])
def test_a_terminal_that_cannot_or_should_not_gets_no_colour(begin: Begin, environment: dict[str, str]) -> None:
    terminal = begin("works", **environment)
    assert terminal.end() == 0
    if "NO_COLOR" in environment:
        assert HIDE in terminal.output and "\x1b[3" not in terminal.output
    else:
        assert "\x1b" not in terminal.output.replace("\x1b[31mraw words\x1b[0m", "")


def test_without_a_terminal_there_are_plain_lines_and_no_escape_codes(recipe: Path) -> None:
    runs = recipe.parent / "[" / "red]"  # no markup
    command = [sys.executable, str(DRIVER), "works", "run", str(recipe), "--runs", str(runs)]
    done = subprocess.run(command, capture_output=True, text=True, timeout=120, cwd=ROOT)
    assert done.returncode == 0 and done.stdout.startswith("sft: run, never ran\n")
    assert "\x1b" not in done.stdout and "a logged line" in done.stderr
    assert done.stdout.count("  sft step 1/4  train/loss 1\n") == 1
    assert done.stdout.count("  sft step 1  early_stop/accuracy 0.5\n") == 1, "an exam of the same step"
    assert re.search(r"  sft waits for the teacher, for \d+ s \(at most 60 s\)\n", done.stdout)
    assert not (runs / "r" / "driver.log").exists()
    assert f"the same for programs: {runs}/r/summary.json\nto look at: {runs}/r/report.html\n" in done.stdout


def test_what_cannot_be_drawn_is_logged_once_and_ends_nothing(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    terminal = Console(file=io.StringIO(), force_terminal=True, width=80, height=40)
    monkeypatch.setattr(live, "console", terminal)
    monkeypatch.setattr(live, "DRAW_EVERY_S", 0.01)
    folder = write_run(tmp_path / "r", sft=running())
    write_lines(folder, "sft", {"step": 3, "num_steps": 10, "time": 1e9, "train/loss": 0.5})
    with pytest.raises(KeyboardInterrupt), live.live(folder):
        folder.save(RunState(name="r", stages={"sft": running(begun="no number")}))
        time.sleep(0.2)
        raise KeyboardInterrupt
    shown = screen(terminal.file.getvalue().replace("\n", "\r\n"))  # type: ignore[attr-defined]
    assert sum(line.startswith("stage  ") for line in shown) == 1 and any("3/10" in line for line in shown)
    [record] = caplog.records
    assert record.exc_info is not None and "what was drawn before stays" in record.message


def test_status_from_another_shell_says_the_same_and_watches_until_the_driver_is_gone(tmp_path: Path) -> None:
    folder = write_run(tmp_path / "r", sft=running())
    write_lines(folder, "sft", {"step": 3, "num_steps": 10, "time": 1e9, "train/loss": 0.5})
    strop = ["-m", "pipeline.cli", "status"]
    once = subprocess.run([sys.executable, *strop, folder.root], capture_output=True, text=True, timeout=60, cwd=ROOT)
    assert once.returncode == 0 and "3/10" in once.stdout and "its driver is gone" in once.stdout
    refused = subprocess.run(
        [sys.executable, *strop, folder.root, "--watch"], capture_output=True, text=True, timeout=60, cwd=ROOT
    )
    assert refused.returncode == 2 and "--watch draws on a terminal" in refused.stderr
    with folder.locked():
        terminal = Terminal(*strop, folder.root, "--watch")
        terminal.read_until(lambda output: "3/10" in output)
        write_lines(folder, "sft", {"step": 4, "num_steps": 10, "time": 1e9 + 5, "train/loss": 0.5})
        terminal.read_until(lambda output: "4/10" in output)
    assert terminal.end() == 0 and is_clean(terminal.output)
    shown = screen(terminal.output)
    assert any("interrupted" in line for line in shown) and sum(line.startswith("stage  ") for line in shown) == 1
    assert json.loads((folder.root / "run.json").read_text())["stages"]["sft"]["status"] == "running"
