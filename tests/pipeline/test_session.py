"""All processes of a session are found and ended, also such as come meanwhile."""

import signal
import subprocess
import sys
from pathlib import Path

from pipeline import session
from tests.end_to_end.runs import wait_for

FORKS = """
import os, time
os.setsid()
print(flush=True)
while True:  # each child forks the next one, and stays
    if os.fork():
        time.sleep(60)
    time.sleep(0.005)
"""


def members(leader: int) -> list[str]:
    """Return the states of those that are no zombies."""
    found = [session._status(pid) for pid in session._members(leader)]
    return [state for status in found for _, state in status if state != "Z"]


def test_a_session_that_goes_on_forking_is_ended_whole() -> None:
    with subprocess.Popen([sys.executable, "-c", FORKS], stdout=subprocess.PIPE) as process:
        assert process.stdout is not None
        process.stdout.readline()
        wait_for(lambda: len(members(process.pid)) > 5, "some children", 20.0)
        assert not session.has_ended(process.pid)
        session.kill(process.pid)
        wait_for(lambda: session.has_ended(process.pid), "all to have ended", 10.0)
        process.wait(10)
        assert members(process.pid) == []


def test_who_was_stopped_is_named() -> None:
    code = "import os, time; os.setsid(); print(flush=True); time.sleep(60)"
    with subprocess.Popen([sys.executable, "-c", code], stdout=subprocess.PIPE) as process:
        assert process.stdout is not None
        process.stdout.readline()
        assert session.stopped(process.pid) == ""
        process.send_signal(signal.SIGSTOP)
        wait_for(lambda: bool(session.stopped(process.pid)), "it to be stopped", 10.0)
        name = Path(f"/proc/{process.pid}/comm").read_text().strip()
        assert session.stopped(process.pid) == f"; stopped: {name} ({process.pid})"
        session.kill(process.pid)
        process.wait(10)
