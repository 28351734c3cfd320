"""What an answer does by its own text costs itself alone: it is worth 0, counted, and nobody else is."""

import os
import signal
import threading
import time

import psutil
import pytest

from rewards import reader
from rewards.config import ExactRewardConfig, FormatRewardConfig, MathRewardConfig, VoteRewardConfig
from rewards.reader import Lost, Reader, Spoilt
from rewards.registry import build
from rewards.scorer import Scorer
from rewards.scoring_config import ScoringConfig
from tests.rewards.attempts import group
from tests.rewards.hostile import ALL, MATHEMATICS, box, rewards


def burn(seconds):
    """Use processor time."""
    end = time.process_time() + seconds
    while time.process_time() < end:
        pass


def does(deed):
    """What a reader is asked to do with the text of an answer."""
    if deed == "hang in C":
        return 9**9**9
    if deed == "hang":
        burn(60)
    if deed == "a little slow":
        burn(0.3)
    if deed == "crash":
        signal.signal(signal.SIGSEGV, signal.SIG_DFL)  # pytest's own handler would print the stack
        os.kill(os.getpid(), signal.SIGSEGV)
    if deed == "exit":
        os._exit(3)
    if deed == "deep":
        return does(deed)
    if deed == "large":
        return len(bytearray(8 << 30))
    if deed == "killed":
        os.kill(os.getpid(), signal.SIGKILL)
    return deed.upper()


@pytest.fixture
def short(monkeypatch):
    """Limits in which a test is quick."""
    monkeypatch.setattr(reader, "ANSWER_LIMIT_S", 0.5)
    monkeypatch.setattr(reader, "GROUP_LIMIT_S", 1.6)
    monkeypatch.setattr(reader, "QUICK_S", 0.1)


def hows(found):
    return [one.how if isinstance(one, Spoilt) else one for one in found]


def test_each_answer_is_read_whatever_the_others_do(short):
    deeds = ["a", "hang in C", "b", "crash", "exit", "c", "deep", "large", "d"]
    start = time.monotonic()
    found = Reader(does).each(deeds)
    assert hows(found) == ["A", "too_slow", "B", "crashed", "crashed", "C", "raised", "raised", "D"]
    assert [one.detail for one in found if isinstance(one, Spoilt)] == [
        "it was not read in 0.5 s of processor time",
        "the process that read it ended by SIGSEGV",
        "the process that read it ended with exit code 3",
        "reading it raised RecursionError: maximum recursion depth exceeded",
        "reading it raised MemoryError: ",
    ]
    assert time.monotonic() - start < 5


def test_a_slow_answer_gets_its_time_in_whatever_company_it_is(short):
    assert hows(Reader(does).each(["hang", "a little slow", "a"])) == ["too_slow", "A LITTLE SLOW", "A"]


def test_a_group_of_hostile_answers_takes_no_more_than_its_time(short):
    start = time.process_time() + sum(os.times()[2:4])
    assert hows(Reader(does).each(["hang"] * 6 + ["a"])) == ["too_slow"] * 6 + ["A"]
    assert time.process_time() + sum(os.times()[2:4]) - start < 1.6 + 1.0


def test_time_in_which_the_machine_does_something_else_is_no_answer_s_fault(short, monkeypatch):
    monkeypatch.setattr(reader, "GROUP_WALL_S", 1.0)
    found = Reader(lambda deed: threading.Event().wait(5) if deed == "wait" else deed).each(["a", "wait", "b"])
    assert found[0] == "a"
    assert [one.cause for one in found[1:]] == ["timeout", "timeout"]


def test_a_reader_that_is_killed_from_outside_blames_no_answer(short):
    assert Reader(does).each(["a", "killed", "b"])[:1] == ["A"]
    [lost] = Reader(does).each(["killed"])
    assert isinstance(lost, Lost) and lost.cause == "killed"
    one = Reader(does)
    assert one.each(["a"]) == ["A"]
    [child] = [child for child in psutil.Process().children() if child.pid == one._process.pid]
    child.kill()
    child.wait(5)
    assert one.each(["b"]) == ["B"]


def test_a_reader_works_for_several_threads():
    one, found = Reader(does), []
    threads = [threading.Thread(target=lambda n=n: found.append(one.each([f"a{n}", f"b{n}"]))) for n in range(8)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join(20)
    assert sorted(found) == [[f"A{n}", f"B{n}"] for n in range(8)]


def test_a_reader_s_process_ends_with_its_reward():
    one = Reader(does)
    assert one.each(["a"]) == ["A"]
    process = psutil.Process(one._process.pid)
    del one
    process.wait(5)


def marked(config, right, texts, **columns):
    """Marks of hostile texts between right answers, and what was logged."""
    logged = {}
    reward = build(config)
    turns = [attempt.completion for attempt in group(right, *texts, right)]
    named = {name: [value] * len(turns) for name, value in columns.items()}
    marks = reward(prompts=[None] * len(turns), completions=turns, log_metric=logged.__setitem__, **named)
    return marks, logged


def test_hostile_mathematics_is_worth_nothing_is_counted_and_costs_nobody_else(short):
    texts = [box(MATHEMATICS[name]) for name in ("tower of nines", "braces", "half characters", "matrix of a million")]
    marks, logged = marked(MathRewardConfig(), box("633"), texts, answer="633")
    assert [(mark.value, mark.cause) for mark in marks] == [(1.0, "ok"), *[(0.0, "ok")] * 4, (1.0, "ok")]
    assert logged["too_slow/count"] >= 1 and logged["crashed/count"] == 0
    assert "processor time" in marks[1].detail


def test_a_pattern_that_backtracks_without_end_costs_the_text_that_makes_it(short):
    config = FormatRewardConfig(pattern="(a+)+")
    marks, logged = marked(config, "aaa", ["a" * 60 + "b", "b"])
    assert [marks[0], marks[1].value, *marks[2:]] == [1.0, 0.0, 0.0, 1.0]
    assert logged == {"too_slow/count": 1, "crashed/count": 0, "raised/count": 0}


def test_a_vote_goes_on_without_the_answers_that_cannot_be_read(short, monkeypatch):
    monkeypatch.setattr("rewards.vote.canonical", lambda parts: burn(60) if "bad" in parts else "".join(parts))
    marks, logged = marked(VoteRewardConfig(), box("5"), [box("bad"), box("bad"), box("bad"), box("6")])
    assert [mark.value for mark in marks] == [1.0, 0.0, 0.0, 0.0, 0.0, 1.0]
    assert logged["too_slow/count"] == 3


def test_a_wrong_gold_answer_is_nobody_s_zero():
    with pytest.raises(ValueError, match="holds no answer"):
        marked(MathRewardConfig(), box("5"), [], answer="")


@pytest.mark.processes
def test_a_policy_of_hostile_answers_does_not_stop_the_run():
    scoring = ScoringConfig(max_unscorable_fraction=0.0, window_groups=4)
    with Scorer([MathRewardConfig(), ExactRewardConfig()], scoring) as runtime:
        hostile = [box(f"{n}^{{9^{{9^{{9}}}}}}") for n in (2, 3)]
        found = runtime.submit(group(*hostile, box("633"), answer="633")).result(30)
        assert [(one.value, one.cause) for one in found] == [(0.0, "ok")] * 2 + [(2.0, "ok")]
        assert runtime.take_metrics()["reward/math/too_slow/count"] == 2
        runtime.check_budget()


@pytest.mark.processes
@pytest.mark.exhaustive
@pytest.mark.parametrize(("config", "right", "columns"), rewards(), ids=lambda one: getattr(one, "label", ""))
def test_no_text_is_unscored_or_costs_its_neighbours_their_marks(config, right, columns):
    with Scorer([config], ScoringConfig()) as runtime:
        for name, text in ALL.items():
            first, hostile, last = runtime.submit(group(right, text, right, **columns)).result(60)
            assert first.cause == last.cause == hostile.cause, (name, hostile.detail or first.detail)
            assert hostile.cause in ("ok", "not_applicable"), name
            assert first.value == last.value, name
            if config.label in ("math", "exact", "choice", "vote", "code"):
                assert hostile.value in (0.0, 0.1, 0.2) and first.value == 1.0, name
