"""Metrics for trackers that people know: what stages write is read from disk and handed on.

Each tracker has a thread of its own: one that fails or hangs holds up no stage. A run that goes on, goes on in the
same tracker's run, where no step comes twice; a run of which a stage starts over begins a new one, with all that the
other stages have written.
"""

import importlib.util
import json
import logging
import secrets
import threading
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from concurrent.futures import Future
from dataclasses import asdict, dataclass, field
from functools import partial
from pathlib import Path
from queue import SimpleQueue
from typing import Self

from pipeline.config import RunConfig
from pipeline.graph import needed
from pipeline.plan import Step
from pipeline.progress import Row, row_of
from pipeline.state import RunFolder, write_json
from pipeline.trackers import PACKAGES, TRACKERS, Opening, TrackedLine, Tracker, flat
from rewards.waits import Wait

logger = logging.getLogger(__name__)

NOT_TRACKED = ("step", "time", "num_steps")
START_TIMEOUT_S = 120.0
"""How long a tracker may take to open a run."""
CLOSE_TIMEOUT_S = 60.0
"""How long the trackers may take to hand on the last metrics, once the run has ended."""
RECORD = "handed_on.json"
"""File of what trackers keep, by which a run goes on in them."""


class TrackingError(RuntimeError):
    """A tracker that cannot be opened: it wants a login, say."""


@dataclass(slots=True, kw_only=True)
class Record:
    """What has been handed on, and where to."""

    ids: dict[str, str] = field(default_factory=dict)
    """The trackers' runs."""
    reached: dict[str, int] = field(default_factory=dict)
    """The last step of each stage that was handed on."""
    lines_of_reached: dict[str, int] = field(default_factory=dict)
    """How many lines of that step were handed on: an exam writes one of its own."""
    num_lines: int = 0


class Tracking:
    """An observer of a run that hands its metrics on, as `stage/metric`. Entered with `with`."""

    def __init__(
        self,
        openings: Mapping[str, Callable[[], Tracker]],
        folder: Path,
        record: Record | None = None,
        *,
        close_timeout_s: float = CLOSE_TIMEOUT_S,
    ) -> None:
        """``folder`` holds what is remembered of ``record``. Raises TrackingError where a tracker does not open."""
        self._folder = folder
        self._record = record or Record()
        self._close_timeout_s = close_timeout_s
        self._reading: tuple[str, Path] | None = None
        self._read_bytes = 0
        self._reached_before = -1
        self._lines_to_pass_over = 0
        self._feeds = {name: _Feed(name, open_) for name, open_ in openings.items()}
        try:
            self._record.ids |= {name: feed.opened() for name, feed in self._feeds.items()}
        except TrackingError as error:
            self._end(failed=True)
            way_out = f", or delete {folder / RECORD} to begin a new run there" if self._record.ids else ""
            raise TrackingError(f"{error}{way_out}") from error

    def __enter__(self) -> Self:
        return self

    def __exit__(self, kind: type[BaseException] | None, *_: object) -> None:
        self.close(failed=kind is not None)

    def catch_up(self, stage: str, attempts: Sequence[Path]) -> None:
        """Hand on what earlier attempts have written and no tracker has got."""
        for attempt in attempts:
            self._turn_to(stage, attempt)
            self._read()

    def begins(self, step: Step) -> None:
        """Read the end of the stage before; of one that is passed over, all that was not handed on yet."""
        self._read()
        if step.action == "skip":  # also where it was planned to run, and what it reads came out the same
            self.catch_up(step.name, sorted((self._folder.parent / step.name).glob("attempt_*")))

    def works(self, step: Step, attempt: Path) -> None:
        """Read what has been written since the last call."""
        if self._reading != (step.name, attempt):
            self._read()
            self._turn_to(step.name, attempt)
        self._read()

    def close(self, *, failed: bool = False) -> None:
        """Read the end of the last stage; wait for the trackers, which are left behind when they take too long."""
        self._read()
        self._end(failed=failed)

    def _end(self, *, failed: bool) -> None:
        """Have all trackers finish at once; those that take too long are left behind."""
        for feed in self._feeds.values():
            feed.end(failed=failed)
        deadline = time.monotonic() + self._close_timeout_s
        for name, feed in self._feeds.items():
            if not feed.has_ended(within_s=max(0.0, deadline - time.monotonic())):
                logger.warning("%s did not take the last metrics within %.0f s", name, self._close_timeout_s)

    def _turn_to(self, stage: str, attempt: Path) -> None:
        """Begin another attempt; the steps that it takes again, from a checkpoint on, have been handed on already."""
        self._reading, self._read_bytes = (stage, attempt), 0
        self._reached_before = self._record.reached.get(stage, -1)
        self._lines_to_pass_over = self._record.lines_of_reached.get(stage, 0)

    def _read(self) -> None:
        """Hand on new lines. A disk that fails costs metrics, and no stage."""
        if self._reading is None:
            return
        stage, attempt = self._reading
        before = self._record.num_lines
        try:
            for row in self._new_rows(attempt / "metrics.jsonl"):
                if self._is_new(int(row["step"])):
                    self._hand_on(stage, row)
            if self._record.num_lines > before:
                write_json(self._folder / RECORD, asdict(self._record))
        except OSError as error:
            logger.warning("metrics of %s were not all handed on to trackers: %s", stage, error)

    def _is_new(self, step: int) -> bool:
        """Say whether the next line, which is of this step, has not been handed on from an earlier attempt."""
        if step == self._reached_before and self._lines_to_pass_over:
            self._lines_to_pass_over -= 1
            return False
        return step >= self._reached_before

    def _hand_on(self, stage: str, row: Row) -> None:
        line = TrackedLine(
            stage=stage,
            step=int(row["step"]),
            number=self._record.num_lines,
            time=row.get("time", time.time()),
            values={f"{stage}/{name}": value for name, value in row.items() if name not in NOT_TRACKED},
        )
        for feed in self._feeds.values():
            feed.put(line)
        self._record.num_lines += 1
        reached = self._record.reached.get(stage, -1)
        if line.step >= reached:
            before = self._record.lines_of_reached.get(stage, 0) if line.step == reached else 0
            self._record.reached[stage], self._record.lines_of_reached[stage] = line.step, before + 1

    def _new_rows(self, file: Path) -> Iterator[Row]:
        if not file.is_file():
            return
        with file.open("rb") as opened:
            opened.seek(self._read_bytes)
            for line in opened:
                if not line.endswith(b"\n"):  # half written
                    return
                self._read_bytes += len(line)
                if (row := row_of(line)) is not None:
                    yield row
                else:  # a full disk cut one short, and the next went on in its line
                    logger.warning("a line of %s is no line of metrics, and is not tracked: %.80r", file, line)


class _Feed:
    """A tracker in its thread, and the lines on their way there."""

    def __init__(self, name: str, open_: Callable[[], Tracker]) -> None:
        self._name = name
        self._lines: SimpleQueue[TrackedLine | None] = SimpleQueue()
        self._id: Future[str] = Future()
        self._failed = False
        self._thread = threading.Thread(target=self._serve, args=(open_,), name=name, daemon=True)
        self._thread.start()

    def opened(self) -> str:
        """Wait until the tracker is open; return by what it can be opened again."""
        try:
            with Wait(f"{self._name} to open a run", START_TIMEOUT_S) as wait:
                return wait.result_of(self._id)
        except (Exception, SystemExit) as error:
            raise TrackingError(
                f"tracking by {self._name} could not be started: {error}; leave it out of `tracking`"
            ) from error

    def put(self, line: TrackedLine) -> None:
        """Have a line handed on; returns at once."""
        self._lines.put(line)

    def end(self, *, failed: bool) -> None:
        """Have the tracker finish; returns at once."""
        self._failed = failed
        self._lines.put(None)

    def has_ended(self, *, within_s: float) -> bool:
        """Wait so long at most for the tracker to finish, and say whether it has."""
        self._thread.join(within_s)
        return not self._thread.is_alive()

    def _serve(self, open_: Callable[[], Tracker]) -> None:
        try:
            tracker = open_()
        except (Exception, SystemExit) as error:
            self._id.set_exception(error)
            return
        self._id.set_result(tracker.id)
        try:
            while (line := self._lines.get()) is not None:
                tracker.log(line)
            tracker.finish(failed=self._failed)
        except Exception as error:
            logger.warning("%s takes no more metrics, and the run goes on without it: %r", self._name, error)


def missing(config: RunConfig) -> Iterator[str]:
    """Say which trackers that a recipe names are not installed."""
    for name in config.tracking:
        if not importlib.util.find_spec(PACKAGES[name]):
            yield f"tracking: {name} is not installed; pip install {PACKAGES[name]}, or leave it out"


def start(config: RunConfig, folder: RunFolder, steps: Sequence[Step], *, only: str | None = None) -> Tracking:
    """Start the trackers that the recipe names, for a run with this plan.

    With ``only``, it takes no more of it than what leads to that stage: no other starts over. Raises TrackingError
    where one cannot be started, and ConfigError where there is no such stage.
    """
    place = folder.root / "tracking"
    without_result = {step.name for step in steps if step.action == "run"}
    record = _record(place / RECORD)
    if without_result & needed(config.stages, only) & set(record.reached):
        record = Record()
    new_id = f"{config.name}-{secrets.token_hex(3)}"
    values = dict(flat(config.model_dump(mode="json")))
    openings: dict[str, Callable[[], Tracker]] = {
        name: partial(
            TRACKERS[name],
            Opening(
                name=config.name,
                id=record.ids.get(name, new_id),
                is_new=name not in record.ids,
                folder=place,
                config=values,
            ),
        )
        for name in config.tracking
    }
    tracking = Tracking(openings, place, record)
    for step in steps:
        if step.name not in without_result:
            tracking.catch_up(step.name, sorted(folder.stage(step.name).glob("attempt_*")))
    return tracking


def _record(file: Path) -> Record:
    try:
        return Record(**json.loads(file.read_text())) if file.is_file() else Record()
    except (OSError, ValueError, TypeError) as error:
        raise TrackingError(f"{file} cannot be read ({error}); delete it, and the trackers start over") from error
