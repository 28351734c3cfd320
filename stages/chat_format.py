"""A model folder's tokenizer and chat template, read without transformers: what `check` can know within a second.

Training and generation use transformers' own; both render the same `chat_template` with the same Jinja settings.
"""

import json
import re
from collections.abc import Mapping, Sequence
from datetime import datetime
from functools import cached_property, partial
from pathlib import Path
from typing import Any

from rewards.types import Message


class ModelFolderError(ValueError):
    """A model folder that lacks what the run needs."""


class ChatFormat:
    """How a model's conversations become tokens.

    Raises ModelFolderError where the folder has no tokenizer, no chat template or no end-of-sequence token, or one
    that cannot be read.
    """

    def __init__(self, folder: Path) -> None:
        self._folder = folder
        self._settings = self._read_json("tokenizer_config.json")

    def render(
        self,
        messages: Sequence[Message],
        *,
        add_generation_prompt: bool,
        tools: Sequence[Mapping[str, Any]] | None = None,
    ) -> str:
        """Return the conversation as the template writes it; ``tools`` are schemas that it may show."""
        from jinja2 import TemplateError

        given = {"messages": messages, "tools": tools, "add_generation_prompt": add_generation_prompt}
        try:
            return str(self._template.render(**given, **self._special_tokens))
        except (TemplateError, ArithmeticError, TypeError, AttributeError, LookupError, RecursionError) as error:
            what = f"{type(error).__name__}: {error}"
            raise ModelFolderError(f"the chat template in {self._folder} cannot be rendered: {what}") from error

    def longer_than(
        self,
        limit: int,
        conversations: Sequence[Sequence[Message]],
        *,
        add_generation_prompt: bool,
        tools: Sequence[Mapping[str, Any]] | None = None,
    ) -> list[tuple[int, int]]:
        """Return (number of the conversation, its tokens) for each with more than ``limit`` tokens.

        A token is at least a byte, so only conversations with more bytes than that, and what the template adds to them,
        are rendered and tokenised.
        """
        bare = [{**turn, "content": "x"} for turn in conversations[0]]
        render = partial(self.render, add_generation_prompt=add_generation_prompt, tools=tools)
        rendered = render(bare)
        added = 2 * len(self._tokenizer.encode(rendered, add_special_tokens=False).ids) / len(bare)  # generously
        long = [
            at
            for at, turns in enumerate(conversations)
            if sum(len(turn["content"].encode()) + added for turn in turns) > limit
        ]
        texts = [render(conversations[at]) for at in long]
        lengths = [len(e.ids) for e in self._tokenizer.encode_batch(texts, add_special_tokens=False)]
        return [(at, length) for at, length in zip(long, lengths, strict=True) if length > limit]

    @cached_property
    def eos_token(self) -> str:
        """The token that ends a turn."""
        token = self._special_tokens.get("eos_token")
        if not token:
            raise ModelFolderError(f"the tokenizer in {self._folder} names no eos_token; generation would never end")
        if self._tokenizer.token_to_id(token) is None:
            raise ModelFolderError(f"the tokenizer in {self._folder} has no token {token!r}, which it names its EOS")
        return token

    @cached_property
    def _special_tokens(self) -> dict[str, str]:
        tokens = {name: self._settings.get(name) for name in ("bos_token", "eos_token", "pad_token", "unk_token")}
        texts = {k: v.get("content") if isinstance(v, dict) else v for k, v in tokens.items() if v is not None}
        wrong = [name for name, text in texts.items() if not isinstance(text, str)]
        if wrong:
            raise ModelFolderError(f"{wrong[0]} of the tokenizer in {self._folder} is {tokens[wrong[0]]!r}, no text")
        return {name: str(text) for name, text in texts.items()}

    @cached_property
    def _template(self) -> Any:
        from jinja2 import TemplateError
        from jinja2.ext import loopcontrols
        from jinja2.sandbox import ImmutableSandboxedEnvironment

        file = self._folder / "chat_template.jinja"
        text = file.read_text(errors="replace") if file.is_file() else self._settings.get("chat_template")
        if not isinstance(text, str):
            raise ModelFolderError(
                f"the tokenizer in {self._folder} has no chat template, so prompts made of messages cannot be written "
                "as text; put a chat_template.jinja beside it"
            )
        environment = ImmutableSandboxedEnvironment(trim_blocks=True, lstrip_blocks=True, extensions=[loopcontrols])
        environment.filters["tojson"] = lambda value, **options: json.dumps(value, ensure_ascii=False, **options)
        environment.globals["raise_exception"] = _refuse
        environment.globals["strftime_now"] = lambda form: datetime.now().strftime(form)
        # transformers' own mark around what the assistant says; it writes nothing
        try:
            return environment.from_string(re.sub(r"\{%-?\s*(end)?generation\s*-?%\}", "", text))
        except (TemplateError, RecursionError) as error:
            raise ModelFolderError(f"the chat template in {self._folder} cannot be read: {error}") from error

    @cached_property
    def _tokenizer(self) -> Any:
        from tokenizers import Tokenizer

        file = self._folder / "tokenizer.json"
        if not file.is_file():
            raise ModelFolderError(
                f"model folder {self._folder} holds no tokenizer.json; it has "
                f"{', '.join(sorted(p.name for p in self._folder.iterdir()))}. Save the tokenizer there too"
            )
        try:
            return Tokenizer.from_file(str(file))
        except Exception as error:  # the library raises nothing narrower
            raise ModelFolderError(f"{file} is not a tokenizer: {error}") from error

    def _read_json(self, name: str) -> dict[str, Any]:
        file = self._folder / name
        if not file.is_file():
            raise ModelFolderError(
                f"model folder {self._folder} holds no {name}, so it has no tokenizer; save one beside the weights"
            )
        return read_json_object(file)


def read_json_object(file: Path) -> dict[str, Any]:
    """Read a JSON object of a model folder. Raises ModelFolderError for anything else."""
    try:
        tree = json.loads(file.read_text())
    except (OSError, ValueError, RecursionError) as error:
        raise ModelFolderError(f"{file} cannot be read as JSON: {error}") from error
    if not isinstance(tree, dict):
        raise ModelFolderError(f"{file} holds a {type(tree).__name__}; expected a JSON object")
    return tree


def _refuse(message: str) -> None:
    raise ValueError(f"the chat template refuses the conversation: {message}")
