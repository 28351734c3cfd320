r"""One way of writing for each thing: Unicode, Markdown and LaTeX's styling become plain LaTeX.

`clean` is where every text goes first; `split_top` is how all others cut one, since commas inside brackets cut nothing.
"""

import re
import unicodedata
from collections.abc import Sequence

from rewards.final_answer import unwrapped

_UNICODE = {
    "\u2212": "-", "\u2010": "-", "\u2011": "-", "\u2013": "-", "\u2014": "-", "\uff0d": "-", "\ufe63": "-",
    "\u00d7": r"\times ", "\u2a2f": r"\times ", "\u00f7": "/", "\u2215": "/", "\u2044": "/", "\u00b7": r"\cdot ",
    "\u22c5": r"\cdot ", "\u2219": r"\cdot ", "\u221a": r"\sqrt ", "\u221e": r"\infty ", "\u2264": r"\le ",
    "\u2a7d": r"\le ", "\u2a7e": r"\ge ",
    "\u2265": r"\ge ", "\u2260": r"\neq ", "\u2248": r"\approx ", "\u222a": r"\cup ", "\u2229": r"\cap ",
    "\u2208": r"\in ", "\u2205": r"\emptyset ", "\u00b1": r"\pm ", "\u2213": r"\mp ", "\u00b0": r"^\circ ",
    "\u03c0": r"\pi ", "\u03b8": r"\theta ", "\u03b1": r"\alpha ", "\u03b2": r"\beta ", "\u03b3": r"\gamma ",
    "\u03bb": r"\lambda ", "\u03c6": r"\phi ", "\u03c9": r"\omega ", "\u03bc": r"\mu ", "\u03c3": r"\sigma ",
    "\u2026": "...", "\u2032": "'", "\u2019": "'", "\u201c": '"', "\u201d": '"', "\uff0c": ",", "\uff1a": ":",
    "\uff08": "(", "\uff09": ")", "\uff05": "%", "\u2211": r"\sum ", "\u211d": r"\mathbb{R}", "\u2124": r"\mathbb{Z}",
    "\u00a0": " ", "\u2009": " ", "\u202f": " ", "\u2007": " ", "\u200a": " ", "\u2002": " ", "\u2003": " ",
    "\u200b": "", "\ufeff": "", "\u221b": r"\sqrt[3] ", "\u2016": "|", "\u2192": r"\to ", "\u2223": "|",
    "\u3002": ". ", "\u3001": ", ", "\uff1b": ";",
    "\u00bd": r" \frac{1}{2}", "\u2153": r" \frac{1}{3}", "\u2154": r" \frac{2}{3}", "\u00bc": r" \frac{1}{4}",
    "\u00be": r" \frac{3}{4}", "\u2155": r" \frac{1}{5}", "\u2156": r" \frac{2}{5}", "\u2157": r" \frac{3}{5}",
    "\u2158": r" \frac{4}{5}", "\u2159": r" \frac{1}{6}", "\u215a": r" \frac{5}{6}", "\u215b": r" \frac{1}{8}",
    "\u215c": r" \frac{3}{8}", "\u215d": r" \frac{5}{8}", "\u215e": r" \frac{7}{8}",
}  # fmt: skip
_TABLE = str.maketrans(_UNICODE)
_RAISED = dict(zip("⁰¹²³⁴⁵⁶⁷⁸⁹⁺⁻ⁿ", "0123456789+-n", strict=True))
_LOWERED = dict(zip("₀₁₂₃₄₅₆₇₈₉", "0123456789", strict=True))
_RAISED_RUN, _LOWERED_RUN = re.compile(f"[{''.join(_RAISED)}]+"), re.compile(f"[{''.join(_LOWERED)}]+")
_MATH = ((r"\[", r"\]"), (r"\(", r"\)"), ("$$", "$$"), ("$", "$"))
_FUNCTIONS = "arc(?:sin|cos|tan)|(?:sin|cos|tan)h?|cot|sec|csc|ln|log|exp|sqrt|pi|theta|alpha|beta|infty"

_STEPS: Sequence[tuple[re.Pattern[str], str]] = [
    (re.compile(pattern), written)
    for pattern, written in (
        (r"\\(?:left|right)\s*\.", ""),
        (r"\\(?:left|right|middle|[bB]igg?[lrm]?|displaystyle|textstyle|limits|nolimits)(?![A-Za-z])\s*", ""),
        (r",\s*\\!\s*", ","),
        (r"\\!", ""),
        (r"\s*\{\s*([,:])\s*\}\s*", r"\1"),
        (r"\\(?:[dtc]|nice|s|x|flat)frac(?![a-z])", r"\\frac"),
        (r"\\(?:textcolor|color)\s*\{[^{}]*\}|\\(?:underline|uline|emph|ensuremath)(?![a-z])", ""),
        (r"\{\s*\\rm\s+([^{}]*)\}", r"\\text{\1}"),
        (r"\\(?:bf|it|rm|tt|sf|boldmath|tiny|small|normalsize|[lL]arge|LARGE|[hH]uge)(?:series)?(?![A-Za-z])", " "),
        (r"\\[dt]binom(?![a-z])", r"\\binom"),
        (r"\{\s*([^{}]*?)\s*\\choose\s*([^{}]*?)\s*\}", r"\\binom{\1}{\2}"),
        (r"\\langle(?![a-z])", "("),
        (r"\\rangle(?![a-z])", ")"),
        (r"\\(?:math(?:rm|bf|it|sf|tt)|text[a-z]*|[mh]box|operatorname\*?|bm|boldsymbol)\s*\{", r"\\text{"),
        (r"\\text\{((?:[^\w{}]|[\d_])*|[^{}]*\d[^{}]*)\}", r" \1 "),
        (r"\\text\{((?:[^{}]|\{[^{}]*\})*\\[a-zA-Z](?:[^{}]|\{[^{}]*\})*)\}", r"\1"),
        (r"(?<!\\)\\(?:q?quad|[,;: ~]|thinspace|enspace|hspace\{[^{}]*\}|phantom\{[^{}]*\})|~", " "),
        (r"\\(?:leqslant|leq|le)(?![A-Za-z])|<=|=<", r"\\le "),
        (r"\\(?:geqslant|geq|ge)(?![A-Za-z])|>=", r"\\ge "),
        (r"\\lt(?![A-Za-z])", "<"),
        (r"\\gt(?![A-Za-z])", ">"),
        (r"\\(?:neq|ne)(?![A-Za-z])|!=", r"\\neq "),
        (r"\\(?:varnothing|emptyset)(?![A-Za-z])|\\\{\s*\\\}", r"\\emptyset "),
        (r"\\(?:lbrace)(?![A-Za-z])", r"\\{"),
        (r"\\(?:rbrace)(?![A-Za-z])", r"\\}"),
        (r"\\(?:lbrack)(?![A-Za-z])", "["),
        (r"\\(?:rbrack)(?![A-Za-z])", "]"),
        (r"\\[lr]?vert(?![A-Za-z])|\\mid(?![A-Za-z])", "|"),
        (r"\\colon(?![A-Za-z])", ":"),
        (r"\\degree(?:s)?(?![A-Za-z])|\^\s*\{\s*\\circ\s*\}|\^\s*\\circ(?![A-Za-z])", r"^\\circ "),
        (r"\\(?:simeq|sim|doteq|thickapprox)(?![A-Za-z])|~=", r"\\approx "),
        (r"\\(?:ldots|cdots|dots[a-z]?)(?![A-Za-z])", "..."),
        (r"\\([$%#&])", r"\1"),
        (r"\\mathbb\s*([A-Z])", r"\\mathbb{\1}"),
        (r"\^\{?\s*\\text\{\s*(st|nd|rd|th)\s*\}\s*\}?", r" \1"),
        (r"\*\*", "^"),
        (r"\s*\^\s*", "^"),
        (r"\^\{\s*(\d)\s*\}(?!\d)", r"^\1"),
        (r"\s+", " "),
    )
]  # fmt: skip
_DOUBLED = re.compile(r"\\\\(?=[A-Za-z]{2})")
_BARE_FUNCTION = re.compile(rf"(?<![\\A-Za-z])({_FUNCTIONS})(?![A-Za-z])")
_INFINITY = re.compile(r"(?<![\\A-Za-z])(?:infinity|inf)(?![A-Za-z])", re.IGNORECASE)
_CALL = re.compile(r"(?<![A-Za-z])\\?(sqrt|cbrt|abs|factorial)\s*\(")
_CALLS = {"sqrt": (r"\sqrt{", "}"), "cbrt": (r"\sqrt[3]{", "}"), "abs": ("|", "|"), "factorial": ("(", ")!")}
_ROOT = re.compile(r"\\sqrt\s*(\[[^\[\]]*\])?\s*(?:\(([^()]*)\)|([\dA-Za-z])(\d*))")
_FRACTION = re.compile(r"\\(frac|binom)\s*(?:\{([^{}]*)\}|([\dA-Za-z]))\s*(?:\{([^{}]*)\}|([\dA-Za-z]))")
_OPEN, _CLOSE = "([{", ")]}"


def clean(text: str) -> str:
    r"""Return a text in one way of writing.

    Words stay in `\text{...}` where they stood in it, numbers keep their commas.
    """
    text = unwrapped(text)
    if text.isascii() and not _CALL.search(text) and "sqrt" not in text and not set(text) & set('\\$*~{&<>=!%:"'):
        text = _named(" ".join(text.split()))
        return text.strip(" ,;:").strip() if text[-1:] in ",;: " else text
    text = without_math_marks(plain_unicode(text))
    if r"\begin{" not in text:
        text = _DOUBLED.sub(r"\\", text)
    for pattern, written in _STEPS:
        text = pattern.sub(written, text)
    text = _ROOT.sub(
        lambda root: rf"\sqrt{root[1] or ''}{{{root[2] or root[3]}{root[4] or ''}}}", _called(_named(text))
    )
    text = _FRACTION.sub(lambda parts: rf"\{parts[1]}{{{parts[2] or parts[3]}}}{{{parts[4] or parts[5]}}}", text)
    text = unwrapped(text).strip(' ,;:"')
    return without_math_marks(text.removesuffix("\\").strip())


def plain_unicode(text: str) -> str:
    r"""Return a text in which mathematical signs of Unicode are LaTeX: `36π` is `36\pi`, `x²` is `x^{2}`."""
    if text.isascii():
        return text
    text = _RAISED_RUN.sub(lambda run: f"^{{{''.join(_RAISED[one] for one in run[0])}}}", text)
    text = _LOWERED_RUN.sub(lambda run: f"_{{{''.join(_LOWERED[one] for one in run[0])}}}", text)
    return unicodedata.normalize("NFKC", text.translate(_TABLE))


def _called(text: str) -> str:
    r"""Return a text in which `sqrt(1+(2))`, `cbrt(x)`, `abs(x)` and `factorial(n)` are written as LaTeX."""
    at = 0
    while found := _CALL.search(text, at):
        end = _closed(text, found.end() - 1)
        if end is None:
            return text
        left, right = _CALLS[found[1]]
        text = f"{text[: found.start()]}{left}{text[found.end() : end - 1]}{right}{text[end:]}"
        at = found.start() + len(left)
    return text


def _closed(text: str, start: int) -> int | None:
    """Return where the round bracket that begins at ``start`` ends."""
    depth = 0
    for at in range(start, len(text)):
        depth += (text[at] == "(") - (text[at] == ")")
        if depth == 0:
            return at + 1
    return None


def _named(text: str) -> str:
    r"""Return a text in which functions and constants are commands: `sin x` is `\sin x`."""
    return _BARE_FUNCTION.sub(r"\\\1 ", _INFINITY.sub(r"\\infty ", text))


def without_math_marks(text: str) -> str:
    """Return what stands between the dollars, or the brackets that mean the same, around a whole text."""
    text = text.strip()
    for left, right in _MATH:
        inner = text[len(left) : -len(right)]
        if text.startswith(left) and text.endswith(right) and len(text) > len(left + right) and right not in inner:
            return inner.strip()
    return text


def split_top(text: str, separator: re.Pattern[str]) -> list[str]:
    """Cut a text where the pattern matches outside of all brackets."""
    if not separator.search(text):
        return [text]
    parts, depth, start, at = [], 0, 0, 0
    while at < len(text):
        found = separator.match(text, at) if depth <= 0 else None
        if found and found.end() > at:
            parts.append(text[start:at])
            start = at = found.end()
            continue
        if text[at] == "\\" and text[at + 1 : at + 2] not in ("{", "}"):
            at += 1
        elif text[at] in _OPEN:
            depth += 1
        elif text[at] in _CLOSE:
            depth -= 1
        at += 1
    return [*parts, text[start:]]


def enclosed(text: str) -> bool:
    """Say whether the text's first bracket is closed by its last one."""
    depth = 0
    for at, one in enumerate(text):
        depth += (one in _OPEN) - (one in _CLOSE)
        if depth == 0 and at < len(text) - 1 and at >= (text.startswith("\\") and 1):
            return False
    return depth == 0


def words(text: str) -> str:
    r"""Return a text whose `\text{...}` are plain words with spaces around them."""
    return " ".join(re.sub(r"\\text\{([^{}]*)\}", r" \1 ", text).split())
