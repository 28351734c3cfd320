"""The order of a run: edges are what each stage says it reads."""

import difflib
from collections.abc import Mapping
from graphlib import CycleError, TopologicalSorter

from pipeline.config import ConfigError
from stages.base import StageConfig


def order(stages: Mapping[str, StageConfig]) -> list[str]:
    """Return stage names so that each comes after what it reads, otherwise as written. Raises ConfigError."""
    edges = {name: set(stage.inputs().values()) for name, stage in stages.items()}
    for name, stage in stages.items():
        for role, source in stage.inputs().items():
            _check_edge(stages, name, role, source)
    sorter = TopologicalSorter(edges)
    try:
        sorter.prepare()
    except CycleError as error:
        circle = " -> ".join(error.args[1])
        raise ConfigError(
            f"stages wait for each other in a circle: {circle}; one of them must start elsewhere"
        ) from error
    return _in_written_order(sorter, list(stages))


def needed(stages: Mapping[str, StageConfig], goal: str | None) -> set[str]:
    """Return a stage and all that it reads, directly or not; every stage for None.

    Raises ConfigError where there is no such stage.
    """
    if goal is None:
        return set(stages)
    if goal not in stages:
        raise ConfigError(f"there is no stage {goal!r}; stages are {', '.join(map(repr, stages))}")
    found, left = set[str](), [goal]
    while left:
        name = left.pop()
        found.add(name)
        left += [source for source in stages[name].inputs().values() if source not in found]
    return found


def _in_written_order(sorter: "TopologicalSorter[str]", written: list[str]) -> list[str]:
    ordered: list[str] = []
    ready: list[str] = []
    while sorter.is_active():
        ready = sorted([*ready, *sorter.get_ready()], key=written.index)
        ordered.append(ready.pop(0))
        sorter.done(ordered[-1])
    return ordered


def _check_edge(stages: Mapping[str, StageConfig], name: str, role: str, source: str) -> None:
    if source not in stages:
        close = difflib.get_close_matches(source, stages, n=1)
        hint = f". Did you mean {close[0]!r}?" if close else ""
        known = ", ".join(map(repr, stages))
        if source == "base":
            hint = "; to start from the base model, leave init_from out"
        raise ConfigError(f"stage {name!r} reads from {source!r}, which is not a stage; stages are {known}{hint}")
    wanted = stages[name].input_kind(role)
    given = stages[source].produces
    if wanted != given:
        raise ConfigError(f"stage {name!r} reads its {role} from {source!r}, which hands over {given}, not {wanted}")
