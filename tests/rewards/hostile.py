"""Answers that a policy may find: texts that make what reads them slow, deep, large or fall over.

python -m tests.rewards.hostile     # what each reward gives them, each next to a right answer, and in what time
"""

import time

from rewards.config import (
    ChoiceRewardConfig,
    CodeRewardConfig,
    ExactRewardConfig,
    FormatRewardConfig,
    LengthRewardConfig,
    MathRewardConfig,
    RepetitionRewardConfig,
    VoteRewardConfig,
)
from rewards.scorer import Scorer
from rewards.scoring_config import ScoringConfig
from tests.rewards.attempts import group


def box(text):
    return rf"\boxed{{{text}}}"


def matrix(side, kind="pmatrix"):
    rows = r" \\ ".join(" & ".join(str(row * side + column) for column in range(side)) for row in range(side))
    return rf"\begin{{{kind}}} {rows} \end{{{kind}}}"


MATHEMATICS = {
    "tower of nines": "9^{9^{9^{9}}}",
    "root of a tower": r"\sqrt{9^{9^{9^{9}}}}",
    "tower without braces": "9**9**9**9",
    "tower in an exponent of e": "e^{e^{e^{e^{10}}}}",
    "tower of letters": "x^{x^{x^{x^{x^{x}}}}}",
    "tower of i": "i^{i^{i^{i}}}",
    "large power": "7^{123456789}",
    "difference of large powers": "3^{10^{8}} - 2^{10^{8}}",
    "large factorial": "(10^{9})!",
    "factorials of factorials": "((9!)!)!",
    "large binomial": r"\binom{10^{9}}{5 \cdot 10^{8}}",
    "large product": r"\prod_{k=1}^{10^{7}} k",
    "large sum": r"\sum_{k=1}^{10^{9}} \frac{1}{k^2}",
    "slow integral": r"\int_0^1 \frac{\sin(x^x) e^{x^3}}{\ln(2+x^5)} dx",
    "integrals in integrals": r"\int_0^1" * 30 + " x^x " + "dx" * 30,
    "slow limit": r"\lim_{x \to 0} \frac{\sin(\tan x) - \tan(\sin x)}{x^{x^x}}",
    "power of a sum": "(a+b+c+d+e+f+g+h)^{5000}",
    "equation of large powers": "(x+1)^{100000} = (x+y+z)^{99999}",
    "cosine of a tower": r"\cos(10^{10^{10}})",
    "logarithms in logarithms": r"\log(" * 500 + "2" + ")" * 500,
    "roots in roots": r"\sqrt{2+" * 300 + "2" + "}" * 300,
    "continued fraction": r"\frac{1}{1+" * 2000 + "1" + "}" * 2000,
    "chain of fractions": r"\frac{1}{2}" * 5000,
    "fractions that never close": r"\frac{1}{" * 20_000,
    "braces": "{" * 100_000 + "}" * 100_000,
    "parentheses": "(" * 100_000 + ")" * 100_000,
    "parentheses that never close": "(" * 100_000,
    "brackets, shorter": "(" * 900 + "1" + ")" * 900,
    "left and right": r"\left(" * 300 + "1" + r"\right)" * 300,
    "matrix of a million": matrix(1000),
    "matrix in a text that is read": matrix(20),
    "determinant": rf"\det {matrix(15)}",
    "matrices in matrices": r"\begin{pmatrix}" * 300 + "1" + r"\end{pmatrix}" * 300,
    "cases in cases": r"\begin{cases} x &" * 100 + r"\end{cases}" * 100,
    "subscripts": "a_{" * 5000 + "}" * 5000,
    "letters": "abcdefghijklmnopqrstuvwxyz" * 30,
    "sum of ones": "+".join("1" * 50_000),
    "signs": "-" * 50_000 + "1",
    "equations": "=".join("x" * 5000),
    "short equations": "=".join("x" * 900),
    "list": ",".join(map(str, range(100_000))),
    "set of expressions": r"\{" + ",".join(rf"\sqrt{{{n}}}" for n in range(150)) + r"\}",
    "ratio": ":".join("1" * 900),
    "digits": "9" * 100_000,
    "decimals": "0." + "3" * 100_000,
    "repeating decimal": r"0.\overline{" + "142857" * 300 + "}",
    "exponent": "1e999999999",
    "infinity": "1e400",
    "zeta": r"\zeta(\zeta(\zeta(3)))",
    "gamma": r"\Gamma(10^{12})",
    "units": "5" + r"\text{ cm}" * 150,
    "words with and": r"\text{1 and }" * 150,
    "plus or minus": r"\pm 1" * 100,
    "relations": "<".join("x" * 500),
    "unions": r"\cup".join(["(1,2)"] * 250),
    "digits of all scripts": "\u0666\u0663\u0663 \u0967\u0968 \U0001d7d4\U0001d7d1",
    "invisible": "6\u200b3\u200d\u20603\ufeff1",
    "right to left": "\u202e633\u202c",
    "NUL": "633\0 0",
    "half characters": "\ud800633\udfff",
}
"""To be put into a box; none of them is 633."""
TEXTS = {
    "boxes in boxes": r"\boxed{" * 20_000 + "}" * 20_000,
    "boxes that never close": r"\boxed{" * 20_000,
    "boxes side by side": r"\boxed{1}" * 20_000,
    "boxes joined": r"\boxed{1} and " * 2000,
    "a million digits": "9" * 10**6,
    "a million words": "no " * 10**6,
    "a million blanks": "x" + " " * 10**6 + "y",
    "a million lines": "\n" * 10**6 + "x",
    "a million backslashes": "\\" * 10**6,
    "a million dollars": "$" * 10**6,
    "formulas": "$1$ and " * 20_000,
    "formulas that never close": r"\( 1 \[ 2 $$ 3 " * 10_000,
    "stars": "*" * 200_000,
    "stars and words": "**a " * 50_000,
    "emphasis": "**1** " * 50_000,
    "backquotes": "` " * 100_000,
    "special tokens": "<|a|>" * 50_000 + "x",
    "special tokens and blanks": " <|a|>" * 50_000 + "x",
    "thoughts": "<think>" * 20_000,
    "thoughts that end": "</think>" * 20_000,
    "channels": "<|channel|>final" * 20_000,
    "answers": "<answer>" * 20_000,
    "answers that end": "<answer></answer>" * 20_000,
    "announcements": "the answer is " * 20_000,
    "announcements of": "the answer for " * 20_000,
    "headings": "# Answer\n" * 20_000,
    "GSM8K": "#### 1\n" * 20_000,
    "GSM8K without end": "#### " + "1," * 100_000 + "x",
    "sentences": "This is so. " * 20_000,
    "names": "a = " * 20_000,
    "runs of numbers": "1 + " * 20_000,
    "numbers with dashes": "1-" * 50_000,
    "numbers with commas": "1,234," * 20_000,
    "numbers with colons": "1:" * 50_000,
    "fractions in words": "1/2 " * 20_000,
    "dots": "." * 200_000,
    "text commands": r"\text{" * 20_000,
    "text commands that end": r"\text{a}" * 20_000,
    "text commands in each other": r"\text{" * 2000 + "a" + "}" * 2000,
    "quotes": "> " * 50_000,
    "fences": "```\n" * 50_000,
    "fences of python": "```python\nx=1\n```\n" * 5000,
    "a program of brackets": "```python\n" + "(" * 50_000 + "\n```",
    "a program of signs": "```python\n" + "-" * 50_000 + "1\n```",
    "a program of sums": "```python\n" + "+".join("1" * 50_000) + "\n```",
    "a program of dots": "```python\nx" + ".a" * 50_000 + "\n```",
    "a program of ifs": "```python\n" + "".join(" " * n + "if 1:\n" for n in range(99)) + " " * 99 + "x\n```",
    "a program with NUL": "```python\nx = '\0'\n```",
    "a program of half characters": "```python\nx = '\ud800'\n```",
    "emoji": "\U0001f44d" * 100_000,
    "accents": "e" + "\u0301" * 200_000,
    "letters of all scripts": "".join(map(chr, range(0xA0, 0x3000))) * 10,
    "halves of characters": "\ud83d" * 10_000,
    "nothing": "",
}
ALL = {name: box(text) for name, text in MATHEMATICS.items()} | TEXTS


def rewards():
    """Every reward by rule, with the columns of its row and an answer that is right."""
    tests = [{"input": "", "output": "633"}]
    return [
        (MathRewardConfig(), box("633"), {"answer": "633"}),
        (ExactRewardConfig(), box("633"), {"answer": "633"}),
        (ChoiceRewardConfig(), "B", {"answer": "B"}),
        (FormatRewardConfig(), box("633"), {}),
        (FormatRewardConfig(name="tags", tags=["answer"]), "<answer>633</answer>", {}),
        (VoteRewardConfig(), box("633"), {}),
        (LengthRewardConfig(limit=100), box("633"), {}),
        (RepetitionRewardConfig(), box("633"), {}),
        (CodeRewardConfig(sandbox="none"), "```python\nprint(633)\n```", {"tests": tests}),
    ]


def main():
    """Give each reward each text, in a group with two right answers, and print the table."""
    print(f"{'text':34}", *(f"{config.label:>12}" for config, _, _ in rewards()))
    slowest = {}
    scorers = [(Scorer([config], ScoringConfig()), right, columns) for config, right, columns in rewards()]
    for name, text in ALL.items():
        cells = []
        for scorer, right, columns in scorers:
            start = time.monotonic()
            first, hostile, last = scorer.submit(group(right, text, right, **columns)).result(90)
            seconds = time.monotonic() - start
            told = f"{hostile.value:.3g}" if hostile.value is not None else hostile.cause
            innocent = "" if first.cause == last.cause and first.cause in ("ok", "not_applicable") else "!"
            cells.append(f"{told}{innocent} {seconds:6.2f}")
            slowest[scorer] = max(slowest.get(scorer, 0.0), seconds)
        print(f"{name:34}", *(f"{cell:>12}" for cell in cells), flush=True)
    print(f"{'slowest, s':34}", *(f"{slowest[scorer]:12.2f}" for scorer, _, _ in scorers))
    for scorer, _, _ in scorers:
        scorer.close()


if __name__ == "__main__":
    main()
