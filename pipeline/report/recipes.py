"""What differs between the recipes of several runs."""

import json
from collections.abc import Iterator, Sequence
from typing import Any

from pipeline.config import RunConfig

ABSENT = "(absent)"
Difference = tuple[str, list[str]]
"""A key of recipes, and what it is in each."""


def differences(configs: Sequence[RunConfig]) -> list[Difference]:
    """Return the keys whose values are not the same in all of the recipes, defaults included; names are left out.

    A stage that some lack is one row, and its keys are compared among the others.
    """
    trees = [config.model_dump(mode="json", exclude={"name", "stages"}) for config in configs]
    names = dict.fromkeys(name for config in configs for name in config.stages)
    found = _compared("", trees)
    for name in names:
        stages = [config.stages[name].model_dump(mode="json") if name in config.stages else None for config in configs]
        if None in stages:
            found.append((f"stages.{name}", [ABSENT if stage is None else stage["kind"] for stage in stages]))
        found += _compared(f"stages.{name}", stages)
    return found


def _compared(where: str, trees: Sequence[Any]) -> list[Difference]:
    """Return what differs among the trees that there are."""
    flat = [None if tree is None else dict(_flat(tree, where)) for tree in trees]
    there = [tree for tree in flat if tree is not None]
    keys = dict.fromkeys(key for tree in there for key in tree)
    return [
        (key, [ABSENT if tree is None else tree.get(key, ABSENT) for tree in flat])
        for key in keys
        if len({tree.get(key, ABSENT) for tree in there}) > 1
    ]


def _flat(tree: Any, where: str = "") -> Iterator[tuple[str, str]]:
    """Yield each leaf by its path, as JSON."""
    branches = tree.items() if isinstance(tree, dict) else enumerate(tree) if isinstance(tree, list) else ()
    if branches and tree:
        for key, value in branches:
            yield from _flat(value, f"{where}.{key}".strip("."))
    else:
        yield where, tree if isinstance(tree, str) else json.dumps(tree)
