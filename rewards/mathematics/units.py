"""What stands around a number: units, currencies, and words that multiply it or deny that it is an answer."""

import re
from dataclasses import dataclass
from fractions import Fraction

MULTIPLIERS = {
    "%": Fraction(1, 100), "percent": Fraction(1, 100), "per cent": Fraction(1, 100), "percentage": Fraction(1, 100),
    "pct": Fraction(1, 100), "hundred": Fraction(100), "thousand": Fraction(10**3), "million": Fraction(10**6),
    "millions": Fraction(10**6), "mil": Fraction(10**6), "billion": Fraction(10**9), "billions": Fraction(10**9),
    "bn": Fraction(10**9), "trillion": Fraction(10**12), "lakh": Fraction(10**5), "crore": Fraction(10**7),
    "dozen": Fraction(12), "dozens": Fraction(12), "万": Fraction(10**4), "萬": Fraction(10**4), "亿": Fraction(10**8),
    "億": Fraction(10**8),
}  # fmt: skip
PERCENT = frozenset({"%", "percent", "per cent", "percentage", "pct"})
_MEASURES = {
    "length": {"mm millimeter millimetre": "1/1000", "cm centimeter centimetre": "1/100", "dm decimeter": "1/10",
               "m meter metre": "1", "km kilometer kilometre": "1000", "in inch": "127/5000", "yd yard": "1143/1250",
               "ft foot feet": "381/1250", "mi mile": "201168/125"},
    "mass": {"mg milligram": "1/1000", "g gram": "1", "kg kilogram": "1000", "lb pound": "45359237/100000",
             "oz ounce": "45359237/1600000", "ton tonne": "1000000"},
    "time": {"ms millisecond": "1/1000", "s sec second": "1", "min minute": "60", "h hr hour": "3600", "day": "86400",
             "week": "604800"},
    "volume": {"ml milliliter millilitre": "1/1000", "l liter litre": "1", "gallon": "473176473/125000000"},
    "money": {"cent ¢": "1/100", "dollar usd $": "1"},
}  # fmt: skip
_KNOWN = {
    name: (kind, Fraction(size))
    for kind, measures in _MEASURES.items()
    for names, size in measures.items()
    for name in names.split()
}
_SHORT_NAMES = (
    "mm cm dm m km in ft yd mi mg g kg lb lbs oz ms s sec min h hr hrs yr yrs ml mL l L J kJ N W kW V A K Pa kPa "
    "Hz mol C F mph kmh kph km/h m/s st nd rd th rad deg pts pt pcs am pm AM PM Ω eV °C USD EUR GBP cc px"
)
_SHORT = frozenset(_SHORT_NAMES.split())
"""Units that are written right behind a number, or in one letter, where other letters would be factors."""
_NUMBER_WORDS = (
    "zero one two three four five six seven eight nine ten eleven twelve thirteen fourteen fifteen sixteen seventeen "
    "eighteen nineteen twenty thirty forty fifty sixty seventy eighty ninety half halves third thirds quarter quarters "
    "fourth fourths fifth fifths sixth sixths seventh eighth eighths ninth tenth tenths hundredth hundredths"
)
_DENIALS = (
    "or and not no nor either neither between to than least most is was are were but except unless if because since "
    "wrong maybe perhaps possibly probably squared cubed factorial times plus minus choose mod modulo over divided "
    "multiplied remainder double twice triple both или и не oder und nicht ou et pas o y"
)
_DENYING = frozenset(f"{_NUMBER_WORDS} {_DENIALS}".split())
_OPPOSED = (frozenset({"am", "pm"}), frozenset({"bc", "ad"}), frozenset({"° c", "° f"}))
"""What makes another answer of the same number."""
_ANGLES = {"°": "degree", "degree": "degree", "degrees": "degree", "deg": "degree"}
_ANGLES |= {"rad": "radian", "rads": "radian", "radian": "radian", "radians": "radian"}
_DENYING_SIGNS = frozenset("或和与不非又及至到上下内多超未万萬亿億百만억")
"""What a word of Chinese, Japanese or Korean that multiplies, denies or bounds has in it."""
_FACTOR = re.compile(r"[A-Za-z](?:\^\{?-?\d\}?)?")
_LETTER_OR_SUM = re.compile(r"(?<![\\A-Za-z])[A-Za-z](?![A-Za-z])|\S\s*[-+]")
_CURRENCY = "$€£¥₹₽₩¢"
_TEXT = r"\\text\{[^{}]*\}(?:\^\{?-?\d\}?)?"
_WORD = r"[^\W\d_](?:[^\W\d_]|['.-])*+(?:\^\{?-?\d\}?)?"
_TAIL = re.compile(
    rf"(?P<core>.*?[\d)\]}}!.%{_CURRENCY}]|.*?\\(?:pi|infty)|.*?(?<![A-Za-z])[a-z])"
    rf"(?P<unit>(?:\s*(?:\^\\circ\s*[CF]?(?![a-z])|\\?%|[{_CURRENCY}]|\({_WORD}(?:\s{_WORD})*\)|\(?{_TEXT}\)?"
    rf"|[ -]?{_WORD}|\\Omega|\\frac\{{{_TEXT}\}}\{{{_TEXT}\}}|/|\\cdot(?=\s*\\text)))+)\s*",
    re.DOTALL,
)
_HEAD = re.compile(
    rf"(?P<sign>[-+]?\s*)(?P<symbol>(?:US|AU|CA|HK)?[{_CURRENCY}]|\\text\{{\s*(?:Rs\.?|USD|EUR)\s*\}}"
    r"|(?:Rs\.?|USD|EUR|GBP)(?=\s?\d))\s*"
    r"(?P<rest>[-+]?[\d.\\].*)",
    re.DOTALL,
)
_ABOUT = re.compile(
    r"(?:(?:is|equals|equal to|exactly|just|only|about|around|approximately|approx\.?|roughly|nearly|(?:a )?total of)"
    r"\s+|=\s*)+",
    re.IGNORECASE,
)
MAX_WORDS, LONGEST = 12, 200


@dataclass(frozen=True, slots=True, kw_only=True)
class Quantity:
    """What is left of a text once what surrounds its number is read."""

    core: str
    """The number, or the expression."""
    factor: Fraction = Fraction(1)
    """By which the words multiply it."""
    is_percent: bool = False
    unit: str = ""
    """The words that are a unit, in lower case."""

    @property
    def angle(self) -> str:
        """``degree`` or ``radian`` where the number is said to be in these."""
        return _ANGLES.get(self.unit.strip("."), "")

    @property
    def measure(self) -> tuple[str, Fraction] | None:
        """Kind and size of the unit where it is a known one."""
        return _measure(self.unit)


def quantity(text: str) -> Quantity | None:
    """Read what stands around the number in a cleaned text; None where it is no plain unit and no multiplier.

    Plain is any word but those for numbers, alternatives and denials: `18 eggs` is 18; `5 hours 30 minutes`,
    `5 (not 6)` and `5 or more` are no answer of one number.
    """
    if len(text) > LONGEST:
        return None
    text = text[about.end() :] if (about := _ABOUT.match(text)) else text
    head = _HEAD.fullmatch(text)
    symbol = "$" if head and "$" in head["symbol"] else ""
    core = head["sign"].strip() + head["rest"] if head else text
    tail = _TAIL.fullmatch(core)
    if tail is None:
        return Quantity(core=core, unit=symbol)
    told = tail["unit"]
    if _FACTOR.fullmatch(told.strip()) and tail["core"][-1].isdigit() and _LETTER_OR_SUM.search(tail["core"]):
        return None  # 2t + 3s has letters, and no unit
    words, factor, is_percent = _multiplied(_words(told))
    if len(words) > MAX_WORDS or any(map(_denies, words)):
        return None
    if words and r"\text" not in told and "°" not in words:
        is_close = (
            told[0] not in " -" and told[0].isascii() and factor == 1
        )  # letters right behind a number are factors
        if not all(map(_is_unit, words)) or (is_close and not _is_short(words[0])):
            return None
    unit = " ".join(words).lower() or symbol
    return Quantity(core=tail["core"], factor=factor, is_percent=is_percent, unit=unit)


def _words(told: str) -> list[str]:
    r"""Return the words of a unit, without the marks of LaTeX around them."""
    said = re.sub(r"\\text\{([^{}]*)\}", r" \1 ", told.replace(r"\cdot", " "))
    said = re.sub(r"\s+\^", "^", said).replace(r"^\circ", " ° ").replace("%", " % ")
    return re.sub(r"[\\()]", " ", said).split()


def _multiplied(words: list[str]) -> tuple[list[str], Fraction, bool]:
    """Return the words without those that multiply at their beginning, their product, and whether it has a percent."""
    factor, is_percent = Fraction(1), False
    while words:
        name = next((one for one in (" ".join(words[:2]).lower(), words[0].lower()) if one in MULTIPLIERS), None)
        if name is None:
            break
        factor, is_percent = factor * MULTIPLIERS[name], is_percent or name in PERCENT
        words = words[len(name.split()) :]
    return words, factor, is_percent


def _bare(word: str) -> str:
    return re.sub(r"\^\{?-?\d\}?$", "", word).strip(".'-")


def _denies(word: str) -> bool:
    """Say whether a word is a number, an alternative or a denial."""
    bare = _bare(word)
    is_told = any(part in _DENYING for part in bare.lower().split("-")) or any(one in _DENYING_SIGNS for one in bare)
    return is_told or any(one.isdigit() for one in bare)


def _is_short(word: str) -> bool:
    return _bare(word) in _SHORT or set(word) <= set(f"°/.-{_CURRENCY}")


def _is_unit(word: str) -> bool:
    """Say whether a plain word is a unit: one Latin letter is only if it is a known one, and a factor otherwise."""
    return _is_short(word) or len(_bare(word)) > 1 or not word.isascii()


def convertible(one: Quantity, other: Quantity) -> Fraction | None:
    """Return how many of the other's unit one of the first's is: 1 where one of them has no unit that is known."""
    if {one.unit.replace(".", ""), other.unit.replace(".", "")} in _OPPOSED:
        return None
    if len(one.unit) == len(other.unit) == 1 and one.unit.isalpha() and None in (one.measure, other.measure):
        return Fraction(1) if one.unit == other.unit else None  # 3N and 3V: letters, or units that are not the same
    if one.measure is None or other.measure is None or one.unit == other.unit:
        return Fraction(1)
    return one.measure[1] / other.measure[1] if one.measure[0] == other.measure[0] else None


def _measure(unit: str) -> tuple[str, Fraction] | None:
    name, power = re.fullmatch(r"(?:(?:square|cubic|sq\.?)\s+)?([a-z$¢]+?)\.?(?:\^\{?(\d)\}?)?", unit), 1
    if name is None:
        return None
    power = 2 if unit.startswith("sq") and unit not in ("sq",) else 3 if unit.startswith("cubic") else int(name[2] or 1)
    known = _KNOWN.get(name[1]) or _KNOWN.get(name[1].removesuffix("s")) or _KNOWN.get(name[1].removesuffix("es"))
    return (f"{known[0]}^{power}", known[1] ** power) if known else None
