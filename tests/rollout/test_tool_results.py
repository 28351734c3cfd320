"""What the policy reads of what a tool returned."""

import dataclasses
import datetime
import enum
from collections import OrderedDict, deque, namedtuple
from decimal import Decimal
from fractions import Fraction
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from pydantic import BaseModel

from rollout.tool_results import told
from rollout.tools import Tools


@dataclasses.dataclass
class City:
    name: str
    founded: datetime.date


class Weather(BaseModel):
    degrees: float


class Color(enum.Enum):
    RED = "red"


Point = namedtuple("Point", "x y")


@pytest.mark.parametrize(
    ("result", "text"),
    [
        ("é", "é"),
        (1, "1"),
        (None, "null"),
        (True, "true"),
        (np.int64(1), "1"),
        (np.float32(0.1), "0.1"),
        (np.float64(0.1), "0.1"),
        (np.bool_(True), "true"),
        (np.array([[1, 2], [3, 4]]), "[[1, 2], [3, 4]]"),
        (np.array([0.1], dtype=np.float32), "[0.1]"),
        (np.array(3), "3"),
        (np.str_("é"), "é"),
        (np.datetime64("2024-05-06"), "2024-05-06"),
        (torch.tensor([1, 2]), "[1, 2]"),
        ({"café": np.int64(1), np.int64(2): [np.float32(0.5)]}, '{"café": 1, "2": [0.5]}'),
        ({datetime.date(2024, 5, 6): 1, (1, 2): 2}, '{"2024-05-06": 1, "[1, 2]": 2}'),
        (datetime.datetime(2024, 5, 6, 7, 8), "2024-05-06T07:08:00"),
        (datetime.timedelta(hours=1), "1:00:00"),
        (City("Zürich", datetime.date(15, 1, 1)), '{"name": "Zürich", "founded": "0015-01-01"}'),
        (Weather(degrees=21.5), '{"degrees": 21.5}'),
        ([Color.RED], '["red"]'),
        ({3, 1, 2}, "[1, 2, 3]"),
        (frozenset({"b", "a", 1}), '[1, "a", "b"]'),
        (Point(1, 2), "[1, 2]"),
        ((range(3), deque([1]), OrderedDict(a=1).keys()), '[[0, 1, 2], [1], ["a"]]'),
        ([Decimal("1.50"), Fraction(1, 3), Path("/a"), 1 + 2j], '["1.50", "1/3", "/a", "(1+2j)"]'),
        (b"caf\xc3\xa9", "café"),
        ("half \ud800", "half ?"),
    ],
)
def test_results_have_the_form_that_one_expects(result: Any, text: str) -> None:
    assert told(result) == text


@pytest.mark.parametrize("result", [object(), (n for n in range(3)), [print, len, lambda: 1], int, {"a": object()}])
def test_what_has_no_form_is_named(result: Any) -> None:
    if isinstance(result, list):
        result = result[-1]
    with pytest.raises(TypeError, match="which has no form as text; let the tool return"):
        told(result)


def test_what_holds_itself_is_an_error() -> None:
    ring: list[Any] = []
    ring.append(ring)
    with pytest.raises(ValueError, match="a list that holds itself"):
        told(ring)


def count(word: str) -> Any:
    return {"é": np.int64(len(word))}


def test_a_tool_s_answer_reads_so() -> None:
    [answer] = Tools([count]).step('<tool_call>{"name": "count", "arguments": {"word": "abc"}}</tool_call>') or []
    assert answer["content"] == '{"é": 3}'
