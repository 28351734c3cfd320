"""Checkpoints that are whole or absent: `step_000120/`, written under another name, marked, then renamed."""

import hashlib
import json
import logging
import os
import shutil
from collections.abc import Callable, Collection
from pathlib import Path

from pydantic import BaseModel, TypeAdapter, ValidationError

from stages.regular_files import regular_files

logger = logging.getLogger(__name__)

MARKER = "COMPLETE"
"""Written last; holds the size and the hash of every file."""
TORCH_FAILED = ("iostream error", "PytorchStreamWriter", "file write failed", "unexpected pos ")
"""Of what torch's writer of files, which is in C++, says whatever the system told it."""
DAMAGED = "damaged_"
"""Before the name of a checkpoint whose files are not what was written; nothing reads it again."""


class Written(BaseModel):
    """What the marker says of a file."""

    bytes: int
    sha256: str


_MARKER = TypeAdapter(dict[str, Written])
"""The marker's content: every file by its name."""


def step_folder(root: Path, step: int) -> Path:
    """Where version ``step`` lies."""
    return root / f"step_{step:06d}"


def commit(written: Path, root: Path, step: int) -> Path:
    """Mark a fully written folder and give it its name; from then on it counts."""
    files = {
        str(path.relative_to(written)): {"bytes": path.stat().st_size, "sha256": sha256(path)}
        for path in _files(written)
    }
    unfinished = written / f".{MARKER}"
    unfinished.write_text(json.dumps(files, indent=1))
    unfinished.rename(written / MARKER)
    _sync(written)
    final = step_folder(root, step)
    if final.exists():
        _remove(final)
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
    return sorted(_step_of(path) for path in root.glob("step_*") if is_whole(path))


def is_whole(folder: Path) -> bool:
    """Whether there is a marker that can be read: it was written to its end. Its files may have changed since."""
    return isinstance(_marked(folder), dict)


def damage(folder: Path) -> str | None:
    """Return what of a checkpoint is not as it was written, or None."""
    marked = _marked(folder)
    if isinstance(marked, str):
        return marked
    for name, written in marked.items():
        file = folder / name
        if not file.is_file() or file.is_symlink():
            return f"{name} is missing, or a link"
        if file.stat().st_size != written.bytes:
            return f"{name} has {file.stat().st_size} bytes of {written.bytes}"
        if sha256(file) != written.sha256:
            return f"the content of {name} has changed"
    return None


def latest(root: Path) -> int | None:
    """Return the newest version that is as it was written, or None.

    What was not written to its end is removed; what has changed since is said, and set aside.
    """
    folders = sorted(root.glob("step_*"), key=_step_of, reverse=True)
    for left in [*root.glob(".writing_*"), *root.glob("checkpoint-*"), *(f for f in folders if not _has_marker(f))]:
        logger.info("%s was not written to its end and is removed", left)
        shutil.rmtree(left)
    for folder in filter(_has_marker, folders):
        found = damage(folder)
        if found is None:
            return _step_of(folder)
        aside = folder.with_name(f"{DAMAGED}{folder.name}")
        logger.error("checkpoint %s is damaged: %s; it is set aside as %s", folder, found, aside.name)
        shutil.rmtree(aside, ignore_errors=True)
        folder.rename(aside)
    if damaged := sorted(path.name for path in root.glob(f"{DAMAGED}*")):
        logger.error("no checkpoint in %s can be taken (%s): the stage starts over", root, ", ".join(damaged))
    return None


def prune(root: Path, keep: int, *, spare: Collection[int] = ()) -> None:
    """Remove all but the newest ``keep`` versions, and those that are to be spared."""
    for step in steps(root)[:-keep]:
        if step not in spare:
            _remove(step_folder(root, step))


def publish(temporary: Path, final: Path) -> None:
    """Give a fully written folder its final name, in place of what was there. Who may read it may read its files."""
    _share(temporary)
    _sync(temporary)
    if final.exists():
        shutil.rmtree(final)
    temporary.rename(final)
    _sync_folder(final.parent)


def of_full_disk(said: str) -> str | None:
    """Return what an error of torch's most likely means that says no more than that a stream failed; else None."""
    failed = any(sign in said for sign in TORCH_FAILED)
    return f"is the disk full, or a quota used up? ({said})" if failed else None


def sha256(path: Path) -> str:
    """Hash a file."""
    with path.open("rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()


def _step_of(folder: Path) -> int:
    return int(folder.name.removeprefix("step_"))


def _has_marker(folder: Path) -> bool:
    return (folder / MARKER).is_file()


def _marked(folder: Path) -> dict[str, Written] | str:
    """Return what the marker says, or what is wrong with it."""
    if not _has_marker(folder):
        return f"{MARKER} is missing"
    try:
        return _MARKER.validate_json((folder / MARKER).read_bytes())
    except ValidationError as error:
        return f"{MARKER} cannot be read ({error.errors()[0]['msg']})"


def _remove(folder: Path) -> None:
    """Remove a checkpoint, its marker first: half removed it must not be taken for one that is damaged."""
    (folder / MARKER).unlink(missing_ok=True)
    shutil.rmtree(folder)


def _files(folder: Path) -> list[Path]:
    return [path for path in regular_files(folder) if path.name != MARKER]


def _share(folder: Path) -> None:
    """Undo what some writers do, that of safetensors among them: make files for their owner alone."""
    mode = folder.stat().st_mode & 0o666
    try:
        for file in _files(folder):
            if file.stat().st_mode & 0o777 != mode and file.stat().st_nlink == 1:  # or else it is another's, too
                file.chmod(mode)
    except OSError as error:  # a mount that has no modes
        logger.warning("the files in %s keep the modes that they have: %s", folder, error)


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
