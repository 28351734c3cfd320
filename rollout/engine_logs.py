"""What engines print: where it goes, and what it says of their end."""

import os
import re
from pathlib import Path

from rollout.engine import EngineModel


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
