"""Folders that one user alone can enter, inside folders that all users share: /tmp, /dev/shm, a common disk.

In a shared folder anybody may put anything under any name: a link, a pipe whose opening never returns, a folder that
looks like one of ours. So our names are random, nothing found is followed or waited for, only folders of this user are
ours, and what is removed is reached through the descriptor that was looked at. Used by all packages.
"""

import fcntl
import os
import re
import shutil
import stat
import tempfile
from contextlib import ExitStack, suppress
from pathlib import Path

FOR_NOBODY_ELSE = 0o077
"""The umask with which only this user can open what is made."""
_FOLDER = os.O_RDONLY | os.O_DIRECTORY | os.O_NOFOLLOW | os.O_NONBLOCK
_TRIES = 100


class PrivateFolder:
    """A new folder of mode 0700 in ``parent``, which is made if need be. What dead processes left there is removed.

    It is called by the prefix and eight random characters. The lock on it falls when the process that made it dies,
    however it dies. Raises OSError where there can be none.
    """

    def __init__(self, parent: Path, prefix: str) -> None:
        parent.mkdir(parents=True, exist_ok=True)
        remove_left(parent, prefix)
        shared = os.open(parent, os.O_RDONLY | os.O_DIRECTORY)
        try:
            self.path, self._lock = _locked_folder(shared, parent, prefix)
            self._owner = os.getpid()
        finally:
            os.close(shared)

    def remove(self) -> None:
        """Remove it with all that it holds; safe to call twice. In a process forked from its owner, it stays."""
        lock, self._lock = self._lock, -1
        if lock >= 0 and os.getpid() == self._owner:
            _empty(lock)
            with suppress(OSError):  # a process that ends late has put something there: the next run removes it
                self.path.rmdir()
            os.close(lock)


def remove_left(parent: Path, prefix: str) -> None:
    """Remove what dead processes left: folders that are ours by name, owner and mode, and that no living one locks."""
    ours = re.compile(re.escape(prefix) + "[a-z0-9_]{8}")
    shared = os.open(parent, os.O_RDONLY | os.O_DIRECTORY)
    try:
        for name in filter(ours.fullmatch, os.listdir(shared)):
            with suppress(OSError):
                _remove_unlocked(shared, name)
    finally:
        os.close(shared)


def is_private(folder: Path) -> bool:
    """Say whether a folder is this user's, and no other may enter it."""
    try:
        return _is_private(folder.lstat())
    except OSError:
        return False


def all_can_rename_in(folder: Path) -> bool:
    """Say whether all users may rename what others have put into a folder, as they may without the sticky bit."""
    mode = folder.stat().st_mode
    return bool(mode & stat.S_IWOTH) and not mode & stat.S_ISVTX


def all_can_read(file: Path) -> bool:
    """Say whether a file is there that all users can reach and read."""
    try:
        above = [folder.stat().st_mode for folder in file.absolute().parents]
        return bool(file.stat().st_mode & stat.S_IROTH) and all(mode & stat.S_IXOTH for mode in above)
    except OSError:
        return False


def own_umask() -> int:
    """Return this process's umask, which can only be asked for by setting it."""
    found = os.umask(FOR_NOBODY_ELSE)
    os.umask(found)
    return found


def make_private(folder: Path) -> None:
    """Make a folder, and those above it that are missing, so that nobody else may enter; one that is there stays."""
    if not folder.exists():
        make_private(folder.parent)
        folder.mkdir(mode=0o700, exist_ok=True)


def _is_private(found: os.stat_result) -> bool:
    return stat.S_ISDIR(found.st_mode) and found.st_uid == os.geteuid() and not found.st_mode & FOR_NOBODY_ELSE


def _is_open(folder: Path) -> bool:
    try:
        return not _is_private(folder.lstat())
    except OSError:  # it is gone
        return False


def _remove_unlocked(shared: int, name: str) -> None:
    descriptor = _locked(shared, name)
    if descriptor is not None:
        try:
            _empty(descriptor)
            os.rmdir(name, dir_fd=shared)
        finally:
            os.close(descriptor)


def _locked_folder(shared: int, parent: Path, prefix: str) -> tuple[Path, int]:
    """Return a new folder and the descriptor that locks it.

    A run that starts at the same time may take a new folder for one that was left, as long as it is not locked.
    """
    for _ in range(_TRIES):
        path = Path(tempfile.mkdtemp(prefix=prefix, dir=parent))  # 0700 whatever the umask
        descriptor = _locked(shared, path.name)
        if descriptor is not None:
            return path, descriptor
        if _is_open(path):
            path.rmdir()
            raise OSError("a folder that is made there cannot be closed to others: its file system keeps no modes")
    raise OSError(f"whatever is made there is removed at once, {_TRIES} times now")


def _locked(shared: int, name: str) -> int | None:
    """Return a descriptor that locks a folder; None where it is none of ours, or its run is alive, or it is gone."""
    try:
        descriptor = os.open(name, _FOLDER, dir_fd=shared)
    except OSError:  # a pipe, a link, a folder that is closed to us
        return None
    with ExitStack() as unless_kept:
        unless_kept.callback(os.close, descriptor)
        if not _is_private(os.fstat(descriptor)):
            return None
        try:
            fcntl.flock(descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError:
            return None
        if not _is_called(name, shared, descriptor):
            return None
        unless_kept.pop_all()
        return descriptor


def _is_called(name: str, shared: int, descriptor: int) -> bool:
    """Say whether the open folder still has this name."""
    try:
        return os.path.samestat(os.stat(name, dir_fd=shared, follow_symlinks=False), os.fstat(descriptor))
    except FileNotFoundError:
        return False


def _empty(folder: int) -> None:
    """Remove all that an open folder holds, as far as that can be; links themselves, and not what they point to."""
    with os.scandir(folder) as entries:
        for entry in entries:
            if entry.is_dir(follow_symlinks=False):
                shutil.rmtree(entry.name, ignore_errors=True, dir_fd=folder)
            else:
                with suppress(OSError):
                    os.unlink(entry.name, dir_fd=folder)
