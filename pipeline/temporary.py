"""Whether there are places for temporary files and sockets: Ray and vLLM give up late, and in words of their own."""

import os
import tempfile
from collections.abc import Iterator
from pathlib import Path

from rewards.own_files import LONGEST_SOCKET, PREFIX, SHARED_MEMORY, SOCKETS, folder_for_sockets, room_in
from rewards.private import PrivateFolder, all_can_rename_in


def problems() -> Iterator[str]:
    """Say what is wrong with the folders in which a run makes private ones."""
    try:
        usual = Path(tempfile.gettempdir())
    except FileNotFoundError as error:  # no folder at all can be written to
        yield f"there is no folder for temporary files ({error}); set TMPDIR to one that can be written to"
        return
    if refusal := _refusal(usual):
        yield f"temporary files go into {usual}, which will not do ({refusal}); set TMPDIR to another folder"
        return
    for variable in SOCKETS:
        yield from _about_sockets(variable, folder_for_sockets(variable))


def notes() -> Iterator[str]:
    """Say in which of these folders, and of shared memory, others could put something in the place of what is ours.

    It is no problem: in a container that has one user, such folders are common.
    """
    for folder in dict.fromkeys([Path(tempfile.gettempdir()), *map(folder_for_sockets, SOCKETS), SHARED_MEMORY]):
        if folder.is_dir() and all_can_rename_in(folder):
            yield (
                f"{folder} has no sticky bit, so any user of this machine may rename what a run puts there; if it has "
                f"others than you: chmod +t {folder}"
            )


def _about_sockets(variable: str, folder: Path) -> Iterator[str]:
    room = room_in(folder, variable)
    length = len(os.fsencode(folder))
    way_out = f"set {variable} to a folder that can be written to, with a name of at most {length + room} bytes"
    if room < 0:
        yield (
            f"{folder} is to hold sockets, and its name of {length} bytes is too long: they lie deep below, and Linux "
            f"allows their names {LONGEST_SOCKET} bytes; {way_out}"
        )
    elif refusal := _refusal(folder):
        yield f"{folder} is to hold sockets and will not do ({refusal}); {way_out}"


def _refusal(folder: Path) -> OSError | None:
    """Return why there can be no private folder in one, or in the first above it that is there."""
    there = next(parent for parent in (folder.absolute(), *folder.absolute().parents) if parent.exists())
    try:
        PrivateFolder(there, PREFIX).remove()
    except OSError as error:
        return error
    return None
