"""Private folders among what others put into the same place: nothing hangs, nothing of others is touched."""

import fcntl
import os
import signal
import socket
import stat
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from rewards import private
from rewards.private import PrivateFolder, all_can_read, is_private, make_private
from tests.users import do_as_nobody, folder_for_all, needs_root

PREFIX = "strop-weights-"
NAME = f"{PREFIX}abcdefgh"
IN_TIME = f"""
import pathlib, sys
from rewards.private import PrivateFolder
folder = PrivateFolder(pathlib.Path(sys.argv[1]), "{PREFIX}")
print(folder.path)
"""


def new_folder_in_time(parent: Path) -> Path:
    """Make one in a process of its own, since what hangs in the kernel ends with its process alone."""
    made = subprocess.run([sys.executable, "-c", IN_TIME, parent], capture_output=True, text=True, timeout=20)
    assert made.returncode == 0, made.stderr
    return Path(made.stdout.strip())


def as_socket(path: Path) -> None:
    with socket.socket(socket.AF_UNIX) as server:
        server.bind(str(path))


@pytest.fixture
def treasure(tmp_path: Path) -> Path:
    """Return a folder that is dear to its user, and has nothing to do with us."""
    folder = tmp_path / "treasure"
    folder.mkdir(mode=0o700)
    (folder / "thesis.tex").write_text("four years")
    return folder


@pytest.mark.parametrize(
    "put",
    [
        lambda path, treasure: os.mkfifo(path),
        lambda path, treasure: path.symlink_to(treasure),
        lambda path, treasure: path.symlink_to(treasure / "thesis.tex"),
        lambda path, treasure: path.symlink_to("/dev/zero"),
        lambda path, treasure: path.symlink_to(path),
        lambda path, treasure: path.write_text("mine"),
        lambda path, treasure: as_socket(path),
        lambda path, treasure: path.mkdir(mode=0o755),
    ],
    ids=["pipe", "link to a folder", "link to a file", "link to a device", "link to itself", "file", "socket", "open"],
)
def test_what_only_has_our_name_holds_up_nobody_and_stays(
    tmp_path: Path, treasure: Path, put: Callable[[Path, Path], Any]
) -> None:
    shared = tmp_path / "shared"
    shared.mkdir()
    put(shared / NAME, treasure)
    made = new_folder_in_time(shared)
    assert sorted(shared.iterdir()) == sorted([shared / NAME, made])
    assert (treasure / "thesis.tex").read_text() == "four years"


@needs_root
@pytest.mark.parametrize(
    "put",
    [
        "os.mkfifo(path)",
        "os.symlink('/etc', path)",
        "os.mkdir(path); os.chmod(path, 0o777); open(path + '/theirs', 'w')",
        "os.mkdir(path, 0o700); open(path + '/theirs', 'w')",
        "os.mkdir(path, 0)",
        "socket.socket(socket.AF_UNIX).bind(path)",
    ],
)
def test_what_another_user_calls_by_our_name_holds_up_nobody_and_stays(put: str) -> None:
    with folder_for_all() as shared:
        done = do_as_nobody(f"import os, socket, sys; path = sys.argv[1]; {put}", shared / NAME)
        assert done.returncode == 0, done.stderr
        before = [(path, path.lstat().st_mode) for path in sorted(shared.rglob("*"))]
        made = new_folder_in_time(shared)
        now = [(path, path.lstat().st_mode) for path in sorted(shared.rglob("*")) if path != made]
        assert now == before


@needs_root
def test_a_folder_is_closed_to_others_whatever_the_umask_and_what_it_holds_out_of_their_reach() -> None:
    before = os.umask(0)
    try:
        with folder_for_all() as shared:
            folder = PrivateFolder(shared, PREFIX)
            (folder.path / "weights").write_text("ours")
            (folder.path / "weights").chmod(0o666)
            tries = (
                "open(path + '/weights')",
                "open(path + '/weights', 'w')",
                "os.listdir(path)",
                "os.rename(path, path + '.theirs')",
                "os.open(path, os.O_PATH) and os.open('weights', os.O_RDONLY, dir_fd=os.open(path, os.O_PATH))",
                "fcntl.flock(os.open(path, os.O_RDONLY), fcntl.LOCK_EX | fcntl.LOCK_NB)",
            )
            for act in tries:
                done = do_as_nobody(f"import fcntl, os, sys; path = sys.argv[1]; {act}", folder.path)
                assert "PermissionError" in done.stderr, act
            assert stat.S_IMODE(folder.path.stat().st_mode) == 0o700
            folder.remove()
            assert list(shared.iterdir()) == []
    finally:
        os.umask(before)


def test_a_folder_that_is_exchanged_for_a_link_while_it_is_looked_at_costs_its_target_nothing(
    tmp_path: Path, treasure: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    shared = tmp_path / "shared"
    shared.mkdir()
    left = shared / NAME
    left.mkdir(mode=0o700)
    flock = fcntl.flock

    def exchange(descriptor: int, how: int) -> None:
        if not left.is_symlink():
            left.rename(shared / "aside")
            left.symlink_to(treasure)
        flock(descriptor, how)

    monkeypatch.setattr(private.fcntl, "flock", exchange)
    PrivateFolder(shared, PREFIX).remove()
    assert (treasure / "thesis.tex").read_text() == "four years"
    assert (shared / "aside").is_dir() and left.is_symlink()


def test_a_folder_that_is_exchanged_for_a_link_while_it_is_emptied_costs_its_target_nothing(
    tmp_path: Path, treasure: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    shared = tmp_path / "shared"
    shared.mkdir()
    left = shared / NAME
    left.mkdir(mode=0o700)
    (left / "weights").write_text("old")
    empty = private._empty

    def exchange(folder: int) -> None:
        left.rename(shared / "aside")
        left.symlink_to(treasure)
        empty(folder)

    monkeypatch.setattr(private, "_empty", exchange)
    PrivateFolder(shared, PREFIX)
    assert (treasure / "thesis.tex").read_text() == "four years"
    assert list((shared / "aside").iterdir()) == [], "which was ours"


def test_links_in_what_is_removed_are_removed_and_not_followed(tmp_path: Path, treasure: Path) -> None:
    folder = PrivateFolder(tmp_path, PREFIX)
    (folder.path / "link").symlink_to(treasure)
    (folder.path / "below").mkdir()
    (folder.path / "below" / "link").symlink_to(treasure)
    os.mkfifo(folder.path / "below" / "pipe")
    folder.remove()
    folder.remove()
    assert list(tmp_path.iterdir()) == [treasure] and (treasure / "thesis.tex").exists()


def test_what_a_killed_process_left_is_removed_and_nothing_that_merely_begins_alike(tmp_path: Path) -> None:
    killed = f"{IN_TIME}\n(folder.path / 'x').write_text('x')\nimport os; os.kill(os.getpid(), {signal.SIGKILL.value})"
    subprocess.run([sys.executable, "-c", killed, tmp_path], capture_output=True, timeout=20)
    [left] = tmp_path.iterdir()
    (tmp_path / f"{PREFIX}of-mine").mkdir(mode=0o700)
    living = PrivateFolder(tmp_path, PREFIX)
    assert not left.exists()
    other = PrivateFolder(tmp_path, PREFIX)
    assert sorted(tmp_path.iterdir()) == sorted([tmp_path / f"{PREFIX}of-mine", living.path, other.path])


def test_a_forked_process_does_not_remove_its_parent_s_folder(tmp_path: Path) -> None:
    folder = PrivateFolder(tmp_path, PREFIX)
    child = os.fork()
    if child == 0:
        folder.remove()
        os._exit(0)
    os.waitpid(child, 0)
    assert folder.path.is_dir()


def test_what_is_missing_is_made_private_and_what_is_there_stays(tmp_path: Path) -> None:
    make_private(tmp_path / "a" / "b" / "c")
    assert all(is_private(tmp_path / name) for name in ("a", "a/b", "a/b/c"))
    (tmp_path / "shared").mkdir()
    (tmp_path / "shared").chmod(0o2775)
    make_private(tmp_path / "shared" / "below")
    assert stat.S_IMODE((tmp_path / "shared").stat().st_mode) == 0o2775 and is_private(tmp_path / "shared" / "below")
    (tmp_path / "link").symlink_to(tmp_path / "a")
    assert not is_private(tmp_path / "link") and not is_private(tmp_path / "none")


def test_a_file_is_open_to_all_only_where_they_can_reach_it() -> None:
    with folder_for_all(0o755) as folder:
        file = folder / "token"
        file.write_text("secret")
        file.chmod(0o644)
        assert all_can_read(file)
        file.chmod(0o640)
        assert not all_can_read(file)
        file.chmod(0o644)
        folder.chmod(0o750)
        assert not all_can_read(file) and not all_can_read(folder / "none")


def test_a_file_system_that_keeps_no_modes_is_refused_and_nothing_is_left(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def made(prefix: str, dir: Path) -> str:
        folder = Path(dir) / NAME
        folder.mkdir()
        folder.chmod(0o777)
        return str(folder)

    monkeypatch.setattr(private.tempfile, "mkdtemp", made)
    with pytest.raises(OSError, match="cannot be closed to others"):
        PrivateFolder(tmp_path, PREFIX)
    assert list(tmp_path.iterdir()) == []
