"""The scorer against real worker processes and rewards that do their worst."""

import os
import signal
import subprocess
import sys
import time
from dataclasses import replace
from pathlib import Path

import psutil
import pytest

from rewards.config import (
    CodeRewardConfig,
    ExactRewardConfig,
    FunctionRewardConfig,
    JudgeRewardConfig,
    MathRewardConfig,
)
from rewards.process import MAX_PRINTED_BYTES, REAP_TIMEOUT_S
from rewards.scorer import Scorer, check_deadline
from rewards.scoring_config import ScoringConfig
from rewards.types import Mark, RewardError
from tests.rewards.attempts import group

pytestmark = pytest.mark.processes

ROOT = Path(__file__).parents[2]
EXACT = ExactRewardConfig()
OBEY = FunctionRewardConfig(import_path="tests.rewards.obedient:obey")


def scorer(*rewards, **scoring):
    return Scorer(rewards or [OBEY], ScoringConfig(**{"deadline_s": 4.0, "max_cpu_s": 1.0, **scoring}))


def score(runtime, *texts, **columns):
    return runtime.submit(group(*texts, **columns)).result(timeout=30)


def is_running(pid):
    """Zombies do not run."""
    try:
        return Path(f"/proc/{pid}/stat").read_text().rsplit(")", 1)[1].split()[0] != "Z"
    except FileNotFoundError:
        return False


@pytest.fixture(autouse=True)
def _nothing_is_left_over():
    """Whatever a reward did, and whatever it started, is gone when its scorer is closed."""
    before = set(psutil.Process().children(recursive=True))
    yield
    started = [child for child in psutil.Process().children(recursive=True) if child not in before]
    _, left = psutil.wait_procs(started, timeout=5)
    assert [child for child in left if is_running(child.pid)] == []


def test_attempts_that_broke_off_are_counted_by_their_cause_and_shown_to_no_reward():
    whole = group("ok", "ok", answer="ok")
    broken = replace(whole[0], failure=Mark(cause="timeout", detail="environment 'x' was running, for 3 s"))
    with scorer(EXACT, max_unscorable_fraction=0.5) as runtime:
        found = runtime.submit([whole[0], broken, whole[1]]).result(timeout=30)
        assert [(score.value, score.cause) for score in found] == [(1.0, "ok"), (None, "timeout"), (1.0, "ok")]
        assert found[1].detail == "environment 'x' was running, for 3 s"
        for _ in range(20):
            [alone] = runtime.submit([broken]).result(timeout=30)
            assert alone.cause == "timeout"
        with pytest.raises(RewardError, match="timeout: 21, for instance: environment 'x' was running"):
            runtime.check_budget()


def wait_until_gone(pids, deadline_s=15.0):
    end = time.monotonic() + deadline_s
    while running := [pid for pid in pids if is_running(pid)]:
        assert time.monotonic() < end, f"still running: {running}"
        time.sleep(0.05)


@pytest.mark.parametrize(
    ("deed", "cause", "said"),
    [
        ("raise", "error", "KeyError: 'no such mark'"),
        ("leave", "error", "SystemExit: enough"),
        ("sleep", "timeout", "reward 'obey' was running"),
        ("hold the lock", "timeout", "reward 'obey' was running"),
        ("too few", "malformed", "a list of 2 values"),
        ("too many", "malformed", "a list of 2 values"),
        ("nothing", "malformed", "a list of 2 values"),
        ("one number", "malformed", "a list of 2 values"),
        ("only text", "malformed", "returned 'ab'"),
        ("exit", "killed", "exit code 3 while reward 'obey' was running"),
        ("kill", "killed", "SIGKILL"),
        ("crash", "killed", "SIGABRT"),
        ("8 GiB", "error", "MemoryError"),
        ("8 GiB by a child", "error", "MemoryError"),
        ("close files", "killed", "while reward 'obey' was running"),
        ("none", "not_applicable", ""),
    ],
)
def test_a_hostile_reward_costs_its_group_and_no_other(deed, cause, said):
    with scorer() as runtime:
        start = time.monotonic()
        found = score(runtime, deed, "2.0")
        assert time.monotonic() - start < 2 * (4.0 + REAP_TIMEOUT_S)  # the deadline, tried twice where it was killed
        for bad in found:
            assert (bad.value, bad.cause, bad.parts) == (None, cause, {"obey": None})
            assert said in bad.detail
        assert [good.value for good in score(runtime, "0.5", "2.0")] == [0.5, 2.0]


def test_processor_time_is_limited_apart_from_the_deadline():
    with scorer(deadline_s=60.0) as runtime:
        assert "1 s of processor time" in score(runtime, "many threads", "")[0].detail
        assert [good.value for good in score(runtime, "0.5", "2.0")] == [0.5, 2.0]


@pytest.mark.parametrize("deed", ["nan", "inf", "text"])
def test_a_value_that_is_no_number_costs_its_attempt_only(deed):
    with scorer() as runtime:
        bad, good = score(runtime, deed, "2.0")
        assert (bad.value, bad.cause) == (None, "malformed")
        assert (good.value, good.cause) == (2.0, "ok")


@pytest.mark.parametrize("deed", ["print 100 MB", "change directory", "leave threads", "fork"])
def test_what_a_reward_leaves_behind_reaches_no_later_group(deed, capfd):
    with scorer() as runtime:
        assert [s.value for s in score(runtime, deed, "2.0")] == [1.0, 2.0]
        for _ in range(3):
            assert [s.value for s in score(runtime, "0.5", "2.0")] == [0.5, 2.0]
        assert [s.value for s in score(runtime, "at home?", "")] == [1.0, 1.0]
    assert len(capfd.readouterr().err) < 2 * MAX_PRINTED_BYTES


def test_a_child_that_left_the_process_group_is_killed_too():
    with scorer() as runtime:
        worker, child = (int(s.value) for s in score(runtime, "escaped child", ""))
        assert is_running(child) and os.getpgid(child) != os.getpgid(worker)
        assert {s.cause for s in score(runtime, "sleep", "")} == {"timeout"}
        wait_until_gone([worker, child])


def test_a_group_whose_worker_was_killed_is_tried_again(tmp_path):
    note = tmp_path / "calls"
    reward = OBEY.model_copy(update={"kwargs": {"note": str(note)}})
    with scorer(reward) as runtime:
        assert [s.value for s in score(runtime, "kill once", "2.0")] == [1.0, 2.0]
    first, second = note.read_text().split()
    assert first != second


def test_a_group_that_kills_every_worker_is_tried_max_retries_times_more(tmp_path):
    note = tmp_path / "calls"
    reward = OBEY.model_copy(update={"kwargs": {"note": str(note)}})
    with scorer(reward, max_retries=2) as runtime:
        assert {s.cause for s in score(runtime, "kill", "2.0")} == {"killed"}
    assert len(set(note.read_text().split())) == 3


def test_an_idle_worker_that_is_killed_is_replaced():
    with scorer() as runtime:
        pid = int(score(runtime, "pid", "")[0].value)
        os.kill(pid, signal.SIGKILL)
        assert [s.value for s in score(runtime, "0.5", "2.0")] == [0.5, 2.0]


def test_two_timeouts_on_two_workers_do_not_starve_the_next_groups():
    with scorer(num_workers=2) as runtime:
        hung = [runtime.submit(group(deed, "")) for deed in ("sleep", "hold the lock")]
        good = [runtime.submit(group(str(i), "7")) for i in range(4)]
        assert [future.result(30)[0].value for future in good] == [0.0, 1.0, 2.0, 3.0]
        assert {future.result(30)[0].cause for future in hung} == {"timeout"}


@pytest.mark.parametrize(
    "answer", ["{" * 100_000 + "}" * 100_000, "(" * 100_000, r"\\frac{1}{" * 20_000, "9" * 100_000]
)
def test_an_answer_that_is_merely_monstrous_delays_nobody_else(answer):
    with scorer(MathRewardConfig(), num_workers=2, deadline_s=5.0, max_cpu_s=10.0) as runtime:
        monstrous = runtime.submit(group(rf"\boxed{{{answer}}}", answer="633"))
        for number in range(600, 630):
            found = runtime.submit(group(rf"\boxed{{{number}}}", r"\boxed{0}", answer=str(number))).result(30)
            assert [s.value for s in found] == [1.0, 0.0]
        [one] = monstrous.result(timeout=30)
        assert (one.value, one.cause) == (0.0, "ok")


@pytest.mark.parametrize("answer", ["9^{9^{9^{9}}}", r"\sqrt{9^{9^{9^{9}}}}"])
def test_a_hostile_math_answer_costs_itself_alone(answer):
    with scorer(MathRewardConfig(), deadline_s=20.0) as runtime:
        found = score(runtime, rf"\boxed{{{answer}}}", r"\boxed{633}", answer="633")
        assert [(one.value, one.cause) for one in found] == [(0.0, "ok"), (1.0, "ok")]


@pytest.mark.exhaustive
def test_a_whole_group_of_hostile_math_answers_fits_the_deadline():
    hostile = [rf"\boxed{{{n}^{{9^{{9^{{9}}}}}}}}" for n in range(2, 17)]
    with scorer(MathRewardConfig(), deadline_s=20.0) as runtime:
        found = score(runtime, *hostile, r"\boxed{633}", answer="633")
    assert [(one.value, one.cause) for one in found] == [(0.0, "ok")] * 15 + [(1.0, "ok")]


def test_the_total_is_the_weighted_sum_of_what_applies():
    rewards = [
        OBEY.model_copy(update={"weight": 0.5}),
        FunctionRewardConfig(import_path="tests.rewards.obedient:cannot_apply", weight=2.0),
        FunctionRewardConfig(import_path="tests.rewards.obedient:strict", weight=-1.0, name="exact"),
    ]
    with scorer(*rewards) as runtime:
        first, second = score(runtime, "3", "1.5", answer="3")
    assert first.value == 0.5 * 3 + 2.0 * 3 - 1.0 * 1
    assert first.parts == {"obey": 3.0, "cannot_apply": 3.0, "exact": 1.0}
    assert second.value == 0.5 * 1.5 - 1.0 * 0
    assert second.parts == {"obey": 1.5, "cannot_apply": None, "exact": 0.0}


def test_an_attempt_to_which_no_reward_applies_has_no_value_and_is_no_failure():
    with scorer(
        FunctionRewardConfig(import_path="tests.rewards.obedient:cannot_apply"), max_unscorable_fraction=0
    ) as runtime:
        assert [s.cause for s in score(runtime, "x", "1")] == ["not_applicable", "ok"]
        runtime.check_budget()


def test_coroutine_rewards_are_awaited():
    with scorer(FunctionRewardConfig(import_path="tests.rewards.obedient:obey_later")) as runtime:
        assert [s.value for s in score(runtime, "0.5", "2")] == [0.5, 2.0]
        assert "no such mark" in score(runtime, "raise", "2")[0].detail


def test_coroutine_rewards_of_many_groups_wait_together():
    later = FunctionRewardConfig(import_path="tests.rewards.obedient:rests_then_obeys", concurrency=16)
    with scorer(later, FunctionRewardConfig(import_path="tests.rewards.obedient:strict")) as runtime:
        start = time.monotonic()
        found = [runtime.submit(group("0.5", str(i), answer="0.5")) for i in range(16)]
        values = [[score.value for score in future.result(30)] for future in found]
        assert values == [[0.5 + 1.0, float(i)] for i in range(16)]
        assert time.monotonic() - start < 8 * 0.5  # one after the other they would rest for 16 times 0.5 s


def test_a_coroutine_that_is_late_is_given_up_and_its_neighbours_are_not():
    later = FunctionRewardConfig(import_path="tests.rewards.obedient:rests_then_obeys", concurrency=4)
    with scorer(later, deadline_s=2.0) as runtime:
        pid = score(runtime, "pid", "")[0].value
        late, good = runtime.submit(group("rest long", "1")), runtime.submit(group("0.5", "1"))
        assert {s.cause for s in late.result(30)} == {"timeout"}
        assert [s.value for s in good.result(30)] == [0.5, 1.0]
        assert score(runtime, "pid", "")[0].value == pid


def test_a_coroutine_that_blocks_its_loop_costs_its_worker_and_its_neighbours_are_tried_again():
    later = FunctionRewardConfig(import_path="tests.rewards.obedient:rests_then_obeys", concurrency=4)
    with scorer(later, deadline_s=2.0) as runtime:
        pid = score(runtime, "pid", "")[0].value
        blocked, good = runtime.submit(group("sleep", "1")), runtime.submit(group("0.5", "1"))
        assert {s.cause for s in blocked.result(30)} == {"timeout"}
        assert {s.cause for s in good.result(30)} <= {"ok", "timeout"}  # it may be late by its neighbour's fault
        after = score(runtime, "pid", "")[0].value
        assert after is not None and after != pid


def test_a_plain_function_that_hangs_where_several_groups_are_marked_costs_its_worker():
    several = FunctionRewardConfig(import_path="tests.rewards.obedient:obey", concurrency=3)
    with scorer(several, deadline_s=1.0) as runtime:
        pid = score(runtime, "pid", "")[0].value
        for _ in range(4):  # more than there are threads
            assert {s.cause for s in score(runtime, "sleep", "1")} == {"timeout"}
            assert [s.value for s in score(runtime, "0.5", "1")] == [0.5, 1.0]
        assert score(runtime, "pid", "")[0].value != pid


@pytest.mark.parametrize("concurrency", [1, 3])
def test_a_coroutine_that_cancels_itself_has_failed(concurrency):
    later = FunctionRewardConfig(import_path="tests.rewards.obedient:cancels_itself", concurrency=concurrency)
    with scorer(later, deadline_s=5.0) as runtime:
        assert {s.cause for s in score(runtime, "by task")} == {"error"}
        assert {s.cause for s in score(runtime, "by error")} == {"error"}
        assert score(runtime, "1")[0].value == 1.0


def test_two_lanes_have_each_their_own_deadline():
    code = CodeRewardConfig(seconds=6.0, parallel=2)
    judge = JudgeRewardConfig(model="m", base_url="http://127.0.0.1:9/v1", seconds=15.0)
    scoring = ScoringConfig(deadline_s=20.0)
    check_deadline([code, judge], scoring, 4)
    with pytest.raises(RewardError, match=r"reward 'code' may take 28 s for a group of 8, and the deadline is 20 s"):
        check_deadline([code, judge], scoring, 8)
    two = code.model_copy(update={"name": "again"})
    with pytest.raises(RewardError, match="reward 'code', 'again' may take 28 s"):
        check_deadline([code, two, judge], scoring, 4)


def test_a_reward_may_ask_for_step_group_and_log_probabilities():
    attempts = [
        replace(attempt, group_id="p7", step=3, completion_logprobs=(-1.0, -2.0)) for attempt in group("a", "b")
    ]
    with scorer(FunctionRewardConfig(import_path="tests.rewards.obedient:sees_the_run")) as runtime:
        assert [s.value for s in runtime.submit(attempts).result(30)] == [3.0 - 3.0] * 2


def test_failures_past_the_budget_stop_the_run_with_counts_and_examples():
    with scorer(max_unscorable_fraction=0.1, window_groups=9) as runtime:
        for deed in ("raise", "1", "2", "3", "4", "5", "raise", "too few", "0", "exit"):
            score(runtime, deed, "2.0")
        with pytest.raises(RewardError) as caught:
            runtime.check_budget()  # the first has left the window
        assert "6 of the last 18 attempts could not be scored, more than max_unscorable_fraction=0.1." in str(
            caught.value
        )
        assert "error: 2, for instance: reward 'obey' raised KeyError" in str(caught.value)
        assert "malformed: 2, for instance: reward 'obey' must return a list" in str(caught.value)
        assert "killed: 2, for instance: the reward worker" in str(caught.value)


def test_the_budget_allows_for_chance_and_for_nothing_where_it_is_zero():
    with scorer(max_unscorable_fraction=0.2) as runtime:
        for deed in ("raise", "raise"):
            score(runtime, deed, "2.0")
        runtime.check_budget()  # two of two may be chance
        score(runtime, "raise", "2.0")
        allowed = r"=0.2 \(0.89 as long as no more than 3 groups are known\)"
        with pytest.raises(RewardError, match=f"6 of the last 6 .*{allowed}"):
            runtime.check_budget()
    with scorer(max_unscorable_fraction=0.0) as runtime:
        score(runtime, "1", "2.0")
        runtime.check_budget()
        score(runtime, "nan", "2.0")
        with pytest.raises(RewardError, match="1 of the last 4"):
            runtime.check_budget()


def test_a_reward_in_the_current_folder_is_found(tmp_path, monkeypatch):
    (tmp_path / "my_own_reward.py").write_text("def nine(completions):\n    return [9.0] * len(completions)\n")
    monkeypatch.chdir(tmp_path)
    with scorer(FunctionRewardConfig(import_path="my_own_reward:nine")) as runtime:
        assert score(runtime, "a")[0].value == 9.0


def test_a_reward_that_cannot_be_imported_stops_the_start():
    with pytest.raises(RewardError, match=r"'no_such_module:f' cannot be imported.*No module named 'no_such_module'"):
        scorer(FunctionRewardConfig(import_path="no_such_module:f"), num_workers=2)


def test_two_rewards_of_one_name_stop_the_start():
    with pytest.raises(RewardError, match="2 rewards are called 'obey'"):
        scorer(OBEY, OBEY)


def test_nothing_is_left_after_close_not_even_what_a_reward_started():
    runtime = scorer(num_workers=2)
    worker, child = (int(s.value) for s in score(runtime, "child", ""))
    hung = runtime.submit(group("sleep"))
    waiting = [runtime.submit(group("sleep")) for _ in range(3)]
    assert is_running(worker) and is_running(child)
    time.sleep(0.2)
    runtime.close()
    wait_until_gone([worker, child])
    for future in [hung, *waiting]:
        with pytest.raises(RewardError, match="closed"):
            future.result(timeout=1)
    with pytest.raises(RewardError, match="closed"):
        runtime.submit(group("1"))
    runtime.close()


def test_workers_do_not_outlive_a_parent_that_is_killed():
    script = (
        "import sys; sys.path.append('tests/rewards')\n"
        "from test_scorer import scorer, score, group\n"
        "runtime = scorer(deadline_s=600)\n"
        "print(int(score(runtime, 'pid', '')[0].value), flush=True)\n"
        "runtime.submit(group('hold the lock')).result()\n"
    )
    parent = subprocess.Popen([sys.executable, "-c", script], stdout=subprocess.PIPE, text=True, cwd=ROOT)
    worker = int(parent.stdout.readline())
    time.sleep(0.3)
    assert is_running(worker)
    parent.kill()
    parent.wait(5)
    wait_until_gone([worker])


def test_importing_the_scorer_imports_nothing_heavy():
    script = (
        "import sys, rewards.scorer, rewards.gold\n"
        "print(sorted({'torch', 'transformers', 'math_verify', 'sympy', 'ray', 'numpy'} & set(sys.modules)))"
    )
    done = subprocess.run(
        [sys.executable, "-c", script], cwd=ROOT, capture_output=True, text=True, timeout=30, check=True
    )
    assert done.stdout.strip() == "[]"


def test_all_of_trl_s_rewards_run_unchanged():
    gold = "<think>\n3 and 4\n</think>\n\\boxed{7}"
    attempts = [replace(one, completion_ids=(1,) * 12) for one in group(gold, "\\boxed{8} 8 8 8", solution="$7$")]
    made = {
        "get_cosine_scaled_reward": {"max_len": 16},
        "get_repetition_penalty_reward": {"ngram_size": 2, "max_penalty": -1.0},
        "get_soft_overlong_punishment": {"max_completion_len": 16, "soft_punish_cache": 8},
    }
    rewards = [
        FunctionRewardConfig(import_path=f"trl.rewards:{name}", kwargs=kwargs, factory=True)
        for name, kwargs in made.items()
    ]
    plain = ["accuracy_reward", "reasoning_accuracy_reward", "think_format_reward"]
    rewards += [FunctionRewardConfig(import_path=f"trl.rewards:{name}") for name in plain]
    with scorer(*rewards, deadline_s=20.0, max_cpu_s=20.0) as runtime:
        first, second = runtime.submit(attempts).result(60)
    assert (first.cause, second.cause) == ("ok", "ok"), first.detail
    assert first.parts["accuracy_reward"] == first.parts["reasoning_accuracy_reward"] == 1.0
    assert first.parts["think_format_reward"] == 1.0
    assert first.parts["get_soft_overlong_punishment"] == -0.5  # 12 tokens, 4 into the last 8 of 16
    assert first.parts["get_cosine_scaled_reward"] > second.parts["get_cosine_scaled_reward"]
    assert second.parts["get_repetition_penalty_reward"] < 0


def test_a_factory_that_cannot_make_a_reward_says_why():
    wrong = FunctionRewardConfig(
        import_path="trl.rewards:get_soft_overlong_punishment", kwargs={"max": 1}, factory=True
    )
    with pytest.raises(RewardError, match=r"as a factory, was called with kwargs \['max'\]: TypeError"):
        scorer(wrong)
    with pytest.raises(RewardError, match="factory: true"):
        scorer(wrong.model_copy(update={"factory": False}))
