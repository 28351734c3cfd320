"""`strop rewards`, as a user calls it: what it prints, and what it says of what is wrong."""

import json
import subprocess
import sys
from pathlib import Path

import pytest

from rewards.types import Score
from rollout.records import write_groups
from rollout.types import Prompt, Rollout, RolloutGroup
from stages.rescoring import compare
from tests.fakes import completion

pytestmark = pytest.mark.processes

ROOT = Path(__file__).parents[2]


def strop(*arguments: object) -> "subprocess.CompletedProcess[str]":
    command = [sys.executable, "-m", "pipeline.cli", "rewards", *map(str, arguments)]
    return subprocess.run(command, capture_output=True, text=True, cwd=ROOT, timeout=60)


def write(path: Path, *rows: dict[str, object]) -> Path:
    path.write_text("".join(json.dumps(row) + "\n" for row in rows))
    return path


@pytest.fixture
def answers(tmp_path: Path) -> Path:
    texts = [r"\boxed{7}", r"\boxed{8}", "no idea"]
    return write(tmp_path / "d.jsonl", *({"prompt": "3+4", "completion": text, "answer": "7"} for text in texts))


def test_score_prints_a_line_an_attempt_and_a_summary(answers: Path) -> None:
    result = strop("score", "--reward", "math", "--reward", "{type: format, weight: 0.5}", "--data", answers)
    assert result.returncode == 0, result.stderr
    lines = [json.loads(line) for line in result.stdout.splitlines()]
    assert [line["value"] for line in lines] == [1.5, 0.5, 0.0]
    assert [line["read"] for line in lines] == [{"math": "7"}, {"math": "8"}, {"math": "no idea"}]
    assert [line["parts"] for line in lines][1] == {"math": 0.0, "format": 1.0}
    assert {line["cause"] for line in lines} == {"ok"} and all(line["seconds"] >= 0 for line in lines)
    assert "3 attempts: 3 ok; mean 0.6667" in result.stderr


def test_neighbouring_rows_with_one_prompt_are_a_group(tmp_path: Path) -> None:
    rows = [{"prompt": prompt, "completion": text} for prompt, text in ("a7", "a7", "a8", "b9")]
    result = strop("score", "--reward", "vote", "--data", write(tmp_path / "d.jsonl", *rows))
    assert [json.loads(line)["value"] for line in result.stdout.splitlines()] == [1, 1, 0, 1]


def test_what_a_reward_prints_is_not_among_the_scores(answers: Path) -> None:
    result = strop("score", "--reward", "tests.pipeline.bad_rewards:prints", "--data", answers)
    assert [json.loads(line)["value"] for line in result.stdout.splitlines()] == [1, 1, 1]
    assert "look at me" in result.stderr


def test_trl_s_own_rewards_work_by_import_path(tmp_path: Path) -> None:
    good = "<think>\n3 and 4\n</think>\n\\boxed{7}"
    rows = [{"prompt": "3+4", "completion": text, "solution": r"$7$"} for text in (good, r"\boxed{8}")]
    data = write(tmp_path / "d.jsonl", *rows)
    rewards = ["--reward", "trl.rewards:think_format_reward", "--reward", "trl.rewards:accuracy_reward"]
    result = strop("score", *rewards, "--data", data)
    parts = [json.loads(line)["parts"] for line in result.stdout.splitlines()]
    assert [part["accuracy_reward"] for part in parts] == [1.0, 0.0], result.stderr
    assert [part["think_format_reward"] for part in parts] == [1.0, 0.0]


def test_check_says_which_clauses_hold(tmp_path: Path, answers: Path) -> None:
    right = strop("check", "--reward", "math", "--data", write(tmp_path / "g.jsonl", {"prompt": "3+4", "answer": "7"}))
    assert right.returncode == 0 and right.stdout.count("passed  ") == 4, right.stdout + right.stderr
    wrong = strop("check", "--reward", "math", "--data", answers)
    assert wrong.returncode == 2 and "failed  full marks" in wrong.stdout and "of row 2" in wrong.stdout
    moody = ["check", "--reward", "tests.pipeline.bad_rewards:moody", "--data", answers]
    assert "two calls differ" in strop(*moody).stdout
    assert strop(*moody, "--random").returncode == 0


@pytest.mark.parametrize(
    ("reward", "says"),
    [
        (
            "fails_on_others",
            "failed  groups of one answer and of several, right and wrong ones: reward 'fails",
        ),
        (
            "of_eight_alone",
            "failed  groups of one answer and of several, right and wrong ones: reward 'of_e",
        ),
        ("marks_nothing", "no answer got any value"),
        ("by_the_hash_of_the_process", "two calls differ"),
    ],
)
def test_check_tries_what_gold_answers_alone_do_not_show(tmp_path: Path, reward: str, says: str) -> None:
    data = write(tmp_path / "g.jsonl", {"prompt": "3+4", "answer": "7"}, {"prompt": "1+1", "answer": "2"})
    found = strop("check", "--reward", f"tests.pipeline.bad_rewards:{reward}", "--data", data)
    assert found.returncode == 2 and says in found.stdout, found.stdout + found.stderr


def test_rows_that_differ_in_a_column_are_no_group(tmp_path: Path) -> None:
    rows = [{"prompt": "a", "completion": "1", "level": level} for level in (1, 1, 2)]
    data = write(tmp_path / "d.jsonl", *rows)
    found = strop("score", "--reward", "tests.pipeline.bad_rewards:counts", "--data", data)
    assert [json.loads(line)["value"] for line in found.stdout.splitlines()] == [2, 2, 1], found.stderr


def test_a_file_that_holds_no_groups_is_named(tmp_path: Path) -> None:
    (tmp_path / "r/grpo/rollouts").mkdir(parents=True)
    (tmp_path / "r/grpo/rollouts/junk.parquet").write_text("no parquet")
    found = strop("rescore", tmp_path / "r", "--reward", "math")
    assert found.returncode == 2 and "junk.parquet holds no groups of a run" in " ".join(found.stderr.split())


@pytest.mark.parametrize(
    ("arguments", "says"),
    [
        (["score", "--reward", "maths", "--data", "DATA"], "--reward 'maths' is no reward"),
        (["score", "--reward", "nowhere:f", "--data", "DATA"], "No module named 'nowhere'"),
        (["score", "--reward", "math", "--data", "none.jsonl"], "none.jsonl does not exist"),
        (["score", "--reward", "{type: math, answer_column: gold}", "--data", "DATA"], "has no 'gold'"),
        (["score", "--reward", "math", "--deadline-s", "0", "--data", "DATA"], "deadline_s"),
        (["rescore", "none", "--reward", "math"], "holds no groups"),
    ],
)
def test_what_is_wrong_is_said_without_a_trace(answers: Path, arguments: list[str], says: str) -> None:
    result = strop(*[str(answers) if argument == "DATA" else argument for argument in arguments])
    assert result.returncode == 2 and "Traceback" not in result.stderr
    assert says in " ".join(result.stderr.split())


def test_rescore_shows_how_advantages_change(tmp_path: Path) -> None:
    prompt = Prompt(id="p", messages=[{"role": "user", "content": "3+4"}], token_ids=(1,), columns={"answer": "7"})
    old = {r"\boxed{7}": 0.0, r"\boxed{8}": 1.0, "7": 0.0}  # a reward that liked the wrong answer
    rollouts = tuple(
        Rollout(completion=completion(1), response=text, score=Score(value=value, cause="ok"))
        for text, value in old.items()
    )
    run = tmp_path / "[" / "r]"
    write_groups(run / "grpo/rollouts/step_000001.parquet", [RolloutGroup(prompt=prompt, rollouts=rollouts)])
    result = strop("rescore", run, "--reward", "math")
    assert result.returncode == 0, result.stderr
    assert r"p: 1.0 -> 0.0; math read '8'" in result.stdout
    assert "[/r], stage grpo" in " ".join(result.stdout.split())
    rows = dict(line.strip("│ ").rsplit("│", 1) for line in result.stdout.splitlines() if line.startswith("│"))
    found = {name.strip(): value.strip() for name, value in rows.items()}
    assert (found["mean before"], found["mean after"]) == ("0.3333", "0.6667")
    assert (found["advantage correlation"], found["advantage flipped fraction"]) == ("-1", "1")


def test_a_comparison_by_hand() -> None:
    found = compare([[0, 1], [1, 1], [0, 1], [None, 1]], [[0, 2], [0, 1], [1, 1], [1, 0]])
    assert (found.signal_lost, found.signal_gained, found.unscorable_after) == (1, 2, 0)
    assert (found.advantage_correlation, found.advantage_flipped_fraction) == (pytest.approx(1.0), 0.0)
