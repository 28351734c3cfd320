r"""The last expression of a text in words: between dollars, or a number in a sentence."""

import re

from rewards.mathematics.notation import plain_unicode
from rewards.mathematics.reading import read
from rewards.mathematics.runs import runs
from rewards.mathematics.units import MULTIPLIERS, quantity
from rewards.mathematics.values import Number

LONGEST = 400
"""Characters of an answer that stands alone; of a longer text the last expression is read."""

LONGEST_READ = 4000
"""Characters at a text's end among which its last expression is looked for."""
_SPAN = re.compile(
    r"\$\$(.+?)\$\$|\\\[(.+?)\\\]|\\\((.+?)\\\)|(?<![\\\w])\$([^$\n]*(?:\\\$[^$\n]*)*)(?<!\\)\$(?!\d)"
    r"|\\begin\{(align\*?|equation\*?|gather\*?)\}(.+?)\\end\{\5\}",
    re.DOTALL,
)
_SENTENCE = re.compile(
    r"(?<!\\)(?<![A-Za-z])[a-z]{2,}\s+[a-z]{2,}(?![a-z}])|(?<![A-Za-z\\{])(?:each|and|for|per|the)\b"
)
_WHOLE = r"(?:\d{1,3}(?:,\d{3})+(?!\d)|\d+(?:,\d{2}(?!\d))?)"
_NUMBER = rf"(?:{_WHOLE}(?:\.\d+)?(?:[eE][+-]?\d+)?(?:\s?[½⅓⅔¼¾]|\s\d+/\d+(?!\d))?|\.\d+|[½⅓⅔¼¾])"
_SIGN = r"[-+\u2212]"
_LONG_DASH = re.compile(r"\u2014|\s\u2013\s")
_SYLLABLES = re.compile(r"[\u3040-\u30ff\u3400-\u9fff\uac00-\ud7af]+")
"""Words of languages that put no space between a number and a word."""
_AFTER = rf"\s*(?:\\?%|(?:{'|'.join(name for name in MULTIPLIERS if name != '%')})\b)"
_RUN = re.compile(
    rf"(?<![A-Za-z0-9_.,^\\{{])(?:{_SIGN}\s?)?[$€£]?{_NUMBER}"
    rf"(?:(?::|\s*(?:[*/^\u00d7÷·]|\*\*|{_SIGN})\s*){_SIGN}?[$€£]?{_NUMBER})*"
    rf"(?:{_AFTER}|[A-Za-z]+\b|°|\s?\^\\circ|\s(?:degrees?|rad|radians?)\b)?"
)
_BOLD = re.compile(r"\*{2,3}\Z")
_JOINT = re.compile(r"\s*,?\s*(?:(?P<word>and|or|to|和|与|或|и|или|und|oder)|[,;])\s*")
_CLAUSE = re.compile(
    r"(?:\s*,?\s+(?:because|since|which|where|as)\s|;\s+(?=[^;]*(?<![\\A-Za-z])[a-z]{3,}\s)).*\Z",
    re.DOTALL | re.IGNORECASE,
)
_LATEX = re.compile(
    r"-?\s?\d*(?:\\[dt]?frac\{[^{}]*\}\{[^{}]*\}|\\sqrt(?:\[\d+\])?\{[^{}]*\})(?:\s*\\pi\b)?"
    rf"|[(\[]\s*{_SIGN}?{_NUMBER}(?:\s*,\s*{_SIGN}?{_NUMBER})+\s*[)\]]"
)
"""LaTeX without marks around it, and tuples."""
_WORD = re.compile(
    r"(?<![\\A-Za-z{])(?!(?:and|or|sin|cos|tan|log|ln|exp|pi|sqrt)\b)[A-Za-z]{2,}(?![A-Za-z}])|%|[^\x00-\x7f\W\d_]"
)
_HEDGE = re.compile(
    r"\b(?:or|either|between|not|neither|maybe|perhaps|possibly|least|most|than|except|unless)\b", re.IGNORECASE
)


def mathematics_in(text: str, *, is_told: bool) -> list[str]:
    """Return what a text gives as its answer: itself, where it is an answer alone, or its last expression.

    ``is_told`` says that the text is known to be the answer; then it means nothing else where it hedges: `not 5`.
    """
    text = _in_latin(text)
    text = without_clause(text) if is_told else text
    is_short = len(text) <= LONGEST and (is_told or "\n" not in text.strip())
    if is_short and (isinstance(read(text), Number) or (is_told and is_hedged(text))):
        return [text]
    is_alone = is_short and not _spans(text) and not has_words(text)
    found = [] if is_alone else last_expression(text)
    return found or [text]


def _in_latin(text: str) -> str:
    """Return a text with Unicode's mathematics as LaTeX, no dashes that could be signs, and spaces around words."""
    if text.isascii():
        return text
    return _SYLLABLES.sub(r" \g<0> ", plain_unicode(_LONG_DASH.sub(" , ", text)))


def last_expression(text: str) -> list[str]:
    """Return the text's last expression, or the last ones where *and* or *or* joins them; none where there is none."""
    text = text[-LONGEST_READ:]
    spans = _spans(text)
    found = sorted([*spans, *_in_words(without_spans(text))], key=lambda one: one[1])
    if not found:
        return []
    next_start, _, last = found.pop()
    parts, is_list = [last], any(start == next_start for start, _, _ in spans)
    while found:
        start, end, content = found.pop()
        joint = _JOINT.fullmatch(text, end, next_start)
        are_equations = "=" in content and "=" in last
        if joint is None or not (joint["word"] or is_list or are_equations):  # numbers with a comma alone are no list
            break
        parts.insert(0, content)
        next_start, is_list = start, True
    return parts


def without_clause(text: str) -> str:
    """Return a text up to where it begins to give reasons."""
    return _CLAUSE.sub("", text)


def has_words(text: str) -> bool:
    """Say whether there are words beside the mathematics."""
    return _WORD.search(without_spans(text)) is not None


def without_spans(text: str) -> str:
    """Return what stands outside of the marks of mathematics."""
    blank = list(text)
    for start, end, _ in _spans(text):
        blank[start:end] = " " * (end - start)
    return "".join(blank)


def is_hedged(text: str) -> bool:
    """Say whether a text leaves open which of its numbers it means."""
    return _HEDGE.search(text) is not None


def _spans(text: str) -> list[tuple[int, int, str]]:
    """Return start, end and content of what stands between marks of mathematics; dollars may be money."""
    found, at = [], 0
    while match := _SPAN.search(text, at):
        content = next(filter(None, (match[group] for group in (1, 2, 3, 4, 6))), "").strip()
        if not content or (match[4] and _SENTENCE.search(re.sub(r"\\text\w*\{[^{}]*\}", "", content))):
            at = match.start() + 1
            continue
        goes_on = re.compile(_AFTER).match(text, match.end())
        last = re.split(r"\\\\(?!\w)", content)[-1].replace("&", " ").strip() if match[5] else content
        end = goes_on.end() if goes_on else match.end()
        found.append((match.start(), end, f"{last} {goes_on[0].strip()}" if goes_on else last))
        at = match.end()
    return found


def _in_words(text: str) -> list[tuple[int, int, str]]:
    """Return expressions, numbers and sums of numbers; of what lies in one another, the larger."""
    found = [one for one in runs(text) if "\\" in one[2] or not isinstance(read(one[2]), Number)]
    taken = [(start, end) for start, end, _ in found]
    for one in _LATEX.finditer(text):
        if not _is_in_braces(text, one.start()) and not any(start <= one.start() < end for start, end in taken):
            found.append((one.start(), one.end(), one[0]))
            taken.append((one.start(), one.end()))
    for run in _RUN.finditer(text):
        is_taken = any(start <= run.start() < end for start, end in taken)
        follows = _BOLD.sub("", text[: run.start()].rstrip(" $"))[-1:]
        content = run[0] if quantity(run[0]) is not None or not run[0][-1].isalpha() else ""
        if not is_taken and content and follows not in tuple("+*/^"):
            found.append((run.start(), run.end(), content))
    return found


def _is_in_braces(text: str, place: int) -> bool:
    return text.count("{", 0, place) > text.count("}", 0, place)
