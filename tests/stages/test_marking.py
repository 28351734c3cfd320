"""Data sets that hold tasks of several kinds: which rewards mark which rows."""

import json
from pathlib import Path

import pytest

from rewards.config import CodeRewardConfig, FormatRewardConfig, JudgeRewardConfig, MathRewardConfig
from stages.data.config import DataSetConfig
from stages.data.marking import check_marked, column_names, counts, varied
from stages.data.rows import DataError, Row, load_rows
from stages.gold_trials import trial_attempts

MATH, CODE, FORMAT = MathRewardConfig(), CodeRewardConfig(), FormatRewardConfig()
SUM = {"prompt": "1+1?", "answer": "2"}
PROGRAM = {"prompt": "Print 2.", "tests": ["assert f() == 2"], "answer": None}
TALK = {"prompt": "Hello!"}


def load(tmp_path: Path, *rows: Row, **settings: object) -> tuple[DataSetConfig, list[Row]]:
    path = tmp_path / "d.jsonl"
    path.write_text("\n".join(json.dumps(row) + "\n" for row in rows))  # with empty lines between them
    config = DataSetConfig.model_validate({"path": str(path), **settings})
    return config, load_rows(config, ["prompt"])


def test_rows_are_counted_by_combination(tmp_path: Path) -> None:
    _, rows = load(tmp_path, SUM, PROGRAM, SUM)
    assert list(counts(rows, [MATH, CODE, FORMAT])) == [
        "'math' and 'format' mark 2 of 3 rows",
        "'code' and 'format' mark 1 of 3 rows",
    ]
    assert list(counts(rows[:1], [MATH, FORMAT])) == []


def test_unmarked_rows_are_named_by_line(tmp_path: Path) -> None:
    config, rows = load(tmp_path, SUM, TALK, PROGRAM, *[TALK] * 6)
    with pytest.raises(DataError, match=r"to line 3, line 7, line 9, line 11, line 13 and 2 more rows of .*needs 'ans"):
        check_marked(config, rows, [MATH, CODE])
    check_marked(config, rows, [MATH, CODE, FORMAT])


def test_a_column_that_no_row_has_is_a_slip_of_the_recipe(tmp_path: Path) -> None:
    config, rows = load(tmp_path, SUM, PROGRAM)
    with pytest.raises(DataError, match=r"has no 'test'; its columns are 'answer', 'prompt', 'tests'. Reward 'code'"):
        check_marked(config, rows, [MATH, CodeRewardConfig(tests_column="test")])
    with pytest.raises(DataError, match="has no 'starter'"):
        check_marked(config, rows, [MATH, CodeRewardConfig(setup_column="starter")])


def test_a_gold_completion_goes_by_another_name(tmp_path: Path) -> None:
    config, rows = load(tmp_path, {**SUM, "completion": "2"})
    with pytest.raises(DataError, match="is called 'gold_completion' there"):
        check_marked(config, rows, [JudgeRewardConfig(model="x", reference_column="completion")])
    check_marked(config, rows, [JudgeRewardConfig(model="x", reference_column="gold_completion")])


def test_mapped_columns_may_be_missing_in_some_rows_and_not_in_all(tmp_path: Path) -> None:
    columns = {"answer": {"column": "solution", "pattern": "#### (.*)"}}
    config, rows = load(tmp_path, {"prompt": "1+1?", "solution": "so #### 2"}, PROGRAM, columns=columns)
    assert [row["answer"] for row in rows] == ["2", None]
    check_marked(config, rows, [MATH, CODE])
    with pytest.raises(DataError, match=r"no row of .* has column 'solution', which is to be 'answer'"):
        load(tmp_path, TALK, columns=columns)
    with pytest.raises(DataError, match="line 1 has no column 'question'"):
        load(tmp_path, TALK, columns={"prompt": "question"})


def test_a_reward_is_tried_on_rows_that_it_marks_and_on_each_kind_of_them(tmp_path: Path) -> None:
    leveled = {**SUM, "level": 3}
    _, rows = load(tmp_path, *[SUM] * 9, PROGRAM, leveled)
    assert varied(rows, [CODE], 4) == [9]
    assert varied(rows, [MATH], 4) == [0, 1, 2, 10]
    assert column_names(rows) == ["answer", "tests", "level"]
    gold, other = trial_attempts(rows, [MATH, CODE], 3)
    assert [attempt.group_id for attempt in gold] == ["row 1", "row 11"]
    assert gold[0].columns == {"answer": "2", "tests": None, "level": None}
    assert [attempt.completion[0]["content"] for attempt in other] == ["an answer"]  # null is no gold answer
