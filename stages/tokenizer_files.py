"""What the files of a tokenizer say of its special tokens and templates, read as transformers reads them but without
importing it, which takes seconds.

What only its code knows (a class's own defaults, files of other formats) is asked of it: `normalised`.
"""

import subprocess
import sys
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any

from stages.model_folder import ModelFolderError, read_json_object

CONFIG, TOKENIZER, MAP = "tokenizer_config.json", "tokenizer.json", "special_tokens_map.json"
TEMPLATE, TEMPLATES = "chat_template.jinja", "additional_chat_templates"
"""File of the default template, and folder of others by their names."""
OTHER_FORMATS = ("tokenizer.model*", "*.tiktoken", "tiktoken.model", "tekken.json", "spiece.model", "vocab.*", "*.bpe")
"""Files from which transformers makes a tokenizer where there is no tokenizer.json."""
GENERIC_CLASSES = ("TokenizersBackend", "PreTrainedTokenizerFast")
"""Classes that add no special tokens by themselves."""
STANDARD_NAMES = frozenset({"bos_token", "eos_token", "pad_token", "unk_token"})
"""Special tokens that other classes have by default where the files do not speak of them."""
NORMALISE = (
    "import sys; from transformers import AutoTokenizer; "
    "AutoTokenizer.from_pretrained(sys.argv[1], trust_remote_code=sys.argv[3] == 'True').save_pretrained(sys.argv[2])"
)
NORMALISE_TIMEOUT_S = 120


@dataclass(frozen=True, slots=True, kw_only=True)
class TokenizerFiles:
    """The special tokens and chat templates of a tokenizer."""

    folder: Path
    tokens: Mapping[str, str]
    """Named special tokens (`eos_token`, ...), those that are set."""
    names: frozenset[str]
    """Names of special tokens that the files speak of, also those that they say are none."""
    templates: Mapping[str, str]
    """Chat templates by name; one alone is `default`."""
    added: frozenset[str]
    """Tokens that transformers adds to the tokenizer where it does not have them."""
    is_generic: bool
    """Whether the tokenizer's class adds nothing to what the files say."""
    has_own_code: bool
    """Whether the tokenizer's class lies in the folder, as code."""

    def template_for(self, *, tools: bool) -> str:
        """Return the template that transformers takes: `tool_use` with tools where there is one, else `default`.

        Raises ModelFolderError where there is none.
        """
        name = "tool_use" if tools and "tool_use" in self.templates else "default"
        if name in self.templates:
            return self.templates[name]
        if self.templates:
            raise ModelFolderError(
                f"the tokenizer in {self.folder} has chat templates named {', '.join(sorted(self.templates))}, and "
                f"none named default, which is the one that is used; name it so, or put it into {TEMPLATE}"
            )
        raise ModelFolderError(
            f"the tokenizer in {self.folder} has no chat template, so prompts made of messages cannot be written "
            f"as text; put a {TEMPLATE} next to it"
        )


def read_tokenizer_files(folder: Path) -> TokenizerFiles:
    """Read what lies there. Raises ModelFolderError for what cannot be read, or where no tokenizer lies."""
    settings = read_json_object(folder / CONFIG) if (folder / CONFIG).is_file() else {}
    if not settings and not (folder / TOKENIZER).is_file() and not has_other_format(folder):
        names = ", ".join(sorted(path.name for path in folder.iterdir()))
        raise ModelFolderError(f"model folder {folder} has no tokenizer; it has {names}. Save one next to the weights")
    # special_tokens_map.json is of older versions: it counts where the config does not list the added tokens itself
    older = "added_tokens_decoder" not in settings and (folder / MAP).is_file()
    tokens = {**settings, **(read_json_object(folder / MAP) if older else {})}
    named = dict(_named(folder, tokens))
    return TokenizerFiles(
        folder=folder,
        tokens=named,
        names=frozenset(tokens),
        templates=_templates(folder, settings.get("chat_template")),
        added=frozenset({*named.values(), *_added(folder, tokens)}),
        is_generic=settings.get("tokenizer_class") in GENERIC_CLASSES,
        has_own_code="auto_map" in settings,
    )


def has_other_format(folder: Path) -> bool:
    """Say whether there is a tokenizer in a format that transformers has to convert."""
    return any(next(folder.glob(pattern), None) for pattern in OTHER_FORMATS)


@contextmanager
def normalised(folder: Path, *, trust_remote_code: bool) -> Iterator[Path]:
    """Yield a folder, gone afterwards, with the tokenizer as transformers saves it once it has read it.

    It does so in a process of its own. Raises ModelFolderError with what it says where it cannot.
    """
    with TemporaryDirectory(prefix="strop_tokenizer_") as plain:
        command = [sys.executable, "-P", "-c", NORMALISE, str(folder.resolve()), plain, str(trust_remote_code)]
        try:
            ended = subprocess.run(
                command, capture_output=True, text=True, timeout=NORMALISE_TIMEOUT_S, stdin=subprocess.DEVNULL
            )
        except subprocess.TimeoutExpired as error:
            raise ModelFolderError(
                f"transformers reads the tokenizer in {folder} for over {error.timeout:g} s"
            ) from error
        if ended.returncode or not (Path(plain) / TOKENIZER).is_file():
            told = ended.stderr.strip().splitlines()
            raise ModelFolderError(
                f"the tokenizer in {folder} has no {TOKENIZER} that it could be read from, and transformers cannot "
                f"make one of the other files: {told[-1] if told else 'it is no fast tokenizer'}"
            )
        yield Path(plain)


def _templates(folder: Path, in_config: Any) -> dict[str, str]:
    """Return templates by name; files, where there are any, take the place of what the config has."""
    files = {file.name.removesuffix(".jinja"): file for file in sorted((folder / TEMPLATES).glob("*.jinja"))}
    if (folder / TEMPLATE).is_file():
        files = {"default": folder / TEMPLATE, **files}
    if files:
        return {name: file.read_text(errors="replace") for name, file in files.items()}
    if isinstance(in_config, list):
        try:
            in_config = {each["name"]: each["template"] for each in in_config}
        except (TypeError, KeyError) as error:
            raise ModelFolderError(
                f"chat_template in {folder / CONFIG} is a list of other things than templates"
            ) from error
    named = in_config if isinstance(in_config, dict) else {} if in_config is None else {"default": in_config}
    if wrong := [name for name, text in named.items() if not isinstance(text, str)]:
        raise ModelFolderError(f"chat template {wrong[0]!r} in {folder / CONFIG} is {named[wrong[0]]!r}, no text")
    return named


def _added(folder: Path, settings: Mapping[str, Any]) -> Iterator[str]:
    """Yield tokens that are listed without a name."""
    decoder, older = settings.get("added_tokens_decoder"), folder / "added_tokens.json"
    lists = [settings.get("extra_special_tokens"), settings.get("additional_special_tokens")]
    listed = [each for found in lists if isinstance(found, list) for each in found]
    for token in [*(decoder.values() if isinstance(decoder, dict) else ()), *listed]:
        text = token.get("content") if isinstance(token, dict) else token
        if isinstance(text, str):
            yield text
    if not isinstance(decoder, dict) and older.is_file():
        yield from read_json_object(older)


def _named(folder: Path, settings: Mapping[str, Any]) -> Iterator[tuple[str, str]]:
    """Yield the special tokens that have a name, and their texts."""
    extra = settings.get("extra_special_tokens")
    named = {key: value for key, value in settings.items() if key.endswith("_token") and not key.startswith("add_")}
    for name, token in {**named, **(extra if isinstance(extra, dict) else {})}.items():
        text = token.get("content") if isinstance(token, dict) else token
        if isinstance(text, str):
            yield name, text
        elif token is not None and name in STANDARD_NAMES:
            raise ModelFolderError(f"{name} of the tokenizer in {folder} is {token!r}, no text")
