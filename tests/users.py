"""Another user of the machine, who means no good: programs run as `nobody`. Only root can become one."""

import os
import stat
import subprocess
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any

import pytest

NOBODY = 65534


def _python_for_all() -> str | None:
    """Return a Python that all users can run, which one that lies in somebody's home is not."""
    for python in map(Path, (os.path.realpath(sys.executable), "/usr/bin/python3")):
        if python.exists() and all(path.stat().st_mode & stat.S_IXOTH for path in (python, *python.parents)):
            return str(python)
    return None


PYTHON = _python_for_all()
needs_root = pytest.mark.skipif(
    os.geteuid() != 0 or PYTHON is None, reason="only root can become another user, who needs a Python"
)


def as_user(uid: int) -> dict[str, Any]:
    """Return what makes a process of `subprocess` another user's, without any other right."""
    return {"user": uid, "group": uid, "extra_groups": []}


def do_as_nobody(source: str, *arguments: object, **options: Any) -> "subprocess.CompletedProcess[str]":
    """Run a Python program as nobody, in isolation: it need not be able to read our files."""
    return subprocess.run(
        [str(PYTHON), "-I", "-c", source, *map(str, arguments)],
        capture_output=True, text=True, cwd="/", timeout=120, **as_user(NOBODY), **options,
    )  # fmt: skip


@contextmanager
def folder_for_all(mode: int = 0o1777) -> Iterator[Path]:
    """Yield a folder as /tmp is one, with a name that leaves room for sockets. pytest's own are closed to others."""
    with TemporaryDirectory(prefix="st-", dir="/tmp") as name:
        os.chmod(name, mode)
        yield Path(name)
