"""Rows become examples: what is asked, what is answered, and which of the answer's tokens are learned.

A turn is learned in the context in which it is written when the model is used: what the template makes of all turns
before it, up to where the assistant is to speak. Tokens of the two are compared, not their texts.
"""

import re
import secrets
from collections.abc import Sequence
from dataclasses import dataclass
from itertools import pairwise
from typing import Literal

from rewards import thinking
from rewards.control_tokens import unmarked
from rewards.types import Message
from rollout.types import places_outside
from stages.data.rendering import Chat, prompt_ids, prompt_text, text_of
from stages.data.rows import DataError, Row, place_of

TrainOn = Literal["last", "all"]

SENTINEL = f"what-is-said-here-{secrets.token_hex(8)}"
"""Stands for what a turn says; nobody can say it too."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Example:
    """What is asked and what is answered, in tokens."""

    prompt_ids: tuple[int, ...]
    """[P] the context, ready to be answered."""
    token_ids: tuple[int, ...]
    """[T] what follows: the assistant's turns, each with its end-of-turn token, and what others say between them."""
    given: tuple[tuple[int, int], ...] = ()
    """Places [start, end) of answer tokens that the assistant did not write, or is not to learn."""

    @property
    def whole_ids(self) -> list[int]:
        """[P + T]"""
        return [*self.prompt_ids, *self.token_ids]

    @property
    def learned(self) -> list[int]:
        """[T] 1 where a token of the answer is learned, else 0."""
        mask = [0] * len(self.token_ids)
        for place in places_outside(self.given, len(self.token_ids)):
            mask[place] = 1
        return mask


def answer(chat: Chat, row: Row, side: str) -> Example:
    """Return a row's answer as one example after its prompt, such as a pair has two of.

    Where the template writes earlier turns otherwise once later ones follow, the answer goes on as with an environment:
    every turn stays as it was written, and what others say comes after it. Raises DataError where it cannot.
    """
    turns, places = [*row["prompt"], *row[side]], _learned(row, side, "last")
    whole = _draft(chat, row, turns, places[0])
    asked = whole.prompt_ids if places[0] == len(row["prompt"]) else prompt_ids(chat, row)
    for before, at in pairwise(places):
        later = _draft(chat, row, turns, at)
        if not whole.goes_on_to(chat, later):
            whole.take(chat.token_ids(_between(chat, row, turns, before, at, whole)), later)
    lead = len(whole.prompt_ids) - len(asked)  # turns of weight 0
    if whole.prompt_ids[: len(asked)] != asked:
        raise DataError(f"{place_of(row)}: the chat template writes the prompt otherwise after turns of weight 0")
    given = tuple((start + lead, end + lead) for start, end in whole.given)
    return Example(
        prompt_ids=asked,
        token_ids=(*whole.prompt_ids[len(asked) :], *whole.token_ids),
        given=((0, lead), *given) if lead else given,
    )


def examples(chat: Chat, row: Row, side: str, train_on: TrainOn) -> list[Example]:
    """Return what is learned of a row: one example, or several where the template shows the turns different contexts.

    ``last``: the assistant's turns of the answer; ``all``: those of the prompt, too. A turn of ``weight: 0`` is not
    learned. Raises DataError where nothing is left, or where a turn cannot be had in the context it is written in.
    """
    found: list[_Draft] = []
    for at in _learned(row, side, train_on):
        draft = _draft(chat, row, [*row["prompt"], *row[side]], at)
        if not (found and found[-1].goes_on_to(chat, draft)):
            found.append(draft)
    return [Example(prompt_ids=d.prompt_ids, token_ids=tuple(d.token_ids), given=tuple(d.given)) for d in found]


def _learned(row: Row, side: str, train_on: TrainOn) -> list[int]:
    """Return the places of the turns that are learned."""
    first = len(row["prompt"]) if train_on == "last" else 0
    turns = enumerate([*row["prompt"], *row[side]])
    found = [at for at, turn in turns if at >= first and turn["role"] == "assistant" and turn.get("weight", 1) != 0]
    if not found:
        hint = "; train_on: all learns the turns before it" if train_on == "last" else ""
        raise DataError(f"{place_of(row)}: every turn that could be learned has weight 0{hint}")
    return found


def merges(chat: Chat, row: Row, side: str) -> str | None:
    """Return the text at the border of prompt and answer where the tokens of the two merge in the whole; else None."""
    context, written = prompt_text(chat, row), text_of(chat, row, [*row["prompt"], row[side][0]], asks=False)
    asked = chat.token_ids(context)
    if not written.startswith(context) or chat.token_ids(written)[: len(asked)] == asked:
        return None
    return chat.decode(asked[-1:]) + unmarked(written[len(context) :])[:10]


@dataclass(slots=True, kw_only=True)
class _Draft:
    """An example that may go on."""

    prompt_ids: tuple[int, ...]
    context: str
    """What the last turn answers."""
    whole: str
    """The same with the answer, to its end of the turn."""
    token_ids: list[int]
    given: list[tuple[int, int]]

    def goes_on_to(self, chat: Chat, later: "_Draft") -> bool:
        """Take a later turn if its context is this example and what others say after it, token by token."""
        if not later.context.startswith(self.whole):
            return False
        before = [*self.prompt_ids, *self.token_ids]
        between = _after(chat, before, self.whole, later.context)
        if between is None:
            return False
        self.take(between, later)
        return True

    def take(self, between: Sequence[int], later: "_Draft") -> None:
        """Take what others say, and a later turn."""
        start = len(self.token_ids)
        self.given.append((start, start + len(between)))
        self.token_ids += [*between, *later.token_ids]
        self.context, self.whole = later.context, later.whole


def _between(chat: Chat, row: Row, turns: Sequence[Message], before: int, at: int, draft: _Draft) -> str:
    """Return what the template writes after the end of one turn up to where another begins, whatever the first says."""
    said = {"role": "assistant", "content": SENTINEL}
    text = text_of(chat, row, [*turns[:before], said, *turns[before + 1 : at]], asks=True)
    _, mark, rest = text.rpartition(SENTINEL)
    end = chat.decode(draft.token_ids[-1:])
    if not mark or not rest.startswith(end):
        raise DataError(
            f"{place_of(row)}: the chat template does not end turn {before + 1} with {end!r} once others follow"
        )
    return rest[len(end) :]


def _draft(chat: Chat, row: Row, turns: Sequence[Message], at: int) -> _Draft:
    """Return one turn in its context."""
    context = text_of(chat, row, turns[:at], asks=True)
    whole = _answered(chat, row, turns[: at + 1], context)
    if whole is None:
        written = text_of(chat, row, turns[: at + 1], asks=False)
        raise DataError(
            f"{place_of(row)}: the model would learn in another context than it answers in. Asked, the chat template "
            f"writes ...{_end(context, context, written)!r}; with the answer ...{_end(written, context, written)!r}. "
            "Give answers their thinking part if the template opens one, or set chat_template_kwargs so that it does "
            "not, such as {enable_thinking: false}"
        )
    asked = chat.token_ids(context)
    token_ids = _after(chat, asked, context, whole)
    if not token_ids:
        raise DataError(
            f"{place_of(row)}: the tokens of turn {at + 1} cannot be told from those before it; the chat template "
            f"writes {unmarked(whole[len(context) :])!r:.80} after {unmarked(context[-40:])!r}"
        )
    kept = token_ids[: _num_to_end(chat, token_ids)]
    whole = whole.removesuffix(chat.decode(token_ids[len(kept) :]))
    return _Draft(prompt_ids=tuple(asked), context=context, whole=whole, token_ids=kept, given=[])


def _num_to_end(chat: Chat, token_ids: Sequence[int]) -> int:
    """Return how many of a turn's tokens there are up to the first that ends it; what only ends it again is no part."""
    at = len(token_ids)
    while at and (token_ids[at - 1] in chat.eos_ids or not chat.decode(token_ids[at - 1 : at]).strip()):
        at -= 1
    return next((end + 1 for end in range(at, len(token_ids)) if token_ids[end] in chat.eos_ids), len(token_ids))


def _answered(chat: Chat, row: Row, turns: Sequence[Message], context: str) -> str | None:
    """Return the context with its answer, up to the end of the turn; None where the context is another one by then.

    White space after the end of the turn is not the assistant's. Where the template has opened a thinking part and
    leaves out thoughts once they are answered, the thoughts are taken from the row.
    """
    written = text_of(chat, row, turns, asks=False)
    if written.startswith(context):
        return context + written[len(context) :].rstrip()
    opened = thinking.opened_last(context)
    thoughts = _with_thoughts(turns[-1], opened) if opened else None
    if thoughts is None:
        return None
    thoughts = chat.control.marked(thoughts, "assistant")
    marked = text_of(chat, row, [*turns[:-1], {"role": "assistant", "content": SENTINEL}], asks=False)
    start, mark, end = marked.rpartition(SENTINEL)
    stem = context[: opened.start()] if opened else context
    is_context = mark and start.startswith(stem.rstrip())
    return chat.control.settled(context + thoughts + end.rstrip()) if is_context else None


def _with_thoughts(turn: Message, opened: re.Match[str]) -> str | None:
    """Return what an assistant says after a template has opened its thinking part; None where it has no thoughts."""
    content, apart = turn.get("content") or "", turn.get("reasoning_content") or turn.get("thinking")
    if turn.get("tool_calls"):
        return None  # how calls are written only the template knows
    closed = thinking.closing(opened[0])
    if apart:
        has_lines = closed.startswith("</") or opened.end() < len(opened.string)
        return f"{apart.strip()}\n{closed}\n\n{content}" if has_lines else f"{apart.strip()}{closed}{content}"
    head, mark, rest = content.partition(closed)
    return head.lstrip().removeprefix(opened[0]).lstrip() + mark + rest if mark else None


def _after(chat: Chat, before: Sequence[int], text: str, longer: str) -> list[int] | None:
    """Return the tokens by which a longer text goes on after the tokens of its beginning.

    Where the two texts' tokens merge across the border, the rest is made into tokens by itself; None where these do not
    spell it.
    """
    whole = chat.token_ids(longer)
    if whole[: len(before)] == list(before):
        return whole[len(before) :]
    rest = chat.token_ids(longer[len(text) :])
    spelled = chat.decode(before) + unmarked(longer[len(text) :])
    return rest if chat.decode([*before, *rest]) == spelled else None


def _end(text: str, one: str, other: str) -> str:
    """Return what follows in a text where two texts part, with some of what is before it."""
    same = next((at for at, (a, b) in enumerate(zip(one, other, strict=False)) if a != b), min(len(one), len(other)))
    return unmarked(text[max(0, same - 30) : same + 30])
