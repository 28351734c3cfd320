"""Writing an example's data and base model into a folder, whole or not at all."""

import argparse
import json
import os
import shutil
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any

MARKER = "COMPLETE.json"
Rows = Sequence[Mapping[str, Any]]


def write_task(out: Path, *, seed: int, version: int, make_splits: Callable[[int], Mapping[str, Rows]]) -> bool:
    """Write each split as JSONL and the base model; False if the folder already holds these.

    All is written to a temporary name and renamed, the marker last, so a folder with its marker is whole.
    """
    mark = {"seed": seed, "version": version}
    marker = out / MARKER
    if marker.exists() and json.loads(marker.read_text()) == mark:
        return False
    from examples.arithmetic.base_model import write_base_model  # torch, which an existing folder needs not

    out.mkdir(parents=True, exist_ok=True)
    marker.unlink(missing_ok=True)
    splits = make_splits(seed)
    for name, rows in splits.items():
        write_text(out / f"{name}.jsonl", "".join(json.dumps(row) + "\n" for row in rows))
    base, unfinished = out / "base", out / "base.tmp"
    shutil.rmtree(unfinished, ignore_errors=True)
    write_base_model(unfinished, (text for rows in splits.values() for text in spoken(rows)), seed=seed)
    shutil.rmtree(base, ignore_errors=True)
    os.replace(unfinished, base)
    write_text(marker, json.dumps(mark) + "\n")
    return True


def write_text(path: Path, text: str) -> None:
    """Write a file that is either whole or not there."""
    unfinished = path.with_suffix(path.suffix + ".tmp")
    unfinished.write_text(text)
    os.replace(unfinished, path)


def spoken(rows: Rows) -> list[str]:
    """Everything that is said in the rows."""
    return [message["content"] for row in rows for message in [*row["prompt"], *row.get("completion", [])]]


def command_line(name: str, about: str | None, version: int, make_splits: Callable[[int], Mapping[str, Rows]]) -> None:
    """Read the command line of example ``name``, write its task, say what happened."""
    parser = argparse.ArgumentParser(prog=f"python -m examples.{name}", description=about)
    parser.add_argument("--out", type=Path, default=Path("artifacts") / name, help="folder to write to")
    parser.add_argument("--seed", type=int, default=17, help="problems and weights are drawn from it")
    args = parser.parse_args()
    written = write_task(args.out, seed=args.seed, version=version, make_splits=make_splits)
    print(f"{args.out}: {'written' if written else 'already there'} (seed {args.seed}, version {version})")
