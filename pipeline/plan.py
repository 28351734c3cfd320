"""What would run and why: a pure function of the recipe, the data's content and the run's state."""

import hashlib
import json
from collections.abc import Collection, Mapping, Sequence
from dataclasses import dataclass
from typing import Literal

from pipeline.config import RunConfig
from pipeline.graph import order
from pipeline.state import RunFolder, RunState
from stages.data.rows import fingerprint as data_fingerprint
from stages.preflight import code_fingerprint, model_fingerprint, rewards_of


@dataclass(frozen=True, slots=True, kw_only=True)
class Step:
    """One stage of the plan."""

    name: str
    action: Literal["run", "continue", "skip"]
    """``continue``: the same stage was begun before; it goes on from its last checkpoint."""
    why: str
    fingerprint: str


def fingerprints(config: RunConfig, ordered: Sequence[str]) -> dict[str, str]:
    """Return each stage's identity: config, facts of the run, base model, data, reward code, inputs' identities.

    Contents are hashed, not names: an edited file re-runs the stages that read it. How the work is done (checkpoints,
    time limits, memory) is no part of it.
    """
    base = model_fingerprint(config.model)
    found: dict[str, str] = {}
    for name in ordered:
        stage = config.stages[name]
        identity = {
            "name": name,
            "facts": config.facts.identity(generates=stage.generates),
            "base": base,
            "config": stage.identity(),
            "data": {role: data_fingerprint(data) for role, data in stage.datasets().items()},
            "rewards": {reward.label: code_fingerprint(reward) for reward in rewards_of(stage)},
            "inputs": {role: found[source] for role, source in stage.inputs().items()},
        }
        found[name] = hashlib.sha256(json.dumps(identity, sort_keys=True).encode()).hexdigest()
    return found


def plan_of(config: RunConfig, folder: RunFolder) -> list[Step]:
    """Plan a recipe against what its run's folder holds."""
    ordered = order(config.stages)
    whole = {name for name in ordered if folder.is_whole(name, has_artifact=config.stages[name].produces != "exam")}
    return plan(ordered, fingerprints(config, ordered), folder.load(), whole=whole)


def plan(
    ordered: Sequence[str], fingerprints: Mapping[str, str], state: RunState | None, *, whole: Collection[str]
) -> list[Step]:
    """Say of each stage, in order, whether it runs, goes on, or is done; results of those in ``whole`` are there."""
    return [_step(name, fingerprints[name], state, name in whole) for name in ordered]


def _step(name: str, fingerprint: str, state: RunState | None, is_whole: bool) -> Step:
    before = state.stage(name) if state else None
    if before is None or before.attempts == 0:
        return Step(name=name, action="run", why="never ran", fingerprint=fingerprint)
    if before.fingerprint != fingerprint:
        return Step(
            name=name, action="run", why="its config, data, rewards or an input changed", fingerprint=fingerprint
        )
    if before.status == "done" and not is_whole:
        return Step(name=name, action="run", why="its result is no longer there", fingerprint=fingerprint)
    if before.status == "done":
        return Step(name=name, action="skip", why="done with this config, data and inputs", fingerprint=fingerprint)
    why = f"failed: {before.cause.splitlines()[0]}" if before.cause else "was stopped in the middle"
    return Step(name=name, action="continue", why=why, fingerprint=fingerprint)
