"""What `trust_remote_code` lets run: code of one commit that somebody has read, or of a folder here, and no other."""

import json
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any

from rewards.hub import HubError, HubName

ADAPTER = "adapter_config.json"


def require_read_code(name: HubName) -> None:
    """Raise HubError where code would run that may be another one tomorrow."""
    if name.runs_code and name.is_on_hub and not name.is_pinned:
        raise HubError(
            f"trust_remote_code runs code of {name}, which whoever can write there may change at any time; read it at "
            f"one commit and name that by its 40 digits, {name.key}: COMMIT, or leave out trust_remote_code"
        )


def require_own_code(folder: Path) -> None:
    """Raise HubError where a model's files name code of another repository.

    transformers would fetch that from the Hub as it is on the day, whatever the model's own revision.
    """
    for file in sorted(folder.glob("*config.json")):
        for reference in _code_in(_read(file)):
            if "--" in reference:
                repository, _, place = reference.partition("--")
                raise HubError(
                    f"{file.name} in {folder} names code of another repository, {reference!r}, which may be another "
                    f"tomorrow; copy its files from {repository} into the folder, and name {place!r} there"
                )


def require_own_weights(folder: Path) -> None:
    """Raise HubError where a folder holds an adapter whose base transformers would fetch, as it is on the day."""
    base = _read(folder / ADAPTER).get("base_model_name_or_path") if (folder / ADAPTER).is_file() else None
    if base is not None and HubName(kind="model", id=str(base), revision=None).is_on_hub:
        raise HubError(
            f"{folder} holds an adapter, whose base {base!r} would be fetched from the Hub as it is on the day; merge "
            "it into that (PEFT's merge_and_unload, then save_pretrained, with the tokenizer), and name the result"
        )


def _read(file: Path) -> dict[str, Any]:
    """Return a JSON object; an empty one for anything else, of which whoever loads it will tell."""
    try:
        tree = json.loads(file.read_text())
    except (OSError, ValueError, RecursionError):
        return {}
    return tree if isinstance(tree, dict) else {}


def _code_in(node: Any) -> Iterator[str]:
    """Yield what the keys `auto_map` of a config name, at any depth."""
    if isinstance(node, Mapping):
        for key, value in node.items():
            yield from _texts_in(value) if key == "auto_map" else _code_in(value)
    elif isinstance(node, list):
        for value in node:
            yield from _code_in(value)


def _texts_in(node: Any) -> Iterator[str]:
    if isinstance(node, str):
        yield node
    elif isinstance(node, Mapping | list):
        for value in node.values() if isinstance(node, Mapping) else node:
            yield from _texts_in(value)
