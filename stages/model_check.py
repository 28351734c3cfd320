"""What can be known of a model folder before it is loaded: config, weights, tokenizer, template. `check` asks."""

import json
import math
from collections.abc import Iterable, Iterator, Mapping, Sequence
from functools import cache
from pathlib import Path
from typing import Any

from rewards.control_tokens import is_own
from rewards.hub import HubError
from rewards.remote_code import require_own_code
from rewards.types import Message
from stages.base import Problem, RunFacts, StageConfig
from stages.chat_format import ChatFormat
from stages.data.examples import examples
from stages.data.rows import DataError, Row
from stages.model_folder import ModelFolderError, headers, of_text, read_model_config
from stages.training import SupervisedConfig

EMBEDDINGS = ("embed_tokens.weight", "wte.weight", "embed_in.weight", "word_embeddings.weight", "tok_embeddings.weight")
"""Ends of the names that embeddings have in models of transformers."""
QUESTION = {"role": "user", "content": "What is 1 plus 1?"}
ANSWERS = (
    {"role": "assistant", "content": "2"},
    {"role": "assistant", "content": "<think>\nsum\n</think>\n\n2"},
    {"role": "assistant", "content": "sum\n</think>\n\n2"},
    {"role": "assistant", "content": "2", "reasoning_content": "sum"},
)
"""Ways in which a row may answer under templates that let a model think first."""


def check_model(chat: ChatFormat, stages: Mapping[str, StageConfig], facts: RunFacts) -> Iterator[Problem]:
    """Check config, weights and template of a model folder. Raises ModelFolderError where they cannot be read."""
    folder = Path(facts.model)
    config = read_model_config(folder)
    limit = of_text(config, "max_position_embeddings")
    generates = any(stage.generates for stage in stages.values())
    if generates and isinstance(limit, int) and facts.engine.max_model_tokens > limit:
        yield (
            f"engine.max_model_tokens {facts.engine.max_model_tokens} is more than the model's own context of {limit}; "
            f"set engine.max_model_tokens: {limit}, or less"
        )
    _require_own_code(folder, trust_remote_code=facts.trust_remote_code)
    yield from _check_embedding(chat, folder, embedding_rows(folder, config))
    yield from _check_template(chat, renders_answers=any(isinstance(s, SupervisedConfig) for s in stages.values()))


@cache
def require_fit(folder: Path, *, trust_remote_code: bool) -> None:
    """Raise ModelFolderError where a model that came from the Hub is not what `check` would have passed."""
    config = read_model_config(folder)
    _require_own_code(folder, trust_remote_code=trust_remote_code)
    chat = ChatFormat(folder, trust_remote_code=trust_remote_code)
    found = [
        *_check_embedding(chat, folder, embedding_rows(folder, config)),
        *_check_template(chat, renders_answers=False),  # rows are looked at by their stage
    ]
    if problem := next((each for each in found if not each.startswith("note:")), None):
        raise ModelFolderError(problem)


def _require_own_code(folder: Path, *, trust_remote_code: bool) -> None:
    try:
        if trust_remote_code:
            require_own_code(folder)
    except HubError as error:
        raise ModelFolderError(str(error)) from error


def count_parameters(folder: Path) -> int | None:
    """Return the number of parameters from the headers of the safetensors files; None where it holds no model."""
    try:
        return sum(int(math.prod(tensor["shape"])) for _, tensor in headers(folder))
    except ModelFolderError:
        return None


def embedding_rows(folder: Path, config: Mapping[str, Any]) -> int | None:
    """Return how many tokens the model has an embedding for; None where neither weights nor config say it.

    Raises ModelFolderError where the two differ.
    """
    size = of_text(config, "vocab_size")
    for name, tensor in headers(folder):
        if name.endswith(EMBEDDINGS) and len(tensor["shape"]) == 2:
            rows: int = tensor["shape"][0]
            if size != rows and isinstance(size, int):
                raise ModelFolderError(
                    f"config.json in {folder} says vocab_size {size}, but the embedding {name} has {rows} rows; "
                    "correct vocab_size, or fetch the model again"
                )
            return rows
    return int(size) if isinstance(size, int) else None


def tokens_beyond(chat: ChatFormat, folder: Path) -> dict[str, int]:
    """Return the added tokens that the embedding has no row for, and that a row can bring up by their texts alone."""
    rows = embedding_rows(folder, read_model_config(folder))
    beyond = chat.tokens_from(rows) if rows is not None else {}
    ordinary = set(chat.ordinary(beyond))
    said = {token for token in beyond if token not in chat.control.ids or is_own(token)}
    return {token: number for token, number in beyond.items() if token in said - ordinary}


def _check_embedding(chat: ChatFormat, folder: Path, rows: int | None) -> Iterator[Problem]:
    """Say where the tokenizer has tokens that the embedding has no row for; rows that no token uses are right."""
    beyond = chat.tokens_from(rows) if rows is not None else {}
    if not beyond:
        return
    what = (
        f"the tokenizer in {folder} has {chat.num_tokens} tokens with ids up to {max(beyond.values())}, but the "
        f"model's embedding has {rows} rows"
    )
    names = ", ".join(repr(token) for token in sorted(beyond, key=lambda token: beyond[token])[:4])
    if used := _used(chat, beyond):
        yield (
            f"{what}: {used} has none, so the run would fail at it; enlarge the embedding (resize_token_embeddings of "
            "transformers, then save_pretrained), or take the tokenizer that the model was trained with"
        )
    else:
        yield f"note: {what}; a text with one of the tokens that have none ({names}) cannot be read"


def check_tokens(rows: Sequence[Row], role: str, beyond: Iterable[str]) -> Iterator[Problem]:
    """Say which row has the text of a token that the embedding has no row for."""
    for at, row in enumerate(rows if beyond else (), start=1):
        text = json.dumps(row, ensure_ascii=False, default=str)
        if found := next((token for token in beyond if token in text), None):
            yield (
                f"row {at} of {role} has {found!r}, a token that the model's embedding has no row for, so the run "
                "would fail at it; enlarge the embedding (resize_token_embeddings and save_pretrained of transformers)"
            )
            return


def _used(chat: ChatFormat, beyond: Mapping[str, int]) -> str | None:
    """Return a token of those that ordinary text, the template or padding brings up; none where all are special."""
    if ordinary := chat.ordinary(beyond):
        return f"token {ordinary[0]!r}"
    for name in ("eos_token", "pad_token", "bos_token", "unk_token"):
        if chat.named_tokens.get(name) in beyond:
            return f"{name} {chat.named_tokens[name]!r}"
    written = set(chat.token_ids(chat.render([QUESTION, ANSWERS[0], QUESTION], add_generation_prompt=True)))
    return next((f"{token!r}, which the chat template writes," for token in beyond if beyond[token] in written), None)


def _check_template(chat: ChatFormat, *, renders_answers: bool) -> Iterator[Problem]:
    """Check that turns end with a token that ends generation, and that answered prompts stay as they were asked.

    The latter matters where stages render answered turns; of the ways to answer, one has to do: rows are looked at by
    themselves.
    """
    whole = [chat.render([QUESTION, answer], add_generation_prompt=False) for answer in ANSWERS]
    last = chat.token_ids(whole[0].rstrip())[-1:]
    if not set(last) & set(chat.eos_ids):
        yield (
            f"the model's chat template ends a finished turn with {whole[0][-20:]!r}, not with the end-of-sequence "
            f"token {chat.eos_token!r} or another one of generation_config.json, so the model would never learn to "
            "stop; mend the template or set eos_token"
        )
    if not _has_tokens_between_turns(chat):
        yield (
            "note: the model's chat template tells the turns of user and assistant apart by words alone, not by "
            "control tokens, so whoever writes these words in a row, or in what a tool answers, begins a turn"
        )
    if renders_answers and not any(_is_learned(chat, answer) for answer in ANSWERS):
        prompt = chat.render([QUESTION], add_generation_prompt=True)
        yield (
            "the model's chat template writes a prompt differently once it is answered, so the model would train on "
            f"another context than it sees when it answers; the prompt alone ends with {prompt[-30:]!r}"
        )


def _has_tokens_between_turns(chat: ChatFormat) -> bool:
    """Say whether a control token stands between what a user says and what an assistant answers."""
    asked, answered = QUESTION["content"], "three-of-them"
    whole = chat.render([QUESTION, {"role": "assistant", "content": answered}], add_generation_prompt=False)
    between = whole[whole.rfind(asked) + len(asked) : whole.rfind(answered)]
    return chat.control.written.search(between) is not None


def _is_learned(chat: ChatFormat, answer: Message) -> bool:
    try:
        return bool(examples(chat, {"prompt": [QUESTION], "completion": [answer]}, "completion", "last"))
    except DataError:
        return False
