r"""Mathematics in a sentence without marks around it: `so d = 2*sqrt(5) units`, `the volume is 36π cm³`.

`runs` reads words in which `notation.plain_unicode` has written Unicode as LaTeX. Numbers alone are left to `prose`.
"""

import re
from collections.abc import Sequence
from dataclasses import dataclass

_OPERATION = r"[-+*/^=<>!_]|\\(?:le|ge|neq|times|cdot|pm|mp|in|cup|cap|approx|div)(?![A-Za-z])"
_FUNCTION = r"(?:sqrt|cbrt|abs|exp|ln|log|factorial|(?:arc)?(?:sin|cos|tan)|cot|sec|csc)(?=\s?[(^_\d]|\s[A-Za-z]\b)"
_TOKEN = re.compile(
    rf"(?P<operation>{_OPERATION})"
    r"|(?P<number>\d{1,3}(?:,\d{3})+(?!\d)(?:\.\d+)?|\d+(?:\.\d+)?|\.\d+)"
    rf"|(?P<command>(?<![A-Za-z])(?:{_FUNCTION}|(?:pi|infinity)(?![A-Za-z]))"
    r"|\\(?!text|boxed|begin|end|quad|left|right|math)[a-z]+)"
    r"|(?P<letter>(?<=\d)[A-Za-z]{1,2}(?![A-Za-z])|(?<![A-Za-z'])[A-Za-z](?![A-Za-z']))"
    r"|(?P<open>\\?\{|[(\[])|(?P<close>\\?\}|[)\]])|(?P<bar>\|)|(?P<comma>[,;:])"
)
_SPACE = re.compile(r"[ \t]*")
_IS = re.compile(r"(?:\bis|\bequals|\bbe|=)\s*\Z")
_ARTICLES = frozenset("aAI")


@dataclass(frozen=True, slots=True, kw_only=True)
class _Token:
    kind: str
    text: str
    start: int
    end: int


def runs(text: str) -> list[tuple[int, int, str]]:
    """Return start, end and content of the expressions that hold more than numbers."""
    found = []
    for run in _unbroken(text):
        tokens = _trimmed(run)
        if tokens and _is_expression(text, tokens):
            start, end = tokens[0].start, tokens[-1].end
            found.append((start, end, text[start:end]))
    return found


def _unbroken(text: str) -> list[list[_Token]]:
    """Return the longest rows of tokens that may stand next to each other."""
    found: list[list[_Token]] = []
    run: list[_Token] = []
    at, depth = 0, 0
    while at < len(text):
        space = _SPACE.match(text, at)
        at = space.end() if space else at
        match = _TOKEN.match(text, at)
        token = match and _Token(kind=match.lastgroup or "", text=match[0], start=match.start(), end=match.end())
        if token is None or (depth <= 0 and (token.kind == "comma" or not _goes_on(text, run, token))):
            found.append(run)
            is_start = token is not None and token.kind != "comma"
            run, depth = ([token] if is_start and token else []), 0
        else:
            run.append(token)
        if token is None:
            at += 1
            continue
        depth = max(0, depth + (token.kind == "open") - (token.kind == "close"))
        at = token.end
    return [one for one in (*found, run) if one]


def _goes_on(text: str, run: Sequence[_Token], token: _Token) -> bool:
    """Say whether a token belongs to what stands before it: with a space between them, only by an operation."""
    if not run:
        return True
    last = run[-1]
    if last.end == token.start or "operation" in (last.kind, token.kind):
        return True
    if last.kind == "command" or (last.kind == "number" and token.kind == "letter" and text[token.end :][:1] == "^"):
        return True
    return token.kind == "command" and last.kind in ("number", "close")


def _trimmed(run: Sequence[_Token]) -> list[_Token]:
    """Return the tokens without brackets that have no partner and operations that have no sides."""
    tokens, opened = list(run), list[int]()
    for at, token in enumerate(tokens):
        if token.kind == "open":
            opened.append(at)
        elif token.kind == "close":
            if not opened:
                tokens = tokens[:at]
                break
            opened.pop()
    tokens = tokens[opened[-1] + 1 :] if opened else tokens
    while tokens and ((tokens[-1].kind in ("operation", "comma") and tokens[-1].text != "!") or _is_loose(tokens, -1)):
        tokens.pop()
    while tokens and (
        tokens[0].kind == "comma"
        or (tokens[0].kind == "operation" and tokens[0].text not in ("-", "+", "=", r"\pm"))
        or _is_loose(tokens, 0)
    ):
        tokens.pop(0)
    return tokens


def _is_loose(tokens: Sequence[_Token], at: int) -> bool:
    """Say whether a token is an article that an operation does not bind, or a bar of a table."""
    beside = tokens[1:2] if at == 0 else tokens[-2:-1]
    if tokens[at].kind == "bar":
        return sum(token.kind == "bar" for token in tokens) % 2 == 1
    is_bound = bool(beside) and beside[0].kind in ("operation", "open")
    return tokens[at].text in _ARTICLES and not is_bound


def _is_expression(text: str, tokens: Sequence[_Token]) -> bool:
    """Say whether there is more than numbers, and more than letters."""
    kinds = {token.kind for token in tokens}
    if len(tokens) == 1 and tokens[0].text == "e":
        return _IS.search(text, 0, tokens[0].start) is not None
    has_value = bool(kinds & {"number", "command"}) or ("operation" in kinds and len(tokens) > 2)
    is_several = "comma" in kinds and tokens[0].kind == "open" and tokens[-1].kind == "close"
    is_more = any(token.kind in ("letter", "command") or token.text.startswith("\\") for token in tokens)
    return has_value and (is_more or is_several)
