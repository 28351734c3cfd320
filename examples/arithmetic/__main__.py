"""Write the task into a folder: `python -m examples.arithmetic --out artifacts/arithmetic --seed 17`."""

import argparse
import json
import os
import shutil
from pathlib import Path
from typing import Any

from examples.arithmetic.problems import make_splits

VERSION = 1  # raise it when the same seed would give other files
MARKER = "COMPLETE.json"


def write_task(out: Path, *, seed: int) -> bool:
    """Write `train`, `dev` and `unseen` as JSONL and the base model; False if the folder already holds these.

    All is written to a temporary name and renamed, the marker last, so a folder with its marker is whole.
    """
    mark = {"seed": seed, "version": VERSION}
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


def spoken(rows: list[dict[str, Any]]) -> list[str]:
    """Everything that user and assistant say in the rows."""
    return [message["content"] for row in rows for message in row["prompt"] + row["completion"]]


def main() -> None:
    """Read the command line, write the task, say what happened."""
    parser = argparse.ArgumentParser(prog="python -m examples.arithmetic", description=__doc__)
    parser.add_argument("--out", type=Path, default=Path("artifacts/arithmetic"), help="folder to write to")
    parser.add_argument("--seed", type=int, default=17, help="problems and weights are drawn from it")
    args = parser.parse_args()
    written = write_task(args.out, seed=args.seed)
    print(f"{args.out}: {'written' if written else 'already there'} (seed {args.seed}, version {VERSION})")


if __name__ == "__main__":
    main()
