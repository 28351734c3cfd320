import json
from pathlib import Path

import pytest

from stages.data.config import ColumnConfig, DataSetConfig
from stages.data.rows import DataError, load_rows, row_id


def data(tmp_path: Path, text: str, **settings: object) -> DataSetConfig:
    (tmp_path / "d.jsonl").write_text(text)
    return DataSetConfig.model_validate({"path": str(tmp_path / "d.jsonl"), **settings})


def test_text_becomes_messages_of_the_right_author(tmp_path: Path) -> None:
    [row] = load_rows(data(tmp_path, '{"prompt": "1+1", "completion": "2"}\n'), ("prompt", "completion"))
    assert row["prompt"] == [{"role": "user", "content": "1+1"}]
    assert row["completion"] == [{"role": "assistant", "content": "2"}]


def test_a_hub_schema_is_mapped_to_ours(tmp_path: Path) -> None:
    gsm8k = json.dumps({"question": "6 eggs, 2 eaten?", "answer": "6-2=<<6-2=4>>4\n#### 4"}) + "\n"
    columns = {
        "prompt": ColumnConfig(column="question"),
        "completion": ColumnConfig(column="answer"),
        "answer": ColumnConfig(column="answer", pattern=r"####\s*(.+)"),
    }
    [row] = load_rows(data(tmp_path, gsm8k, columns=columns, system="Think."), ("prompt", "completion", "answer"))
    assert row["answer"] == "4"
    assert [turn["role"] for turn in row["prompt"]] == ["system", "user"]
    assert row["completion"][0]["content"].endswith("#### 4")


def test_a_conversation_is_taken_apart_and_nested_columns_are_reached(tmp_path: Path) -> None:
    turns = [{"role": "user", "content": "1+1"}, {"role": "assistant", "content": "2"}]
    text = json.dumps({"messages": turns, "reward_model": {"ground_truth": "2"}}) + "\n"
    columns = {"answer": "reward_model.ground_truth"}
    [row] = load_rows(data(tmp_path, text, columns=columns), ("prompt", "completion", "answer"))
    assert (row["prompt"], row["completion"], row["answer"]) == (turns[:1], turns[1:], "2")


@pytest.mark.parametrize(
    ("text", "says"),
    [
        ("", "holds no rows"),
        ('{"prompt": "a", "completion": "b"}\nnot json\n', "line 2 is not JSON"),
        ("[1, 2]\n", "line 1 holds a list"),
        ('{"question": "a"}\n', "line 1 has no 'prompt' and no 'completion'; its columns are 'question'"),
        ('{"prompt": [], "completion": "b"}\n', "expected text or a non-empty list of messages"),
        ('{"prompt": [{"role": "user"}], "completion": "b"}\n', "a message has a 'role' and a text 'content'"),
    ],
)
def test_wrong_rows_are_named_by_line(tmp_path: Path, text: str, says: str) -> None:
    with pytest.raises(DataError, match=r"d.jsonl") as caught:
        load_rows(data(tmp_path, text), ("prompt", "completion"))
    assert says in str(caught.value)


def test_a_missing_file_is_said(tmp_path: Path) -> None:
    with pytest.raises(DataError, match="does not exist"):
        load_rows(DataSetConfig(path=str(tmp_path / "none.jsonl")), ("prompt",))


def test_a_pattern_that_does_not_match_is_an_error(tmp_path: Path) -> None:
    columns = {"answer": ColumnConfig(column="answer", pattern="#### (.+)")}
    with pytest.raises(DataError, match=r"line 1.*does not match"):
        load_rows(data(tmp_path, '{"prompt": "a", "answer": "4"}\n', columns=columns), ("prompt", "answer"))


def test_row_ids_follow_content_and_not_place(tmp_path: Path) -> None:
    text = '{"prompt": "a"}\n{"prompt": "b"}\n'
    first = [row_id(row) for row in load_rows(data(tmp_path, text), ("prompt",))]
    turned = [row_id(row) for row in load_rows(data(tmp_path, "\n".join(reversed(text.split("\n")))), ("prompt",))]
    assert first == turned[::-1] and len(set(first)) == 2


def test_a_limit_takes_the_first_rows(tmp_path: Path) -> None:
    assert len(load_rows(data(tmp_path, '{"prompt": "a"}\n{"prompt": "b"}\n', limit=1), ("prompt",))) == 1


USER, ANSWER = {"role": "user", "content": "1+1"}, {"role": "assistant", "content": "2"}


def pair_file(tmp_path: Path, chosen: list[object], rejected: list[object]) -> DataSetConfig:
    return data(tmp_path, json.dumps({"chosen": chosen, "rejected": rejected}) + "\n")


def test_two_whole_conversations_are_two_answers_to_the_prompt_they_share(tmp_path: Path) -> None:
    wrong = {"role": "assistant", "content": "3"}
    [row] = load_rows(pair_file(tmp_path, [USER, ANSWER], [USER, wrong]), ("prompt", "chosen", "rejected"))
    assert (row["prompt"], row["chosen"], row["rejected"]) == ([USER], [ANSWER], [wrong])


@pytest.mark.parametrize(
    ("chosen", "rejected", "says"),
    [
        ([USER, ANSWER], [{**USER, "content": "2+2"}, ANSWER], "line 1: the prompts of the two sides differ in turn 1"),
        ([USER, ANSWER, USER, ANSWER], [USER, ANSWER], "differ in turn 3, .* and None"),
        ([USER, ANSWER, ANSWER], [USER, ANSWER, {**ANSWER, "content": "3"}], "it"),
        ([USER, {"role": "assistant", "content": " "}], [USER, ANSWER], "says nothing"),
    ],
)
def test_a_pair_that_is_none_is_named_by_its_line(
    tmp_path: Path, chosen: list[object], rejected: list[object], says: str
) -> None:
    with pytest.raises(DataError, match=says):
        load_rows(pair_file(tmp_path, chosen, rejected), ("prompt", "chosen", "rejected"))


@pytest.mark.parametrize(
    ("turns", "says"),
    [
        ([USER, {"role": "system", "content": "x"}, USER], "a system turn at place 2; it can only come first"),
        ([USER, ANSWER, ANSWER, USER], r"two turns of the assistant in a row \(the second is turn 3\)"),
    ],
)
def test_roles_out_of_order_are_refused(tmp_path: Path, turns: list[object], says: str) -> None:
    with pytest.raises(DataError, match=says):
        load_rows(data(tmp_path, json.dumps({"prompt": turns}) + "\n"), ("prompt",))
