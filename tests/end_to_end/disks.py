"""A small disk, where we have the right to mount one."""

import os
import subprocess
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import pytest


@contextmanager
def small_disk(folder: Path, size_bytes: int) -> Iterator[None]:
    """Put a disk of so many bytes in a folder's place; skip the test where that is not allowed."""
    if os.geteuid() != 0 or _mount(folder, f"size={size_bytes}"):
        pytest.skip("no right to mount a tmpfs here")
    try:
        yield
    finally:
        subprocess.run(["umount", "-l", str(folder)], check=True)


def resize(folder: Path, size_bytes: int) -> None:
    """Give such a disk another size; what lies on it stays."""
    assert _mount(folder, f"remount,size={size_bytes}") == 0


def _mount(folder: Path, options: str) -> int:
    return subprocess.run(
        ["mount", "-t", "tmpfs", "-o", options, "strop-test", str(folder)], capture_output=True
    ).returncode
