"""What lies in a model's folder, by names, configs and headers alone: no weight is read and nothing heavy imported.

`check` asks before a run and `stages.models` before it loads, so both take the same folders and refuse the others in
the same words.
"""

from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any

from safetensors import SafetensorError, safe_open

import rewards.weight_files
from rewards.weight_files import INDEX, WEIGHTS, require_own_files
from rewards.weight_files import ModelFolderError as ModelFolderError  # for those who ask of folders
from rewards.weight_files import read_json_object as read_json_object

ADAPTER = "adapter_config.json"
PICKLES = ("pytorch_model*.bin", "*.pth", "*.pt", "*.ckpt")
OTHERS = {
    "consolidated*": "a checkpoint in its maker's own format; fetch the version for transformers, or convert it",
    "*.gguf": "weights for llama.cpp, quantised mostly; name the model that they were made from",
    "*.onnx": "a model for ONNX; name the one that it was exported from",
    "tf_model*": "weights for TensorFlow; name a version in safetensors",
    "flax_model*": "weights for Flax; name a version in safetensors",
    "*.distcp": "a training checkpoint in parts; gather them and save the whole model with save_pretrained",
    "*fsdp*": "a training checkpoint in parts; gather them and save the whole model with save_pretrained",
    "global_step*": "a training checkpoint of DeepSpeed; gather it (zero_to_fp32.py), save it with save_pretrained",
    "mp_rank_*": "a training checkpoint in parts; gather them and save the whole model with save_pretrained",
}
"""Files and folders by which other kinds of checkpoints are known: what they are, and the way out."""
OTHER_HEADS = ("ForSequenceClassification", "ForTokenClassification", "ForQuestionAnswering", "ForMaskedLM")


def read_model_config(folder: Path) -> dict[str, Any]:
    """Return config.json of a model that stages can start from.

    Raises ModelFolderError where the folder holds something else, such as an adapter alone, or a model that writes no
    text or cannot be trained.
    """
    require_own_files(folder)
    if (folder / ADAPTER).is_file():
        raise ModelFolderError(_about_adapter(folder))
    if not (folder / "config.json").is_file():
        raise ModelFolderError(f"{folder} holds no config.json, so it is no model: {_instead(folder)}")
    config = read_json_object(folder / "config.json")
    _require_trainable(folder, config)
    return config


def weight_files(folder: Path) -> list[Path]:
    """Return the files whose weights transformers loads.

    Raises ModelFolderError where there are none, or some are missing. Only safetensors are taken: their identity is
    known, and no code can hide in them.
    """
    if not (folder / WEIGHTS).is_file() and not (folder / INDEX).is_file():
        raise ModelFolderError(f"{folder} has no .safetensors file that transformers would load: {_instead(folder)}")
    return rewards.weight_files.weight_files(folder)


def read_header(file: Path) -> dict[str, Any]:
    """Return name -> {dtype, shape} of the tensors in a safetensors file.

    Raises ModelFolderError for a file that is cut short, is no safetensors file, or whose header does not fit what
    lies behind it.
    """
    try:
        with safe_open(file, framework="numpy") as opened:
            parts = {name: opened.get_slice(name) for name in opened.keys()}  # noqa: SIM118 - it is no mapping
            return {name: {"dtype": part.get_dtype(), "shape": part.get_shape()} for name, part in parts.items()}
    except (OSError, ValueError, SafetensorError) as error:
        raise ModelFolderError(f"{file} is not a whole safetensors file ({error}); fetch it again") from error


def of_text(config: Mapping[str, Any], key: str) -> Any:
    """Return a value of a model's config, or where it has none, of its part that reads and writes text."""
    inner = config.get("text_config")
    return config[key] if key in config else inner.get(key) if isinstance(inner, dict) else None


def generation_settings(folder: Path) -> dict[str, Any]:
    """Return what generation_config.json says; where there is none, the special tokens of config.json.

    Raises ModelFolderError where tokens that end a generation are no numbers.
    """
    file = folder / "generation_config.json"
    if file.is_file():
        settings = read_json_object(file)
    else:
        file = folder / "config.json"
        config = read_json_object(file) if file.is_file() else {}
        settings = {key: of_text(config, key) for key in ("bos_token_id", "eos_token_id", "pad_token_id")}
    named = settings.get("eos_token_id")
    if not all(isinstance(each, int) and not isinstance(each, bool) and each >= 0 for each in _listed(named)):
        raise ModelFolderError(f"eos_token_id in {file} is {named!r}; it is the number of a token, or a list of such")
    return settings


def generation_eos_ids(folder: Path) -> tuple[int, ...]:
    """Return the tokens that end a generation by the model's own settings, the tokenizer's left out."""
    return tuple(_listed(generation_settings(folder).get("eos_token_id")))


def _listed(value: Any) -> list[Any]:
    return value if isinstance(value, list) else [] if value is None else [value]


def _require_trainable(folder: Path, config: Mapping[str, Any]) -> None:
    quantized = of_text(config, "quantization_config")
    if quantized:
        method = quantized.get("quant_method", "unnamed") if isinstance(quantized, dict) else quantized
        raise ModelFolderError(
            f"the model in {folder} is quantised (method {method!r} in its config.json), and such weights can neither "
            "be trained nor be sent to engines; name the model that it was made from, or save a dequantised copy"
        )
    architectures = config.get("architectures")
    other = [name for name in architectures or () if str(name).endswith(OTHER_HEADS)]
    if other and len(other) == len(architectures or ()):
        raise ModelFolderError(
            f"the model in {folder} is a {other[0]}, which writes no text: its output layer would be made up of random "
            "numbers; name a causal language model"
        )
    if config.get("is_encoder_decoder"):
        raise ModelFolderError(
            f"the model in {folder} has an encoder and a decoder; stages train decoders alone, so name a causal one"
        )


def _about_adapter(folder: Path) -> str:
    adapter = read_json_object(folder / ADAPTER)
    base, kind = adapter.get("base_model_name_or_path"), adapter.get("peft_type", "PEFT")
    if (folder / "config.json").is_file() and ((folder / WEIGHTS).is_file() or (folder / INDEX).is_file()):
        return (
            f"{folder} holds a model and an adapter ({kind}, made for {base!r}), which transformers would put on top "
            f"of the model's own weights; if they are merged, take {ADAPTER} and adapter_model.* out of the folder"
        )
    return (
        f"{folder} is an adapter ({kind}) and no model: it only changes its base, {base!r}. Merge it into that "
        "(PEFT's merge_and_unload, then save_pretrained, with the tokenizer) and name the result, or name the base"
    )


def _instead(folder: Path) -> str:
    """Say what is there, and the way out."""
    models = [file.parent for name in ("*", "snapshots/*") for file in sorted(folder.glob(f"{name}/config.json"))]
    if models:
        newest = max(models, key=lambda path: path.stat().st_mtime)
        others = f" (or one of {len(models) - 1} others)" if len(models) > 1 else ""
        return f"a model lies in its folder {newest.relative_to(folder)}{others}; set model: {newest}"
    for pattern, what in OTHERS.items():
        if found := _first(folder, pattern):
            return f"{found} is {what}"
    if _first(folder, "adapter_model*"):
        return f"it has the weights of an adapter without its {ADAPTER}; merge it into its base and name the result"
    for pattern in PICKLES:
        if found := _first(folder, pattern):
            return (
                f"{found} is a pickle, in which code can hide; save it again as safetensors (from_pretrained, then "
                "save_pretrained of transformers)"
            )
    names = sorted(path.name for path in folder.iterdir())
    if shards := [name for name in names if name.endswith(".safetensors") and name != WEIGHTS]:
        return f"{shards[0]} goes by another name than {WEIGHTS}, and there is no {INDEX}; fetch the model again"
    return f"it has {', '.join(names[:12]) or 'nothing'}; save the model again with transformers, which writes one"


def _first(folder: Path, pattern: str) -> str | None:
    return next((path.name for path in sorted(folder.glob(pattern))), None)


def headers(folder: Path) -> Iterator[tuple[str, dict[str, Any]]]:
    """Yield (name, {dtype, shape, ...}) of every tensor that transformers would find in a model's folder."""
    for file in weight_files(folder):
        yield from read_header(file).items()
