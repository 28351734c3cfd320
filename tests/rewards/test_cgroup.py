"""Cgroups: the files of one, on a folder that plays its file system; entering and leaving it, where Linux has one."""

import os
import subprocess
import sys
import tempfile
from pathlib import Path

import pytest

from rewards import cgroup
from rewards.cgroup import PREFIX, a_cgroup, find_parent
from tests.rewards.sandboxes import wait_for

GONE = 2**22 + 1
"""No process has this number: it is more than Linux gives."""


@pytest.fixture
def machine(monkeypatch):
    """A machine whose cgroups are folders: `user` hands memory and pids down to `app`, in which this process is."""
    with tempfile.TemporaryDirectory() as folder:
        Path(folder).chmod(0o755)
        yield _machine(Path(folder), monkeypatch)


def _machine(tmp_path, monkeypatch):
    monkeypatch.setattr(cgroup, "REMOVAL_S", 0.0)  # no folder with files in it can be removed, as a cgroup can
    (tmp_path / "mounts").write_text(f"proc /proc proc rw 0 0\ncgroup2 {tmp_path}/fs cgroup2 rw 0 0\n")
    (tmp_path / "own").write_text("4:memory:/x\n0::/user/app\n")
    for folder, handed_down in [("fs", "cpu memory pids"), ("fs/user", "memory pids"), ("fs/user/app", "")]:
        (tmp_path / folder).mkdir()
        (tmp_path / folder / "cgroup.procs").write_text("")
        (tmp_path / folder / "cgroup.subtree_control").write_text(handed_down)
    return tmp_path


def found(machine):
    return find_parent(machine / "mounts", machine / "own")


def test_the_nearest_that_hands_down_memory_and_pids_is_taken(machine):
    assert found(machine) == machine / "fs/user"
    (machine / "fs/user/cgroup.subtree_control").write_text("pids")
    assert found(machine) == machine / "fs"
    (machine / "fs/cgroup.subtree_control").write_text("cpu")
    assert found(machine) is None


@pytest.mark.parametrize("own", ["4:memory:/x\n", "0::/../other\n", "0::/nowhere\n"])
def test_where_our_own_is_not_seen_there_is_none(machine, own):
    (machine / "own").write_text(own)
    assert found(machine) is None


def test_without_cgroup_v2_there_is_none(machine):
    (machine / "mounts").write_text("cgroup /sys/fs/cgroup/memory cgroup rw,memory 0 0\n")
    assert found(machine) is None


@pytest.mark.processes
def test_what_this_user_may_not_write_is_not_taken(machine):
    if os.getuid() != 0:
        pytest.skip("only root can become somebody else")
    files = ", ".join(f"Path({str(machine / name)!r})" for name in ("mounts", "own"))
    ask = "import os; from pathlib import Path; from rewards.cgroup import find_parent; os.setgid(65534); os.setuid({})"
    ask += f"; print(find_parent({files}))"
    root = Path(__file__).parents[2]
    for user, found in [(0, machine / "fs/user"), (65534, None)]:
        told = subprocess.run(
            [sys.executable, "-c", ask.format(user)], cwd=root, capture_output=True, text=True, timeout=60
        )
        assert told.stdout.strip() == str(found), told.stderr


def test_its_bounds_are_written_before_anybody_enters(machine):
    with a_cgroup(machine / "fs/user", memory_bytes=1 << 29, processes=24) as join:
        (made,) = (machine / "fs/user").glob(f"{PREFIX}{os.getpid()}-*")
        files = {file.name: file.read_text() for file in made.iterdir()}
        said = subprocess.check_output([*join, "/bin/sh", "-c", "echo $$ entered"], text=True).split()
        entered = (made / "cgroup.procs").read_text().strip()
    bounds = {"memory.max": "536870912", "memory.swap.max": "0", "memory.oom.group": "1", "pids.max": "24"}
    assert files == bounds
    assert said == [entered, "entered"]
    assert (made / "cgroup.kill").read_text() == "1"


def test_a_command_does_not_start_outside(machine):
    with a_cgroup(machine / "fs/user", memory_bytes=1 << 29, processes=24) as join:
        outside = [*join[:-1], str(machine / "nowhere/cgroup.procs"), "/bin/echo", "started"]
        assert subprocess.run(outside, capture_output=True, text=True).stdout == ""


def test_what_dead_runs_left_is_removed_and_what_others_have_stays(machine):
    left, others = machine / f"fs/user/{PREFIX}{GONE}-a", machine / f"fs/user/{PREFIX}{os.getppid()}-b"
    left.mkdir()
    others.mkdir()
    found(machine)
    assert (left.exists(), others.exists()) == (False, True)


@pytest.mark.processes
def test_a_real_one_kills_what_is_in_it_and_is_gone_afterwards(monkeypatch):
    mounts = [line.split() for line in Path("/proc/self/mounts").read_text().splitlines()]
    points = [Path(mount[1]) for mount in mounts if mount[2] == "cgroup2" and os.access(mount[1], os.W_OK)]
    if not points:
        pytest.skip("no cgroup v2 to write to")
    made = points[0] / f"{PREFIX}{os.getpid()}-real"
    try:
        made.mkdir()
    except OSError as error:
        pytest.skip(f"no cgroup v2 to write to: {error}")
    join = ["/bin/sh", "-c", cgroup._JOIN, str(made / "cgroup.procs")]
    two = "setsid sleep 60 & sleep 60"
    inside = subprocess.Popen([*join, "/bin/sh", "-c", two])
    try:
        wait_for(lambda: len((made / "cgroup.procs").read_text().split()) == 3)
    finally:
        cgroup._remove(made)
    assert inside.wait(5) == -9
    assert not made.exists()
