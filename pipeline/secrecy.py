"""What looks like a secret. A recipe is kept, shown and handed to trackers, so none may be in it; nor in a warning.

Three signs: the form of a service's keys, the place in an address or a header, and the name that a value goes by. What
is as random but no secret (hashes, commits, ids of models) has none of them.
"""

import base64
import binascii
import os
import re
from collections.abc import Iterator
from typing import Any

LEAST_LENGTH = 8
"""Shorter texts are no secrets, nor are tokens of a tokenizer, such as `<|im_end|>`."""
HIDDEN = "***"
_FORMS = (
    r"sk-ant-[\w-]{16,}|sk-(?=[\w-]{0,200}\d)[\w-]{16,}",  # Anthropic; OpenAI and its like
    r"hf_[A-Za-z0-9]{20,}|api_org_[A-Za-z0-9]{20,}",  # Hugging Face
    r"gh[pousr]_[A-Za-z0-9]{20,}|github_pat_\w{22,}",  # GitHub
    r"gl(?:pat|dt|rt|cbt|ptt|ft|oas|agent|soat|ffct)-[\w-]{20,}",  # GitLab
    r"(?:AKIA|ASIA|ABIA|ACCA)[A-Z0-9]{16}",  # Amazon
    r"AIza[\w-]{35}|ya29\.[\w-]{20,}|GOCSPX-[\w-]{20,}",  # Google
    r"(?:AccountKey|SharedAccessKey|SharedAccessSignature)=[\w%+/=-]{16,}",  # Azure
    r"xox[abeoprs]-[\w-]{10,}|xapp-\d-[\w-]{10,}|hooks\.slack\.com/services/\w+/\w+/\w+",  # Slack
    r"(?:sk|rk)_(?:live|test)_\w{16,}|whsec_[\w+/=]{16,}",  # Stripe
    r"wandb_v\d_\w{20,}|(?i:wandb)[\w ]{0,20}[:=] ?[\"']?[0-9a-f]{40}",  # Weights & Biases
    r"eyJ[\w-]{8,}\.[\w-]{4,}(?:\.[\w-]*){1,3}",  # JSON web tokens
    r"npm_[A-Za-z0-9]{36}|pypi-[\w-]{50,}|dckr_pat_[\w-]{20,}|SG\.[\w-]{16,}\.[\w-]{16,}|key-[0-9a-f]{32}",
    r"dapi[0-9a-f]{32}|r8_[A-Za-z0-9]{30,}|gsk_[A-Za-z0-9]{30,}|xai-[A-Za-z0-9]{40,}|pplx-[A-Za-z0-9]{30,}",
    r"nvapi-[\w-]{40,}|tskey-[\w-]{20,}|hv[sbr]\.[\w-]{24,}|dop_v1_[0-9a-f]{64}|shp(?:at|ca|pa|ss)_[0-9a-fA-F]{32}",
    r"(?:discord|discordapp)\.com/api/webhooks/\d+/[\w-]{20,}|\d{8,10}:AA[\w-]{30,}|AGE-SECRET-KEY-1[A-Z0-9]{20,}",
)
_KNOWN = re.compile(rf"(?<![\w-])(?:{'|'.join(_FORMS)})|-----BEGIN (?:[A-Z0-9]+ ){{0,3}}PRIVATE KEY[A-Z ]{{0,8}}-----")
"""The forms of keys."""
_WORD = (
    r"(?:api|access|private|secret|auth|signing|encryption|account|master|service|deploy|license)[_\W]?keys?|apikeys?"
    r"|secrets?|passw(?:or)?ds?|passphrases?|pwd|credentials?|authori[sz]ation|bearer|cookies?"
    r"|(?:api|access|auth|hub|hf|github|gitlab|wandb|secret|session|refresh|id|bot|personal|private|sas|security|csrf"
    r"|oauth|jwt|deploy|registry|bearer)[_\W]?tokens?|jwt|client[_\W]?secret|connection[_\W]?string|sas"
)
_NAMES = re.compile(rf"tokens?|(?:.*[_\W])?(?:{_WORD})(?:[_\W](?:id|value|text|string|\d+))?", re.IGNORECASE)
"""Keys; `eos_token` is none of them, nor `max_tokens`."""
_HUMP = re.compile(r"(?<=[a-z0-9])(?=[A-Z])")
_OPEN = re.compile(r"\$|<|\{|\*|%\(|x{4,}\Z|\.\.\.|[A-Z][A-Z0-9]*(?:_[A-Z0-9]+)+\Z")
"""How what stands for a secret begins: a variable of the environment, or a place to fill in."""
_USER = re.compile(r"(://[^/@\s:?#]{0,100}):([^/@\s]{1,300})@")
_PARAMETER = re.compile(
    r"([?&;](?:[\w.-]{0,60}[_.-])?(?:(?:api|access|account)?key|token|secret|password|passwd|pwd|signature|sig|auth"
    r"|sas|credential|jwt))=([^&\s\"'#]{6,})",
    re.IGNORECASE,
)
_ASSIGNED = re.compile(
    r"\b((?:password|passwd|pwd)|[A-Z][A-Z0-9_]{0,60}_(?:KEY|TOKEN|SECRET|PASSWORD|CREDENTIALS?)) ?= ?"
    r"[\"']?([^\s\"';&]{4,})"
)
"""In a connection string, or as a shell is told a variable; not names such as `EOS_TOKEN`."""
_HEADER = re.compile(r"\b(basic|bearer) {1,4}([\w.~+/=-]{8,})", re.IGNORECASE)
_PLACES = (_USER, _PARAMETER, _ASSIGNED, _HEADER)
"""Each finds a name and a value."""
_OF_TOKENIZERS = re.compile(
    r"(?:BOS|EOS|PAD|UNK|SEP|CLS|MASK|IMAGE|SPECIAL|STOP|START|END|\w*_?(?:NUM|MAX|MIN))_TOKENS?\Z"
)


def without_secrets(text: str) -> str:
    """Return a text with what looks like a secret in it written as `***`: by its form, in an address, or because a
    variable of this process's environment that is called like one has it."""
    for name, value in os.environ.items():
        if len(value) >= LEAST_LENGTH and _is_name(name):
            text = text.replace(value, HIDDEN)
    text = _KNOWN.sub(HIDDEN, text)
    for form in _PLACES:
        text = form.sub(lambda found: found[0].replace(found[2], HIDDEN) if _is_meant(found) else found[0], text)
    return text


def secrets_in(tree: Any, text: str = "") -> Iterator[str]:
    """Yield where a recipe seems to hold a secret: by a key's name, in an address, or by its form, also in comments."""
    yield from _in_tree(tree, "")
    for number, line in enumerate(text.splitlines(), start=1):
        if _holds_secret(line):
            yield f"line {number}"


def _in_tree(node: Any, where: str, *, is_named: bool = False) -> Iterator[str]:
    """``is_named``: what is below goes by a name such as `api_keys`."""
    branches = node.items() if isinstance(node, dict) else enumerate(node) if isinstance(node, list) else ()
    named_inside = isinstance(node, dict) and any(_is_name(str(node.get(key, ""))) for key in ("name", "key", "header"))
    for key, value in branches:
        if key == "columns":  # names of the data's
            continue
        path = f"{where}.{key}".lstrip(".")
        suspect = is_named or _is_name(str(key)) or (named_inside and key == "value")
        text = str(value) if isinstance(value, str | int) and not isinstance(value, bool) else ""
        if _holds_secret(text) or _holds_secret(str(key)) or (suspect and _is_value(text)):
            yield path
        yield from _in_tree(value, path, is_named=suspect)


def _is_name(name: str) -> bool:
    """Say whether a secret goes by this name, however its words are joined."""
    return len(name) <= 200 and _NAMES.fullmatch(_HUMP.sub("_", name)) is not None


def _is_value(text: str) -> bool:
    return len(text) >= LEAST_LENGTH and not _OPEN.match(text)


def _holds_secret(text: str) -> bool:
    """Say whether a text holds a secret by its form, or by where it stands."""
    in_place = (_is_meant(found) for form in _PLACES for found in form.finditer(text))
    return _KNOWN.search(text) is not None or any(in_place)


def _is_meant(found: "re.Match[str]") -> bool:
    """Say whether what stands where a secret may stand is one, and no word of a sentence and no place to fill in."""
    name, value = found[1].lower(), found[2]
    if _OPEN.match(value) or _OF_TOKENIZERS.match(found[1]):
        return False
    if name == "basic":
        return _is_user_and_password(value)
    if name == "bearer":
        return len(value) >= 16 and any(each.isdigit() for each in value)
    return True


def _is_user_and_password(text: str) -> bool:
    """Say whether a text is what a header of basic authorization holds."""
    try:
        decoded = base64.b64decode(text + "=" * (-len(text) % 4), validate=True)
    except (binascii.Error, ValueError):
        return False
    return b":" in decoded and decoded.isascii() and decoded.decode().isprintable()
