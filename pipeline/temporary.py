"""Whether Ray and vLLM can have their temporary files: both give up late, and in words of their own."""

import os
import tempfile
import uuid
from collections.abc import Iterator
from pathlib import Path

from pipeline.config import RunConfig

LONGEST_SOCKET = 107
"""Bytes that the name of a Unix socket may have on Linux."""


def problems(config: RunConfig) -> Iterator[str]:
    """Say what is wrong with the folders for temporary files, for a run whose Ray starts on this machine."""
    yield from _about_ray(os.environ.get("RAY_TMPDIR") or os.environ.get("TMPDIR") or "/tmp")
    try:
        folder = os.environ.get("VLLM_RPC_BASE_PATH") or tempfile.gettempdir()
    except FileNotFoundError as error:  # no folder at all can be written to
        yield f"there is no folder for temporary files ({error}); set TMPDIR to one that can be written to"
        return
    generates = any(part.generates for stage in config.stages.values() for part in stage.whole())
    room = LONGEST_SOCKET - len(f"/{uuid.uuid4()}")
    if config.engine.type == "vllm" and generates and len(os.fsencode(folder)) > room:
        yield (
            f"vLLM puts its sockets into {folder}, whose name is too long for them; set VLLM_RPC_BASE_PATH, or TMPDIR, "
            f"to a folder with a name of at most {room} bytes"
        )


def _about_ray(folder: str) -> Iterator[str]:
    deep = f"/ray/session_2026-01-31_23-59-59_999999_{os.getpid()}/sockets/plasma_store"
    room = LONGEST_SOCKET - len(deep)
    way_out = f"set RAY_TMPDIR to a folder that can be written to, with a name of at most {room} bytes"
    if len(os.fsencode(folder)) > room:
        yield (
            f"Ray keeps its files in {folder}, whose name of {len(os.fsencode(folder))} bytes is too long: its sockets "
            f"lie deep below, and Linux allows their names {LONGEST_SOCKET} bytes; {way_out}"
        )
    elif not _can_be_written_to(Path(folder)):
        yield f"Ray keeps its files in {folder}, which cannot be written to; {way_out}"


def _can_be_written_to(folder: Path) -> bool:
    there = next(parent for parent in (folder.absolute(), *folder.absolute().parents) if parent.exists())
    try:
        with tempfile.TemporaryDirectory(dir=there):
            return True
    except OSError:
        return False
