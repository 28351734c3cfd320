"""Where a run stands, as its folder tells it: read by the driver's own view and by `strop status` alike.

Nothing here asks a running process, and a file that is not there yet or is being written leaves a gap, no error.
"""

import json
import time
from collections.abc import Mapping, Sequence
from contextlib import suppress
from dataclasses import dataclass, fields
from pathlib import Path
from typing import Any

from pipeline.plan import NEVER_RAN
from pipeline.progress import Progress, newest_lines, progress
from pipeline.state import RunFolder, RunFolderError, RunState, StageState, Status, last_sign_of_life
from pipeline.summary import exams_of, gains_of
from pipeline.warned import told_once, warnings_of
from rewards.hub import briefly
from rewards.waits import Waiting
from stages.base import Estimate, StageResult


@dataclass(frozen=True, slots=True, kw_only=True)
class StageStanding:
    """Where one stage stands."""

    name: str
    kind: str
    status: Status
    """"interrupted" also where it runs by its record, and has no driver left."""
    attempts: int
    attempt: Path
    """The newest attempt's folder; there is none before the first."""
    wall_s: float
    """Seconds spent in it, over all attempts, the one that runs among them."""
    why: str
    """Why its newest attempt was begun."""
    cause: str
    """Why it failed."""
    silent_s: float | None
    """Seconds since its newest attempt last wrote something; None for never."""
    waits: Sequence[str]
    """What its processes wait for, each with the time since it began and its limit."""
    warnings: Sequence[str]
    """What the processes of its newest attempt warned of, each once."""
    progress: Progress | None
    """None before the first step."""

    @property
    def is_again(self) -> bool:
        """Whether there was something of the stage before its newest attempt."""
        return bool(self.why) and self.why != NEVER_RAN


@dataclass(frozen=True, slots=True, kw_only=True)
class Standing:
    """Where a run stands."""

    name: str
    seed: int
    model: str
    """The base model on the Hub with its commit; "" for a folder, whose name says little."""
    root: Path
    is_driven: bool
    """Whether some process drives it."""
    stages: Sequence[StageStanding]
    results: Mapping[str, StageResult]
    """Of the stages that are done."""
    notes: Sequence[str]
    """What of the run could not be read."""

    @property
    def wall_s(self) -> float:
        """Seconds spent in stages, over all their attempts."""
        return sum(stage.wall_s for stage in self.stages)

    @property
    def warnings(self) -> Sequence[tuple[str, str]]:
        """What stages warned of, with the first that did."""
        return list(told_once({stage.name: stage.warnings for stage in self.stages}))

    @property
    def exams(self) -> Mapping[str, Mapping[str, Estimate]]:
        """What exams found, by examined stage and quantity."""
        return exams_of(self.results)

    @property
    def gains(self) -> Mapping[str, Mapping[str, Estimate]]:
        """What each examined model gained over the one before, by step between the two and quantity."""
        return gains_of(self.results)


def require_begun(folder: RunFolder) -> None:
    """Raise RunFolderError where no stage of a run was ever started."""
    if not folder.has_begun():
        raise RunFolderError(f"the run in {folder.root} has not begun; begin it with: strop resume {folder.root}")


def standing_of(folder: RunFolder) -> Standing:
    """Read where a run stands. Raises RunFolderError where recipe or `run.json` cannot be read.

    Both are read for what is shown alone, so that a run of another version of this program can be looked at.
    """
    recipe, state = _recipe(folder), _state(folder)
    results, notes = dict[str, StageResult](), list[str]()
    for name in recipe["kinds"]:
        if state.stage(name).status == "done":
            try:
                results[name] = folder.result(name)
            except RunFolderError as error:  # one result that is damaged hides no other
                notes.append(str(error))
    is_driven = folder.is_driven()
    return Standing(
        name=recipe["name"],
        seed=recipe["seed"],
        model=recipe["model"],
        root=folder.root,
        is_driven=is_driven,
        stages=[
            _stage(folder, name, kind, state.stage(name), is_driven=is_driven) for name, kind in recipe["kinds"].items()
        ],
        results=results,
        notes=notes,
    )


def _stage(folder: RunFolder, name: str, kind: str, state: StageState, *, is_driven: bool) -> StageStanding:
    now, attempt = time.time(), folder.stage(name) / "latest"
    last = last_sign_of_life(attempt)
    is_running = state.status == "running"
    until = now if is_driven else last
    return StageStanding(
        name=name,
        kind=kind,
        status="interrupted" if is_running and not is_driven else state.status,
        attempts=state.attempts,
        attempt=attempt,
        wall_s=state.wall_s + (max(0.0, until - state.begun) if is_running else 0.0),
        why=state.why,
        cause=state.cause,
        silent_s=max(0.0, now - last) if last else None,
        waits=waits_of(attempt) if is_running and is_driven else (),
        warnings=warnings_of(attempt),
        progress=progress(newest_lines(attempt / "metrics.jsonl"), now),
    )


def waits_of(attempt: Path) -> list[str]:
    """Return what the processes of an attempt wait for."""
    found: list[str] = []
    for file in sorted(attempt.glob("waits*.json")):
        with suppress(OSError, ValueError, TypeError, KeyError):  # it is being written again
            found += [str(Waiting(**waiting)) for waiting in json.loads(file.read_text())]
    return found


def _recipe(folder: RunFolder) -> Mapping[str, Any]:
    """Return name, seed, the base model where it has a revision, and the stages' kinds by name."""
    try:
        tree = json.loads(folder.resolved.read_text())
        kinds = {name: str(stage["kind"]) for name, stage in tree["stages"].items()}
        revision = tree.get("model_revision")
        model = briefly(str(tree["model"]), str(revision)) if revision else ""
        return {"name": str(tree["name"]), "seed": int(tree["seed"]), "model": model, "kinds": kinds}
    except (OSError, ValueError, TypeError, KeyError, AttributeError) as error:
        raise RunFolderError(f"{folder.resolved} cannot be read ({type(error).__name__}: {error})") from error


def _state(folder: RunFolder) -> RunState:
    """Read `run.json`, passing over what this version does not know; a run that has not begun is all waiting."""
    path = folder.root / "run.json"
    if not path.is_file():
        return RunState(name=folder.root.name)
    known = {each.name for each in fields(StageState)}
    try:
        stages = {
            name: StageState(**{key: value for key, value in stage.items() if key in known})
            for name, stage in json.loads(path.read_text())["stages"].items()
        }
    except (OSError, ValueError, TypeError, KeyError, AttributeError) as error:
        raise RunFolderError(f"{path} cannot be read ({type(error).__name__}: {error})") from error
    return RunState(name=folder.root.name, stages=stages)
