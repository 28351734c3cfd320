"""What `strop check` says of wrong recipes: exit code 2, a readable line, no trace, and nothing heavy started."""

import json
import shutil
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest
import yaml

from rewards.config import ModelRewardConfig
from stages.fingerprints import reward_fingerprint
from tests.models import write_tiny_model

pytestmark = pytest.mark.processes

ROOT = Path(__file__).parents[2]
ROWS = [{"prompt": f"What is {n} plus 1?", "completion": f"\\boxed{{{n + 1}}}", "answer": str(n + 1)} for n in range(9)]


@pytest.fixture(scope="module")
def model(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return write_tiny_model(tmp_path_factory.mktemp("model") / "base")


@pytest.fixture
def recipe(tmp_path: Path, model: Path) -> dict[str, Any]:
    data = write(tmp_path / "train.jsonl", ROWS)
    return {
        "name": "r",
        "model": str(model),
        "engine": {"type": "vllm", "max_model_tokens": 128},
        "stages": {
            "sft": {"kind": "sft", "data": data, "num_steps": 2, "max_tokens": 64},
            "grpo": {
                "kind": "grpo", "init_from": "sft", "prompts": data, "num_steps": 2,
                "sampling": {"max_tokens": 32}, "rewards": [{"type": "math"}],
            },
        },
    }  # fmt: skip


def write(path: Path, rows: list[Any]) -> str:
    path.write_text("".join(json.dumps(row) + "\n" for row in rows))
    return str(path)


def check(tmp_path: Path, recipe: dict[str, Any]) -> "subprocess.CompletedProcess[str]":
    path = tmp_path / "recipe.yaml"
    path.write_text(yaml.safe_dump(recipe))
    command = [sys.executable, "-m", "pipeline.cli", "check", str(path), "--runs", str(tmp_path / "runs")]
    return subprocess.run(command, capture_output=True, text=True, cwd=ROOT, timeout=180)


def assert_refused(result: "subprocess.CompletedProcess[str]", tmp_path: Path, *says: str) -> None:
    assert result.returncode == 2, result.stdout + result.stderr
    assert "Traceback" not in result.stderr
    for text in says:
        assert text in result.stderr, result.stderr
    assert not (tmp_path / "runs").exists()


def test_a_right_recipe_is_planned(tmp_path: Path, recipe: dict[str, Any]) -> None:
    result = check(tmp_path, recipe)
    assert result.returncode == 0, result.stderr
    assert result.stdout.count("never ran") == 2


def test_paths_are_shown_as_they_are(tmp_path: Path, recipe: dict[str, Any], model: Path) -> None:
    (tmp_path / "[" / "red]").mkdir(parents=True)
    (tmp_path / "[" / "red]" / "m").symlink_to(model)
    result = check(tmp_path, {**recipe, "model": str(tmp_path / "[" / "red]" / "m")})
    assert result.returncode == 0, result.stderr
    assert "[/red]/m" in result.stdout.replace("\n", "")


def test_a_prompt_longer_than_the_engine_s_context(tmp_path: Path, recipe: dict[str, Any]) -> None:
    recipe["stages"]["grpo"]["prompts"] = write(tmp_path / "long.jsonl", [*ROWS, {**ROWS[0], "prompt": "3 " * 200}])
    assert_refused(check(tmp_path, recipe), tmp_path, "stage 'grpo'", "the prompt of row 10", "engine.max_model_tokens")


HERE = "tests.rollout.environments"


@pytest.mark.parametrize(
    ("environment", "says"),
    [
        (
            {"import_path": f"{HERE}:Obedient"},
            "raised RuntimeError: this row has no world, when it was to begin with row",
        ),
        ({"import_path": f"{HERE}:Nothing"}, "has no attribute 'Nothing'"),
        ({"functions": [f"{HERE}:undocumented"]}, "'undocumented' cannot be shown to the policy"),
        ({"functions": [f"{HERE}:multiply"]}, "as tool cannot be shown to the model: the chat template leaves out"),
        ({"function": [f"{HERE}:multiply"]}, "functions"),
    ],
)
def test_an_environment_that_cannot_be_had_begun_or_understood(
    tmp_path: Path, recipe: dict[str, Any], model: Path, environment: dict[str, Any], says: str
) -> None:
    (tmp_path / "base").mkdir()
    for file in model.iterdir():
        (tmp_path / "base" / file.name).write_bytes(file.read_bytes())
    template = (model / "chat_template.jinja").read_text()
    spoken = "{% for message in messages if message.role != 'tool' %}"
    (tmp_path / "base" / "chat_template.jinja").write_text(template.replace("{% for message in messages %}", spoken))
    recipe["model"] = str(tmp_path / "base")
    recipe["stages"]["grpo"]["environment"] = environment
    recipe["stages"]["grpo"]["prompts"] = write(tmp_path / "x.jsonl", [{**row, "unready": True} for row in ROWS])
    assert_refused(check(tmp_path, recipe), tmp_path, "stage 'grpo'" if says != "functions" else "grpo", says)


def test_an_environment_is_tried_for_a_model_on_the_hub_too(tmp_path: Path, recipe: dict[str, Any]) -> None:
    recipe["model"] = "somebody/some-model"
    recipe["stages"]["grpo"]["environment"] = {"import_path": f"{HERE}:Nothing"}
    assert_refused(check(tmp_path, recipe), tmp_path, "stage 'grpo'", "has no attribute 'Nothing'")


def test_tools_that_the_template_shows_take_room(tmp_path: Path, recipe: dict[str, Any], model: Path) -> None:
    (tmp_path / "base").mkdir()
    for file in model.iterdir():
        (tmp_path / "base" / file.name).write_bytes(file.read_bytes())
    template = (model / "chat_template.jinja").read_text()
    (tmp_path / "base" / "chat_template.jinja").write_text("{% if tools %}{{ tools | tojson }}{% endif %}" + template)
    recipe["model"] = str(tmp_path / "base")
    recipe["stages"]["grpo"]["environment"] = {"functions": [f"{HERE}:multiply"]}
    assert_refused(check(tmp_path, recipe), tmp_path, "the prompt of row 1", "raise engine.max_model_tokens")


def test_a_template_that_never_ends_a_turn(tmp_path: Path, recipe: dict[str, Any], model: Path) -> None:
    folder = tmp_path / "endless"
    folder.mkdir()
    for file in model.iterdir():
        (folder / file.name).write_bytes(file.read_bytes())
    turns = "{% for m in messages %}{{ m.role + ':' + m.content }}{% endfor %}"
    (folder / "chat_template.jinja").write_text(turns + "{% if add_generation_prompt %}assistant:{% endif %}")
    recipe["model"] = str(folder)
    assert_refused(check(tmp_path, recipe), tmp_path, "would never learn to stop")


def test_a_model_folder_without_a_tokenizer(tmp_path: Path, recipe: dict[str, Any], model: Path) -> None:
    folder = tmp_path / "bare"
    folder.mkdir()
    (folder / "config.json").write_bytes((model / "config.json").read_bytes())
    recipe["model"] = str(folder)
    assert_refused(check(tmp_path, recipe), tmp_path, "no tokenizer")


@pytest.mark.parametrize(
    ("reward", "says"),
    [
        ({"import_path": "no.such.module:f"}, "no.such.module"),
        ({"import_path": "tests.end_to_end.rewards:nothing_here"}, "nothing_here"),
        ({"import_path": "tests.pipeline.bad_rewards:never_content"}, "gold answer"),
        ({"import_path": "tests.pipeline.bad_rewards:raises"}, "mends nothing"),
    ],
)
def test_a_reward_that_cannot_be_had_or_is_not_content(
    tmp_path: Path, recipe: dict[str, Any], reward: dict[str, Any], says: str
) -> None:
    recipe["stages"]["grpo"]["rewards"] = [reward]
    assert_refused(check(tmp_path, recipe), tmp_path, "stage 'grpo'", says)


def test_a_column_that_a_reward_names_is_missed_where_rows_have_no_gold_answer(
    tmp_path: Path, recipe: dict[str, Any]
) -> None:
    recipe["stages"]["grpo"]["prompts"] = write(tmp_path / "bare.jsonl", [{"prompt": "a"}])
    recipe["stages"]["grpo"]["rewards"] = ["tests.rewards.obedient:reads_hints"]
    assert_refused(check(tmp_path, recipe), tmp_path, "needs the columns ['hint']; the data has []")


@pytest.mark.parametrize(
    ("labels", "says"),
    [
        ({"0": "LABEL_0"}, "reward 'model' is first tried when the run has loaded its model"),
        ({"0": "bad", "1": "good"}, "has 2 labels; a reward is the logit of one"),
        (None, "has 2 labels"),
    ],
)
def test_a_reward_model_is_not_loaded_but_its_head_is_looked_at(
    tmp_path: Path, recipe: dict[str, Any], labels: dict[str, str] | None, says: str
) -> None:
    folder = tmp_path / "reward"
    folder.mkdir()
    (folder / "config.json").write_text(json.dumps({"id2label": labels} if labels else {}))
    recipe["stages"]["grpo"]["rewards"] = [{"type": "model", "model": str(folder)}]
    result = check(tmp_path, recipe)
    assert says in result.stdout + result.stderr
    assert result.returncode == (2 if "2 labels" in says else 0)


def test_another_reward_model_in_the_same_folder_is_another_reward(tmp_path: Path) -> None:
    (tmp_path / "config.json").write_text("{}")
    reward = ModelRewardConfig(model=str(tmp_path))
    before = reward_fingerprint(reward)
    (tmp_path / "config.json").write_text('{"id2label": {"0": "x"}}')
    assert before != reward_fingerprint(reward) != ""


def test_gold_answers_of_every_stage_are_tried(tmp_path: Path, recipe: dict[str, Any]) -> None:
    wrong = [{**row, "prompt": f"Again: {row['prompt']}", "answer": "no"} for row in ROWS]
    tasks = {"dev": {"data": write(tmp_path / "dev.jsonl", wrong), "max_tokens": 32}}
    recipe["stages"]["exam"] = {"kind": "evaluate", "of": ["grpo"], "tasks": tasks}
    assert_refused(check(tmp_path, recipe), tmp_path, "stage 'exam': reward 'math' gives 0 to the gold answer of row 1")


def test_a_reward_that_marks_nothing_is_noted(tmp_path: Path, recipe: dict[str, Any]) -> None:
    recipe["stages"]["grpo"]["rewards"] = ["math", "confidence", "tests.pipeline.bad_rewards:marks_nothing"]
    result = check(tmp_path, recipe)
    assert result.returncode == 0
    assert "note: stage 'grpo': reward 'marks_nothing' returned None for every row" in result.stdout
    assert "reward 'math'" not in result.stdout and "'confidence'" not in result.stdout


def test_a_reward_sees_in_check_what_it_sees_in_the_run(tmp_path: Path, recipe: dict[str, Any]) -> None:
    recipe["stages"]["grpo"]["rewards"] = ["tests.rewards.obedient:equals_gold_completion"]
    result = check(tmp_path, recipe)
    assert result.returncode == 0, result.stderr


def test_a_system_turn_hides_no_exam_on_training_data(tmp_path: Path, recipe: dict[str, Any]) -> None:
    data = {"path": recipe["stages"]["sft"]["data"], "system": "Think."}
    tasks = {"dev": {"data": data, "max_tokens": 32}}
    recipe["stages"]["exam"] = {"kind": "evaluate", "of": ["grpo"], "tasks": tasks}
    assert_refused(check(tmp_path, recipe), tmp_path, "9 problems of exam 'dev' are also in the data of stage")


def test_the_log_of_gaps_that_may_be_small(tmp_path: Path, recipe: dict[str, Any]) -> None:
    stages = recipe["stages"]
    stages["pairs"] = {
        "kind": "pairs",
        "prompts": stages["sft"]["data"],
        "rewards": ["math"],
        "sampling": {"max_tokens": 8},
    }
    stages["odpo"] = {"kind": "preference", "data": {"stage": "pairs"}, "num_steps": 1, "loss": {"type": "odpo"}}
    assert_refused(check(tmp_path, recipe), tmp_path, "stage 'odpo'", "min_gap: 1")


def test_a_local_file_of_another_kind_is_not_taken_for_the_hub(tmp_path: Path, recipe: dict[str, Any]) -> None:
    recipe["stages"]["sft"]["data"] = "mine/nope.parquet"
    assert_refused(check(tmp_path, recipe), tmp_path, "a file of rows is JSONL")


def test_a_missing_data_file_and_a_missing_column(tmp_path: Path, recipe: dict[str, Any]) -> None:
    recipe["stages"]["sft"]["data"] = str(tmp_path / "none.jsonl")
    recipe["stages"]["grpo"]["prompts"] = write(tmp_path / "short.jsonl", [{"prompt": "a"}])
    assert_refused(
        check(tmp_path, recipe), tmp_path, "none.jsonl does not exist", "has no 'answer'; its columns are 'prompt'"
    )


def test_a_folder_for_weights_is_made_or_refused(tmp_path: Path, recipe: dict[str, Any]) -> None:
    recipe["stages"]["grpo"]["sync"] = {"folder": str(tmp_path / "not" / "there")}
    assert check(tmp_path, recipe).returncode == 0
    (tmp_path / "not").write_text("a file")
    assert_refused(check(tmp_path, recipe), tmp_path, f"cannot be had: {tmp_path / 'not'} is no folder; name another")


SUMS = [{"prompt": f"What is {n} plus 1?", "answer": str(n + 1)} for n in range(9)]
PROGRAMS = [{"prompt": f"Print {n}.", "tests": [{"input": "", "output": str(n)}], "answer": None} for n in range(3)]


def test_rows_are_counted_by_the_rewards_that_mark_them(tmp_path: Path, recipe: dict[str, Any]) -> None:
    grpo = recipe["stages"]["grpo"]
    grpo["prompts"] = write(tmp_path / "mixed.jsonl", [*SUMS, *PROGRAMS])
    grpo["rewards"] = ["math", {"type": "code", "sandbox": "none"}]
    result = check(tmp_path, recipe)
    assert result.returncode == 0, result.stderr
    said = " ".join(result.stdout.split())
    assert "stage 'grpo': 'math' marks 9 of 12 rows of prompts" in said
    assert "stage 'grpo': 'code' marks 3 of 12 rows of prompts" in said


def test_rows_that_no_reward_marks_are_refused_by_line(tmp_path: Path, recipe: dict[str, Any]) -> None:
    grpo = recipe["stages"]["grpo"]
    grpo["prompts"] = write(tmp_path / "mixed.jsonl", [*SUMS, {"prompt": "Why?"}, {"prompt": "How?", "answer": None}])
    says = ("stage 'grpo': no reward applies to line 10, line 11 of", "a row needs 'answer' for 'math'")
    assert_refused(check(tmp_path, recipe), tmp_path, *says)


def test_a_function_of_one_s_own_meets_none_where_a_row_lacks_a_column(tmp_path: Path, recipe: dict[str, Any]) -> None:
    grpo = recipe["stages"]["grpo"]
    grpo["prompts"] = write(tmp_path / "mixed.jsonl", [*SUMS, *PROGRAMS])
    grpo["rewards"] = ["math", "tests.pipeline.bad_rewards:wants_tests"]
    assert check(tmp_path, recipe).returncode == 0
    grpo["prompts"] = write(tmp_path / "sums.jsonl", SUMS)
    assert_refused(check(tmp_path, recipe), tmp_path, "it needs the columns ['tests']; the data has ['answer']")


def test_a_misspelled_model_folder(tmp_path: Path, recipe: dict[str, Any]) -> None:
    recipe["model"] = "artifacts/no/such/base"
    assert_refused(check(tmp_path, recipe), tmp_path, "is no folder seen from")


def test_a_context_longer_than_the_model_s_own(tmp_path: Path, recipe: dict[str, Any]) -> None:
    recipe["engine"]["max_model_tokens"] = 4096
    assert_refused(check(tmp_path, recipe), tmp_path, "is more than the model's own context of 256")


def test_an_engine_cannot_sleep_while_it_works_ahead(tmp_path: Path, recipe: dict[str, Any]) -> None:
    recipe["engine"]["sleep"] = True
    assert check(tmp_path, recipe).returncode == 0
    recipe["stages"]["grpo"]["max_staleness"] = 1
    assert_refused(check(tmp_path, recipe), tmp_path, "stage 'grpo': engine.sleep", "set max_staleness: 0")


def test_bad_pairs_are_refused_by_number_or_said_to_be_dropped(tmp_path: Path, recipe: dict[str, Any]) -> None:
    pair = {"prompt": "1+1?", "chosen": "2", "rejected": "3"}
    data = write(tmp_path / "pairs.jsonl", [pair, {**pair, "rejected": "2"}, {**pair, "prompt": "2-0?"}])
    recipe["stages"]["dpo"] = {"kind": "preference", "data": data, "num_steps": 2}
    assert_refused(check(tmp_path, recipe), tmp_path, "stage 'dpo'", "same answer on both sides (pair 2 first)")
    recipe["stages"]["dpo"]["bad_pairs"] = "drop"
    result = check(tmp_path, recipe)
    assert result.returncode == 0 and "1 of 3 pairs teach nothing" in result.stdout + result.stderr


def test_two_rewards_of_one_name(tmp_path: Path, recipe: dict[str, Any]) -> None:
    recipe["stages"]["grpo"]["rewards"] = [{"type": "math"}, {"type": "math", "weight": 0.5}]
    assert_refused(check(tmp_path, recipe), tmp_path, "stage 'grpo'", "math")


def test_a_template_with_marks_of_transformers_is_read(tmp_path: Path, recipe: dict[str, Any], model: Path) -> None:
    folder = tmp_path / "marked"
    folder.mkdir()
    for file in model.iterdir():
        (folder / file.name).write_bytes(file.read_bytes())
    turn = "<|im_start|>{{ m.role }}\n{% generation %}{{ m.content }}{% endgeneration %}<|im_end|>"
    ask = "{% if add_generation_prompt %}<|im_start|>assistant\n{% endif %}"
    (folder / "chat_template.jinja").write_text("{% for m in messages %}" + turn + "{% endfor %}" + ask)
    recipe["model"] = str(folder)
    result = check(tmp_path, recipe)
    assert result.returncode == 0, result.stderr


def test_a_circle(tmp_path: Path, recipe: dict[str, Any]) -> None:
    recipe["stages"]["sft"]["init_from"] = "grpo"
    assert_refused(check(tmp_path, recipe), tmp_path, "in a circle")


def test_an_exam_on_training_data(tmp_path: Path, recipe: dict[str, Any]) -> None:
    tasks = {"dev": {"data": recipe["stages"]["sft"]["data"], "max_tokens": 16}}
    recipe["stages"]["exam"] = {"kind": "evaluate", "of": ["sft"], "tasks": tasks}
    assert_refused(check(tmp_path, recipe), tmp_path, "9 problems of exam 'dev' are also in the data of stage 'sft'")


@pytest.fixture
def stopping(tmp_path: Path, recipe: dict[str, Any]) -> dict[str, Any]:
    """A recipe whose preference stage may stop by an exam, and which ends with one."""
    exams = {name: [{**row, "prompt": f"{name}: {row['prompt']}"} for row in ROWS] for name in ("select", "final")}
    pairs = [{"prompt": row["prompt"], "chosen": row["completion"], "rejected": "no"} for row in ROWS]
    exam = {"exam": write(tmp_path / "select.jsonl", exams["select"]), "max_tokens": 16}
    final = {"dev": {"data": write(tmp_path / "final.jsonl", exams["final"]), "max_tokens": 16}}
    dpo = {"kind": "preference", "data": write(tmp_path / "pairs.jsonl", pairs), "num_steps": 2, "early_stop": exam}
    recipe["stages"] = {"dpo": dpo, "exam": {"kind": "evaluate", "of": ["dpo"], "tasks": final}}
    return recipe


def test_an_exam_that_may_stop_a_stage_is_checked_as_one(tmp_path: Path, stopping: dict[str, Any]) -> None:
    found = check(tmp_path, stopping)
    assert found.returncode == 0 and found.stdout.count("never ran") == 2, found.stderr
    exam = stopping["stages"]["dpo"]["early_stop"]
    right, exam["exam"] = exam["exam"], write(tmp_path / "long.jsonl", [*ROWS, {**ROWS[0], "prompt": "3 " * 200}])
    assert_refused(check(tmp_path, stopping), tmp_path, "stage 'dpo.early_stop': the prompt of row 10 of exam")
    exam["exam"], exam["reward"] = right, {"import_path": "tests.nowhere:reward"}
    assert_refused(check(tmp_path, stopping), tmp_path, "stage 'dpo.early_stop'", "tests.nowhere")


def test_what_selects_is_neither_learned_from_nor_examined(tmp_path: Path, stopping: dict[str, Any]) -> None:
    early_stop = stopping["stages"]["dpo"]["early_stop"]
    right, early_stop["exam"] = early_stop["exam"], write(tmp_path / "learned.jsonl", ROWS)
    assert_refused(check(tmp_path, stopping), tmp_path, "'dpo.early_stop': 9 problems of exam 'exam'", "stage 'dpo'")
    early_stop["exam"] = right
    stopping["stages"]["exam"]["tasks"]["dev"]["data"] = right
    assert_refused(check(tmp_path, stopping), tmp_path, "'exam': 9 problems of exam 'dev'", "stage 'dpo.early_stop'")


def test_rows_that_will_be_cut_are_counted(tmp_path: Path, recipe: dict[str, Any]) -> None:
    recipe["stages"]["sft"]["max_tokens"] = 34
    long = [{**ROWS[0], "prompt": "3 " * 40}, {**ROWS[0], "completion": "3 " * 40}]
    recipe["stages"]["sft"]["data"] = write(tmp_path / "long.jsonl", [*ROWS, *long])
    told = check(tmp_path, recipe)
    assert told.returncode == 0, told.stderr
    assert "1 of 11 rows do not fit into max_tokens 34, and teach nothing" in told.stdout
    assert "1 of 11 rows are cut to max_tokens 34" in told.stdout
    recipe["stages"]["sft"]["max_tokens"] = 8
    assert_refused(check(tmp_path, recipe), tmp_path, "max_tokens 8 is too little for each of 11 rows")


def test_a_reward_model_leaves_out_what_others_cut(tmp_path: Path, recipe: dict[str, Any]) -> None:
    pairs = [{"prompt": "1+1?", "chosen": "2", "rejected": rejected} for rejected in ("3", "3 " * 40)]
    recipe["stages"] = {"rm": {"kind": "reward_model", "data": write(tmp_path / "p.jsonl", pairs), "num_steps": 1,
                               "max_tokens": 34}}  # fmt: skip
    assert "1 of 2 rows do not fit into max_tokens 34, and teach nothing" in check(tmp_path, recipe).stdout


def test_a_model_without_safetensors(tmp_path: Path, recipe: dict[str, Any], model: Path) -> None:
    folder = tmp_path / "pickled"
    shutil.copytree(model, folder, ignore=shutil.ignore_patterns("*.safetensors"))
    (folder / "pytorch_model.bin").write_bytes(b"")
    assert_refused(
        check(tmp_path, {**recipe, "model": str(folder)}),
        tmp_path,
        "has no .safetensors file",
        "pytorch_model.bin is a pickle",
    )


def test_margins_of_pairs_that_have_no_gap(tmp_path: Path, recipe: dict[str, Any]) -> None:
    pairs = {"kind": "pairs", "init_from": "sft", "prompts": recipe["stages"]["sft"]["data"], "rewards": ["math"],
             "sampling": {"max_tokens": 16}, "pairing": {"type": "shorter", "good_from": 1.0}}  # fmt: skip
    reward = {"kind": "reward_model", "data": {"stage": "pairs"}, "num_steps": 1, "margin": True}
    recipe["stages"] = {"sft": recipe["stages"]["sft"], "pairs": pairs, "rm": reward}
    assert_refused(check(tmp_path, recipe), tmp_path, "stage 'rm': in 'pairs' pairs have any scores")


def break_model(folder: Path, model: Path, file: str, content: bytes) -> str:
    folder.mkdir()
    for path in model.iterdir():
        (folder / path.name).write_bytes(path.read_bytes())
    (folder / file).write_bytes(content)
    return str(folder)


@pytest.mark.parametrize(
    ("file", "content", "says"),
    [
        ("tokenizer.json", b"{", "is not a tokenizer"),
        ("tokenizer_config.json", b"[]", "holds a list"),
        ("config.json", b"\xff\xfe", "cannot be read as JSON"),
        ("model.safetensors", b"version https://git-lfs", "is not a whole safetensors file"),
        ("model.safetensors", b"\x02" + bytes(7) + b"{", "is not a whole safetensors file"),
        ("chat_template.jinja", b"{% for %}", "chat template in"),
        ("chat_template.jinja", b"{{ 1 / 0 }}", "ZeroDivisionError"),
    ],
)
def test_a_broken_model_folder_is_named_by_its_file(
    tmp_path: Path, recipe: dict[str, Any], model: Path, file: str, content: bytes, says: str
) -> None:
    recipe["model"] = break_model(tmp_path / "broken", model, file, content)
    assert_refused(check(tmp_path, recipe), tmp_path, says)


@pytest.mark.parametrize(
    ("rows", "says"),
    [
        (b'{"prompt": "a", "completion": "b"}\n{"prompt": "\xff"}\n', "line 2 is not JSON"),
        (
            b'{"prompt": [{"role": "user", "content": "a"}, {"role": "assistant", "content": "b"}]}',
            "assistant is to speak",
        ),
        (b'{"prompt": [{"role": "usr", "content": "a"}], "completion": "b"}', "role 'usr'"),
        (b'{"prompt": "a", "completion": " "}', "says nothing"),
        (b'{"prompt": "a", "completion": [{"role": "user", "content": "b"}]}', "another role than the assistant's"),
    ],
)
def test_a_wrong_conversation_is_named_by_its_line(
    tmp_path: Path, recipe: dict[str, Any], rows: bytes, says: str
) -> None:
    if b"completion" not in rows:
        rows = rows.replace(b"]}", b'], "completion": "c"}')
    (tmp_path / "odd.jsonl").write_bytes(rows)
    recipe["stages"]["sft"]["data"] = str(tmp_path / "odd.jsonl")
    assert_refused(check(tmp_path, recipe), tmp_path, "stage 'sft'", "odd.jsonl, line", says)


def test_pairs_without_scores_or_inverted_ones_are_found_before_odpo(tmp_path: Path, recipe: dict[str, Any]) -> None:
    pair = {"prompt": "a", "chosen": "b", "rejected": "c"}
    stage = {"kind": "preference", "num_steps": 1, "loss": {"type": "odpo", "scale": "linear"}}
    recipe["stages"]["odpo"] = {**stage, "data": write(tmp_path / "bare.jsonl", [pair])}
    assert_refused(check(tmp_path, recipe), tmp_path, "has no 'score_chosen' and no 'score_rejected'")
    scored = [{**pair, "score_chosen": 0.0, "score_rejected": 1.0}]
    recipe["stages"]["odpo"] = {**stage, "data": write(tmp_path / "inverted.jsonl", scored)}
    assert_refused(check(tmp_path, recipe), tmp_path, "a rejected answer that outscores its chosen one")


@pytest.mark.parametrize("data", ["rows.txt", "/no/such/set", "sft"])
def test_what_is_neither_jsonl_nor_on_the_hub(tmp_path: Path, recipe: dict[str, Any], data: str) -> None:
    recipe["stages"]["grpo"]["prompts"] = data if data != "rows.txt" else str(tmp_path / data)
    (tmp_path / "rows.txt").write_text("{}")
    assert_refused(check(tmp_path, recipe), tmp_path, "is a stage" if data == "sft" else "is no data set")


def test_infinities_are_no_settings(tmp_path: Path, recipe: dict[str, Any]) -> None:
    recipe["stages"]["sft"]["learning_rate"] = float("inf")
    assert_refused(check(tmp_path, recipe), tmp_path, "stages.sft.learning_rate", "finite")


def test_the_nearest_name_is_one_of_the_same_variant(tmp_path: Path, recipe: dict[str, Any]) -> None:
    recipe["stages"]["grpo"]["num_epochs"] = 1
    result = check(tmp_path, recipe)
    assert result.returncode == 2 and "num_epochs is not a known key" in result.stderr
    assert "Did you mean 'num_epochs'" not in result.stderr


def test_a_damaged_run_folder_is_named_by_its_file(tmp_path: Path, recipe: dict[str, Any]) -> None:
    (tmp_path / "runs" / "r").mkdir(parents=True)
    (tmp_path / "runs" / "r" / "run.json").write_text("{")
    result = check(tmp_path, recipe)
    assert result.returncode == 2 and "run.json is damaged" in result.stderr and "Traceback" not in result.stderr


@pytest.mark.parametrize(
    ("row", "says"),
    [
        ({"messages": [{"role": "user", "content": "?"}]}, "line 2 has a conversation that ends with a turn of 'user'"),
        ({"prompt": "1", "messages": [{"role": "user", "content": "2"}]}, "line 2: has 'prompt' and 'messages'"),
        ({"prompt": "a \ud83d", "completion": "b"}, r"line 2, column 'prompt': character 3 is '\ud83d', half of"),
        (
            {"prompt": "?", "completion": [{"role": "assistant", "content": None, "tool_calls": [{"name": "f"}]}]},
            "line 2: the chat template leaves out calls of tools",
        ),
    ],
)
def test_a_row_that_cannot_be_learned_is_named_by_file_and_line(
    tmp_path: Path, recipe: dict[str, Any], row: dict[str, Any], says: str
) -> None:
    recipe["stages"] = {"sft": {**recipe["stages"]["sft"], "data": write(tmp_path / "rows.jsonl", [ROWS[0], row])}}
    assert_refused(check(tmp_path, recipe), tmp_path, "stage 'sft'", "rows.jsonl, ", says)


OPENS = "{% if add_generation_prompt %}{{ '<|im_start|>assistant\n' }}"
"""How the generation prompt of the tiny model's template begins."""


def test_a_template_that_opens_the_thoughts_trains_on_rows_that_have_them(
    tmp_path: Path, recipe: dict[str, Any], model: Path
) -> None:
    shutil.copytree(model, tmp_path / "base")
    template = (model / "chat_template.jinja").read_text()
    assert OPENS in template
    (tmp_path / "base" / "chat_template.jinja").write_text(template.replace(OPENS, OPENS[:-4] + "<think>\n' }}"))
    recipe["model"] = str(tmp_path / "base")
    sft = recipe["stages"]["sft"]
    for thoughts, code in (("<think>\nsum\n</think>\n", 0), ("", 2)):
        rows = [{**row, "completion": thoughts + row["completion"]} for row in ROWS]
        recipe["stages"] = {"sft": {**sft, "data": write(tmp_path / "rows.jsonl", rows)}}
        result = check(tmp_path, recipe)
        assert result.returncode == code, result.stderr
    assert (
        "<think>" in result.stderr and "rows.jsonl, line 1: the model would learn in another context" in result.stderr
    )


def test_tests_that_a_program_could_deceive_are_counted(tmp_path: Path, recipe: dict[str, Any]) -> None:
    tests = ["assert f(1) == 2", "import asyncio\nassert asyncio.run(f(1)) == 2", "assert f(1) == Point(2, 3)"]
    recipe["stages"]["grpo"]["prompts"] = write(tmp_path / "p.jsonl", [{"prompt": "Write f.", "tests": tests}] * 3)
    recipe["stages"]["grpo"]["rewards"] = [{"type": "code", "sandbox": "none"}]
    result = check(tmp_path, recipe)
    assert result.returncode == 0, result.stderr
    said = " ".join(result.stdout.split())
    assert (
        "3 of 9 tests of asserts run where the program runs, and a program can deceive them (3 x imports asyncio)"
        in said
    )
    assert "3 of 9 tests of asserts judge by what the program brings along (3 x compares by the program's class" in said
