"""Text of others does not act on a terminal: not from rewards, nor in the logs of stages, nor in traces."""

import subprocess
import sys
from pathlib import Path

import pytest

from rewards.printable import log_stream, log_text, printable
from tests.rewards.attempts import group
from tests.rewards.test_scorer import OBEY, Scorer, ScoringConfig

ROOT = Path(__file__).parents[2]
ACTING = set(map(chr, (*range(0x20), *range(0x7F, 0xA0), *range(0x202A, 0x202F), *range(0x2066, 0x206A), 0x200F))) - {
    "\n",
    "\t",
}


def test_all_that_acts_is_written_out_and_newlines_and_tabs_stay():
    assert printable("a\tb\nc é 数 \u202e \x9b \r \x1b[2J \ud800") == "a\tb\nc é 数 \\u202e \\x9b \\r \\x1b[2J \\ud800"
    every = "".join(map(chr, range(0x3000)))
    assert not ACTING & set(printable(every)) and printable(printable(every)) == printable(every)


def test_in_logs_colours_are_left_out_and_bars_have_a_line_a_state():
    assert log_text("\x1b[1;31mred\x1b[0m\r\n 10%\r 20%\r") == "red\n 10%\n 20%\n"
    assert log_text("\x1b]0;title\x07\x1b[2J") == "\\x1b]0;title\\x07\\x1b[2J"


def test_a_guarded_stream_is_guarded_once_and_else_as_it_was(capsys):
    guarded = log_stream(sys.stderr)
    assert log_stream(guarded) is guarded and guarded.isatty() is sys.stderr.isatty()
    assert guarded.write("\x1b[2J") == 4
    guarded.writelines(["a\n", "\x07\n"])
    assert capsys.readouterr().err == "\\x1b[2Ja\n\\x07\n"


@pytest.mark.processes
def test_what_a_reward_prints_or_raises_does_not_act(capfd):
    with Scorer([OBEY], ScoringConfig()) as runtime:
        assert [score.value for score in runtime.submit(group("print escapes", "2")).result(30)] == [1.0, 2.0]
    said = capfd.readouterr().err
    assert not ACTING & set(said)
    assert "red \\x1b]0;title\\x07\\x1b[2J\\x9b31m \\u202egnp.exe\\u2066 50%\n60%\tdone\n" in said
    assert "half a é\n" in said


SCORING = """
import logging, sys, warnings
from pipeline import cli, rewards_cli
from rewards.waits import logger
kept = rewards_cli.readable_errors
def noisy():
    warnings.warn("warned \\x1b[2J")
    logging.getLogger("some.library").warning("logged \\x1b[2J")
    return kept()
rewards_cli.readable_errors = noisy
cli.app()
"""


@pytest.mark.processes
def test_the_command_line_prints_nothing_that_acts(tmp_path):
    rows = tmp_path / "rows.jsonl"
    rows.write_text('{"prompt": "p", "completion": "raise escapes"}\n')
    reward = "tests.rewards.obedient:obey"
    command = [sys.executable, "-c", SCORING, "rewards", "score", "--reward", reward, "--data", str(rows)]
    done = subprocess.run(command, capture_output=True, text=True, cwd=ROOT, timeout=60)
    assert done.returncode == 0 and "title" in done.stdout
    assert not ACTING & set(done.stdout + done.stderr)
    assert "warned \\x1b[2J" in done.stderr and "logged \\x1b[2J" in done.stderr


BUG = """
from pipeline import cli
def load_config(*_):
    raise RuntimeError("\\x1b[2J of an answer")
cli.load_config = load_config
cli.app()
"""


def test_the_trace_of_a_bug_does_not_act():
    command = [sys.executable, "-c", BUG, "check", "x.yaml"]
    done = subprocess.run(command, capture_output=True, text=True, cwd=ROOT, timeout=60)
    assert done.returncode != 0 and "RuntimeError: \\x1b[2J of an answer" in done.stderr
    assert not ACTING & set(done.stderr)


STAGE = """
import logging, sys, threading, warnings
from pathlib import Path
from pipeline.job import log_to
log_to(Path(sys.argv[1]))
print("printed \\x1b[2J")
print("10%\\r20%", file=sys.stderr)
logging.getLogger("a").error("logged %s", "\\x1b]0;t\\x07")
warnings.warn("warned \\x9b2J")
thread = threading.Thread(target=lambda: [][1 if "\\u202e" else 0])
thread.start(); thread.join()
raise ValueError("\\x1b[8m\\x1bc \\u202e")
"""


def test_the_log_of_a_stage_can_be_shown_on_a_terminal(tmp_path):
    log = tmp_path / "stage.log"
    subprocess.run([sys.executable, "-c", STAGE, str(log)], cwd=ROOT, timeout=60)
    text = log.read_text()
    assert not ACTING & set(text)
    for said in (
        "printed \\x1b[2J",
        "10%\n20%\n",
        "ERROR a: logged \\x1b]0;t\\x07",
        "\\x9b2J",
        "IndexError",
        "\\x1bc \\u202e",
    ):
        assert said in text
