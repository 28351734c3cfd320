"""Tokens as text, for people to read: by the tokenizer of a stage's model."""

from collections.abc import Sequence
from pathlib import Path
from typing import Any

from pipeline.config import RunConfig
from pipeline.state import RunFolder
from stages.sampled import Decode

UNFINISHED = "\ufffd"
"""Stands for bytes that make no character."""


def decoder(config: RunConfig, folder: RunFolder, stage: str, notes: list[str]) -> Decode:
    """Return a function from tokens to their texts; to their numbers where no tokenizer is on this machine.

    A tokenizer that cannot be read counts as none, and is told in ``notes``.
    """
    file = _tokenizer_file(config, folder, stage)
    if file is None:
        return _numbers
    from tokenizers import Tokenizer

    try:
        tokenizer = Tokenizer.from_file(str(file))
    except Exception as error:  # the library's only type
        notes.append(f"{stage}: {file} cannot be read ({error}), so tokens are shown by number")
        return _numbers
    return lambda tokens: texts_of(tokenizer, tokens)


def _numbers(tokens: Sequence[int]) -> list[str]:
    return [f"<{token}>" for token in tokens]


def texts_of(tokenizer: Any, tokens: Sequence[int]) -> list[str]:
    """Return each token's text. A character of several tokens is the last one's, and the others' are empty."""
    from tokenizers.decoders import DecodeStream

    stream, begun = DecodeStream([], False), 0  # special tokens are shown
    texts = [""] * len(tokens)
    for at, token in enumerate(tokens):
        try:
            text = stream.step(tokenizer, token)
        except Exception:  # the library's only type: with the bytes that came after it, what was decoded is no more
            pending = list(tokens[begun : at + 1])
            text = tokenizer.decode(pending, skip_special_tokens=False)
            stream = DecodeStream(pending, False)
        if text is not None:
            texts[at], begun = text, at + 1
    if begun < len(tokens):
        texts[-1] = UNFINISHED
    return texts


def _tokenizer_file(config: RunConfig, folder: RunFolder, stage: str) -> Path | None:
    from huggingface_hub import try_to_load_from_cache

    outputs = [folder.stage(source) / "output" for source in (stage, *config.stages[stage].inputs().values())]
    files = [place / "tokenizer.json" for place in (*outputs, Path(config.model))]
    here = next((file for file in files if file.is_file()), None)
    if here is not None or Path(config.model).is_dir():
        return here
    try:
        cached = try_to_load_from_cache(config.model, "tokenizer.json", revision=config.model_revision)
    except ValueError:  # a folder that is not here, and no name on the hub
        return None
    return Path(cached) if isinstance(cached, str) else None
