"""Which part of a text is thought and which is said: by the tags that models put around their thoughts.

The data stage asks what a chat template has opened (`begun`, `opened_last`), decoders which special tokens must stay in
the text (`is_mark`), and `rewards.final_answer` what follows the thoughts (`said`).
"""

import re

_NAMES = r"(?:(?:\w+[:|])?think\w*|thoughts?|reason(?:ing)?|analysis|scratchpad)"
_OPENED = re.compile(
    rf"<{_NAMES}>|\[THINK\]|◁think▷|<\|begin_of_thought\|>|<\|START_THINKING\|>|<\|open\|>think<\|sep\|>|<\|channel>thought\b"
    r"|<\|channel\|>\s*(?:analysis|commentary)[^<]*<\|message\|>",
    re.IGNORECASE,
)
_CLOSED = re.compile(
    rf"</{_NAMES}>|\[/THINK\]|◁/think▷|<\|end_of_thought\|>|<\|END_THINKING\|>|<\|close\|>think<\|sep\|>|<channel\|>"
    r"|<\|channel\|>\s*final[^<]*(?:<\|constrain\|>[^<]*)?<\|message\|>|assistantfinal(?=\S)",
    re.IGNORECASE,
)
_MARK = re.compile(
    rf"</?{_NAMES}>|\[/?THINK\]|◁/?think▷|<\|(?:begin|end)_of_thought\|>|<\|(?:START|END)_THINKING\|>"
    r"|<\|(?:open|close|sep|channel|message)\|>|<\|channel>|<channel\|>",
    re.IGNORECASE,
)
_ANSWER = re.compile(r"<(?:answer|solution|response|result|output)>", re.IGNORECASE)
_TOKEN = re.compile(r"<\|\w+\|>")


def said(text: str, opening: str = "") -> str:
    """Return what follows the last thinking part that is closed, up to one that is not.

    ``opening`` is the text with which the prompt has begun the answer: a tag that it opens counts like one of the
    text's own. A closing tag without an opening one ends a thinking part too, since many templates open it.
    """
    whole = opening + text
    closed = [found.end() for found in _CLOSED.finditer(whole)]
    rest = whole[closed[-1] :].lstrip("\n") if closed else whole
    reopened = _OPENED.search(rest)
    return _without_last_tokens(rest[: reopened.start()] if reopened else rest)


def _without_last_tokens(text: str) -> str:
    """Return a text without the special tokens with which it ends, looked for from the last one on, each once."""
    end, kept = len(text.rstrip()), len(text)
    while (start := text.rfind("<|", 0, end)) >= 0 and _TOKEN.fullmatch(text, start, end):
        end = start
        while end and text[end - 1].isspace():
            end -= 1
        kept = end
    return text[:kept]


def is_mark(token: str) -> bool:
    """Say whether a tokenizer's special token is, or is part of, the mark of a thinking part."""
    return _MARK.fullmatch(token) is not None


def begun(rendered: str) -> str:
    """Return what a template has begun of the answer: all from the first tag on in the turn that it opened, or nothing.

    ``rendered`` is what it wrote to open the assistant's turn, role and all.
    """
    found = [match.start() for pattern in (_OPENED, _ANSWER) if (match := pattern.search(rendered))]
    return rendered[min(found) :] if found else ""


def opened_last(rendered: str) -> re.Match[str] | None:
    """Return the tag of a thinking part with which a text ends, white space aside."""
    return next((tag for tag in _OPENED.finditer(rendered) if not rendered[tag.end() :].strip()), None)


def closing(tag: str) -> str:
    """Return the tag that closes what this one opens; of OpenAI's channels, which close by opening another, raise
    ValueError.
    """
    if "channel|>" in tag:
        raise ValueError(f"{tag} is closed by another channel")
    if tag.startswith("<|channel>"):
        return "<channel|>"
    for opens, closes in (("START_", "END_"), ("begin_of", "end_of"), ("<|open|>", "<|close|>")):
        if opens in tag:
            return tag.replace(opens, closes)
    return f"{tag[0]}/{tag[1:]}"
