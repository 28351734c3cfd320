"""Conversations become text and tokens: the one place where a stage makes tokens of what its chat template writes.

Training, sampling, probes and length counts come here alike; `examples.py` says which of the tokens are learned.
"""

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from functools import cached_property
from typing import Any, Protocol

from rewards import control_tokens, encoding, thinking
from rewards.chat_template import TemplateError, settings_of, tools_of, write
from rewards.control_tokens import ControlTokens
from rewards.encoding import Encoding
from rewards.types import Message
from stages.data.rows import DataError, Row, place_of, with_columns

Tools = Sequence[Mapping[str, Any]]
LONGEST_OPENING = 400
"""Characters at a prompt's end among which its opening is looked for."""


class Chat(Protocol):
    """A model's tokenizer with its chat template."""

    @property
    def eos_ids(self) -> tuple[int, ...]:
        """Tokens that end a turn; none where they are not known."""
        ...

    @property
    def control(self) -> ControlTokens:
        """Tokens that only the template may write."""
        ...

    def render(
        self, messages: Sequence[Message], *, add_generation_prompt: bool, tools: Tools | None = None, **settings: Any
    ) -> str:
        """Return the conversation as the template writes it."""
        ...

    def token_ids(self, text: str) -> list[int]:
        """Return the text's tokens; what is marked as text (`rewards.control_tokens`) becomes no control token."""
        ...

    def decode(self, token_ids: Sequence[int]) -> str:
        """Return the tokens' text, special ones included."""
        ...


@dataclass(frozen=True)
class TokenizerChat:
    """A `Chat` by a tokenizer of transformers'."""

    tokenizer: Any
    eos_ids: tuple[int, ...] = ()
    """Tokens that end a turn."""

    @cached_property
    def control(self) -> ControlTokens:
        """Those of the tokenizer and its template."""
        return control_tokens.of_tokenizer(self.tokenizer)

    @cached_property
    def _encoding(self) -> Encoding:
        return encoding.of_tokenizer(self.tokenizer, self.control)

    def render(self, messages: Sequence[Message], **given: Any) -> str:
        """As transformers does, within bounds."""
        from rewards.bounded_template import apply_of

        return apply_of(self.tokenizer)(messages, **given)

    def token_ids(self, text: str) -> list[int]:
        """As `apply_chat_template` does after it has written a conversation, marks aside."""
        return self._encoding.token_ids(text)

    def decode(self, token_ids: Sequence[int]) -> str:
        """Nothing is cleaned up."""
        return str(self.tokenizer.decode(token_ids, skip_special_tokens=False, clean_up_tokenization_spaces=False))


def prompt_text(chat: Chat, row: Row, tools: Tools | None = None) -> str:
    """Return a row's prompt as the engine gets it; ``tools`` are shown where the row brings none."""
    return text_of(chat, row, row["prompt"], asks=True, tools=tools)


def prompt_ids(chat: Chat, row: Row, tools: Tools | None = None) -> tuple[int, ...]:
    """Return the tokens of a row's prompt, up to where the assistant is to speak."""
    return tuple(chat.token_ids(prompt_text(chat, row, tools)))


def opening(chat: Chat, row: Row, asked: str, tools: Tools | None = None) -> str:
    """Return the text with which the template has begun the answer, from its first tag on, such as `<think>`.

    Mostly none. ``asked`` is the row's `prompt_text`. What the user says, tags or not, is no part of it.
    """
    if not thinking.begun(asked[-LONGEST_OPENING:]):
        return ""
    unasked = text_of(chat, row, row["prompt"], asks=False, tools=tools)
    pairs = enumerate(zip(asked, unasked, strict=False))
    start = next((at for at, (one, other) in pairs if one != other), min(len(asked), len(unasked)))
    return thinking.begun(asked[start:])


def whole_ids(chat: Chat, row: Row, side: str) -> list[int]:
    """Return the tokens of a whole conversation, as a reward model reads it; ``side`` is the answer's column."""
    return chat.token_ids(text_of(chat, row, [*row["prompt"], *row[side]], asks=False))


def longer_than(
    chat: Chat, limit: int, rows: Sequence[Row], side: str | None = None, tools: Tools | None = None
) -> Iterator[tuple[int, int]]:
    """Yield (place of the row, its tokens) for each row with more than ``limit``: its prompt, or all up to an answer.

    A token is at least a byte, so only rows with more bytes than that, and what the template adds to them, are written
    out; and those with tools, which templates spread.
    """
    if not rows:
        return
    bare = with_columns(rows[0], prompt=[{"role": "user", "content": "x"}])
    added = 2 * len(prompt_ids(chat, bare, tools))  # generously, by turn
    for at, row in enumerate(rows):
        turns = [*row["prompt"], *(row[side] if side else ())]
        is_plain = not tools_of(row) and not any(turn.get("tool_calls") for turn in turns)
        num_bytes = sum(len(str(text).encode()) for turn in turns for text in turn.values())
        if is_plain and num_bytes + added * len(turns) <= limit:
            continue
        length = len(whole_ids(chat, row, side) if side else prompt_ids(chat, row, tools))
        if length > limit:
            yield at, length


def text_of(chat: Chat, row: Row, turns: Sequence[Message], *, asks: bool, tools: Tools | None = None) -> str:
    """Return a row's turns as the template writes them with the row's tools and settings; ``asks`` where the assistant
    is to speak next. What they spell like control tokens is marked as text. Raises DataError where it refuses them.
    """
    try:
        return write(
            chat.render,
            turns,
            add_generation_prompt=asks,
            tools=tools_of(row) or tools,
            settings=settings_of(row),
            control=chat.control,
        )
    except TemplateError as error:
        raise DataError(f"{place_of(row)}: {error}") from error
