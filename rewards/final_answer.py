r"""What the final answer of a text is: the one place that decides it, for every reward that reads an answer.

It is looked for in what is said after the thoughts (`rewards.thinking`); there in the last `<answer>...</answer>`, if
there is one; and there it is what the last box holds, or else what the text announces (`The answer is ...`, GSM8K's
`#### ...`), or else what it ends with in bold, or else all of it.
"""

import re
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any, Literal

from rewards.thinking import said

How = Literal["box", "announced", "emphasis", "element", "all"]

_BOX = re.compile(r"\\(?:boxed|fbox|framebox)\s*(?=\{)|\\boxed\s+(?=[\w.-])")
_BARE = re.compile(r"[\w.-]+")
_BOX_GOES_ON = re.compile(
    r"[\s$]*(?:\\\)\s*)?(\\?%|(?:per ?cent|percentage|pct|thousand|million|billion|trillion|dozen)\b)"
)
"""What belongs to a number in a box though it stands behind it."""
_BOX_END = re.compile(r"(?:\s|\$|\\[)\]]|[.*。]|\\end\{\w+\*?\}|</answer>)*")
_STYLE = re.compile(r"\\(?:text\w*|math(?:rm|bf|it|sf|tt|bb)|mbox|hbox|operatorname|bm|boldsymbol)\s*\{([^{}]*)\}")
_SPACING = re.compile(r"\\(?:quad|qquad|[,;:! ]|displaystyle\b)|\\[()\[\]]|[$&~*]|\\\\")
_DENIAL = r"(?!(?:is|was|no|not|but|wait|wrong|then|so|oops|actually|correction|rather)\b)"
_JOINT = re.compile(
    rf"\s*(?:{_DENIAL}[a-z]+\s+){{0,2}}(?:for part \(\w\)\s+)?"  # a box's unit
    r"(?:[,;]\s*(?:and|or)?|and|or|\\(?:lor|vee|land|wedge))\s*"
    rf"(?:{_DENIAL}\\?[a-z]\w*(?:_\{{?\w+\}}?)?(?:\(\w\))?\s*(?:=|is|:)\s*)?",  # the next one's name
    re.IGNORECASE,
)
"""What may stand between boxes that are one answer of several parts."""
_NAME = re.compile(r"(?<![\w\\])([A-Za-z]\w*(?:_\{?\w+\}?)?)\s*=\s*$")
_FOREIGN = (
    r"答案|答え|정답|\b\u043e\u0442\u0432\u0435\u0442\b|\bréponse\b|\brespuesta\b|\bresposta\b|\bantwort\b|\brisposta\b"
)
_IS = r"(?:[是为為は은\uff1a]|\b(?:est|es|é|ist|è)\b|\b(?:is|are|would be|must be|should be|equals)\b|:|=)"
_ANNOUNCED = re.compile(
    rf"(?i)(?:\banswers?\b|{_FOREIGN})[*_`\s]*(?:\((?:s|\w)\)\s*)?(?:\b(?:to|of|for|in|here)\b[^.:\n]{{0,80}}?)?"
    rf"{_IS}[*_`]*(?:[ \t]*[:\uff1a][*_`]*)?(?:[ \t]*(?:therefore|thus|then|simply|just|indeed)\b,?)?"
)
_TOLD_IN_LATEX = re.compile(r"\\text\w*\{([^{}]*\banswer\b[^{}]*)\}", re.IGNORECASE)
_HEADING = re.compile(r"(?im)^[ \t#*_]*(?:the )?(?:final |correct )?answer[\s*_:]*$")
_GSM8K = re.compile(r"(?m)^[ \t]*####\s*([-+\u2212$€£]*\s*\.?\d[\d,./ %]*?)\s*$")
_BLOCK = re.compile(r"\s*(\\\[.+?\\\]|\$\$.+?\$\$)", re.DOTALL)
_SENTENCE = re.compile(r"(?:\w{3,}|[\d)\]}$*%°])[.!?]\**(?=\s+[A-Z\[(*])|。(?=.)")
_BOLD_END = re.compile(r"(?<![*\w])(\*{1,3}|__|`)(?!\s)([^*_`\n]+)\1[.!]?\s*\Z")
_BOLD_NUMBER_END = re.compile(r"(?<![*\w])(\*\*|__)([^A-Za-z*_\n]*\d)\1(\s+[a-z]+){1,2}[.!]?\s*\Z")
"""Its unit need not be bold, too."""
_ORNAMENTS = " \n\u220e\ufe0f\u200d" + "".join(
    map(chr, (*range(0x25A0, 0x27C0), *range(0x2B00, 0x2C00), *range(0x1F000, 0x1FB00)))
)
"""Emoji, check marks, the end of a proof."""
MOST_LAYERS = 20
"""Of styling around an answer; whoever writes more writes no answer, and each costs a look at the whole text."""
_QUOTED = re.compile(r"(?m)^[ \t]*>\s+")
_WRAPPED = re.compile(r"(\*\*\*|\*\*|\*|__|_|`+)\s*(.*?)\s*\1", re.DOTALL)


@dataclass(frozen=True, slots=True, kw_only=True)
class FinalAnswer:
    """What a text answers."""

    parts: tuple[str, ...]
    r"""As they stand in the text; several where boxes are joined, none where the answer is left open: `\boxed{5`."""
    how: How
    """By what it was found; of ``all`` the answer may be anywhere in it."""

    @property
    def text(self) -> str:
        """The parts in one line, without LaTeX's and Markdown's styling: for those who compare text."""
        return plain(", ".join(self.parts))


def final_answer(text: str, opening: str = "") -> FinalAnswer:
    """Return the final answer of a text; ``opening`` is what the prompt has begun of it."""
    part, is_element = _narrowed(said(text, opening))
    boxes = _last_boxes(part)
    if boxes is not None:
        return FinalAnswer(parts=tuple(boxes), how="box")
    announced = _announced(part)
    if announced:
        return FinalAnswer(parts=(announced,), how="announced")
    end = part.rstrip(_ORNAMENTS)
    bold = None if is_element else _BOLD_END.search(end) or _BOLD_NUMBER_END.search(end)
    if bold:
        return FinalAnswer(parts=(unwrapped(bold[0].replace(bold[1], "")),), how="emphasis")
    bare = unwrapped(_QUOTED.sub("", part))
    return FinalAnswer(parts=(bare,) if bare else (), how="element" if is_element else "all")


def answer_part(text: str, opening: str = "") -> str:
    """Return where the answer stands: after the thoughts, in the last `<answer>` if there is one."""
    return _narrowed(said(text, opening))[0]


def ends_in_box(text: str, opening: str = "") -> bool:
    """Say whether what is said ends in a box that holds something; marks of mathematics and a full stop may follow."""
    part = said(text, opening)
    commands = list(_BOX.finditer(part))
    if not commands:
        return False
    end, content = _box(part, commands[-1])
    return end is not None and bool(content) and _BOX_END.fullmatch(part, end) is not None


def last_turns(completions: Sequence[Any], openings: Sequence[str] | None) -> list[tuple[str, str]]:
    """Return each completion's last text, and what the prompt has begun of it, as rewards are given them."""
    texts = [turns[-1]["content"] or "" for turns in completions]
    return list(zip(texts, openings or [""] * len(texts), strict=True))


def plain(text: str) -> str:
    r"""Return a text without styling: `\text{Paris}`, `**Paris**` and `Paris.` are Paris."""
    for _ in range(MOST_LAYERS):
        if (bare := _STYLE.sub(r"\1", text)) == text:
            break
        text = bare
    text = " ".join(text.split())
    for left, right in (("$$", "$$"), ("$", "$"), (r"\(", r"\)"), (r"\[", r"\]")):
        text = unwrapped(text)
        inner = text[len(left) : -len(right)]
        if text.startswith(left) and text.endswith(right) and inner and "$" not in inner:
            text = inner
    return unwrapped(text)


def unwrapped(text: str) -> str:
    """Return a text without the Markdown around it and the full stop behind it, which are no part of an answer."""
    text = text.strip()
    for _ in range(MOST_LAYERS):
        bare = text.rstrip(_ORNAMENTS) or text
        bare = bare[:-1].rstrip() if bare.endswith((".", "。")) and not bare.endswith("..") else bare
        wrapped = _WRAPPED.fullmatch(bare)
        bare = wrapped[2] if wrapped else bare.strip("*`").strip()
        if bare == text:
            break
        text = bare
    return text


def _narrowed(text: str) -> tuple[str, bool]:
    """Return what the last `<answer>` holds, and whether there is one; one that is never closed holds nothing."""
    start = text.rfind("<answer>")
    if start < 0:
        return text.removesuffix("</answer>") if text.rstrip().endswith("</answer>") else text, False
    end = text.find("</answer>", start)
    return text[start + len("<answer>") : end] if end >= 0 else "", True


def _last_boxes(text: str) -> list[str] | None:
    """Return what the last box holds, after what the boxes joined to it hold; empty where it is never closed.

    None where there is no box.
    """
    found = list(_BOX.finditer(text))
    if not found:
        return None
    boxes: list[str] = []
    names: list[str] = []
    next_start: int | None = None
    for command in reversed(found):
        start, (end, content) = command.start(), _box(text, command)
        if end is None or (next_start is not None and (end > next_start or not _is_joint(text[end:next_start]))):
            break
        goes_on = _BOX_GOES_ON.match(text, end) if content[-1:].isdigit() else None
        name = _NAME.search(text, max(0, start - 20), start)
        boxes.insert(0, f"{content} {goes_on[1]}" if goes_on else content)
        names.insert(0, name[1] if name else "")
        next_start = start
    if len(boxes) > 1 and all(names):
        return [f"{name} = {content}" for name, content in zip(names, boxes, strict=True)]
    return boxes


def _box(text: str, command: re.Match[str]) -> tuple[int | None, str]:
    """Return where a box ends (None: never), and what it holds."""
    at = command.end()
    if text[at] != "{":
        bare = _BARE.match(text, at)
        assert bare is not None
        return bare.end(), bare[0].rstrip(".")
    depth, end = 0, at
    while end < len(text):
        depth += {"{": 1, "}": -1}.get(text[end], 0)
        if depth == 0:
            return end + 1, text[at + 1 : end].strip()
        end += 2 if text[end] == "\\" else 1
    return None, ""


def _is_joint(between: str) -> bool:
    """Say whether the text between two boxes joins them: nothing at all, a comma, *and*, *or*."""
    if len(between) > 200:
        return False
    if not between:
        return True
    bare = _SPACING.sub(" ", _STYLE.sub(r" \1 ", between))
    return _JOINT.fullmatch(f" {' '.join(bare.split())} ") is not None


def _announced(text: str) -> str:
    """Return what the text last announces as its answer, up to the sentence's end; empty where it announces nothing."""
    text = _TOLD_IN_LATEX.sub(r"\1", text)
    found = [match.end() for pattern in (_ANNOUNCED, _HEADING) for match in pattern.finditer(text)]
    gsm8k = list(_GSM8K.finditer(text))
    if gsm8k and gsm8k[-1].start() >= max(found, default=0):
        return gsm8k[-1][1]
    if not found:
        return ""
    told = text[max(found) :]
    block = _BLOCK.match(told)
    if block:
        return block[1]
    lines = told.lstrip().splitlines()
    line = lines[0] if lines else ""
    end = _SENTENCE.search(line)
    return unwrapped(line[: end.end()] if end else line)
