"""The run to which nothing happens, what its stages pass and come to, and at which of their points a test strikes."""

import os
import re
import shutil
from collections import Counter
from collections.abc import Callable, Collection, Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from pathlib import Path
from typing import Any, TypeVar

from pipeline.config import load_config
from tests.faults.child import bring
from tests.faults.points import Point
from tests.faults.recipes import differences, evidence, write_every_kind

T = TypeVar("T")

EVERYWHERE = bool(os.environ.get("EVERYWHERE"))
"""Whether every kind is struck at all of its points: the first time, half-way, and the last time it passes one."""
AT_ONCE = 2
KEEPS = {"pairs": "rollouts/prompt_#.parquet", "exam": "rollouts/sft/dev/sampled_accuracy.parquet"}
"""What a stage keeps for a resume to take, in its folder and with digits as `#`; others keep checkpoints."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Untouched:
    """One stage of it."""

    name: str
    before: Path
    """A folder of runs in which all that the recipe has before the stage is done, and nothing of it begun."""
    after: Path
    """The stage's folder when it is done."""
    passed: Sequence[str]
    """Names of the points that it passes, in their order."""
    evidence: dict[str, Any]

    @property
    def milestones(self) -> set[str]:
        """Names of the points at which it keeps what a resume takes, and at which it hands over."""
        final = [self._keeps, "output"] if self.evidence["output"] else [self._keeps]
        return {f"os.rename r/{self.name}/{each}" for each in final}

    def has_kept(self, runs: Path) -> bool:
        """Say whether in another folder of runs there is something of the stage for a resume to take."""
        return any((runs / "r" / self.name).glob(self._keeps.replace("#", "*")))

    def work(self, passed: Sequence[str]) -> int:
        """Return how often, of the points that were passed, the stage has learned, or has answered if it only does."""
        learns = "call AdamW.step"
        return passed.count(learns if learns in self.passed else "call TransformersEngine.generate")

    @property
    def _keeps(self) -> str:
        return KEEPS.get(self.name, "checkpoints/step_#")

    def differences(self, runs: Path) -> list[str]:
        """Return what the stage came to in another folder of runs, where that is something else."""
        return list(differences(self.evidence, evidence(runs / "r", self.name)))


class Runs:
    """All stages of it, each made when it is first asked for, with those before it."""

    def __init__(self, root: Path) -> None:
        self.recipe = write_every_kind(root)
        self._root = root
        self._names = list(load_config(self.recipe).stages)
        self._made: dict[str, Untouched] = {}
        self._newest = root / "nothing"
        """The folder of runs in which the stages made so far are done."""
        self._newest.mkdir()

    def stage(self, name: str) -> Untouched:
        """Return a stage, untouched."""
        for each in self._names[len(self._made) : self._names.index(name) + 1]:
            self._made[each] = self._make(each)
        return self._made[name]

    def _make(self, name: str) -> Untouched:
        before, runs = self._newest, self._root / "runs" / name
        shutil.rmtree(runs, ignore_errors=True)  # of a time when it failed
        shutil.copytree(before, runs, symlinks=True)
        ended = bring(self.recipe, runs, name)
        assert ended.failure is None, ended.failure
        found = evidence(runs / "r", name)
        assert not found["left over"]
        assert found["metrics"] and any(found["result"].values()) and bool(found["output"]) == (name != "exam")
        self._newest = runs
        return Untouched(name=name, before=before, after=runs / "r" / name, passed=ended.passed, evidence=found)


class Choice:
    """Which points of a stage are struck: all of them, or those whose name no stage before it has."""

    def __init__(self) -> None:
        self._struck: set[str] = set()

    def of(self, stage: Untouched, *, always: Collection[str] = ()) -> list[Point]:
        """Choose; a stage's name in a path is none of the point's own. Points named ``always`` are."""
        assert set(always) <= set(stage.passed)
        return [(name, time) for name, passed in self._names(stage, always) for time in _times(passed)]

    def _names(self, stage: Untouched, always: Collection[str]) -> Iterator[tuple[str, int]]:
        for name, passed in Counter(stage.passed).items():
            anywhere = re.sub(f"/{stage.name}(?=/|$)", "/STAGE", name)
            if EVERYWHERE or name in always or anywhere not in self._struck:
                self._struck.add(anywhere)
                yield name, passed


def _times(passed: int) -> list[int]:
    halfway = passed // 2 + 1
    return sorted({1, halfway, passed}) if EVERYWHERE else [halfway]


def strike(before: Path, each: Sequence[T], strikes: Callable[[Path, T], Iterator[str]], folder: Path) -> list[str]:
    """Have something happen to each of several copies of a folder of runs; return what was wrong, and with which.

    ``strikes`` does it in the copy it is given and yields what is wrong.
    """

    def found(number: int) -> list[str]:
        runs = folder / str(number)
        shutil.copytree(before, runs, symlinks=True)
        wrong = [f"{each[number]}: {what}" for what in _wrong(strikes(runs, each[number]))]
        shutil.rmtree(runs)
        return wrong

    print(f"struck {len(each)} times")
    with ThreadPoolExecutor(AT_ONCE) as pool:
        return [wrong for all_wrong in pool.map(found, range(len(each))) for wrong in all_wrong]


def _wrong(found: Iterator[str]) -> Iterator[str]:
    """Yield what is wrong, also where a check could not go on."""
    try:
        yield from found
    except AssertionError as error:
        yield str(error)
