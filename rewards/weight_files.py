"""Which files of a model's folder are its weights, by their names: safetensors alone, and only such as lie there.

A pickle can hold code, and a link can lead to whatever its reader may read. Both are refused before a library looks.
"""

import json
from pathlib import Path
from typing import Any

WEIGHTS, INDEX = "model.safetensors", "model.safetensors.index.json"
"""What transformers looks for, in this order; the index names the files of a model in several."""
MOST_JSON_BYTES = 1 << 26
PICKLES = ["*.bin", "*.pth", "*.pt", "*.ckpt", "*.pkl", "*.pickle", "original/*"]
"""What is not fetched from the Hub."""
ANOTHER_FILE = "transformers_weights"
"""Key of config.json by which transformers would load another file than the two."""


class ModelFolderError(ValueError):
    """A model folder that lacks what the run needs, or holds something else."""


def read_json_object(file: Path) -> dict[str, Any]:
    """Read a JSON object of a model folder. Raises ModelFolderError for anything else."""
    try:
        if file.stat().st_size > MOST_JSON_BYTES:
            raise ValueError(f"it has {file.stat().st_size} bytes, and may have {MOST_JSON_BYTES}")
        tree = json.loads(file.read_text()) if file.is_file() else None
    except (OSError, ValueError, RecursionError) as error:
        raise ModelFolderError(f"{file} cannot be read as JSON: {error}") from error
    if not isinstance(tree, dict):
        raise ModelFolderError(f"{file} holds a {type(tree).__name__}; expected a JSON object")
    return tree


def weight_files(folder: Path) -> list[Path]:
    """Return the files whose weights transformers loads from a folder.

    Raises ModelFolderError where there are none, some are missing, or something else than safetensors in this folder
    would be loaded.
    """
    require_own_files(folder)
    if (folder / "config.json").is_file() and (other := read_json_object(folder / "config.json").get(ANOTHER_FILE)):
        raise ModelFolderError(
            f"{folder / 'config.json'} names {other!r:.80} by {ANOTHER_FILE}, which would be loaded instead of the "
            f"usual file; take that key out, and name the weights {WEIGHTS}"
        )
    if (folder / WEIGHTS).is_file():
        return [folder / WEIGHTS]
    if not (folder / INDEX).is_file():
        raise ModelFolderError(f"{folder} has no .safetensors file that transformers would load")
    weight_map = read_json_object(folder / INDEX).get("weight_map")
    names = sorted({str(name) for name in weight_map.values()}) if isinstance(weight_map, dict) else []
    for name in names:
        if Path(name).name != name or not name.endswith(".safetensors"):
            raise ModelFolderError(
                f"{folder / INDEX} names {name!r:.80}, and may name .safetensors files that lie next to it alone; save "
                "the model again with save_pretrained of transformers"
            )
    missing = [name for name in names if not (folder / name).is_file()]
    if missing or not names:
        lacks = (
            f"{len(missing)} of {len(names)} files that it names are missing, such as {missing[0]}" if missing else ""
        )
        raise ModelFolderError(f"{folder / INDEX}: {lacks or 'it names no file'}; fetch the model again")
    return [folder / name for name in names]


def require_own_files(folder: Path) -> None:
    """Raise ModelFolderError where a link leads out of a model's folder, to whatever its reader may read.

    The folder itself may be one. In the Hub's cache, each file of a snapshot links into the `blobs` of its repository.
    """
    place = folder.resolve()
    in_cache = place.parent.name == "snapshots" and place.parent.parent.name.startswith("models--")
    root = place.parent.parent if in_cache else place
    for path in (*folder.iterdir(), *folder.glob("additional_chat_templates/*")):
        if path.is_symlink() and not path.resolve().is_relative_to(root):
            raise ModelFolderError(
                f"{path} is a link that leads out of the model's folder, to {path.resolve()}; copy that file to its "
                "place, or name the folder that it lies in"
            )
