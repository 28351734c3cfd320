"""Waits end, say what they are for, and are seen while they last."""

import math
import threading
import time
from concurrent.futures import Future

import pytest

from rewards import waits
from rewards.waits import Wait, WaitError, current


def test_a_wait_ends_at_its_limit_with_the_name_of_what_did_not_come() -> None:
    start = time.monotonic()
    fails = pytest.raises(WaitError, match=r"timed out after 0.2 s of waiting for the moon; look up")
    with fails, Wait("the moon", 0.2, way_out="look up") as wait:
        wait.result_of(Future[int]())
    assert 0.2 <= time.monotonic() - start < 2


def test_it_raises_what_its_owner_wants_and_names_what_it_waits_for_by_then() -> None:
    with pytest.raises(KeyError, match="engine 2"), Wait("engines", 0.0, fails=KeyError) as wait:
        wait.look("engine 2")


def test_what_comes_is_returned_and_what_a_future_raises_is_raised_timeouts_of_its_own_too() -> None:
    come, late = Future[int](), Future[int]()
    threading.Timer(0.1, come.set_result, (7,)).start()
    late.set_exception(TimeoutError("its own"))
    with Wait("seven", 5) as wait:
        assert wait.result_of(come) == 7
        with pytest.raises(TimeoutError, match="its own"):
            wait.result_of(late)


def test_it_is_listed_while_it_lasts_and_not_after() -> None:
    assert "x" not in [waiting.what for waiting in current()]
    with Wait("x", 5), Wait("y", 9):
        assert [(waiting.what, waiting.limit_s) for waiting in current()] == [("x", 5), ("y", 9)]
    with pytest.raises(ZeroDivisionError), Wait("x", 5):
        raise ZeroDivisionError
    assert current() == []


def test_it_is_said_now_and_then(monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture) -> None:
    monkeypatch.setattr(waits, "SAY_EVERY_S", 0.05)
    caplog.set_level("INFO")
    ends = time.monotonic() + 0.5
    with Wait("paint to dry", 5) as wait:
        wait.until(lambda: time.monotonic() > ends, every_s=0.01)
    assert caplog.text.count("waiting for paint to dry") >= 2


def test_it_says_for_how_long_it_lasts_and_what_its_limit_is_for() -> None:
    with Wait("groups", 600), Wait("the others", math.inf):
        assert [str(waiting) for waiting in current()] == [
            "groups, for 0 s (at most 600 s)",
            "the others, for 0 s (as long as there are signs of life)",
        ]
    with Wait("groups", 600) as wait:
        wait._began -= 900
        wait.renew()
        assert [str(waiting) for waiting in current()] == ["groups, for 900 s (at most 600 s without news)"]


def test_what_comes_does_not_keep_it_from_being_said(
    monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    monkeypatch.setattr(waits, "SAY_EVERY_S", 0.05)
    caplog.set_level("INFO")
    with Wait("groups", 5) as wait:
        for _ in range(10):
            time.sleep(0.02)
            wait.renew()
            wait.look()
    assert "waiting for groups" in caplog.text


def test_what_comes_meanwhile_begins_it_anew() -> None:
    with Wait("groups", 0.2) as wait:
        for _ in range(4):
            time.sleep(0.1)
            wait.renew()
            wait.look()
