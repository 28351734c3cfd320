"""What looks like a secret. A recipe is kept, shown and handed to trackers, so none may be in it; nor in a warning."""

import os
import re
from collections.abc import Iterator
from typing import Any

LEAST_LENGTH = 8
"""Shorter texts are no secrets, nor are tokens of a tokenizer, such as `<|im_end|>`."""
HIDDEN = "***"
_NAMES = re.compile(
    r"token|(?:.*[_\W])?(?:(?:api|access|private|secret|auth)[_\W]?key|secret|passw(?:or)?d|credentials?|authorization"
    r"|bearer|(?:api|access|auth|hub|hf|github|wandb|secret|session|refresh)[_\W]?token)",
    re.IGNORECASE,
)
"""Keys; `eos_token` is none of them."""
_IN_ADDRESS = re.compile(
    r"://[^/@\s:]*:[^/@\s]+@|://\S+[?&][\w-]*(?:key|token|secret|password|signature)=[^&\s]{6,}", re.IGNORECASE
)
_KNOWN = re.compile(r"\b(?:sk-[\w-]{16,}|hf_\w{20,}|gh[pousr]_\w{20,}|xox[abp]-[\w-]{10,}|AKIA[A-Z0-9]{16})")
"""Of OpenAI and its like, Hugging Face, GitHub, Slack, Amazon."""


def without_secrets(text: str) -> str:
    """Return a text with what looks like a secret in it written as `***`: by its form, in an address, or because a
    variable of this process's environment that is called like one has it."""
    for name, value in os.environ.items():
        if len(value) >= LEAST_LENGTH and _NAMES.fullmatch(name):
            text = text.replace(value, HIDDEN)
    return _KNOWN.sub(HIDDEN, _IN_ADDRESS.sub(f"://{HIDDEN}", text))


def secrets_in(tree: Any, text: str = "") -> Iterator[str]:
    """Yield where a recipe seems to hold a secret: by a key's name, in an address, or by its form, also in comments."""
    yield from _in_tree(tree, "")
    if known := _KNOWN.search(text):
        yield f"line {text.count(chr(10), 0, known.start()) + 1}"


def _in_tree(node: Any, where: str) -> Iterator[str]:
    branches = node.items() if isinstance(node, dict) else enumerate(node) if isinstance(node, list) else ()
    for key, value in branches:
        if key == "columns":  # names of the data's
            continue
        path = f"{where}.{key}".lstrip(".")
        text = str(value) if isinstance(value, str | int) else ""
        may_be = len(text) >= LEAST_LENGTH and not text.startswith("<")
        if may_be and (_NAMES.fullmatch(str(key)) or _IN_ADDRESS.search(text) or _KNOWN.search(text)):
            yield path
        yield from _in_tree(value, path)
