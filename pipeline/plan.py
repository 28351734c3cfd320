"""What would run and why: a pure function of the recipe, the data's content and the run's state."""

import hashlib
import json
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Literal

from pipeline.config import RunConfig
from pipeline.state import RunState
from stages.data.rows import fingerprint as data_fingerprint


@dataclass(frozen=True, slots=True, kw_only=True)
class Step:
    """One stage of the plan."""

    name: str
    action: Literal["run", "continue", "skip"]
    """``continue``: the same stage was begun before; it goes on from its last checkpoint."""
    why: str
    fingerprint: str


def fingerprints(config: RunConfig, order: Sequence[str]) -> dict[str, str]:
    """Return each stage's identity: its config, the run's facts, its data's content and its inputs' identities."""
    facts = config.facts.model_dump(mode="json")
    found: dict[str, str] = {}
    for name in order:
        stage = config.stages[name]
        identity = {
            "name": name,
            "facts": facts,
            "config": stage.model_dump(mode="json"),
            "data": {role: data_fingerprint(data) for role, data in stage.datasets().items()},
            "inputs": {role: found[source] for role, source in stage.inputs().items()},
        }
        found[name] = hashlib.sha256(json.dumps(identity, sort_keys=True).encode()).hexdigest()
    return found


def plan(order: Sequence[str], fingerprints: Mapping[str, str], state: RunState | None) -> list[Step]:
    """Say of each stage, in order, whether it runs, goes on, or is done."""
    return [_step(name, fingerprints[name], state) for name in order]


def _step(name: str, fingerprint: str, state: RunState | None) -> Step:
    before = state.stage(name) if state else None
    if before is None or before.attempts == 0:
        return Step(name=name, action="run", why="never ran", fingerprint=fingerprint)
    if before.fingerprint != fingerprint:
        return Step(name=name, action="run", why="its config, data or an input changed", fingerprint=fingerprint)
    if before.status == "done":
        return Step(name=name, action="skip", why="done with this config, data and inputs", fingerprint=fingerprint)
    why = f"failed: {before.cause.splitlines()[0]}" if before.cause else "was stopped in the middle"
    return Step(name=name, action="continue", why=why, fingerprint=fingerprint)
