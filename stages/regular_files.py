"""Files that are what their names say: no links to elsewhere, no pipes or devices that somebody has put there."""

import os
import stat
from collections.abc import Iterator
from contextlib import suppress
from io import BufferedReader
from pathlib import Path, PurePosixPath


def regular_files(folder: Path) -> list[Path]:
    """Return all files below a folder, in order; what is a link, or no file, is left out, and no link is followed."""
    return sorted(path for path, mode in _walk(folder) if stat.S_ISREG(mode))


def strangers(folder: Path) -> Iterator[tuple[Path, str]]:
    """Yield what below a folder is no file of its own, and what it is: links that lead out of it to a file, pipes and
    devices. A link to a folder, say of another disk, is let be, and not followed."""
    root = folder.resolve()
    for path, mode in _walk(folder):
        if stat.S_ISLNK(mode) and not path.resolve().is_relative_to(root):
            yield path, f"a link to {path.resolve()}"
        elif not (stat.S_ISLNK(mode) or stat.S_ISREG(mode) or stat.S_ISSOCK(mode)):
            yield path, "a pipe or a device"


def _walk(folder: Path) -> Iterator[tuple[Path, int]]:
    """Yield what is no folder below one, and its mode."""
    for place, _, names in os.walk(folder):
        for name in names:
            path = Path(place) / name
            with suppress(FileNotFoundError):  # who writes there may have renamed it
                yield path, path.lstat().st_mode


def open_own(folder: Path, name: str) -> BufferedReader:
    """Open a file below a folder for reading, such as `adapter/config.json`, without following a link on the way.

    Raises OSError where a part of the name is a link or missing, ValueError where it leads out, or to no file.
    """
    parts = PurePosixPath(name).parts
    if not parts or ".." in parts or PurePosixPath(name).is_absolute():
        raise ValueError(f"{name!r} is no name of a file below a folder")
    flags = os.O_RDONLY | os.O_NOFOLLOW | os.O_NONBLOCK | os.O_CLOEXEC
    place = os.open(folder, flags | os.O_DIRECTORY)
    try:
        for part in parts[:-1]:
            below = os.open(part, flags | os.O_DIRECTORY, dir_fd=place)
            os.close(place)
            place = below
        file = os.open(parts[-1], flags, dir_fd=place)
    finally:
        os.close(place)
    if not stat.S_ISREG(os.fstat(file).st_mode):
        os.close(file)
        raise ValueError(f"{name!r} is a folder, a pipe or a device")
    return open(file, "rb")
