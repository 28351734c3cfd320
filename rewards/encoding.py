"""Text with marks becomes tokens: what is marked as text gets ordinary ones, all else those that it would have anyway.

    text without marks -> the tokenizer
    text with marks    -> control tokens under other names -> a twin of the tokenizer that knows only these

The twin sees every letter that the tokenizer would see, so that whatever merges, prefixes or normalises does so alike.
"""

import json
import secrets
from collections.abc import Callable, Sequence
from functools import cached_property
from typing import Any

from rewards.control_tokens import AS_TEXT, ControlTokens, unmarked


class SpellingError(ValueError):
    """A text that cannot be encoded without a control token in it that somebody only spelled."""


class Encoding:
    """Makes tokens of texts, without control tokens where they are marked as text."""

    def __init__(
        self,
        control: ControlTokens,
        backend: Any,
        plain: Callable[[str], list[int]],
        decode: Callable[[Sequence[int]], str],
        *,
        is_whole: bool = False,
    ) -> None:
        """``backend`` is the tokenizer of the library `tokenizers`; None where there is none. ``plain`` and ``decode``
        are the way without marks, and back; ``is_whole`` where that adds what begins and ends a text.
        """
        self._control = control
        self._backend = backend
        self._plain = plain
        self._decode = decode
        self._is_whole = is_whole
        self._control_ids = frozenset(control.ids.values())

    def token_ids(self, text: str) -> list[int]:
        """Return the text's tokens. Raises SpellingError where there are no ordinary ones for what is marked."""
        if AS_TEXT not in text:
            found = self._plain(text)
            if not (self._folds and self._num_control(found) > self._num_written(text)):
                return found
        if self._twin is None:
            return self._in_pieces(text)
        aliased = self._control.written.sub(lambda token: self._aliases[token[0]], text)
        ids: list[int] = self._twin.encode(unmarked(aliased), add_special_tokens=self._is_whole).ids
        return ids

    @cached_property
    def _aliases(self) -> dict[str, str]:
        """Names that nobody can know."""
        secret = secrets.token_hex(16)
        return {token: f"<{secret}-{at}>" for at, token in enumerate(self._control.ids)}

    @cached_property
    def _twin(self) -> Any:
        """The tokenizer with its control tokens under other names; None where such a one cannot be had."""
        from tokenizers import Tokenizer

        if self._backend is None:
            return None
        try:
            twin = Tokenizer.from_str(json.dumps(_renamed(json.loads(self._backend.to_str()), self._aliases)))
        except Exception:  # the library raises nothing narrower, here for parts that are Python's
            return None
        same = all(twin.token_to_id(self._aliases[token]) == number for token, number in self._control.ids.items())
        return twin if same else None

    @cached_property
    def _folds(self) -> bool:
        """Whether the tokenizer may find control tokens in texts that spell them otherwise, with letters of full
        width, say.
        """
        added = self._backend.get_added_tokens_decoder() if self._backend is not None else {}
        found = any(added[number].normalized for number in self._control_ids if number in added)
        return found and self._backend.normalizer is not None

    def _in_pieces(self, text: str) -> list[int]:
        """Break what is marked after its first letter, for tokenizers of which there is no twin."""
        first, *rest = text.split(AS_TEXT)
        pieces = [first]
        for part in rest:
            pieces[-1] += part[:1]
            pieces.append(part[1:])
        ids = [token for piece in pieces if piece for token in self._plain(piece)]
        if self._decode(ids) != unmarked(text) or self._num_control(ids) > self._num_written(text):
            at = text.find(AS_TEXT)
            raise SpellingError(
                f"somebody says {unmarked(text[max(0, at - 20) : at + 40])!r}, which has the text of a control token, "
                "and this tokenizer cannot write it as text; take it out, or use a model with a fast tokenizer "
                "(tokenizer.json)"
            )
        return ids

    def _num_control(self, token_ids: Sequence[int]) -> int:
        return sum(token in self._control_ids for token in token_ids)

    def _num_written(self, text: str) -> int:
        return sum(1 for _ in self._control.written.finditer(text))


def of_tokenizer(tokenizer: Any, control: ControlTokens, *, is_whole: bool = False) -> Encoding:
    """Return the encoding of a tokenizer of transformers'; ``is_whole`` has it add what begins and ends a text."""

    def plain(text: str) -> list[int]:
        found: list[int] = tokenizer(text, add_special_tokens=is_whole)["input_ids"]
        return found

    def decode(token_ids: Sequence[int]) -> str:
        return str(tokenizer.decode(token_ids, skip_special_tokens=False, clean_up_tokenization_spaces=False))

    backend = getattr(tokenizer, "backend_tokenizer", None)
    return Encoding(control, backend, plain, decode, is_whole=is_whole)


def _renamed(tree: dict[str, Any], names: dict[str, str]) -> dict[str, Any]:
    """Return a tokenizer's JSON with other names for some tokens, so that no text makes these but the names."""
    model = dict(tree["model"])
    vocabulary, merges = model["vocab"], model.get("merges")
    if isinstance(vocabulary, dict):
        model["vocab"] = {names.get(token, token): number for token, number in vocabulary.items()}
    else:  # of Unigram: pairs of a piece and its score
        model["vocab"] = [[names.get(piece, piece), score] for piece, score in vocabulary]
    if merges is not None:
        pairs = [pair.split(" ") if isinstance(pair, str) else pair for pair in merges]
        model["merges"] = [pair for pair in pairs if not names.keys() & {*pair, "".join(pair)}]
    if model.get("unk_token") in names:
        model["unk_token"] = names[model["unk_token"]]
    added = [{**token, "content": names.get(token["content"], token["content"])} for token in tree["added_tokens"]]
    return {**tree, "model": model, "added_tokens": added, "truncation": None, "padding": None}
