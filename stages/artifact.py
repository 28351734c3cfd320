"""What a stage hands over: a plain Hugging Face folder and `manifest.json`, checked by whoever loads it."""

import hashlib
import json
import platform
import shutil
from collections.abc import Callable, Mapping, Sequence
from importlib.metadata import version
from pathlib import Path
from typing import Any, Literal

from pydantic import BaseModel, ConfigDict

from rewards.hub import BRANCH
from rollout.engine import Precision
from stages import checkpoints
from stages.base import StageContext, StageError
from stages.checkpoints import sha256
from stages.regular_files import open_own, regular_files

MANIFEST = "manifest.json"
Kind = Literal["model", "pairs", "reward_model"]
LIBRARIES = ("strop", "torch", "transformers", "trl", "peft", "accelerate")


class Probe(BaseModel):
    """Token sequences with the log-probabilities that the saved model gave them."""

    model_config = ConfigDict(frozen=True)

    token_ids: list[list[int]]
    logprobs: list[list[float]]
    """Of tokens 1..T-1 of each sequence, in nats."""


class ScoreProbe(BaseModel):
    """Conversations with the scores that the saved reward model gave them."""

    model_config = ConfigDict(frozen=True)

    conversations: list[list[dict[str, Any]]]
    """Each a list of messages."""
    scores: list[float]


class Manifest(BaseModel):
    """Identity of an artifact: what the next stage may rely on, and checks."""

    model_config = ConfigDict(frozen=True, extra="forbid", use_attribute_docstrings=True)

    kind: Kind
    stage: str
    """Stage that made it."""
    fingerprint: str
    """That stage's."""
    files: dict[str, str]
    """SHA-256 of every file, by name."""
    data: dict[str, str] = {}
    """Fingerprints of the data sets that went in, by role."""
    code: dict[str, str] = {}
    """Versions of the libraries that made it."""
    base_model: str = ""
    """The run's base model on the Hub with its commit, `org/name@commit`; of a folder nothing."""
    version: int = 0
    """Optimizer steps that the stage took."""
    dtype: Precision | None = None
    eos_ids: list[int] = []
    chat_template_sha256: str = ""
    started_from: str = ""
    """SHA-256 over the weights that the stage started from, which are also its reference policy."""
    weights_sha256: str = ""
    """SHA-256 over this artifact's weights."""
    adapter: Literal["none", "merged"] = "none"
    """`merged`: a low-rank adapter was trained and added to the weights; it lies next to them in `adapter/`."""
    probe: Probe | None = None
    score_probe: ScoreProbe | None = None
    """Of a reward model."""
    moved: dict[str, float] = {}
    """By how much each step of the hand-over moved a value of the probe at most, in nats or units of the score."""


def write(
    context: StageContext, fill: Callable[[Path], None], describe: Callable[[Mapping[str, str]], Manifest]
) -> Path:
    """Have ``fill`` write the files, add the manifest that ``describe`` makes of their hashes, and publish both."""
    temporary = writing(context)
    shutil.rmtree(temporary, ignore_errors=True)
    temporary.mkdir(parents=True)
    fill(temporary)
    manifest = describe({path.relative_to(temporary).as_posix(): sha256(path) for path in _files(temporary)})
    (temporary / MANIFEST).write_text(manifest.model_dump_json(indent=1))
    checkpoints.publish(temporary, context.output)
    return context.output


def manifest(context: StageContext, files: Mapping[str, str], *, kind: Kind, **found: Any) -> Manifest:
    """Return the manifest of what a stage made: who made it, with which code, and ``found``, other fields of it."""
    return Manifest(
        kind=kind,
        stage=context.name,
        fingerprint=context.fingerprint,
        files=dict(files),
        code=code_versions(),
        base_model=_base_model(context),
        **found,
    )


def _base_model(context: StageContext) -> str:
    name = context.facts.hub_name()
    return f"{name.id}@{name.revision or BRANCH}" if name.is_on_hub else ""


def writing(context: StageContext) -> Path:
    """Return where the files of a stage's output lie until they are published."""
    return context.output.with_name(".output.writing")


def read(folder: Path, kind: Kind) -> Manifest:
    """Return the manifest after checking that it is of this kind and that every file is what it was.

    Raises StageError naming what differs.
    """
    path = folder / MANIFEST
    if not path.is_file():
        raise StageError(f"{folder} has no {MANIFEST}: the stage that makes it did not finish; run it first")
    manifest = Manifest.model_validate_json(path.read_text())
    if manifest.kind != kind:
        raise StageError(f"{folder} holds {manifest.kind}, and {kind} was asked for")
    for name, digest in manifest.files.items():
        found = _digest(folder, name)
        if found != digest:
            what = "differs from what its stage wrote" if found else "is missing, or a link"
            raise StageError(
                f"{name} in {folder} {what}; delete {folder.parent} to have stage {manifest.stage!r} run again"
            )
    return manifest


def _digest(folder: Path, name: str) -> str:
    """Return the hash of a file; "" where it is none."""
    try:
        with open_own(folder, name) as file:
            return hashlib.file_digest(file, "sha256").hexdigest()
    except (OSError, ValueError):
        return ""


def code_versions() -> dict[str, str]:
    """Return the versions of Python and of the libraries that decide what a stage computes."""
    return {"python": platform.python_version(), **{name: version(name) for name in LIBRARIES}}


def weights_digest(folder: Path) -> str:
    """Hash all weight files of a model folder together."""
    digests = {path.name: sha256(path) for path in sorted(folder.glob("*.safetensors"))}
    return hashlib.sha256(json.dumps(digests).encode()).hexdigest()


def probe_sequences(sequences: Sequence[Sequence[int]], *, num: int = 4, max_tokens: int = 128) -> list[list[int]]:
    """Choose a few sequences, long enough to say something and short enough to be cheap."""
    usable = [list(tokens[:max_tokens]) for tokens in sequences if len(tokens) > 1]
    return usable[:: max(1, len(usable) // num)][:num]


def _files(folder: Path) -> list[Path]:
    return regular_files(folder)
