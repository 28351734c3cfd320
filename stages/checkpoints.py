"""Checkpoints that are whole or absent: `step_000120/`, written under another name, marked, then renamed."""

import json
import os
import shutil
from collections.abc import Callable
from pathlib import Path

MARKER = "COMPLETE"
"""Written last; holds the size of every file, in bytes."""


def step_folder(root: Path, step: int) -> Path:
    """Where version ``step`` lies."""
    return root / f"step_{step:06d}"


def commit(written: Path, root: Path, step: int) -> Path:
    """Mark a fully written folder and give it its name; from then on it counts."""
    sizes = {str(path.relative_to(written)): path.stat().st_size for path in _files(written)}
    unfinished = written / f".{MARKER}"
    unfinished.write_text(json.dumps(sizes, indent=1))
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
    """Whether the marker is there and every file has the size that it says."""
    try:
        sizes: dict[str, int] = json.loads((folder / MARKER).read_text())
    except (FileNotFoundError, json.JSONDecodeError):
        return False
    return all((folder / name).is_file() and (folder / name).stat().st_size == size for name, size in sizes.items())


def latest(root: Path) -> int | None:
    """Return the newest whole version, or None; whatever is not whole is removed first."""
    for path in [*root.glob("step_*"), *root.glob(".writing_*"), *root.glob("checkpoint-*")]:
        if not path.name.startswith("step_") or not is_whole(path):
            shutil.rmtree(path)
    found = steps(root)
    return found[-1] if found else None


def prune(root: Path, keep: int, *, spare: int | None = None) -> None:
    """Remove all but the newest ``keep`` versions, and one that is to be spared."""
    for step in steps(root)[:-keep]:
        if step != spare:
            shutil.rmtree(step_folder(root, step))


def publish(temporary: Path, final: Path) -> None:
    """Give a fully written folder its final name, in place of what was there."""
    _sync(temporary)
    if final.exists():
        shutil.rmtree(final)
    temporary.rename(final)
    _sync_folder(final.parent)


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
