"""Where a process of a run puts what lies outside the run's folder, so that no other user of its machine can reach it.

Temporary files, Ray's and vLLM's sockets go into private folders; the caches of libraries are made private where they
are missing. Called where a process of ours begins, on whatever machine that is, before what reads these variables.
"""

import atexit
import os
import tempfile
from collections.abc import Iterator
from contextlib import suppress
from pathlib import Path

from rewards.private import PrivateFolder, is_private, make_private, remove_left

PREFIX = "strop-run-"
SHARED_MEMORY, WEIGHTS = Path("/dev/shm"), "strop-weights-"
"""Where weights on their way lie, in folders of this prefix."""
LONGEST_SOCKET = 107
"""Bytes that the name of a Unix socket may have on Linux."""
SOCKETS = {
    "RAY_TMPDIR": "/ray/session_2026-01-31_23-59-59_999999_4194304/sockets/plasma_store",
    "VLLM_RPC_BASE_PATH": "/12345678-1234-1234-1234-123456789012",
}
"""Variables of the folders that sockets go into, and the longest name of one there. Ray opens its own folders to all
users whatever the umask, who could put their sockets in place of its; so they have to be inside of one that is closed.
"""
SERVERS = "VLLM_RPC_BASE_PATH"
"""The one whose folder servers of our own put their sockets into, too, under names of the same length."""
SHORT = Path("/tmp")


def use_own_files() -> None:
    """Have this process, and those that it starts, keep what they make from other users. Safe to call twice.

    What the run's driver has set up on its own machine stays; elsewhere this process makes folders of its own, which go
    with it, or else when the next one begins. Raises OSError where there can be none.
    """
    usual = Path(tempfile.gettempdir())
    if not _is_own(usual):
        os.environ["TMPDIR"] = str(_made_in(usual))
        tempfile.tempdir = None  # it is looked up again
    for variable in SOCKETS:
        folder = folder_for_sockets(variable)
        os.environ[variable] = str(folder if _is_own(folder) else _made_in(folder))
    make_caches_private()
    if _compiled().is_dir():  # among temporary files, where torch puts it, each run would compile it all again
        os.environ["TORCHINDUCTOR_CACHE_DIR"] = str(_compiled())


def remove_left_weights() -> None:
    """Free the memory that killed processes of ours have left full of weights."""
    with suppress(OSError):  # a machine without shared memory
        remove_left(SHARED_MEMORY, WEIGHTS)


def folder_for_sockets(variable: str) -> Path:
    """Return the folder that a variable names, or else the usual one, or /tmp where that one's name is too long."""
    said = os.environ.get(variable)
    folder = Path(said or tempfile.gettempdir())
    return folder if said or room_in(folder, variable) >= 0 else SHORT


def room_in(folder: Path, variable: str) -> int:
    """Return how many bytes the longest name of a socket leaves, in a folder of ours that is made there if need be."""
    own = "" if _is_own(folder) else f"/{PREFIX}12345678"
    return LONGEST_SOCKET - len(os.fsencode(f"{folder}{own}{SOCKETS[variable]}"))


def make_caches_private() -> None:
    """Make the folders that libraries keep things in from run to run, as far as they are missing, for this user alone.

    One that is there stays as it is: whoever made it may share it on purpose.
    """
    for folder in _caches():
        with suppress(OSError):  # there is no home to write to, and so there will be no cache
            make_private(folder)


def _caches() -> Iterator[Path]:
    home = Path(os.path.expanduser("~"))
    yield Path(os.environ.get("XDG_CONFIG_HOME") or home / ".config")
    cache = _cache()
    yield from (cache, cache / "flashinfer", _compiled())
    usual = {
        "HF_HOME": cache / "huggingface",
        "NUMBA_CACHE_DIR": cache / "numba",
        "TORCH_HOME": cache / "torch",
        "TRITON_CACHE_DIR": home / ".triton",
        "VLLM_CACHE_ROOT": cache / "vllm",
    }
    yield from (Path(os.environ.get(variable) or folder) for variable, folder in usual.items())


def _cache() -> Path:
    return Path(os.environ.get("XDG_CACHE_HOME") or os.path.expanduser("~/.cache"))


def _compiled() -> Path:
    """Return where torch is to keep what it compiles.

    A program that has imported torch hands down torch's choice, a name in /tmp that anybody could have taken. It is not
    the user's.
    """
    said = Path(os.environ.get("TORCHINDUCTOR_CACHE_DIR", ""))
    is_torchs = said.name.startswith("torchinductor_")
    return _cache() / "torchinductor" if is_torchs or not said.name else said


def _is_own(folder: Path) -> bool:
    return folder.name.startswith(PREFIX) and is_private(folder)


def _made_in(parent: Path) -> Path:
    folder = PrivateFolder(parent, PREFIX)
    atexit.register(folder.remove)
    return folder.path
