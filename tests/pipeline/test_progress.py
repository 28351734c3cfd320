"""What the newest lines of metrics say: rates by hand, and files as a kill or a full disk leaves them."""

import json
import math
from pathlib import Path

import pytest

from pipeline.progress import TAIL_BYTES, newest_lines, progress


def test_rate_and_time_left_are_of_the_lines_at_hand() -> None:
    rows = [{"step": step, "num_steps": 80, "time": 100.0 + 5 * (step - 43)} for step in (43, 44, 45)]
    found = progress(rows, now=112.0)
    assert found is not None
    assert (found.step, found.num_steps, found.step_s) == (45, 80, 5.0)
    assert found.left_s == 173.0  # 35 steps of 5 s, 2 s of them gone by
    assert progress(rows, now=9999.0).left_s == 0.0  # type: ignore[union-attr]


def test_one_line_has_no_rate_and_no_line_no_progress() -> None:
    found = progress([{"step": 1, "num_steps": 80, "time": 5.0, "rollout/sampled_tokens": 9.0}], now=6.0)
    assert found is not None
    assert (found.step_s, found.left_s, found.sampled_tokens_per_s) == (None, None, None)
    assert progress([], now=0.0) is None


def test_tokens_are_those_that_came_after_the_first_line() -> None:
    rows = [
        {"step": step, "time": 10.0 * step, "rollout/sampled_tokens": 300.0, "train/forwarded_tokens": 50.0}
        for step in (1, 2, 3)
    ]
    found = progress(rows, now=30.0)
    assert found is not None and (found.sampled_tokens_per_s, found.learned_tokens_per_s) == (30.0, 5.0)
    counted = [{"step": step, "time": float(step), "train/seen_tokens": 1000.0 * step} for step in (1, 3)]
    assert progress(counted, now=4.0).learned_tokens_per_s == 1000.0  # type: ignore[union-attr]


def test_causes_and_restarts_add_up_those_of_exams_with_them() -> None:
    rows = [
        {"step": 1, "reward/cause/ok/count": 6, "reward/cause/timeout/count": 2, "rollout/engine_restarts": 1.0},
        {"step": 2, "dev/accuracy/reward/cause/timeout/count": 1, "rollout/engine_restarts": 1.0},
    ]
    found = progress(rows, now=0.0)
    assert found is not None and found.causes == {"ok": 6, "timeout": 3} and found.engine_restarts == 2


def test_a_count_that_is_no_number_counts_nothing() -> None:
    rows = [{"step": step, "reward/cause/ok/count": math.nan, "rollout/engine_restarts": math.inf} for step in (1, 2)]
    found = progress(rows, now=0.0)
    assert found is not None and found.causes == {} and found.engine_restarts == 0


def test_the_newest_value_of_each_metric_counts_also_of_one_that_comes_now_and_then() -> None:
    rows = [{"step": 1, "early_stop/accuracy": 0.5, "train/loss": 3.0}, {"step": 2, "train/loss": 2.0}]
    found = progress(rows, now=0.0)
    assert found is not None and found.newest == {"step": 2, "early_stop/accuracy": 0.5, "train/loss": 2.0}


def test_a_long_file_is_read_from_its_end(tmp_path: Path) -> None:
    file = tmp_path / "metrics.jsonl"
    file.write_text("".join(json.dumps({"step": step, "train/loss": 1.0}) + "\n" for step in range(100_000)))
    rows = newest_lines(file)
    assert rows[-1]["step"] == 99_999 and 0 < len(rows) < TAIL_BYTES / 20
    assert [row["step"] for row in rows] == list(range(100_000 - len(rows), 100_000)), "the first, cut line is left out"


@pytest.mark.parametrize(
    "rest",
    [
        '{"step": 2, "trai',
        "",
        "null\n",
        "[1, 2]\n",
        '{"time": 4}\n',
        '{"step": "two"}\n',
        '{"step": true}\n',
        '{"step": NaN}\n',
        '{"step": Infinity}\n',
        f'{{"step": 1{400 * "0"}}}\n',
        '{"step": 2, "num_steps": NaN}\n',
        '{"step": 2, "time": null}\n',
        "\x00\x00\n",
        "[" * 5000,
    ],
)
def test_what_is_no_line_of_metrics_is_passed_over(tmp_path: Path, rest: str) -> None:
    file = tmp_path / "metrics.jsonl"
    file.write_text('{"step": 1, "train/loss": NaN, "text": "[red]"}\n' + rest)
    assert [list(row) for row in newest_lines(file)] == [["step", "train/loss"]]


def test_lines_that_come_later_are_seen_and_a_missing_file_has_none(tmp_path: Path) -> None:
    file = tmp_path / "metrics.jsonl"
    assert newest_lines(file) == ()
    for step in (1, 2):
        with file.open("a") as opened:
            opened.write(json.dumps({"step": step}) + "\n")
        assert newest_lines(file)[-1]["step"] == step
