import json
import re
from pathlib import Path
from typing import Any

import pytest
from transformers import AutoModelForCausalLM, AutoTokenizer

from examples.arithmetic.__main__ import VERSION
from examples.arithmetic.problems import columns, make_splits
from examples.arithmetic.rewards import digits_right
from examples.task import MARKER, write_task

Rows = list[dict[str, Any]]


def write(out: Path, *, seed: int) -> bool:
    return write_task(out, seed=seed, version=VERSION, make_splits=make_splits)


@pytest.fixture(scope="module")
def splits() -> dict[str, Rows]:
    return make_splits(17)


@pytest.fixture(scope="module")
def task(tmp_path_factory: pytest.TempPathFactory) -> Path:
    out: Path = tmp_path_factory.mktemp("arithmetic")
    write(out, seed=17)
    return out


def numbers(row: dict[str, Any]) -> tuple[int, ...]:
    return tuple(sorted(map(int, re.findall(r"\d+", row["prompt"][0]["content"]))))


def score(text: str, answer: str) -> float:
    return digits_right([None], [[{"role": "assistant", "content": text}]], [answer])[0]


def test_no_pair_of_operands_occurs_twice(splits: dict[str, Rows]) -> None:
    pairs = [numbers(row) for rows in splits.values() for row in rows]
    assert all(len(pair) == 2 for pair in pairs)
    assert len(set(pairs)) == len(pairs)


def test_every_answer_is_the_sum_or_the_difference_and_is_what_the_demonstration_boxes(
    splits: dict[str, Rows],
) -> None:
    for row in (row for rows in splits.values() for row in rows):
        low, high = numbers(row)
        assert int(row["answer"]) in (high + low, high - low)
        assert row["completion"][0]["content"].endswith(f"\\boxed{{{row['answer']}}}")


def test_every_line_of_working_is_true(splits: dict[str, Rows]) -> None:
    lines = [line for row in splits["train"] for line in row["completion"][0]["content"].split("\n")[1:-1]]
    assert lines
    for line in lines:
        terms, result = line.split("=")
        sign = "-" if "-" in terms else "+"
        first, *others = map(int, terms.split(sign))
        assert int(result) == (first + sum(others) if sign == "+" else first - sum(others))


def test_the_working_carries_and_borrows_as_at_school() -> None:
    assert columns(347, "+", 286) == ["7+6+0=13", "4+8+1=13", "3+2+1=06"]
    assert columns(303, "-", 17) == ["13-7-0=6", "10-1-1=8", "03-0-1=2"]


def test_about_half_of_the_demonstrations_show_their_working(splits: dict[str, Rows]) -> None:
    shown = sum("=" in row["completion"][0]["content"] for row in splits["train"])
    assert 0.45 < shown / len(splits["train"]) < 0.55


def test_the_same_seed_gives_the_same_bytes_and_another_seed_other_ones(task: Path, tmp_path: Path) -> None:
    write(tmp_path / "again", seed=17)
    write(tmp_path / "other", seed=18)
    files = sorted(path.relative_to(task) for path in task.rglob("*") if path.is_file())
    assert {"train.jsonl", "dev.jsonl", "unseen.jsonl"} < {str(file) for file in files}
    for file in files:
        assert (task / file).read_bytes() == (tmp_path / "again" / file).read_bytes()
    for changed in ("train.jsonl", "base/model.safetensors", MARKER):
        assert (task / changed).read_bytes() != (tmp_path / "other" / changed).read_bytes()


def test_a_whole_folder_is_left_alone_and_one_without_its_marker_is_made_again(tmp_path: Path) -> None:
    assert write(tmp_path, seed=17)
    assert not write(tmp_path, seed=17)
    (tmp_path / MARKER).unlink()
    (tmp_path / "dev.jsonl").write_text("half a row")
    assert write(tmp_path, seed=17)
    assert all(json.loads(line)["answer"] for line in (tmp_path / "dev.jsonl").read_text().splitlines())


def test_any_text_survives_the_tokenizer_and_a_digit_is_one_token(task: Path) -> None:
    tokenizer = AutoTokenizer.from_pretrained(task / "base")
    printable = "".join(map(chr, range(32, 127)))
    for text in (printable, printable[::-1], "a  b\n\tc \\boxed{12} \\boxed{", "naïve 数"):
        assert tokenizer.decode(tokenizer(text)["input_ids"]) == text
    assert tokenizer.tokenize("347\\boxed{") == ["3", "4", "7", "\\boxed{"]


def test_the_rendered_prompt_is_a_strict_prefix_and_the_turn_ends_with_eos(task: Path, splits: dict[str, Rows]) -> None:
    tokenizer = AutoTokenizer.from_pretrained(task / "base")
    for row in splits["train"][:200] + splits["unseen"][:200]:
        prompt = tokenizer.apply_chat_template(row["prompt"], add_generation_prompt=True)["input_ids"]
        whole = tokenizer.apply_chat_template(row["prompt"] + row["completion"])["input_ids"]
        assert whole[: len(prompt)] == prompt
        assert whole[-1] == tokenizer.eos_token_id
        assert whole.count(tokenizer.eos_token_id) == 2  # the user's turn and the assistant's
        assert tokenizer.pad_token_id not in whole
        assert tokenizer.decode(whole[len(prompt) : -1]) == row["completion"][0]["content"]


def test_the_base_model_is_small_untied_and_stops_at_the_end_of_a_turn(task: Path) -> None:
    model = AutoModelForCausalLM.from_pretrained(task / "base")
    tokenizer = AutoTokenizer.from_pretrained(task / "base")
    assert 1_000_000 <= sum(parameter.numel() for parameter in model.parameters()) <= 3_000_000
    assert model.lm_head.weight.data_ptr() != model.get_input_embeddings().weight.data_ptr()
    assert tokenizer.eos_token == "<|im_end|>"
    assert model.generation_config.eos_token_id == tokenizer.eos_token_id
    assert model.generation_config.pad_token_id == tokenizer.pad_token_id != tokenizer.eos_token_id


@pytest.mark.parametrize(
    ("text", "score_against_633"),
    [
        ("7+6=13\n\\boxed{633}", 1.0),
        ("\\boxed{643}", 2 / 3),
        ("\\boxed{33}", 2 / 3),  # units and tens
        ("\\boxed{1633}", 3 / 4),  # a place too many
        ("\\boxed{0633}", 3 / 4),
        ("\\boxed{63}", 1 / 3),  # a 3 in the units; the 6 stands in the tens
        ("\\boxed{124}", 0.0),
        ("\\boxed{633} no, \\boxed{124}", 0.0),  # the last one counts
        ("\\boxed{}", 0.0),
        ("\\boxed{633", 0.0),
        ("633", 0.0),
        ("", 0.0),
    ],
)
def test_digits_right_is_the_share_of_places_that_agree(text: str, score_against_633: float) -> None:
    assert score(text, "633") == pytest.approx(score_against_633)


def test_digits_right_gives_full_marks_to_every_gold_answer(splits: dict[str, Rows]) -> None:
    rows = [row for rows in splits.values() for row in rows]
    prompts, completions, answers = ([row[key] for row in rows] for key in ("prompt", "completion", "answer"))
    assert set(digits_right(prompts, completions, answers, index=list(range(len(rows))))) == {1.0}
