"""Sandboxes for the tests, and how to ask them."""

import time
from dataclasses import replace
from pathlib import Path

import pytest

from rewards.enclosure import Limits, SandboxError
from rewards.sandbox import Sandbox, Trial

LIMITS = Limits(
    seconds=3.0,
    seconds_a_trial=1.0,
    memory_bytes=256 << 20,
    processes=16,
    output_bytes=1 << 16,
    disk_bytes=4 << 20,
)


def jail(**limits):
    """A jail by bubblewrap; where this machine has none, the test is skipped."""
    try:
        return Sandbox("bubblewrap", replace(LIMITS, **limits))
    except SandboxError as error:
        pytest.skip(f"this machine cannot jail: {error}")


def outcome(sandbox, source, **rest):
    return sandbox.run([Trial(source=source, **rest)])[0]


def printed(sandbox, source):
    """What the source prints, which must run to its end."""
    found = outcome(sandbox, source)
    assert found.how == "ended", found
    return found.output.strip()


def wait_for(holds, deadline_s=20.0):
    end = time.monotonic() + deadline_s
    while not holds():
        assert time.monotonic() < end
        time.sleep(0.05)


def running_with(mark):
    """Processes that carry the mark in their command line."""
    found = []
    for entry in Path("/proc").iterdir():
        if entry.name.isdigit():
            try:
                if mark.encode() in (entry / "cmdline").read_bytes():
                    found.append(int(entry.name))
            except OSError:
                continue
    return found
