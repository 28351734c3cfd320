"""What can be known of a model folder before it is loaded: config, weights, template. `check` asks."""

import json
import math
from collections.abc import Iterator, Mapping
from pathlib import Path

from stages.base import Problem, RunFacts, StageConfig
from stages.chat_format import ChatFormat, ModelFolderError, read_json_object


def check_model(chat: ChatFormat, stages: Mapping[str, StageConfig], facts: RunFacts) -> Iterator[Problem]:
    """Check config, weights and template of a model folder. Raises ModelFolderError where they cannot be read."""
    config = read_json_object(Path(facts.model) / "config.json")
    if count_parameters(Path(facts.model)) is None:
        yield f"model {facts.model} has no .safetensors file; save it anew with transformers, which writes one"
    limit = config.get("max_position_embeddings")
    generates = any(stage.generates for stage in stages.values())
    if generates and isinstance(limit, int) and facts.engine.max_model_tokens > limit:
        yield (
            f"engine.max_model_tokens {facts.engine.max_model_tokens} is more than the model's own context of {limit}; "
            f"set engine.max_model_tokens: {limit}, or less"
        )
    yield from _check_template(chat)


def count_parameters(folder: Path) -> int | None:
    """Return the number of parameters from the headers of the safetensors files; None where there are none.

    Raises ModelFolderError for a file that is cut short or is no safetensors file.
    """
    files = list(folder.glob("*.safetensors"))
    return sum(_parameters_in(file) for file in files) if files else None


def _parameters_in(file: Path) -> int:
    try:
        with file.open("rb") as stream:
            length = int.from_bytes(stream.read(8), "little")
            if not 2 <= length < file.stat().st_size:
                raise ValueError(f"its header would have {length} bytes")
            tensors = {k: v for k, v in json.loads(stream.read(length)).items() if k != "__metadata__"}
        end = 8 + length + max((tensor["data_offsets"][1] for tensor in tensors.values()), default=0)
        if file.stat().st_size < end:
            raise ValueError(f"it has {file.stat().st_size} bytes of {end}")
        return sum(math.prod(tensor["shape"]) for tensor in tensors.values())
    except (OSError, ValueError, TypeError, KeyError, AttributeError) as error:
        raise ModelFolderError(f"{file} is not a whole safetensors file ({error}); fetch it again") from error


def _check_template(chat: ChatFormat) -> Iterator[Problem]:
    question = [{"role": "user", "content": "What is 1 plus 1?"}]
    prompt = chat.render(question, add_generation_prompt=True)
    whole = chat.render([*question, {"role": "assistant", "content": "2"}], add_generation_prompt=False)
    if not whole.rstrip().endswith(chat.eos_token):
        yield (
            f"the model's chat template ends a finished turn with {whole[-20:]!r}, not with the end-of-sequence token "
            f"{chat.eos_token!r}, so the model would never learn to stop; mend the template or set eos_token"
        )
    if not whole.startswith(prompt):
        yield (
            "the model's chat template writes a prompt differently once it is answered, so the model would train on "
            f"another context than it sees when it answers; the prompt alone ends with {prompt[-30:]!r}"
        )
