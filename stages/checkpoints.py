"""Checkpoints that are whole or absent: `step_000120/`, written under another name, marked, then renamed."""

import hashlib
import json
import logging
import os
import shutil
from collections.abc import Callable, Collection
from pathlib import Path
from typing import TypedDict

logger = logging.getLogger(__name__)

MARKER = "COMPLETE"
"""Written last; holds the size and the hash of every file."""
DAMAGED = "damaged_"
"""Before the name of a checkpoint whose files are not what was written; nothing reads it again."""


class Written(TypedDict):
    """What the marker says of a file."""

    bytes: int
    sha256: str


def step_folder(root: Path, step: int) -> Path:
    """Where version ``step`` lies."""
    return root / f"step_{step:06d}"


def commit(written: Path, root: Path, step: int) -> Path:
    """Mark a fully written folder and give it its name; from then on it counts."""
    files = {
        str(path.relative_to(written)): Written(bytes=path.stat().st_size, sha256=sha256(path))
        for path in _files(written)
    }
    unfinished = written / f".{MARKER}"
    unfinished.write_text(json.dumps(files, indent=1))
    unfinished.rename(written / MARKER)
    _sync(written)
    final = step_folder(root, step)
    if final.exists():
        shutil.rmtree(final)
    written.rename(final)
    _sync_folder(root)
    return final


def save(root: Path, step: int, write: Callable[[Path], None], *, keep: int) -> Path:
    """Have ``write`` fill a folder, commit it as version ``step``, and keep the newest ``keep``."""
    temporary = root / f".writing_step_{step:06d}"
    shutil.rmtree(temporary, ignore_errors=True)
    temporary.mkdir(parents=True)
    write(temporary)
    final = commit(temporary, root, step)
    prune(root, keep)
    return final


def steps(root: Path) -> list[int]:
    """Versions of which a whole checkpoint lies here, ascending."""
    return sorted(int(path.name.removeprefix("step_")) for path in root.glob("step_*") if is_whole(path))


def is_whole(folder: Path) -> bool:
    """Whether the marker is there: the folder was written to its end. Its files may have changed since."""
    return _marked(folder) is not None


def damage(folder: Path) -> str | None:
    """Return what of a checkpoint is not as it was written, or None."""
    for name, written in (_marked(folder) or {}).items():
        file = folder / name
        if not file.is_file():
            return f"{name} is missing"
        if file.stat().st_size != written["bytes"]:
            return f"{name} has {file.stat().st_size} bytes of {written['bytes']}"
        if sha256(file) != written["sha256"]:
            return f"the content of {name} has changed"
    return None


def latest(root: Path) -> int | None:
    """Return the newest version that is as it was written, or None.

    What was not written to its end is removed; what has changed since is said, and set aside.
    """
    for path in [*root.glob("step_*"), *root.glob(".writing_*"), *root.glob("checkpoint-*")]:
        if not path.name.startswith("step_") or not is_whole(path):
            shutil.rmtree(path)
    for step in reversed(steps(root)):
        folder = step_folder(root, step)
        found = damage(folder)
        if found is None:
            return step
        aside = folder.with_name(f"{DAMAGED}{folder.name}")
        logger.error("checkpoint %s is damaged: %s; it is set aside as %s", folder, found, aside.name)
        shutil.rmtree(aside, ignore_errors=True)
        folder.rename(aside)
    return None


def prune(root: Path, keep: int, *, spare: Collection[int] = ()) -> None:
    """Remove all but the newest ``keep`` versions, and those that are to be spared."""
    for step in steps(root)[:-keep]:
        if step not in spare:
            shutil.rmtree(step_folder(root, step))


def publish(temporary: Path, final: Path) -> None:
    """Give a fully written folder its final name, in place of what was there."""
    _sync(temporary)
    if final.exists():
        shutil.rmtree(final)
    temporary.rename(final)
    _sync_folder(final.parent)


def sha256(path: Path) -> str:
    """Hash a file."""
    with path.open("rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()


def _marked(folder: Path) -> dict[str, Written] | None:
    try:
        found: dict[str, Written] = json.loads((folder / MARKER).read_text())
    except (FileNotFoundError, json.JSONDecodeError):
        return None
    return found if all(isinstance(written, dict) for written in found.values()) else None


def _files(folder: Path) -> list[Path]:
    return [path for path in sorted(folder.rglob("*")) if path.is_file() and path.name != MARKER]


def _sync(folder: Path) -> None:
    """Have the kernel put everything below on the disk: a rename must not outrun the bytes."""
    for path in [*_files(folder), *folder.glob(MARKER)]:
        with path.open("rb") as file:
            os.fsync(file.fileno())


def _sync_folder(folder: Path) -> None:
    descriptor = os.open(folder, os.O_RDONLY)
    try:
        os.fsync(descriptor)
    finally:
        os.close(descriptor)
