"""A model folder's tokenizer and chat template, read without transformers: what `check` can know within a second.

Training and generation use transformers' own tokenizer; all render the template by `rewards.bounded_template`.
"""

from collections.abc import Iterable, Mapping, Sequence
from functools import cached_property
from pathlib import Path
from typing import Any

from rewards.chat_template import RunawayTemplateError
from rewards.control_tokens import ControlTokens
from rewards.encoding import Encoding
from rewards.types import Message
from stages.model_folder import ModelFolderError, generation_eos_ids
from stages.tokenizer_files import STANDARD_NAMES, TOKENIZER, TokenizerFiles, normalised, read_tokenizer_files


class ChatFormat:
    """How a model's conversations become tokens.

    Raises ModelFolderError where the folder has no tokenizer, no chat template or no end-of-sequence token, or one
    that cannot be read; RunawayTemplateError where the template takes more than any conversation needs.
    """

    def __init__(self, folder: Path, *, trust_remote_code: bool = False) -> None:
        """Read the files; where they do not say all, have transformers read them, which takes some seconds."""
        self._folder = folder
        self._files = read_tokenizer_files(folder)
        self._tokenizer: Any = _tokenizer(folder) if self._is_plain(self._files) else None
        if self._tokenizer is None or any(self._tokenizer.token_to_id(each) is None for each in self._files.added):
            with normalised(folder, trust_remote_code=trust_remote_code) as plain:
                self._files = read_tokenizer_files(plain)
                self._tokenizer = _tokenizer(plain)

    def render(
        self,
        messages: Sequence[Message],
        *,
        add_generation_prompt: bool,
        tools: Sequence[Mapping[str, Any]] | None = None,
        **settings: Any,
    ) -> str:
        """Return the conversation as the template writes it; ``tools`` are schemas that it may show."""
        from jinja2 import TemplateError, TemplateSyntaxError

        from rewards.bounded_template import Refusal, render

        given = {
            "messages": messages,
            "tools": tools,
            "documents": None,
            "add_generation_prompt": add_generation_prompt,
        }
        text, where = self._files.template_for(tools=tools is not None), f"the chat template in {self._folder}"
        try:
            return render(text, str(self._folder), {**self._files.tokens, **settings, **given})
        except RunawayTemplateError:
            raise
        except Refusal as error:
            raise ModelFolderError(f"the chat template refuses the conversation: {error}") from error
        except (TemplateSyntaxError, SyntaxError) as error:
            raise ModelFolderError(f"{where} cannot be read: {error}") from error
        except (
            TemplateError,
            ArithmeticError,
            TypeError,
            ValueError,
            AttributeError,
            LookupError,
            RecursionError,
        ) as error:
            raise ModelFolderError(f"{where} cannot be rendered: {type(error).__name__}: {error}") from error

    def decode(self, token_ids: Sequence[int]) -> str:
        """Return the tokens' text, special ones included."""
        return str(self._tokenizer.decode(token_ids, skip_special_tokens=False))

    @cached_property
    def eos_token(self) -> str:
        """The tokenizer's own token that ends a turn."""
        token = self._files.tokens.get("eos_token")
        if not token:
            raise ModelFolderError(f"the tokenizer in {self._folder} names no eos_token; generation would never end")
        if self._tokenizer.token_to_id(token) is None:
            raise ModelFolderError(f"the tokenizer in {self._folder} has no token {token!r}, which it names its EOS")
        return token

    @cached_property
    def eos_ids(self) -> tuple[int, ...]:
        """All tokens that end a turn: the tokenizer's, and those of the model's generation config."""
        return tuple(sorted({*generation_eos_ids(self._folder), self._tokenizer.token_to_id(self.eos_token)}))

    @cached_property
    def control(self) -> ControlTokens:
        """Tokens that only the template may write."""
        templates = "\n".join(self._files.templates.values())
        return ControlTokens(self._tokenizer.get_added_tokens_decoder(), templates, self._files.tokens.values())

    def token_ids(self, text: str) -> list[int]:
        """Return the tokens of a rendered text; what is marked as text in it becomes no control token."""
        return self._encoding.token_ids(text)

    @cached_property
    def _encoding(self) -> Encoding:
        def plain(text: str) -> list[int]:
            ids: list[int] = self._tokenizer.encode(text, add_special_tokens=False).ids
            return ids

        return Encoding(self.control, self._tokenizer, plain, self.decode)

    def tokens_from(self, num: int) -> dict[str, int]:
        """Return the tokens whose ids are ``num`` or more."""
        added = self._tokenizer.get_added_tokens_decoder()
        if self._tokenizer.get_vocab_size(with_added_tokens=False) <= num and max(added, default=-1) < num:
            return {}
        return {token: number for token, number in self._tokenizer.get_vocab().items() if number >= num}

    def ordinary(self, tokens: Iterable[str]) -> list[str]:
        """Return those of the tokens that are pieces of any text, and were not added by name."""
        added = {token.content for token in self._tokenizer.get_added_tokens_decoder().values()}
        return [token for token in tokens if token not in added]

    @property
    def num_tokens(self) -> int:
        """How many tokens there are, added ones too."""
        return int(self._tokenizer.get_vocab_size())

    @property
    def named_tokens(self) -> Mapping[str, str]:
        """The special tokens that have names, `eos_token` and others."""
        return self._files.tokens

    def _is_plain(self, files: TokenizerFiles) -> bool:
        """Say whether the files tell all: a tokenizer, its EOS, and what a class of its own would have by default."""
        has_files = (self._folder / TOKENIZER).is_file() and "eos_token" in files.tokens
        return has_files and not files.has_own_code and (files.is_generic or files.names >= STANDARD_NAMES)


def _tokenizer(folder: Path) -> Any:
    from tokenizers import Tokenizer

    file = folder / TOKENIZER
    try:
        return Tokenizer.from_file(str(file))
    except Exception as error:  # the library raises nothing narrower
        raise ModelFolderError(f"{file} is not a tokenizer: {error}") from error
