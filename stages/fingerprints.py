"""Identities of what a run is made of, without loading it: a model's files, a reward's code. The plan compares them."""

import hashlib
import sys
from collections.abc import Sequence
from importlib.machinery import PathFinder
from pathlib import Path

from rewards.config import FunctionRewardConfig, RewardConfig
from rewards.hub import BRANCH, HubName

HASHED_WHOLE_BYTES, HASHED_PARTS, HASHED_PART_BYTES = 1 << 26, 256, 1 << 18
"""Files of a base model up to this size are hashed whole; of larger ones so many parts, spread evenly."""


def model_fingerprint(name: HubName) -> str:
    """Return the identity of a model folder's content, or of a model on the Hub its id and commit.

    Training touches every part of a large file.
    """
    folder = Path(name.id)
    if not folder.is_dir():
        return f"{name.id}@{name.revision or BRANCH}"
    digest = hashlib.sha256()
    for file in sorted([*folder.iterdir(), *folder.glob("additional_chat_templates/*")]):
        if file.suffix in (".json", ".jinja", ".safetensors", ".txt", ".model", ".py") and file.is_file():
            size = file.stat().st_size
            digest.update(f"{file.name} {size}".encode())
            with file.open("rb") as stream:
                if size <= HASHED_WHOLE_BYTES:
                    digest.update(stream.read())
                    continue
                for part in range(HASHED_PARTS):
                    stream.seek(part * (size - HASHED_PART_BYTES) // (HASHED_PARTS - 1))
                    digest.update(stream.read(HASHED_PART_BYTES))
    return digest.hexdigest()


def reward_fingerprint(reward: RewardConfig) -> str:
    """Return the identity of a reward's model, or the hash of the file that one of the user's own lies in; else "".

    The file is found without importing it; what it imports in turn is not looked at.
    """
    model = reward.hub_name()
    if model is not None:
        return model_fingerprint(model)
    return code_fingerprint(reward.import_path.split(":")[0]) if isinstance(reward, FunctionRewardConfig) else ""


def code_fingerprint(module: str) -> str:
    """Return the hash of the file that a module lies in, found without importing it; "" where there is none."""
    places: Sequence[str] | None = [*sys.path, str(Path.cwd())]
    found = None
    for part in module.split("."):
        found = PathFinder.find_spec(part, places) if places is not None else None
        places = found.submodule_search_locations if found is not None else None
    if found is None or found.origin is None or not Path(found.origin).is_file():
        return ""  # its own trial says so
    return hashlib.sha256(Path(found.origin).read_bytes()).hexdigest()
