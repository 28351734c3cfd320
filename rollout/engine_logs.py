"""What engines print: where it goes, what they warn of, and what it says of their end."""

import os
import re
from collections.abc import Iterator
from pathlib import Path

from rollout.engine import EngineModel

EXPECTED = (
    # what we set, and vLLM says that it was set
    "This model does not officially support disabling chunked prefill",
    "Enforce eager set, disabling torch.compile",
    "Inductor compilation was disabled by user settings",
    "Using None for EOS token id because tokenizer is not initialized",
    "[shutdown] Process manager: force killing remaining process",
    # what holds for every model on a CPU, or follows from the lack of Triton, which is told
    "Reset SSM cache type to float32 for accelerated GDN mamba backend 'none'",
    "Model Runner V2 requires Triton; using the V1 model runner instead",
    # a table that is computed and not sent; that all weights have arrived is proved after each sync
    "RotaryEmbedding: Failed to load weights",
    # vLLM's own code, which looks through all of torch
    "`torch.distributed.reduce_op` is deprecated",
)
"""How those lines of vLLM's begin that each of our engines prints, and that tell its user nothing. They stay in the
log; a warning that is not among them is told."""
_VLLM = re.compile(r"^(?:\([^)]*\) )?(?:WARNING|ERROR) \d\d-\d\d [\d:]+ \[[^]]*\] (.+)$", re.MULTILINE)
"""A line of vLLM's, with the process before it that printed it."""
_PYTHON = re.compile(r"^(?:\([^)]*\) )?(\S+\.py):\d+: \w*Warning: (.+)$", re.MULTILINE)
"""The first line of one of Python's own warnings."""


def warnings_in(log: str) -> Iterator[tuple[str, str]]:
    """Yield what an engine warned of, as its log has it, and the file that did: `vllm` for vLLM's own lines."""
    plain = re.sub(r"\x1b\[[0-9;]*m", "", log)
    found = [("vllm", line[1]) for line in _VLLM.finditer(plain)]
    found += [(line[1], line[2]) for line in _PYTHON.finditer(plain)]
    yield from ((file, text) for file, text in found if not text.startswith(EXPECTED))


def log_file(model: EngineModel, at: int) -> Path | None:
    """Return where engine ``at`` of a pool prints to; None: wherever its process does."""
    return model.log_folder / f"engine_{at}.log" if model.log_folder else None


def print_to(path: Path) -> None:
    """Send all that this process and its children print to a file."""
    descriptor = os.open(path, os.O_WRONLY | os.O_CREAT | os.O_APPEND, 0o644)
    os.dup2(descriptor, 1)
    os.dup2(descriptor, 2)
    os.close(descriptor)


def last_error(log: Path | None) -> str | None:
    """Return the last error that an engine printed: vLLM's own exception only says to look at its trace."""
    if log is None or not log.is_file():
        return None
    text = log.read_text(errors="replace")[-200_000:]
    found = re.findall(r"^.*?\b(\w+(?:Error|Exception): .+)$", text, re.MULTILINE)
    telling = [line for line in found if "EngineDeadError" not in line and "EngineCore encountered" not in line]
    return str(telling[-1]) if telling else None


def see(log: Path | None) -> str:
    """Return the end of a message, which names the log."""
    return f"; see {log}" if log else ""
