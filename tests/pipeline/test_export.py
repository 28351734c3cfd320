"""Exported models load with transformers as they are, and their cards say how they came about."""

import json
import os
import shutil
from pathlib import Path
from typing import Any

import peft
import psutil
import pytest
import torch
import transformers
import yaml
from huggingface_hub import ModelCard

from pipeline.config import ConfigError, RunConfig, load_config
from pipeline.export import export
from pipeline.state import RunFolder
from stages import artifact
from stages.base import StageError
from stages.fingerprints import model_fingerprint
from tests.end_to_end.runs import write_recipe, write_rows
from tests.faults.child import bring
from tests.models import write_tiny_model

pytestmark = pytest.mark.processes


@pytest.fixture(scope="module")
def run(tmp_path_factory: pytest.TempPathFactory) -> RunFolder:
    """A run of SFT with an adapter, DPO and an exam, on a tiny model."""
    root = tmp_path_factory.mktemp("export")
    rows = [{"prompt": f"What is {n} plus 1?", "completion": f"\\boxed{{{n + 1}}}"} for n in range(8)]
    exam = [{"prompt": f"What is {n} plus 1?", "answer": str(n + 1)} for n in range(20, 24)]
    pairs = [
        {"prompt": row["prompt"], "chosen": row["completion"], "rejected": "3", "score_chosen": 2, "score_rejected": 0}
        for row in rows
    ]
    steps: dict[str, Any] = {"num_steps": 2, "batch_size": 4, "micro_batch_size": 4, "max_tokens": 64}
    stages = {
        "sft": {"kind": "sft", "data": write_rows(root / "train.jsonl", rows), **steps,
                "params": {"type": "lora", "r": 2}},
        "dpo": {"kind": "preference", "init_from": "sft", "data": write_rows(root / "pairs.jsonl", pairs), **steps,
                "loss": {"type": "odpo", "alpha": 0.0}},
        "exam": {"kind": "evaluate", "of": ["sft", "dpo"],
                 "tasks": {"dev": {"data": write_rows(root / "exam.jsonl", exam), "max_tokens": 8}}},
    }  # fmt: skip
    engine = {"type": "transformers", "max_model_tokens": 64}
    model = str(write_tiny_model(root / "base"))
    recipe = write_recipe(root / "recipe.yaml", name="r", model=model, seed=5, engine=engine, stages=stages)
    bring(recipe, root / "runs", "exam")
    folder = RunFolder(root / "runs" / "r")
    folder.resolved.write_text(load_config(recipe).model_dump_json())
    return folder


@pytest.fixture
def config(run: RunFolder) -> RunConfig:
    return load_config(run.resolved)


def test_what_is_exported_loads_as_it_is_and_its_card_says_how_it_came_about(
    run: RunFolder, config: RunConfig, tmp_path: Path
) -> None:
    as_it_was, later = model_fingerprint(config.hub_name()), Path(config.model) / "later.json"
    later.write_text("{}")
    to = export(config, run, "dpo", tmp_path / "out")
    later.unlink()
    tokens = torch.tensor([[1, 5, 7, 2]])
    ours, theirs = (transformers.AutoModelForCausalLM.from_pretrained(f) for f in (run.stage("dpo") / "output", to))
    assert torch.equal(ours(tokens).logits, theirs(tokens).logits)
    assert transformers.AutoTokenizer.from_pretrained(to).chat_template
    assert not (to / "manifest.json").exists() and not (to / "adapter").exists()
    card = ModelCard.load(to / "README.md")
    exam = run.result("exam").exams["dpo"]["dev/accuracy"]
    [result] = card.data.eval_results
    assert (result.dataset_name, result.metric_value) == ("dev", round(100 * exam.mean, 2))
    assert f"{exam.low:.1%} to {exam.high:.1%} | 4" in card.text
    assert str(run.root.parent) not in card.content, "where it lay is nobody's business"
    assert f"- base model `base`, by Strop's own fingerprint `{as_it_was}`" in card.text


def test_the_recipe_on_the_card_says_all_that_leads_to_the_stage(
    run: RunFolder, config: RunConfig, tmp_path: Path
) -> None:
    text = (export(config, run, "dpo", tmp_path / "out") / "README.md").read_text()
    said = yaml.safe_load(text.split("```yaml\n")[1].split("```")[0])
    assert list(said["stages"]) == ["sft", "dpo"]
    for name, stage in RunConfig.model_validate(said).stages.items():
        data = {"data": {**config.stages[name].model_dump()["data"], "path": stage.model_dump()["data"]["path"]}}
        assert stage.model_dump() == {**config.stages[name].model_dump(), **data}


@pytest.mark.real
@pytest.mark.exhaustive
def test_what_is_exported_is_served_to_an_openai_client_word_for_word(
    run: RunFolder, config: RunConfig, tmp_path: Path
) -> None:
    from openai import OpenAI

    from rewards.serving import serve

    to = export(config, run, "dpo", tmp_path / "out")
    others = {process.pid for process in psutil.Process().children(recursive=True)}
    base_url, key = serve(str(to), 64, 0.5, dtype="float32")
    started = [process for process in psutil.Process().children(recursive=True) if process.pid not in others]
    try:
        question: Any = [{"role": "user", "content": "What is 3 plus 1?"}]
        client = OpenAI(base_url=base_url, api_key=key, timeout=60, max_retries=0)
        said = client.chat.completions.create(model=str(to), messages=question, temperature=0, max_tokens=12)
        tokenizer = transformers.AutoTokenizer.from_pretrained(to)
        model = transformers.AutoModelForCausalLM.from_pretrained(to)
        asked = tokenizer.apply_chat_template(
            question, add_generation_prompt=True, return_tensors="pt", return_dict=False
        )
        written = model.generate(asked, max_new_tokens=12, do_sample=False)[0, asked.shape[1] :]
        expected = tokenizer.decode(written, skip_special_tokens=True)
        half = "\N{REPLACEMENT CHARACTER}"  # of a letter that the next token would end
        assert (said.choices[0].message.content or "").rstrip(half) == expected.rstrip(half) != ""
    finally:
        for process in started:
            if process.is_running():
                os.kill(process.pid, 15)
        _, alive = psutil.wait_procs(started, timeout=30)
    assert not [process for process in alive if process.status() != psutil.STATUS_ZOMBIE]


def test_an_adapter_is_exported_alone_where_one_was_trained(run: RunFolder, config: RunConfig, tmp_path: Path) -> None:
    to = export(config, run, "sft", tmp_path / "adapter", adapter=True)
    assert {"adapter_config.json", "adapter_model.safetensors", "README.md"} <= {path.name for path in to.iterdir()}
    card = ModelCard.load(to / "README.md")
    assert card.data.library_name == "peft" and "It belongs to `base`" in card.text
    base = Path(config.model)
    before = transformers.AutoModelForCausalLM.from_pretrained(base)
    merged = peft.PeftModel.from_pretrained(before, to).merge_and_unload()
    whole = transformers.AutoModelForCausalLM.from_pretrained(run.stage("sft") / "output")
    tokens = torch.tensor([[1, 5, 7, 2]])
    torch.testing.assert_close(merged(tokens).logits, whole(tokens).logits, atol=1e-5, rtol=1e-4)
    assert str(base) not in "".join(path.read_text() for path in to.glob("*.json"))
    with pytest.raises(ConfigError, match="stage 'dpo' trained no adapter"):
        export(config, run, "dpo", tmp_path / "other", adapter=True)


def test_what_began_with_a_model_of_the_hub_names_its_commit(run: RunFolder, config: RunConfig, tmp_path: Path) -> None:
    copy, commit = RunFolder(tmp_path / "copy"), "a" * 40
    shutil.copytree(run.root, copy.root, symlinks=True)
    manifest = copy.stage("sft") / "output" / "manifest.json"
    manifest.write_text(json.dumps({**json.loads(manifest.read_text()), "base_model": f"org/base@{commit}"}))
    config = config.model_copy(update={"model": "org/base", "model_revision": commit})
    to = export(config, copy, "sft", tmp_path / "adapter", adapter=True)
    text = (to / "README.md").read_text()
    assert f"- base model `org/base`, commit `{commit}`" in text and f"model_revision: {commit}" in text
    settings = json.loads((to / "adapter_config.json").read_text())
    assert (settings["base_model_name_or_path"], settings["revision"]) == ("org/base", commit)


def test_what_cannot_be_exported_is_refused_with_the_way_out(run: RunFolder, config: RunConfig, tmp_path: Path) -> None:
    with pytest.raises(ConfigError, match="'grpo' is no stage of this run; its stages are sft, dpo, exam"):
        export(config, run, "grpo", tmp_path / "out")
    with pytest.raises(ConfigError, match="stage 'exam' makes exam, and no model"):
        export(config, run, "exam", tmp_path / "out")
    (tmp_path / "file").write_text("")
    with pytest.raises(ConfigError, match="is there already"):
        export(config, run, "sft", tmp_path)
    copy = RunFolder(tmp_path / "copy")
    shutil.copytree(run.root, copy.root, symlinks=True)
    (copy.stage("sft") / "output" / "config.json").write_text("{}")
    with pytest.raises(StageError, match=r"config.json in .* differs from what its stage wrote"):
        export(config, copy, "sft", tmp_path / "out")
    shutil.rmtree(copy.stage("dpo") / "output")
    with pytest.raises(ConfigError, match="stage 'dpo' has not finished"):
        export(config, copy, "dpo", tmp_path / "out")
    assert not (tmp_path / "out").exists()


def test_only_what_the_stage_listed_is_exported_and_no_link_is_followed(
    run: RunFolder, config: RunConfig, tmp_path: Path
) -> None:
    copy, secret = RunFolder(tmp_path / "copy"), tmp_path / "id_rsa"
    shutil.copytree(run.root, copy.root, symlinks=True)
    secret.write_text("secret")
    output = copy.stage("sft") / "output"
    (output / "notes.txt").write_text("of somebody else")
    (output / "extra.json").symlink_to(secret)
    (output / "home").symlink_to(tmp_path)
    os.link(secret, output / "hard.json")
    os.mkfifo(output / "pipe")
    to = export(config, copy, "sft", tmp_path / "out")
    listed = [name for name in artifact.read(output, "model").files if not name.startswith("adapter/")]
    assert sorted(path.relative_to(to).as_posix() for path in to.rglob("*")) == sorted([*listed, "README.md"])
    (output / "config.json").rename(tmp_path / "config.json")
    (output / "config.json").symlink_to(tmp_path / "config.json")
    with pytest.raises(StageError, match=r"config.json in .* is missing, or a link"):
        export(config, copy, "sft", tmp_path / "again")
    assert not (tmp_path / "again").exists()
