"""What `strop check` says of folders that are no model to start from, each named with the way out."""

import json
import shutil
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
from safetensors.torch import load_file, save_file

from tests.chats import TEMPLATES
from tests.models import write_tiny_model
from tests.pipeline.test_check import ROWS, assert_refused, check, write
from tests.stages.test_chat_format import WITH_TOOLS, edit, in_config

pytestmark = pytest.mark.processes


@pytest.fixture(scope="module")
def base(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return write_tiny_model(tmp_path_factory.mktemp("model") / "base")


@pytest.fixture
def recipe(tmp_path: Path, base: Path) -> dict[str, Any]:
    """A recipe whose model folder, a copy, may be damaged."""
    shutil.copytree(base, tmp_path / "model")
    data = write(tmp_path / "train.jsonl", ROWS)
    sft = {"kind": "sft", "data": data, "num_steps": 2, "max_tokens": 64}
    return {"name": "r", "model": str(tmp_path / "model"), "stages": {"sft": sft}}


def adapter_alone(folder: Path) -> None:
    clear(folder)
    edit(folder, "adapter_config.json", peft_type="LORA", base_model_name_or_path="org/base")
    (folder / "adapter_model.safetensors").write_bytes(b"")


def adapter_beside_a_model(folder: Path) -> None:
    edit(folder, "adapter_config.json", peft_type="LORA", base_model_name_or_path="org/base")


def adapter_with_a_config(folder: Path) -> None:
    (folder / "model.safetensors").unlink()
    edit(folder, "adapter_config.json", peft_type="LORA", base_model_name_or_path="org/base")


def clear(folder: Path) -> None:
    for file in folder.iterdir():
        file.unlink()


def config_missing(folder: Path) -> None:
    (folder / "config.json").unlink()


def gguf(folder: Path) -> None:
    clear(folder)
    (folder / "model-Q4_K_M.gguf").write_bytes(b"GGUF")


def of_its_maker(folder: Path) -> None:
    clear(folder)
    (folder / "consolidated.00.pth").write_bytes(b"")
    (folder / "params.json").write_text("{}")


def of_its_maker_in_safetensors(folder: Path) -> None:
    (folder / "model.safetensors").rename(folder / "consolidated.safetensors")


def pickled(folder: Path) -> None:
    (folder / "model.safetensors").rename(folder / "pytorch_model.bin")


def shards_missing(folder: Path) -> None:
    (folder / "model.safetensors").rename(folder / "model-00001-of-00002.safetensors")
    names = {"a": "model-00001-of-00002.safetensors", "b": "model-00002-of-00002.safetensors"}
    (folder / "model.safetensors.index.json").write_text(json.dumps({"weight_map": names}))


def index_missing(folder: Path) -> None:
    (folder / "model.safetensors").rename(folder / "model-00001-of-00002.safetensors")


def hub_cache(folder: Path) -> None:
    shutil.copytree(folder, folder.parent / "copy")
    clear(folder)
    (folder.parent / "copy").rename(folder.parent / "moving")
    (folder / "snapshots").mkdir()
    (folder.parent / "moving").rename(folder / "snapshots" / "8d3f")


def finished_stage(folder: Path) -> None:
    shutil.copytree(folder, folder.parent / "moving")
    clear(folder)
    (folder.parent / "moving").rename(folder / "output")


def quantised(folder: Path) -> None:
    edit(folder, "config.json", quantization_config={"quant_method": "gptq", "bits": 4})


def classifier(folder: Path) -> None:
    edit(folder, "config.json", architectures=["Qwen3ForSequenceClassification"])


def deepspeed(folder: Path) -> None:
    (folder / "model.safetensors").unlink()
    (folder / "global_step40").mkdir()


@pytest.mark.parametrize(
    ("damage", "says"),
    [
        (adapter_alone, ["is an adapter (LORA) and no model", "its base, 'org/base'", "merge_and_unload"]),
        (adapter_with_a_config, ["is an adapter (LORA) and no model", "'org/base'"]),
        (adapter_beside_a_model, ["holds a model and an adapter", "take adapter_config.json"]),
        (clear, ["holds no config.json", "it has nothing"]),
        (config_missing, ["holds no config.json", "it has chat_template.jinja", "model.safetensors"]),
        (gguf, ["model-Q4_K_M.gguf is weights for llama.cpp"]),
        (of_its_maker, ["consolidated.00.pth is a checkpoint in its maker's own format"]),
        (of_its_maker_in_safetensors, ["consolidated.safetensors is a checkpoint in its maker's own format"]),
        (pickled, ["pytorch_model.bin is a pickle", "save it again as safetensors"]),
        (shards_missing, ["1 of 2 files that it names are missing, such as model-00002-of-00002.safetensors"]),
        (index_missing, ["model-00001-of-00002.safetensors goes by another name", "there is no"]),
        (hub_cache, ["a model lies in its folder snapshots/8d3f", "set model: "]),
        (finished_stage, ["a model lies in its folder output"]),
        (quantised, ["is quantised (method 'gptq'", "can neither be trained"]),
        (classifier, ["is a Qwen3ForSequenceClassification, which writes no text"]),
        (deepspeed, ["global_step40 is a training checkpoint of DeepSpeed"]),
    ],
)
def test_a_folder_that_is_no_model_to_train_is_called_by_its_name(
    tmp_path: Path, recipe: dict[str, Any], damage: Callable[[Path], None], says: list[str]
) -> None:
    damage(tmp_path / "model")
    assert_refused(check(tmp_path, recipe), tmp_path, *says)


def test_a_file_in_place_of_a_folder(tmp_path: Path, recipe: dict[str, Any]) -> None:
    recipe["model"] = str(tmp_path / "model" / "model.safetensors")
    assert_refused(check(tmp_path, recipe), tmp_path, "model.safetensors is a file", "name the folder")


def test_named_templates_and_tokens_in_the_map_are_taken(tmp_path: Path, recipe: dict[str, Any]) -> None:
    folder = tmp_path / "model"
    named = [{"name": "tool_use", "template": WITH_TOOLS}, {"name": "default", "template": in_config(folder)}]
    eos = json.loads((folder / "tokenizer_config.json").read_text())["eos_token"]
    edit(folder, "tokenizer_config.json", chat_template=named, eos_token=..., added_tokens_decoder=...)
    edit(folder, "special_tokens_map.json", eos_token=eos)
    result = check(tmp_path, recipe)
    assert result.returncode == 0, result.stderr


def test_turns_may_end_with_another_of_the_eos_tokens(tmp_path: Path, recipe: dict[str, Any]) -> None:
    folder = tmp_path / "model"
    eos = json.loads((folder / "generation_config.json").read_text())["eos_token_id"]
    edit(folder, "tokenizer_config.json", eos_token="0")
    edit(folder, "generation_config.json", eos_token_id=[1, eos])
    text = (folder / "chat_template.jinja").read_text()
    vocabulary = {t["id"]: t["content"] for t in json.loads((folder / "tokenizer.json").read_text())["added_tokens"]}
    (folder / "chat_template.jinja").write_text(text.replace("eos_token", repr(vocabulary[eos])))
    assert check(tmp_path, recipe).returncode == 0
    edit(folder, "generation_config.json", eos_token_id=[1])
    assert_refused(check(tmp_path, recipe), tmp_path, "would never learn to stop")
    edit(folder, "generation_config.json", eos_token_id="</s>")
    assert_refused(check(tmp_path, recipe), tmp_path, "eos_token_id in", "it is the number of a token")


def shrink_embedding(folder: Path, rows: int) -> None:
    """Cut the embedding in file and config down to so many rows."""
    file = folder / "model.safetensors"
    weights = load_file(file)
    cut = {name: each[:rows].clone() for name, each in weights.items() if name.endswith("embed_tokens.weight")}
    save_file({**weights, **cut}, file, metadata={"format": "pt"})
    edit(folder, "config.json", vocab_size=rows)


def test_a_tokenizer_that_is_larger_than_the_embedding(tmp_path: Path, recipe: dict[str, Any]) -> None:
    shrink_embedding(tmp_path / "model", 20)
    num = json.loads((tmp_path / "model" / "tokenizer.json").read_text())["model"]["vocab"]
    assert_refused(
        check(tmp_path, recipe), tmp_path, f"has {len(num)} tokens", "embedding has 20 rows", "resize_token_embeddings"
    )


def test_config_and_weights_that_differ_in_the_size_of_the_embedding(tmp_path: Path, recipe: dict[str, Any]) -> None:
    size = json.loads((tmp_path / "model" / "config.json").read_text())["vocab_size"]
    edit(tmp_path / "model", "config.json", vocab_size=size + 7)
    assert_refused(check(tmp_path, recipe), tmp_path, f"vocab_size {size + 7}", f"has {size} rows")


def add_token(folder: Path, content: str) -> None:
    tree = json.loads((folder / "tokenizer.json").read_text())
    plain = {"single_word": False, "lstrip": False, "rstrip": False, "normalized": False, "special": False}
    tree["added_tokens"].append({"id": len(tree["model"]["vocab"]), "content": content, **plain})
    (folder / "tokenizer.json").write_text(json.dumps(tree))


def test_rows_of_the_embedding_that_no_token_uses_are_right(tmp_path: Path, recipe: dict[str, Any]) -> None:
    shutil.rmtree(tmp_path / "model")
    write_tiny_model(tmp_path / "model", vocab_size=512)
    result = check(tmp_path, recipe)
    assert result.returncode == 0 and "note:" not in result.stdout, result.stderr


def test_an_added_token_without_a_row_is_refused_where_it_is_used_and_noted_elsewhere(
    tmp_path: Path, recipe: dict[str, Any]
) -> None:
    folder = tmp_path / "model"
    add_token(folder, "<think>")
    result = check(tmp_path, recipe)
    assert result.returncode == 0 and "a text with one of the tokens that have none ('<think>')" in result.stdout
    recipe["stages"]["sft"]["data"] = write(tmp_path / "t.jsonl", [*ROWS, {**ROWS[0], "completion": "<think>2"}])
    assert_refused(check(tmp_path, recipe), tmp_path, "row 10 of data has '<think>'", "embedding has")
    recipe["stages"]["sft"]["data"] = write(tmp_path / "train.jsonl", ROWS)
    text = (folder / "chat_template.jinja").read_text()
    (folder / "chat_template.jinja").write_text(text + "{% if add_generation_prompt %}<think>{% endif %}")
    assert_refused(check(tmp_path, recipe), tmp_path, "'<think>', which the chat template writes, has none")


def test_a_template_that_refuses_a_conversation_is_no_fault_of_ours(tmp_path: Path, recipe: dict[str, Any]) -> None:
    (tmp_path / "model" / "chat_template.jinja").write_text("{{ raise_exception('a system turn first') }}")
    assert_refused(check(tmp_path, recipe), tmp_path, "refuses the conversation: a system turn first")


def test_adapters_are_built_before_the_run(tmp_path: Path, recipe: dict[str, Any]) -> None:
    rows = [{"prompt": row["prompt"], "chosen": row["completion"], "rejected": "no"} for row in ROWS]
    own = {"target_modules": ["q_proj", "v_proj"], "extra": {"rank_pattern": {"v_proj": 2}, "use_rslora": True}}
    recipe["stages"]["sft"]["params"] = {"type": "lora", "r": 4, **own}
    recipe["stages"]["rm"] = {"kind": "reward_model", "data": write(tmp_path / "p.jsonl", rows), "num_steps": 1,
                              "params": {"type": "lora", "extra": {"init_lora_weights": "eva"}}}  # fmt: skip
    result = check(tmp_path, recipe)
    assert result.returncode == 0, result.stderr
    recipe["stages"]["sft"]["params"]["target_modules"] = ["q_proj", "nope"]
    recipe["stages"]["rm"]["params"]["extra"] = {"rang": 3}
    says = ["stage 'sft': params: target_modules has 'nope'", "stage 'rm': params: PEFT refuses the adapter", "'rang'"]
    assert_refused(check(tmp_path, recipe), tmp_path, *says)


@pytest.mark.parametrize("stage", ["grpo", "sft"])
def test_a_template_that_opens_the_thinking_part_is_planned(tmp_path: Path, recipe: dict[str, Any], stage: str) -> None:
    (tmp_path / "model" / "chat_template.jinja").write_text((TEMPLATES / "thinking_opened.jinja").read_text())
    thought = [{**row, "completion": f"<think>\n1\n</think>\n\n{row['completion']}"} for row in ROWS]
    data = write(tmp_path / "thought.jsonl", thought)
    grpo = {"kind": "grpo", "prompts": data, "num_steps": 2, "sampling": {"max_tokens": 32}, "rewards": ["math"]}
    sft = {**recipe["stages"]["sft"], "data": data}
    recipe["engine"] = {"type": "vllm", "max_model_tokens": 128}
    recipe["stages"] = {stage: grpo if stage == "grpo" else sft}
    result = check(tmp_path, recipe)
    assert result.returncode == 0, result.stderr


@pytest.mark.parametrize(
    "text", ["{% for a in range(99999) %}{% for b in range(99999) %}{% endfor %}{% endfor %}", "{{ 'x' * 10**9 }}"]
)
def test_a_template_that_would_run_for_ever_is_named(tmp_path: Path, recipe: dict[str, Any], text: str) -> None:
    (tmp_path / "model" / "chat_template.jinja").write_text(text)
    said = "would make more than 268,435,456 characters and items of one conversation"
    assert_refused(check(tmp_path, recipe), tmp_path, f"the chat template of {tmp_path / 'model'} {said}")


def test_code_in_another_repository_is_refused_where_code_may_run(tmp_path: Path, recipe: dict[str, Any]) -> None:
    edit(tmp_path / "model", "config.json", auto_map={"AutoModelForCausalLM": "org/code--own.Own"})
    assert check(tmp_path, recipe).returncode == 0
    says = "names code of another repository, 'org/code--own.Own', which may be another tomorrow"
    assert_refused(check(tmp_path, {**recipe, "trust_remote_code": True}), tmp_path, says)
