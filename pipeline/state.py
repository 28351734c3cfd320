"""What a run remembers of itself on disk: `run.json`, `events.jsonl` and each stage's `result.json`.

Every file is written under another name and renamed, so that a kill leaves the old one or the new one.
"""

import fcntl
import hashlib
import json
import os
import socket
import time
from collections.abc import Iterable, Iterator, Mapping
from contextlib import contextmanager
from dataclasses import asdict, dataclass, field, replace
from pathlib import Path
from typing import IO, Any, Literal

from rewards.waits import Wait, WaitError
from stages.base import Estimate, StageResult
from stages.regular_files import strangers

Status = Literal["waiting", "running", "interrupted", "done", "failed"]
"""Of a stage whose driver is gone "running" stays, until the next driver makes it "interrupted"."""

Identity = Mapping[str, Any]
"""What a stage's result follows from, as JSON."""


LOOK_S = 1.0
"""How long whoever looks at a run may hold its lock."""


class RunFolderError(ValueError):
    """A run's folder whose files cannot be read."""


@dataclass(frozen=True, slots=True, kw_only=True)
class StageState:
    """Where one stage stands."""

    status: Status = "waiting"
    identity: Identity = field(default_factory=dict)
    """The config, data and inputs it ran with."""
    inputs: Mapping[str, str] = field(default_factory=dict)
    """Hashes of the manifests that it read, by stage: the same recipe run twice may come to other weights."""
    attempts: int = 0
    begun: float = 0.0
    """When the newest attempt began, in seconds since the epoch."""
    wall_s: float = 0.0
    """Seconds spent in it, over all attempts."""
    why: str = ""
    """Why the newest attempt was begun."""
    cause: str = ""
    """Why it failed."""


@dataclass(frozen=True, slots=True, kw_only=True)
class RunState:
    """Where a run stands; `run.json`."""

    name: str
    begun_in: str = ""
    """The folder in which the run was begun; the recipe's paths are seen from there."""
    stages: Mapping[str, StageState] = field(default_factory=dict)

    @property
    def wall_s(self) -> float:
        """Seconds spent in stages, over all their attempts."""
        return sum(stage.wall_s for stage in self.stages.values())

    def stage(self, name: str) -> StageState:
        """Return where a stage stands; one never seen is waiting."""
        return self.stages.get(name, StageState())

    def with_stage(self, name: str, state: StageState) -> "RunState":
        """Return the same run with one stage's state replaced."""
        return replace(self, stages={**self.stages, name: state})


class RunFolder:
    """The folder of one run: where everything lies, and how it is written."""

    def __init__(self, root: Path) -> None:
        self.root = root

    @property
    def recipe(self) -> Path:
        """The recipe as given."""
        return self.root / "recipe.yaml"

    @property
    def resolved(self) -> Path:
        """The recipe as understood, defaults included."""
        return self.root / "resolved.json"

    @property
    def revisions(self) -> Path:
        """The commits of models and data on the Hub, by what the recipe calls them."""
        return self.root / "revisions.json"

    @property
    def summary(self) -> Path:
        """The closing table, for programs."""
        return self.root / "summary.json"

    def require_own(self) -> None:
        """Raise RunFolderError where something in the folder is no file of the run, but leads to another's.

        A run's folder may come from somebody else; what is written and shown goes by the names in it.
        """
        for path, what in strangers(self.root):
            raise RunFolderError(f"{path} is {what}, which no run makes: remove it, if you know the folder's maker")

    def stage(self, name: str) -> Path:
        """Return a stage's folder."""
        return self.root / name

    def has_begun(self) -> bool:
        """Say whether any stage was ever started."""
        return (self.root / "run.json").is_file()

    def load(self) -> RunState | None:
        """Read `run.json`; None where no run has been."""
        path = self.root / "run.json"
        if not path.is_file():
            return None
        try:
            tree = json.loads(path.read_text())
            stages = {name: StageState(**stage) for name, stage in tree["stages"].items()}
            return RunState(**{**tree, "stages": stages})
        except (ValueError, TypeError, KeyError, AttributeError) as error:
            raise _damaged(path, error) from error

    def save(self, state: RunState) -> None:
        """Write `run.json`."""
        write_json(self.root / "run.json", asdict(state))

    def event(self, what: str, **details: Any) -> None:
        """Append a line to `events.jsonl`."""
        with (self.root / "events.jsonl").open("a") as file:
            file.write(json.dumps({"time": round(time.time(), 3), "event": what, **details}) + "\n")

    def is_whole(self, name: str, *, has_artifact: bool) -> bool:
        """Say whether a stage's result is there, and where it makes an artifact every file of that."""
        output = self.stage(name) / "output"
        if not (output.parent / "result.json").is_file():
            return False
        try:
            files = json.loads((output / "manifest.json").read_text()).get("files", {}) if has_artifact else {}
        except (OSError, ValueError, AttributeError):  # it is not there, or damaged
            return False
        return all((output / file).is_file() for file in files)

    def manifests(self, names: Iterable[str]) -> dict[str, str]:
        """Return the hashes of these stages' manifests, as far as they have one."""
        files = {name: self.stage(name) / "output" / "manifest.json" for name in names}
        return {name: hashlib.sha256(file.read_bytes()).hexdigest() for name, file in files.items() if file.is_file()}

    def set_aside(self, name: str) -> None:
        """Move a stage's folder to `<stage>.old-N`: what was computed is never thrown away unasked."""
        if self.stage(name).exists():
            numbers = [int(old.suffix.removeprefix(".old-")) for old in self.root.glob(f"{name}.old-*")]
            number = 1 + max(numbers, default=0)
            self.stage(name).rename(self.root / f"{name}.old-{number}")

    def is_driven(self) -> bool:
        """Say whether some process holds the run."""
        lock = self.root / ".lock"
        if not lock.is_file():
            return False
        with lock.open() as file:
            try:
                fcntl.flock(file, fcntl.LOCK_SH | fcntl.LOCK_NB)
            except BlockingIOError:
                return True
        return False

    def result(self, name: str) -> StageResult:
        """Read what a finished stage said of itself; an empty result where that was deleted."""
        path = self.stage(name) / "result.json"
        if not path.is_file():
            return StageResult()
        try:
            tree = json.loads(path.read_text())
            exams, gains = _estimates(tree["exams"]), _estimates(tree["gains"])
            return StageResult(metrics=tree["metrics"], exams=exams, gains=gains)
        except (ValueError, TypeError, KeyError, AttributeError) as error:
            raise _damaged(path, error) from error

    def save_result(self, name: str, result: StageResult) -> None:
        """Write a finished stage's `result.json`."""
        write_json(self.stage(name) / "result.json", asdict(result))

    def new_attempt(self, name: str, number: int) -> Path:
        """Make the folder of an attempt and point `latest` at it; what a kill cut short in those before is removed."""
        for cut_short in self.stage(name).glob("attempt_*/.*.writing"):
            cut_short.unlink(missing_ok=True)
        folder = self.stage(name) / f"attempt_{number:03d}"
        folder.mkdir(parents=True, exist_ok=True)
        temporary = self.stage(name) / ".latest"
        temporary.unlink(missing_ok=True)
        temporary.symlink_to(folder.name)
        temporary.replace(self.stage(name) / "latest")
        return folder

    @contextmanager
    def locked(self) -> Iterator[None]:
        """Hold the run against a second driver; the lock falls with the process."""
        self.root.mkdir(parents=True, exist_ok=True)
        with (self.root / ".lock").open("a+") as file:
            try:  # a look by `is_driven` holds it for a moment
                with Wait("the run's lock", LOOK_S) as wait:
                    wait.until(lambda: locks(file), every_s=0.02)
            except WaitError as error:
                file.seek(0)
                who = f"another process ({file.read().strip()})"
                raise BlockingIOError(f"{who} drives {self.root}; wait or stop it") from error
            file.truncate(0)
            file.write(f"pid {os.getpid()} on {socket.gethostname()}")
            file.flush()
            yield


def last_sign_of_life(attempt: Path) -> float:
    """Return when an attempt last printed or measured something, in seconds since the epoch; 0.0 for never."""
    files = [attempt / name for name in ("stage.log", "metrics.jsonl")]
    return max((file.stat().st_mtime for file in files if file.exists()), default=0.0)


def locks(file: IO[str]) -> bool:
    """Take a file's lock, and say whether it was to be had."""
    try:
        fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except BlockingIOError:
        return False
    return True


def _damaged(path: Path, error: Exception) -> RunFolderError:
    return RunFolderError(f"{path} is damaged ({type(error).__name__}: {error}); delete it and run the recipe again")


def write_json(path: Path, tree: Any) -> None:
    """Write JSON under another name and rename it."""
    path.parent.mkdir(parents=True, exist_ok=True)
    write_text(path, json.dumps(tree, indent=2) + "\n")


def write_text(path: Path, text: str) -> None:
    """Write text under another name, have the disk take it, and rename it; what a full disk cuts short is removed."""
    temporary = path.with_name(f".{path.name}.writing")
    try:
        with temporary.open("w", encoding="utf-8") as file:
            file.write(text)
            file.flush()
            os.fsync(file.fileno())
        temporary.replace(path)
    except (OSError, UnicodeError):
        temporary.unlink(missing_ok=True)
        raise


def _estimates(tree: Mapping[str, Mapping[str, Any]]) -> dict[str, dict[str, Estimate]]:
    return {name: {key: Estimate(**value) for key, value in row.items()} for name, row in tree.items()}
