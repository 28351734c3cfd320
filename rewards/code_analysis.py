"""What static analysis finds in a program, by ruff, and what that costs. For the code reward's `deduct`."""

import json
import re
import subprocess
import sys
from collections.abc import Iterable, Mapping
from pathlib import Path
from typing import TYPE_CHECKING

from rewards.config import ANALYSIS_GRACE_S
from rewards.types import RewardError

if TYPE_CHECKING:
    from rewards.config import CodeRewardConfig

_REACHING = re.compile(
    r"\b(_getframe|_current_frames|f_back|f_globals|f_locals|settrace|setprofile|addaudithook|__builtins__|builtins|ctypes"
    r"|gc\.get_\w+|__eq__|__instancecheck__|__subclasshook__|sys\.modules|excepthook|_exit|atexit|getppid|__debug__)\b"
    r"|/proc/|AssertionError\s*="
)


def deduction(config: "CodeRewardConfig", program: str) -> float:
    """Return what the findings of static analysis cost (REAL, Yao et al. 2025, arXiv 2505.22704), up to the most.

    A program that cannot be analysed costs the most: nobody should gain by breaking the analyser.
    """
    try:
        found = findings(config.deduct, program)
    except (subprocess.SubprocessError, ValueError):
        return config.most_deducted
    return min(config.most_deducted, sum(_price(config.deduct, rule) for rule in found))


def reaches_out(program: str) -> bool:
    """Say whether a program names what those do who would pass a test without solving it: frames, built-in functions,
    the collector's objects, other processes, its own way to be equal.
    """
    return _REACHING.search(program) is not None


def findings(rules: Iterable[str], program: str) -> list[str]:
    """Return the rule of each finding of ruff's; SubprocessError or ValueError where it cannot say."""
    command = [_ruff(), "check", "--isolated", "--no-cache", "--ignore-noqa", "--exit-zero", "--output-format", "json"]
    command += ["--select", ",".join(rules), "--stdin-filename", "answer.py", "-"]
    given = program.encode(errors="replace")
    told = subprocess.run(command, input=given, capture_output=True, timeout=ANALYSIS_GRACE_S, check=True)
    if b"remapped" in told.stderr:
        raise ValueError(told.stderr.decode(errors="replace").strip())
    return [str(finding["code"]) for finding in json.loads(told.stdout)]


def check_rules(rules: Iterable[str]) -> None:
    """Raise RewardError where ruff is not installed or does not know a rule."""
    try:
        findings(rules, "")
    except FileNotFoundError as error:
        raise RewardError("the code reward's `deduct` needs ruff; pip install ruff") from error
    except (subprocess.SubprocessError, ValueError) as error:
        told = getattr(error, "stderr", None) or str(error).encode()
        raise RewardError(f"the code reward's `deduct`: {told.decode(errors='replace').strip()}") from error


def _price(deduct: Mapping[str, float], rule: str) -> float:
    """Return the price of the longest prefix that names the rule: S102 has its own where S has another."""
    named = [prefix for prefix in deduct if rule.startswith(prefix)]
    return deduct[max(named, key=len)] if named else deduct.get("ALL", 0.0)


def _ruff() -> str:
    installed = Path(sys.executable).with_name("ruff")
    return str(installed) if installed.exists() else "ruff"
