"""What would run and why: a pure function of the recipe, the data's content and the run's state."""

import hashlib
import json
from collections.abc import Collection, Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Any, Literal

from pipeline.config import RunConfig
from pipeline.graph import order
from pipeline.state import Identity, RunFolder, RunState, StageState
from stages import checkpoints
from stages.base import StageConfig
from stages.data.rows import fingerprint as data_fingerprint
from stages.fingerprints import code_fingerprint, model_fingerprint, reward_fingerprint
from stages.preflight import environments_of, rewards_of

Action = Literal["run", "continue", "skip"]
NEVER_RAN = "never ran"


@dataclass(frozen=True, slots=True, kw_only=True)
class Step:
    """One stage of the plan."""

    name: str
    action: Action
    """``continue``: the same stage was begun before; it goes on from its last checkpoint."""
    why: str
    identity: Identity
    """What its result follows from."""

    @property
    def fingerprint(self) -> str:
        """A hash of the identity."""
        return _fingerprint(self.identity)


def identities(config: RunConfig, ordered: Sequence[str]) -> dict[str, Identity]:
    """Return what each stage's result follows from, in words that a person can compare.

    That is config, facts of the run, base model, data, reward code and the inputs' identities. Contents are hashed,
    not names: an edited file re-runs the stages that read it. How the work is done (checkpoints, time limits, memory)
    is no part of it.
    """
    base = model_fingerprint(config.hub_name())
    found: dict[str, Identity] = {}
    for name in ordered:
        stage = config.stages[name]
        found[name] = {
            "name": name,
            "run": config.facts.identity(generates=any(part.generates for part in stage.whole())),
            "base model": base,
            "config": stage.identity(),
            "content of data": {
                data.path: data_fingerprint(data) for part in stage.whole() for data in part.datasets().values()
            },
            "code of reward": {reward.label: reward_fingerprint(reward) for reward in rewards_of(stage)},
            "code of environment": {module: code_fingerprint(module) for module in _environment_modules(stage)},
            "input": {source: _fingerprint(found[source]) for source in stage.inputs().values()},
        }
    return found


def _environment_modules(stage: StageConfig) -> list[str]:
    return [module for environment in environments_of(stage) for module in environment.modules()]


def _fingerprint(identity: Identity) -> str:
    return hashlib.sha256(json.dumps(identity, sort_keys=True).encode()).hexdigest()


class Planner:
    """Plans a recipe against what its run's folder holds, read each time; what stages follow from is read once."""

    def __init__(self, config: RunConfig, folder: RunFolder) -> None:
        """Read data, base model and code of rewards."""
        self._makes_artifact = {name: stage.makes_artifact for name, stage in config.stages.items()}
        self._folder = folder
        self.order = order(config.stages)
        """The stages' names."""
        self._identities = identities(config, self.order)

    def step(self, name: str) -> Step:
        """Plan, and return one stage's step."""
        return next(step for step in self.plan() if step.name == name)

    def plan(self) -> list[Step]:
        """Return each stage's step, in order."""
        folder, names = self._folder, self.order
        return plan(
            names,
            self._identities,
            folder.load(),
            whole={name for name in names if folder.is_whole(name, has_artifact=self._makes_artifact[name])},
            manifests=folder.manifests(names),
            kept={name: kept[-1] for name in names if (kept := checkpoints.steps(folder.stage(name) / "checkpoints"))},
        )


def plan(
    ordered: Sequence[str],
    identities: Mapping[str, Identity],
    state: RunState | None,
    *,
    whole: Collection[str],
    manifests: Mapping[str, str],
    kept: Mapping[str, int],
) -> list[Step]:
    """Say of each stage, in order, whether it runs, goes on, or is done.

    The results of the stages in ``whole`` are there. ``manifests`` are the hashes of what stages have handed over,
    ``kept`` the steps of their newest checkpoints, of which one may prove damaged when it is loaded. What reads a stage
    that is made again is planned to run, too; if that comes out the same to the last byte, a plan made then skips it.
    """
    steps: list[Step] = []
    for name in ordered:
        before = state.stage(name) if state else StageState()
        again = [step.name for step in steps if step.action != "skip" and step.name in before.inputs]
        action, why = _decision(before, identities[name], name in whole, manifests, again)
        if action == "continue" and name in kept:
            why = f"{why}; its newest checkpoint is of step {kept[name]}"
        steps.append(Step(name=name, action=action, why=why, identity=identities[name]))
    return steps


def _decision(
    before: StageState, identity: Identity, is_whole: bool, manifests: Mapping[str, str], again: Sequence[str]
) -> tuple[Action, str]:
    """Return what to do with a stage, and why."""
    if before.attempts == 0:
        return "run", "never ran, by run.json; what its folder holds is set aside" if is_whole else NEVER_RAN
    if changes := list(_changes(before.identity, identity)):
        return "run", f"changed since: {', '.join(changes)}"
    if remade := [source for source, read in before.inputs.items() if manifests.get(source) != read]:
        return "run", f"it read what is no longer there: {_are(remade)} made again"
    if before.status == "done" and not is_whole:
        return "run", "what it made is no longer there, or not all of it"
    if again:
        return "run", f"{_are(again)} made again, which it read"
    if before.status == "done":
        return "skip", "done with this config, data and inputs"
    return (
        "continue",
        f"failed: {' '.join(before.cause.split())[:200]}" if before.cause else "was stopped in the middle",
    )


def _are(names: Sequence[str]) -> str:
    return f"{', '.join(names)} {'is' if len(names) == 1 else 'are'}"


def _changes(before: Any, after: Any, where: str = "") -> Iterator[str]:
    """Name what differs between two identities: with both values where a person wrote them, hashes by name alone."""
    if isinstance(before, list) and isinstance(after, list):
        before, after = ({f"[{place}]": value for place, value in enumerate(each)} for each in (before, after))
    if isinstance(before, Mapping) and isinstance(after, Mapping):
        for key in sorted({*before, *after}):
            if before.get(key) != after.get(key):
                yield from _changes(before.get(key), after.get(key), f"{where} {key}".strip())
    elif _is_hash(before) or _is_hash(after):
        yield where
    else:
        yield f"{where} {_short(before)} -> {_short(after)}"


def _is_hash(value: Any) -> bool:
    return isinstance(value, str) and len(value) == hashlib.sha256().digest_size * 2


def _short(value: Any) -> str:
    text = json.dumps(value)
    return text if len(text) <= 40 else f"{text[:37]}..."
