"""A finished stage's model as a plain Hugging Face folder, with a card that says how it came about."""

import json
import shutil
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import yaml

from pipeline.config import ConfigError, RunConfig
from pipeline.graph import needed
from pipeline.state import RunFolder
from pipeline.summary import exams_of
from stages import artifact
from stages.artifact import MANIFEST, Manifest
from stages.base import Estimate, StageError
from stages.checkpoints import sha256
from stages.regular_files import open_own

CARD = "README.md"
ADAPTER = "adapter"


def export(config: RunConfig, folder: RunFolder, stage: str, to: Path, *, adapter: bool = False) -> Path:
    """Copy what a stage hands over, once its files are verified, and write its card; return the folder.

    With ``adapter``, the low-rank adapter alone. Raises ConfigError for what cannot be exported, StageError for files
    that are not what the stage wrote.
    """
    source = folder.stage(stage) / "output"
    _check(config, source, stage, to, adapter)
    kind = config.stages[stage].produces
    manifest = artifact.read(source, "reward_model" if kind == "reward_model" else "model")
    temporary = to.with_name(f".{to.name}.writing")
    shutil.rmtree(temporary, ignore_errors=True)
    temporary.mkdir(parents=True)
    for name, digest in manifest.files.items():
        is_adapters = name.startswith(f"{ADAPTER}/")
        if is_adapters == adapter:
            _copy(source, name, digest, temporary / name.removeprefix(f"{ADAPTER}/"))
    if adapter:
        _name_base(temporary / "adapter_config.json", config, stage, manifest)
    (temporary / CARD).write_text(card(config, folder, stage, manifest, adapter=adapter))
    if to.exists():
        to.rmdir()
    temporary.rename(to)
    return to


def _copy(source: Path, name: str, digest: str, to: Path) -> None:
    """Copy one file of a stage's output, if it is still what the stage wrote; a link is not followed."""
    to.parent.mkdir(parents=True, exist_ok=True)
    try:
        with open_own(source, name) as file, to.open("xb") as copy:
            shutil.copyfileobj(file, copy)
    except ValueError as error:
        raise StageError(f"{source} cannot be exported: {error}") from error
    if sha256(to) != digest:
        raise StageError(f"{name} in {source} has changed while it was copied, so nothing is exported; try again")


def card(config: RunConfig, folder: RunFolder, stage: str, manifest: Manifest, *, adapter: bool) -> str:
    """Return the model card: metadata as the Hub reads it, exams, recipe, data and versions."""
    exams = exams_of({name: folder.result(name) for name in config.stages}).get(stage, {})
    ancestors = [name for name in config.stages if name in needed(config.stages, stage)]
    parts = [
        f"---\n{_metadata(config, stage, exams, adapter=adapter)}\n---\n",
        f"# {config.name}: {stage}\n",
        f"Made by Strop {manifest.code.get('strop', '')} from `{_model_name(config)}` by the stages "
        f"{', '.join(ancestors)}; {manifest.version} optimizer steps in the last of them, {manifest.dtype} weights.\n",
        *([_about_adapter(config, stage, manifest)] if adapter else []),
        *_exams(exams),
        "## Recipe\n",
        "What it does not say is the default of the version of Strop named below.\n",
        f"```yaml\n{_recipe(config, ancestors)}```\n",
        "## Data\n",
        "SHA-256 of each data set's content, as it was read:\n",
        *(f"- `{path}`: `{digest}`" for path, digest in sorted(_data(folder, ancestors).items())),
        "\n## Versions\n",
        *(f"- {name} {version}" for name, version in manifest.code.items()),
        *_base(config, folder, stage, manifest),
        f"\nSHA-256 over the weights: `{manifest.weights_sha256}`",
    ]
    return "\n".join(parts) + "\n"


def _check(config: RunConfig, source: Path, stage: str, to: Path, adapter: bool) -> None:
    if stage not in config.stages:
        raise ConfigError(f"{stage!r} is no stage of this run; its stages are {', '.join(config.stages)}")
    if config.stages[stage].produces not in ("model", "reward_model"):
        raise ConfigError(f"stage {stage!r} makes {config.stages[stage].produces}, and no model")
    if not (source / MANIFEST).is_file():
        raise ConfigError(f"stage {stage!r} has not finished: {source} has no {MANIFEST}; run it first")
    if adapter and not (source / ADAPTER).is_dir():
        raise ConfigError(f"stage {stage!r} trained no adapter; leave out --adapter")
    if to.exists() and (not to.is_dir() or any(to.iterdir())):
        raise ConfigError(f"{to} is there already; name a folder that is not, or an empty one")


def _metadata(config: RunConfig, stage: str, exams: dict[str, Estimate], *, adapter: bool) -> str:
    from huggingface_hub import EvalResult, ModelCardData

    results = [
        EvalResult(
            task_type="text-generation",
            dataset_type=quantity.partition("/")[0],
            dataset_name=quantity.partition("/")[0],
            metric_type="accuracy",
            metric_name=quantity.partition("/")[2],
            metric_value=round(100 * found.mean, 2),
        )
        for quantity, found in exams.items()
    ]
    data = ModelCardData(
        base_model=None if Path(config.model).is_dir() else config.model,
        library_name="peft" if adapter else "transformers",
        pipeline_tag="text-classification" if config.stages[stage].produces == "reward_model" else "text-generation",
        tags=["strop", *sorted({each.kind for name, each in config.stages.items() if name == stage})],
        model_name=f"{config.name}-{stage}" if results else None,
        eval_results=results or None,
    )
    return str(data.to_yaml()).strip()


def _name_base(file: Path, config: RunConfig, stage: str, manifest: Manifest) -> None:
    """Name the model that an adapter belongs to where others can have it, and nothing where it is another stage's."""
    is_public = not config.stages[stage].inputs().get("policy") and not Path(config.model).is_dir()
    base = {
        "base_model_name_or_path": config.model if is_public else None,
        "revision": _commit(manifest) if is_public else None,
    }
    file.write_text(json.dumps({**json.loads(file.read_text()), **base}, indent=2))


def _commit(manifest: Manifest) -> str | None:
    """Return the commit of the base model on the Hub, if it is there."""
    return manifest.base_model.partition("@")[2] or None


def _about_adapter(config: RunConfig, stage: str, manifest: Manifest) -> str:
    before = config.stages[stage].inputs().get("policy")
    whose = f"what stage `{before}` made" if before else f"`{_model_name(config)}`"
    return f"This is the adapter alone. It belongs to {whose}, SHA-256 over its weights `{manifest.started_from}`.\n"


def _base(config: RunConfig, folder: RunFolder, stage: str, manifest: Manifest) -> Iterator[str]:
    """Yield which base model it was when the stage ran: its commit on the Hub, or what a folder held."""
    state = folder.load()
    found = state.stage(stage).identity.get("base model") if state is not None else None
    if commit := _commit(manifest):
        yield f"- base model `{_model_name(config)}`, commit `{commit}`"
    elif found not in (None, config.model):  # which is the id of a model on the Hub, of no known commit
        yield f"- base model `{_model_name(config)}`, by Strop's own fingerprint `{found}`"


def _exams(exams: dict[str, Estimate]) -> Iterator[str]:
    if exams:
        yield "## Exams\n"
        yield "| exam | result | 95 % | problems |\n|---|---|---|---|"
        for quantity, found in exams.items():
            yield f"| {quantity} | {found.mean:.1%} | {found.low:.1%} to {found.high:.1%} | {found.num} |"
        yield ""


def _recipe(config: RunConfig, ancestors: list[str]) -> str:
    """Return what leads to the stage, without what is said by default."""
    said = _with_types(config.model_dump(mode="json"), config.model_dump(mode="json", exclude_defaults=True))
    said["model"] = _model_name(config)
    said["stages"] = {name: said["stages"][name] for name in config.stages if name in ancestors}
    return str(yaml.safe_dump(said, sort_keys=False, allow_unicode=True))


def _with_types(whole: Any, said: Any) -> Any:
    """Return what is said with the words that say of which kind each part is, though they be the usual ones."""
    if isinstance(whole, dict) and isinstance(said, dict):
        kept = [key for key in whole if key in said or key in ("kind", "type")]
        return {key: _with_types(whole[key], said[key]) if key in said else whole[key] for key in kept}
    if isinstance(whole, list) and isinstance(said, list) and len(whole) == len(said):
        return [_with_types(*both) for both in zip(whole, said, strict=True)]
    return said


def _model_name(config: RunConfig) -> str:
    """Return the Hub id, or the last part of a folder's name: where it lay is nobody's business."""
    return Path(config.model).name if Path(config.model).is_dir() else config.model


def _data(folder: RunFolder, ancestors: list[str]) -> dict[str, str]:
    """Return data sets by the name of the file or on the Hub, as the stages' identities have them."""
    state = folder.load()
    found: dict[str, str] = {}
    for name in ancestors:
        content = state.stage(name).identity.get("content of data", {}) if state is not None else {}
        found |= {Path(path).name if Path(path).is_absolute() else path: digest for path, digest in content.items()}
    return found
