"""What is handed over is what learned; a step that changes it is named, and then nothing is handed over."""

import json
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import peft
import pytest
import torch
import transformers
from safetensors.torch import load_file, save_file
from trl.trainer.utils import add_fused_lm_head

from stages import artifact, hand_over
from stages.base import StageContext, StageError
from stages.hand_over import save_policy
from stages.logprobs import sequence_logprobs
from stages.models import Policy, load_policy
from stages.params import is_tied, lora_config, weights
from stages.proof import Proof, differences
from stages.training import LoraParams
from tests.models import tiny_model, write_tiny_model
from tests.stages.contexts import make_context
from tests.stages.test_supervised import Killed, KillsAt, run_sft, sft_stage

pytestmark = pytest.mark.training

SEQUENCES = [[1, 2, 3, 4, 5, 6, 7], [8, 9, 10]]
ENDS = ["q_proj", "v_proj", "embed_tokens", "lm_head"]


def trained(policy: Policy, **params: Any) -> Policy:
    """Return the policy with an adapter of which no part is without effect."""
    torch.manual_seed(5)
    adapter = lora_config(LoraParams.model_validate({"r": 4, "alpha": 4, **params}))
    model = peft.get_peft_model(policy.model, adapter)
    with torch.no_grad():
        for parameter in model.parameters():
            if parameter.requires_grad:
                parameter.add_(0.1 * torch.randn_like(parameter))
    return replace(policy, model=model.eval())


def context_of(tmp_path: Path, *, tied: bool = False, precision: str = "float32", **changes: Any) -> StageContext:
    base = write_tiny_model(tmp_path / "base", tie_word_embeddings=tied, **changes)
    return make_context(tmp_path, base, precision=precision)


def hand(context: StageContext, policy: Policy, **named: Any) -> None:
    save_policy(context, policy, version=0, data=[], probes=SEQUENCES, **named)


def read(context: StageContext) -> Any:
    return transformers.AutoModelForCausalLM.from_pretrained(context.output, dtype=torch.float32)


def drift(model: Any, said: list[list[float]]) -> float:
    return max(differences(said, sequence_logprobs(model, SEQUENCES)))


@pytest.mark.parametrize("tied", [True, False])
@pytest.mark.parametrize(
    "params",
    [
        {},
        {"target_modules": ["q_proj", "embed_tokens"]},
        {"target_modules": ["q_proj", "lm_head"]},
        {"target_modules": ENDS},
        {"target_modules": ["embed_tokens"], "extra": {"use_dora": True}},
        {"extra": {"modules_to_save": ["embed_tokens"]}},
        {"extra": {"modules_to_save": ["lm_head"]}},
        {"extra": {"modules_to_save": ["norm"]}},
        {"extra": {"trainable_token_indices": [1, 2, 3]}},
        {"extra": {"trainable_token_indices": {"embed_tokens": [1, 2], "lm_head": [3]}}},
        {"extra": {"use_dora": True}},
        {"extra": {"use_rslora": True}},
        {"extra": {"bias": "all"}},
        {"extra": {"rank_pattern": {"q_proj": 2}, "alpha_pattern": {"v_proj": 9}}},
    ],
    ids=json.dumps,
)
def test_what_an_adapter_of_any_kind_learned_is_handed_over(params: Any, tied: bool, tmp_path: Path) -> None:
    context = context_of(tmp_path, tied=tied)
    policy = load_policy(context)
    base = sequence_logprobs(policy.model, SEQUENCES)
    policy = trained(policy, **params)
    live = sequence_logprobs(policy.model, SEQUENCES)
    assert max(differences(base, live)) > 0.01
    hand(context, policy)
    assert drift(read(context), live) < 1e-5
    next_stage = make_context(tmp_path, Path("none"), name="next", inputs={"policy": context.output})
    assert drift(load_policy(next_stage).model, live) < 1e-5


@pytest.mark.parametrize(
    ("params", "stays_tied"),
    [
        ({}, True),
        ({"target_modules": ["embed_tokens"]}, False),
        ({"target_modules": ["embed_tokens"], "extra": {"ensure_weight_tying": True}}, True),
        ({"target_modules": ["lm_head"]}, False),
        ({"extra": {"trainable_token_indices": [1, 2, 3]}}, True),
    ],
    ids=json.dumps,
)
def test_embeddings_and_head_stay_one_weight_where_they_learned_the_same(
    params: Any, stays_tied: bool, tmp_path: Path
) -> None:
    context = context_of(tmp_path, tied=True)
    hand(context, trained(load_policy(context), **params))
    config = json.loads((context.output / "config.json").read_text())
    assert (config["tie_word_embeddings"], is_tied(read(context))) == (stays_tied, stays_tied)


@pytest.mark.parametrize("ensure", [True, False])
@pytest.mark.parametrize("target", ["embed_tokens", "lm_head"])
def test_engines_are_sent_what_an_adapter_on_tied_embeddings_learned(target: str, ensure: bool, tmp_path: Path) -> None:
    context = context_of(tmp_path, tied=True)
    policy = trained(load_policy(context), target_modules=[target], extra={"ensure_weight_tying": ensure})
    vocab = policy.model.config.vocab_size
    engine = tiny_model("qwen3", vocab_size=vocab, seed=7, tie_word_embeddings=False)
    engine.load_state_dict(dict(weights(policy.model)))
    assert drift(engine, sequence_logprobs(policy.model, SEQUENCES)) < 1e-5


@pytest.mark.parametrize("precision", ["bfloat16", "float16"])
def test_rounding_alone_breaks_no_hand_over(precision: str, tmp_path: Path) -> None:
    context = context_of(tmp_path, precision=precision, tied=True)
    hand(context, trained(load_policy(context), target_modules=ENDS))
    moved = artifact.read(context.output, "model").moved
    assert moved["cast"] > 0 and moved["merge"] < 1e-4 and moved["tie"] == 0 and moved["save"] < 1e-5


def after(monkeypatch: pytest.MonkeyPatch, name: str, damage: Callable[..., None], where: Any = hand_over) -> None:
    """Have a step of the hand-over do its work, and then some damage to what comes of it."""
    step = getattr(where, name)

    def act(*arguments: Any, **named: Any) -> Any:
        found = step(*arguments, **named)
        damage(found if found is not None else arguments[0], *arguments[1:])
        return found

    monkeypatch.setattr(where, name, act)


@torch.no_grad()
def one_weight(model: Any, *_: Any) -> None:
    model.get_output_embeddings().weight.mul_(1.5)


def ties_all(model: Any, *_: Any) -> None:
    model.get_output_embeddings().weight = model.get_input_embeddings().weight


def in_json(name: str, **changes: Any) -> Callable[..., None]:
    def damage(model: Any, policy: Policy, folder: Path) -> None:
        file = folder / name
        file.write_text(json.dumps({**json.loads(file.read_text()), **changes}))

    return damage


def in_weights(change: Callable[[dict[str, torch.Tensor]], Any]) -> Callable[..., None]:
    def damage(model: Any, policy: Policy, folder: Path) -> None:
        tensors = load_file(folder / "model.safetensors")
        change(tensors)
        save_file(tensors, folder / "model.safetensors", metadata={"format": "pt"})

    return damage


def template(model: Any, policy: Policy, folder: Path) -> None:
    file = folder / "chat_template.jinja"
    file.write_text("x" + file.read_text())


def vocabulary(model: Any, policy: Policy, folder: Path) -> None:
    file = folder / "tokenizer.json"
    tree = json.loads(file.read_text())
    words = tree["model"]["vocab"]
    one, other = "1", "2"
    words[one], words[other] = words[other], words[one]
    file.write_text(json.dumps(tree))


@pytest.mark.parametrize(
    ("named", "where", "damage"),
    [
        ("merge", "merged", one_weight),
        ("tie", "settle_tie", ties_all),
        ("tie", "write", in_json("config.json", tie_word_embeddings=True)),
        ("cast", "cast_parameters", one_weight),
        ("save", "write", in_weights(lambda tensors: tensors["model.norm.weight"].mul_(1.5))),
        ("save", "write", in_weights(lambda tensors: tensors.pop("model.norm.weight"))),
        ("save", "write", in_weights(lambda tensors: tensors.update(more=torch.zeros(1)))),
        ("save", "write", in_json("config.json", rms_norm_eps=0.1)),
        ("tokenizer", "write", template),
        ("tokenizer", "write", vocabulary),
        ("tokenizer", "write", in_json("tokenizer_config.json", pad_token="1")),
        ("EOS", "write", in_json("tokenizer_config.json", eos_token="1")),
        ("EOS", "write", in_json("generation_config.json", eos_token_id=5)),
    ],
)
@pytest.mark.parametrize("precision", ["float32", "bfloat16"])
def test_a_step_that_changes_what_was_learned_is_named(
    named: str,
    where: str,
    damage: Callable[..., None],
    precision: str,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    context = context_of(tmp_path, tied=True, precision=precision)
    policy = trained(load_policy(context), target_modules=["embed_tokens", "q_proj"])
    after(monkeypatch, where, damage)
    with pytest.raises(StageError, match=f"the hand-over broke at step '{named}'"):
        hand(context, policy)
    assert not context.output.exists()


def test_ranks_that_come_together_wrongly_are_named(tmp_path: Path) -> None:
    context = context_of(tmp_path)
    policy = load_policy(context)
    said = sequence_logprobs(policy.model, SEQUENCES)
    with pytest.raises(StageError, match="step 'gather'"):
        hand(context, policy, live=lambda sequences: [[value - 0.1 for value in row] for row in said])
    hand(context, policy, live=lambda sequences: said)


def test_an_adapter_that_cannot_be_merged_is_named(tmp_path: Path) -> None:
    context = context_of(tmp_path)
    policy = trained(load_policy(context), extra={"lora_bias": True})  # Qwen3's layers have no bias to add it to
    with pytest.raises(StageError, match=r"step 'merge'.*PEFT cannot merge this adapter"):
        hand(context, policy)


def test_a_value_that_is_no_number_breaks_the_proof_wherever_it_stands() -> None:
    proof = Proof(of="x", said=[[1.0, 2.0]])
    with pytest.raises(StageError, match="moved by inf"):
        proof.after("save", [[1.0, float("nan")]])


def test_every_token_that_ended_a_turn_in_training_ends_one_by_the_folders_own_settings(tmp_path: Path) -> None:
    context = context_of(tmp_path, eos_token_id=5)  # the tokenizer ends turns with another one
    policy = load_policy(context)
    assert len(policy.eos_ids) == 2
    hand(context, policy)
    assert sorted(read(context).generation_config.eos_token_id) == list(policy.eos_ids)


def test_the_weights_are_let_go_of_before_they_are_read_back(tmp_path: Path) -> None:
    context = context_of(tmp_path)
    policy = load_policy(context)
    hand(context, policy)
    assert sum(parameter.numel() for parameter in policy.model.parameters()) == 0


@pytest.mark.parametrize(
    ("params", "tied"),
    [
        ({"target_modules": ["embed_tokens", "q_proj"]}, True),
        pytest.param({"extra": {"modules_to_save": ["embed_tokens", "lm_head"]}}, True, marks=pytest.mark.exhaustive),
        ({"extra": {"modules_to_save": ["lm_head"]}}, True),
        ({"extra": {"trainable_token_indices": [1, 2, 3, 40]}}, False),
        pytest.param({"extra": {"bias": "all"}}, False, marks=pytest.mark.exhaustive),
    ],
    ids=json.dumps,
)
def test_a_stage_that_trains_such_an_adapter_is_killed_resumed_and_hands_it_over(
    params: Any, tied: bool, tmp_path: Path
) -> None:
    base = write_tiny_model(tmp_path / "base", tie_word_embeddings=tied)
    stage = sft_stage(tmp_path, params={"type": "lora", "r": 4, **params})
    whole, killed = (make_context(tmp_path, base, name=name) for name in ("whole", "killed"))
    run_sft(stage, whole)
    with pytest.raises(Killed):
        run_sft(stage, replace(killed, metrics=KillsAt(killed.folder / "metrics.jsonl", 3)))  # type: ignore[arg-type]
    run_sft(stage, killed)
    assert artifact.weights_digest(whole.output) == artifact.weights_digest(killed.output)
    assert set(artifact.read(whole.output, "model").moved) == {"merge", "tie", "cast", "save"}


def test_what_trl_trains_is_what_the_model_says(tmp_path: Path) -> None:
    """TRL's loss reads the head's weight by itself: what PEFT put around it must be in there."""
    context = context_of(tmp_path, tied=True)
    policy = trained(load_policy(context), extra={"modules_to_save": ["lm_head"]})
    rows = [[1, 2, 3, 40, 5, 6, 7]]
    plain = sequence_logprobs(policy.model, rows)[0]
    add_fused_lm_head(policy.model.get_base_model(), outputs=("log_probs",))
    tokens = torch.tensor(rows)
    with torch.no_grad():
        fused = policy.model(input_ids=tokens, labels=tokens, fused_lm_head=True).log_probs
    assert fused.flatten()[:6].tolist() == pytest.approx(plain, abs=1e-4)
