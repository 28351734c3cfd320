"""Code of the user's own, found by its import path; and our own packages, which no file of the user's may stand for.

A folder from which `strop` is called may well hold a `rewards.py`. Every process of ours that looks for modules there
imports our packages first.
"""

import importlib
import sys
from pathlib import Path
from typing import Any

from rewards.types import RewardError

PACKAGES = ("pipeline", "rewards", "rollout", "stages")
"""Strop's own, all of them."""
ROOT = str(Path(__file__).resolve().parents[1])
"""Where they lie."""


def import_ours() -> None:
    """Import our packages, so that whatever is put on the path later stands behind them; nothing heavy comes along."""
    before = list(sys.path)
    sys.path.insert(0, ROOT)
    for name in PACKAGES:
        importlib.import_module(name)
    sys.path[:] = before


def imported(import_path: str, what: str) -> Any:
    """Return what an import path, `module:name`, stands for; RewardError with the way out where that fails."""
    module, name = import_path.split(":")
    top = module.partition(".")[0]
    own = next((file for file in (Path(f"{top}.py"), Path(top, "__init__.py")) if file.is_file()), None)
    if own is not None and top in PACKAGES and str(Path.cwd()) != ROOT:
        raise RewardError(
            f"{what} {import_path!r} cannot be imported: your module {own} has the name of one of Strop's packages "
            f"({', '.join(PACKAGES)}): rename it"
        )
    try:
        return getattr(importlib.import_module(module), name)
    except (Exception, SystemExit) as error:  # importing runs the user's code: anything can come out
        found = getattr(sys.modules.get(top), "__file__", None)
        way_out = "An import path is 'module:name'; the module is installed, or lies in the folder of the command"
        if own is not None and found is not None and Path(found) != own.absolute():
            way_out = f"Another module of that name, {found}, is found before your {own}: rename yours"
        raise RewardError(
            f"{what} {import_path!r} cannot be imported: {type(error).__name__}: {error}. {way_out}"
        ) from error
