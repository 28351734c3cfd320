r"""Answers that only repeat the exercise: `2+3`, `\gcd(18,24)`, `\sum_{k=1}^{10} k` where a value is asked for.

Powers, roots, factorials and binomials count as values.
"""

import re

from rewards.mathematics import algebra

_WORK = re.compile(r"\\(?:sum|prod|int|iint|oint|lim)(?![a-z])")
"""What is to be worked out, whatever gold is."""
_WORK_OF_NUMBERS = re.compile(
    r"\\(?:gcd|lcm|max|min|det|[lr]floor|[lr]ceil|log|ln|lg|sin|cos|tan|cot|sec|csc|arc(?:sin|cos|tan)|[bp]?mod)(?![a-z])"
    r"|\\text\{\s*(?:gcd|lcm|mod|max|min)\s*\}|\||\\frac\s*\{d\}\{d[a-z]\}"
)
"""What is to be worked out where gold is a rational number."""


def is_exercise(latex: str, *, of: str, is_number_asked: bool) -> bool:
    """Say whether an answer leaves work to be done that the gold answer, ``of``, has done.

    ``is_number_asked`` says that gold is a rational number, written as a result.
    """
    if _WORK.search(latex) and not _WORK.search(of):
        return True
    return is_number_asked and (_WORK_OF_NUMBERS.search(latex) is not None or algebra.is_exercise(latex))
