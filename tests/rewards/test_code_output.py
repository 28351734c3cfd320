"""When two outputs are the same, and when they are not."""

import pytest

from rewards.code_output import exact_output, parsed, same_output, same_value

SAME = [
    ("0.3333333333333333", "0.333333333333"),
    ("0.6666666666666666", "0.666667"),
    ("0.6666666666666666", "0.666666"),
    ("0.30000000000000004", "0.3"),
    ("2.5", "2.50"),
    ("3.0", "3"),
    ("-0.0", "0"),
    (".5 +5 5. 1e3", "0.5 5 5 1000"),
    ("1.2246467991473532e-16", "0.0"),
    ("1e400", "1" + "0" * 400),
    ("9" * 6000, "9" * 6000 + ".0"),
    ("nan inf", "nan inf"),
    ("1  2\t3 \r\n4\n\n", "1 2 3\n4"),
    ("a   b", "a b"),
    ("\n\n", ""),
]
DIFFERENT = [
    ("50000000000000000", "50000000000000001"),
    ("50000000000000001.0", "50000000000000000"),
    ("2.9999999999999996", "3"),
    ("3.141592653589793", "3.14"),
    ("0.3334", "0.3333"),
    ("0.333334", "0.333333"),
    ("1234567.89", "1234567.90"),
    ("1e-7", "2e-7"),
    ("9.1e-31", "1.6e-19"),
    ("1.6e-19", "0.1"),
    ("0101", "101"),
    ("7", "007"),
    ("1000", "1_000"),
    ("1000", "1,000"),
    ("1e400", "inf"),
    ("Infinity", "inf"),
    ("yes", "YES"),
    ("1 2", "12"),
    ("1 2 3", "1 2"),
    ("1\n2", "1 2"),
    ("1\n\n2", "1\n2"),
    ("", "0"),
    ("x", ""),
    ("1e99999999999999999999", "1.5"),
    ("1e999999999", "0.000001"),
]


@pytest.mark.parametrize(("answer", "wanted"), SAME)
def test_what_is_the_same(answer, wanted):
    assert same_output(answer, wanted)


@pytest.mark.parametrize(("answer", "wanted"), DIFFERENT)
def test_what_is_not(answer, wanted):
    assert not same_output(answer, wanted)


def test_exact_outputs_may_differ_by_the_last_newline_alone():
    assert exact_output("1 2\n", "1 2") and exact_output("1 2", "1 2\n")
    assert not any(exact_output(answer, "1 2\n") for answer in ("1  2\n", "1 2 \n", "1 2\n\n", " 1 2", "1 2.0"))


@pytest.mark.parametrize(
    ("answer", "wanted", "is_same"),
    [
        ("[1, [2.50]]", "[1, [2.5]]", True),
        ("0.16666666666666666", "0.16667", True),
        ('{"1": [true]}', '{"1": [1]}', True),
        ('"007"', '"007"', True),
        ("NaN", "NaN", True),
        ("9007199254740993", "9007199254740992", False),
        ('"1"', "1", False),
        ("[1, 2]", "[1]", False),
        ("[1]", "1", False),
        ("null", "0", False),
        ('"2.5"', '"2.50"', False),
        ('{"a": 1}', '{"b": 1}', False),
    ],
)
def test_values_are_compared_by_kind_and_numbers_as_printed_ones(answer, wanted, is_same):
    assert same_value(parsed(answer), parsed(wanted)) is is_same
    assert same_value(parsed(wanted), parsed(answer)) is is_same or answer.startswith("0.16")


def test_exact_values_leave_nothing_to_rounding():
    assert same_value(parsed("2.50"), parsed("2.5"), exact=True)
    assert not same_value(parsed("0.16666666666666666"), parsed("0.16667"), exact=True)
