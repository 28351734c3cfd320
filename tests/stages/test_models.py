"""What the engines are sent is what acts, and what is handed over is what was learned."""

import json
from dataclasses import replace
from pathlib import Path
from typing import Any

import peft
import pytest
import torch
from safetensors.torch import load_file, save_file
from transformers import GenerationConfig

from stages import artifact
from stages.base import StageError
from stages.hand_over import save_policy
from stages.logprobs import sequence_logprobs
from stages.models import load_policy, probe_drift
from stages.params import lora_config, weights
from stages.training import LoraParams
from tests.hub import files_of, serving
from tests.models import tiny_model, write_tiny_model
from tests.stages.contexts import make_context

SEQUENCES = [[1, 2, 3, 4, 5], [6, 7]]


def with_trained_adapter(kind: str) -> peft.PeftModel:
    model = peft.get_peft_model(tiny_model(kind, vocab_size=50), lora_config(LoraParams(r=4)))
    for name, parameter in model.named_parameters():
        if "lora_B" in name:
            torch.nn.init.normal_(parameter, std=0.1)
    return model.eval()


@pytest.mark.parametrize("kind", ["qwen3", "llama", "gpt_neox"])
def test_the_weights_of_an_adapted_model_are_those_of_the_merged_one(kind: str) -> None:
    model = with_trained_adapter(kind)
    sent = dict(weights(model))
    fresh = tiny_model(kind, vocab_size=50, seed=9).eval()
    fresh.load_state_dict(sent)
    base = sequence_logprobs(tiny_model(kind, vocab_size=50), SEQUENCES)
    adapted, loaded = sequence_logprobs(model, SEQUENCES), sequence_logprobs(fresh, SEQUENCES)
    assert adapted[0] == pytest.approx(loaded[0], abs=1e-5)
    assert adapted[0] != pytest.approx(base[0], abs=1e-2)


def test_reading_the_weights_does_not_change_the_model() -> None:
    model = with_trained_adapter("qwen3")
    before = {name: tensor.clone() for name, tensor in model.state_dict().items()}
    dict(weights(model))
    assert all(torch.equal(before[name], tensor) for name, tensor in model.state_dict().items())


def test_log_probabilities_do_not_depend_on_what_else_is_in_the_batch() -> None:
    model = tiny_model("qwen3", vocab_size=50)
    together = sequence_logprobs(model, SEQUENCES)
    assert together[1] == pytest.approx(sequence_logprobs(model, SEQUENCES[1:])[0], abs=1e-6)


def test_temperature_divides_the_logits() -> None:
    model = tiny_model("qwen3", vocab_size=50)
    with torch.no_grad():
        logits = model(torch.tensor([[1, 2]])).logits[0, 0]
    expected = torch.log_softmax(logits / 0.5, dim=-1)[2].item()
    assert sequence_logprobs(model, [[1, 2]], temperature=0.5)[0] == pytest.approx([expected], abs=1e-6)


def test_a_probe_that_no_longer_reproduces_stops_the_hand_over(tmp_path: Path) -> None:
    context = make_context(tmp_path, write_tiny_model(tmp_path / "base"))
    policy = load_policy(context)
    probe = sequence_logprobs(policy.model, SEQUENCES[1:])[0][0]
    save_policy(context, policy, version=0, data=[], probes=SEQUENCES)
    manifest = context.output / "manifest.json"
    text = manifest.read_text()
    assert str(probe)[:8] in text
    manifest.write_text(text.replace(str(probe)[:8], str(probe - 1)[:8]))
    with pytest.raises(
        StageError, match=r"is not the one that stage 'stage' saved: a probe token's log-prob.* moved by 1"
    ):
        load_policy(make_context(tmp_path, Path("none"), name="next", inputs={"policy": context.output}))


@pytest.mark.parametrize("precision", ["float16", "bfloat16"])
def test_rounded_weights_are_handed_over_to_the_last_bit(precision: str, tmp_path: Path) -> None:
    context = make_context(tmp_path, write_tiny_model(tmp_path / "base"), precision=precision)
    policy = load_policy(context)
    save_policy(context, policy, version=0, data=[], probes=SEQUENCES)
    probe = artifact.read(context.output, "model").probe
    loaded = load_policy(make_context(tmp_path, Path("none"), inputs={"policy": context.output}, precision=precision))
    assert probe is not None and probe_drift(loaded, probe) < 1e-6


def test_an_adapter_is_the_same_to_the_last_byte_in_whatever_order_its_process_keeps_sets(tmp_path: Path) -> None:
    context = make_context(tmp_path, write_tiny_model(tmp_path / "base"))
    policy = load_policy(context)
    adapted = replace(policy, model=peft.get_peft_model(policy.model, lora_config(LoraParams(r=2))))
    save_policy(context, adapted, version=0, data=[], probes=SEQUENCES)
    saved = json.loads((context.output / "adapter" / "adapter_config.json").read_text())["target_modules"]
    assert len(saved) > 3 and saved == sorted(saved)


def test_a_tokenizer_without_a_pad_token_pads_with_eos(tmp_path: Path) -> None:
    folder = write_tiny_model(tmp_path / "base")
    config = folder / "tokenizer_config.json"
    config.write_text("\n".join(line for line in config.read_text().splitlines() if "pad_token" not in line))
    tokenizer = load_policy(make_context(tmp_path, folder)).tokenizer
    assert tokenizer.pad_token_id == tokenizer.eos_token_id


def edit_json(file: Path, **changes: Any) -> None:
    file.write_text(json.dumps({**json.loads(file.read_text()), **changes}))


@pytest.mark.parametrize(
    ("flags", "kept"),
    [
        ({"do_sample": False, "temperature": 0.6}, {"do_sample": False}),
        ({"temperature": 0.6, "top_p": 0.9, "top_k": 20}, {}),
        ({"temperature": 0.6, "top_p": 0.9, "do_sample": True}, {"temperature": 0.6, "top_p": 0.9, "do_sample": True}),
        ({"num_return_sequences": 4}, {"num_return_sequences": None}),
        ({"num_beams": 1, "early_stopping": True, "length_penalty": 2.0}, {"early_stopping": None}),
        ({"cache_implementation": "nonsense", "max_new_tokens": 0}, {"cache_implementation": None}),
        ({"output_scores": True, "min_p": 0.1}, {"min_p": None}),
        ({"pad_token_id": -1}, {"pad_token_id": None}),
        ({"temperature": "hot"}, {"temperature": None}),
    ],
)
def test_a_generation_config_that_transformers_does_not_save_is_saved_without_what_it_refuses(
    tmp_path: Path, flags: dict[str, Any], kept: dict[str, Any], caplog: pytest.LogCaptureFixture
) -> None:
    folder = write_tiny_model(tmp_path / "base")
    edit_json(folder / "generation_config.json", **flags)
    context = make_context(tmp_path, folder)
    policy = load_policy(context)
    policy.model.save_pretrained(tmp_path / "checkpoint")  # as trainers write theirs
    save_policy(context, policy, version=0, data=[], probes=SEQUENCES)
    saved = GenerationConfig.from_pretrained(context.output)
    assert {key: getattr(saved, key) for key in kept} == kept
    assert ("is handed over without" in caplog.text) == (flags != kept)
    load_policy(make_context(tmp_path, Path("none"), inputs={"policy": context.output}))


def test_several_eos_tokens_are_handed_on(tmp_path: Path) -> None:
    folder = write_tiny_model(tmp_path / "base")
    edit_json(folder / "generation_config.json", eos_token_id=[5, 3])
    context = make_context(tmp_path, folder)
    policy = load_policy(context)
    save_policy(context, policy, version=0, data=[], probes=SEQUENCES)
    assert policy.eos_ids == (policy.tokenizer.eos_token_id, 3, 5)
    loaded = load_policy(make_context(tmp_path, Path("none"), inputs={"policy": context.output}))
    assert loaded.eos_ids == policy.eos_ids


def test_a_default_of_the_model_s_class_ends_no_turn(tmp_path: Path) -> None:
    folder = write_tiny_model(tmp_path / "base", "llama")
    (folder / "generation_config.json").unlink()
    config = json.loads((folder / "config.json").read_text())
    (folder / "config.json").write_text(json.dumps({k: v for k, v in config.items() if k != "eos_token_id"}))
    policy = load_policy(make_context(tmp_path, folder))
    assert policy.eos_ids == (policy.tokenizer.eos_token_id,)  # LlamaConfig's own is 2, here a letter's
    assert policy.model.generation_config.eos_token_id == policy.tokenizer.eos_token_id


def test_weights_that_would_be_random_numbers_are_refused(tmp_path: Path) -> None:
    folder = write_tiny_model(tmp_path / "base")
    tensors = load_file(folder / "model.safetensors")
    save_file(
        {k: v for k, v in tensors.items() if "layers.1.mlp" not in k}, folder / "model.safetensors", {"format": "pt"}
    )
    with pytest.raises(StageError, match=r"lack 3 of those that a Qwen3ForCausalLM has, such as model\.layers\.1"):
        load_policy(make_context(tmp_path, folder))


def test_a_model_from_the_hub_is_looked_at_as_check_looks_at_folders(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    folders = {"right": write_tiny_model(tmp_path / "right"), "endless": write_tiny_model(tmp_path / "endless")}
    (folders["endless"] / "chat_template.jinja").write_text("{% for m in messages %}{{ m.content }}{% endfor %}")
    (tmp_path / "adapter").mkdir()
    (tmp_path / "adapter" / "adapter_config.json").write_text('{"base_model_name_or_path": "org/base"}')
    monkeypatch.setattr("huggingface_hub.snapshot_download", lambda name, **_: str(tmp_path / name.split("/")[1]))
    load_policy(make_context(tmp_path, Path("org/right")))
    with pytest.raises(StageError, match=r"model org/endless@main from the Hub: .* would never learn to stop"):
        load_policy(make_context(tmp_path, Path("org/endless")))
    with pytest.raises(StageError, match=r"is an adapter \(PEFT\) and no model: .* 'org/base'"):
        load_policy(make_context(tmp_path, Path("org/adapter")))


def test_a_stage_starts_from_the_commit_of_the_run_and_hands_its_name_over(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    first = write_tiny_model(tmp_path / "first", seed=1)
    with serving(monkeypatch, tmp_path / "home") as hub:
        commit = hub.push("models/org/base", files_of(first))
        hub.push("models/org/base", files_of(write_tiny_model(tmp_path / "second", seed=2)))
        context = make_context(tmp_path, Path("org/base"), model_revision=commit)
        policy = load_policy(context)
        assert policy.weights_sha256 == artifact.weights_digest(first)
        assert {path.split("/")[4] for path in hub.asked if path.startswith("/org/base/resolve/")} == {commit}
        hub.close()
        assert load_policy(context).weights_sha256 == policy.weights_sha256
        save_policy(context, policy, version=1, data=[], probes=SEQUENCES)
    assert artifact.read(context.output, "model").base_model == f"org/base@{commit}"


def test_code_from_the_hub_is_not_loaded_from_a_branch(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    with serving(monkeypatch, tmp_path / "home") as hub:
        hub.push("models/org/base", files_of(write_tiny_model(tmp_path / "base")))
        with pytest.raises(StageError, match="trust_remote_code runs code of model org/base@main"):
            load_policy(make_context(tmp_path, Path("org/base"), trust_remote_code=True))
        assert hub.asked == []


@pytest.mark.parametrize("file", ["config.json", "tokenizer_config.json"])
def test_code_in_another_repository_is_refused(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, file: str) -> None:
    folder = write_tiny_model(tmp_path / "base")
    tree = json.loads((folder / file).read_text())
    (folder / file).write_text(json.dumps({**tree, "auto_map": {"AutoConfig": ["org/code--own.Own", None]}}))
    with serving(monkeypatch, tmp_path / "home") as hub:
        commit = hub.push("models/org/base", files_of(folder))
        facts = {"model_revision": commit, "trust_remote_code": True}
        with pytest.raises(StageError, match=rf"{file} in .* names code of another repository, 'org/code--own.Own'"):
            load_policy(make_context(tmp_path, Path("org/base"), **facts))
        assert not [path for path in hub.asked if "org/code" in path]
