"""A reward model's score is that of the last token by the mask, whatever pads, and it is handed over as learned."""

import json
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
import torch
import transformers
from datasets import Dataset
from safetensors.torch import load_file, save_file

from pipeline.warned import WarningsFile, warnings_of
from rewards.config import ModelRewardConfig
from rewards.model import load_model
from rewards.types import RewardError
from stages import artifact, hand_over
from stages.base import StageContext, StageError
from stages.reward_model import hand_over as of_rewards
from stages.reward_model.hand_over import scores_by_transformers
from stages.reward_model.pad import require_no_pad
from stages.reward_model.train import run
from tests.models import pad_with_eos, write_tiny_model
from tests.stages.contexts import make_context
from tests.stages.reward_model.test_reward_model import stage
from tests.stages.test_hand_over import after
from tests.stages.test_supervised import Killed, KillsAt

pytestmark = pytest.mark.training

TEXTS = ["3", "3 4 5 6 7 8 9", "What is 12 plus 30?", "apples and books 3"]
CONVERSATIONS: list[Any] = [
    [{"role": "user", "content": "What is 1 plus 1?"}, {"role": "assistant", "content": text}] for text in TEXTS
]


@pytest.fixture
def base(tmp_path: Path) -> Path:
    return write_tiny_model(tmp_path / "base")


def at_last_token(model: Any, rows: list[list[int]]) -> list[float]:
    """Return the head's number for the last state of each row, by itself."""
    with torch.no_grad():
        states = [model.model(input_ids=torch.tensor([row])).last_hidden_state[0, -1] for row in rows]
        return [float(model.score(state)) for state in states]


def loaded(folder: Path) -> tuple[Any, Any]:
    model = transformers.AutoModelForSequenceClassification.from_pretrained(folder, dtype=torch.float32).eval()
    return model, transformers.AutoTokenizer.from_pretrained(folder)


def trained(tmp_path: Path, base: Path, **changes: Any) -> StageContext:
    context = make_context(tmp_path, base)
    run(stage(tmp_path, num_steps=4, learning_rate=1e-2, **changes), context)
    return context


def outside(tmp_path: Path, *, padding_side: str = "right") -> Path:
    """Return a reward model of somebody else's that pads with EOS."""
    base = pad_with_eos(write_tiny_model(tmp_path / "policy"))
    model = transformers.AutoModelForSequenceClassification.from_pretrained(base, num_labels=1)
    torch.nn.init.normal_(model.score.weight, std=1.0)
    tokenizer = transformers.AutoTokenizer.from_pretrained(base, padding_side=padding_side)
    assert tokenizer.pad_token_id == tokenizer.eos_token_id == model.config.pad_token_id
    model.save_pretrained(tmp_path / "outside")
    tokenizer.save_pretrained(tmp_path / "outside")
    return tmp_path / "outside"


@pytest.mark.parametrize("padding_side", ["right", "left"])
def test_a_model_that_pads_with_eos_is_served_by_its_last_token(padding_side: str, tmp_path: Path) -> None:
    folder = outside(tmp_path, padding_side=padding_side)
    served = load_model(ModelRewardConfig(model=str(folder), batch_size=4))
    rows = [served.tokens(turns) for turns in CONVERSATIONS]
    assert len({len(row) for row in rows}) > 1 and all(row[-1] == served.tokenizer.eos_token_id for row in rows)
    expected = at_last_token(served.model, rows)
    assert served.logits(CONVERSATIONS) == pytest.approx(expected, abs=1e-5)
    assert scores_by_transformers(served, CONVERSATIONS) != pytest.approx(expected, abs=1e-2), "it reads one before"


def test_several_end_tokens_in_a_row_are_all_read(tmp_path: Path) -> None:
    folder = outside(tmp_path)
    template = folder / "chat_template.jinja"
    template.write_text(template.read_text() + "{{ eos_token }}{{ eos_token }}")
    served = load_model(ModelRewardConfig(model=str(folder), batch_size=4))
    rows = [served.tokens(turns) for turns in CONVERSATIONS]
    assert all(row[-3:] == [served.tokenizer.eos_token_id] * 3 for row in rows)
    assert served.logits(CONVERSATIONS) == pytest.approx(at_last_token(served.model, rows), abs=1e-5)


def test_a_batch_that_uses_every_token_is_scored_row_by_row(tmp_path: Path) -> None:
    served = load_model(ModelRewardConfig(model=str(outside(tmp_path)), batch_size=4))
    rows = [list(range(len(served.tokenizer))), [1, 2, 3]]
    assert served._of_batch(rows) == pytest.approx(at_last_token(served.model, rows), abs=1e-5)


@pytest.mark.parametrize("has_spare", [True, False])
@pytest.mark.parametrize("params", [{"type": "full"}, {"type": "lora", "r": 4}])
def test_a_policy_that_pads_with_eos_makes_a_reward_model_that_does_not(
    params: dict[str, Any], has_spare: bool, tmp_path: Path, base: Path
) -> None:
    num_tokens = len(transformers.AutoTokenizer.from_pretrained(pad_with_eos(base)))
    if not has_spare:  # a special token that could pad
        file = base / "tokenizer.json"
        file.write_text(file.read_text().replace("<|pad|>", "<|begin|>"))
    context = trained(tmp_path, base, params=params)
    model, tokenizer = loaded(context.output)
    assert tokenizer.pad_token == "<|pad|>" and model.config.pad_token_id == tokenizer.pad_token_id
    assert model.config.vocab_size == len(tokenizer) == num_tokens + (not has_spare)
    served = load_model(ModelRewardConfig(model=str(context.output), batch_size=4))
    expected = at_last_token(model, [served.tokens(turns) for turns in CONVERSATIONS])
    assert served.logits(CONVERSATIONS) == pytest.approx(expected, abs=1e-5)
    for side in ("right", "left"):  # by plain transformers
        texts = [tokenizer.apply_chat_template(turns, tokenize=False) for turns in CONVERSATIONS]
        batch = tokenizer(texts, padding=True, padding_side=side, add_special_tokens=False, return_tensors="pt")
        with torch.no_grad():
            assert model(**batch).logits[:, 0].tolist() == pytest.approx(expected, abs=1e-4), side


def test_training_reads_the_end_of_the_turn(tmp_path: Path, base: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """The state before the end of the turn teaches nothing: what TRL's trainer pools is the end itself."""
    seen: list[tuple[list[int], list[float]]] = []
    forward = transformers.Qwen3ForSequenceClassification.forward

    def watched(self: Any, input_ids: Any = None, attention_mask: Any = None, **named: Any) -> Any:
        output = forward(self, input_ids, attention_mask, **named)
        if self.training:
            lasts = attention_mask.sum(1) - 1
            states = self.model(input_ids, attention_mask=attention_mask).last_hidden_state
            expected = self.score(states[torch.arange(len(lasts)), lasts])[:, 0]
            seen.append((lasts.tolist(), (output.logits[:, 0] - expected).abs().tolist()))
        return output

    monkeypatch.setattr(transformers.Qwen3ForSequenceClassification, "forward", watched)
    trained(tmp_path, pad_with_eos(base))
    assert seen and len({last for lasts, _ in seen for last in lasts}) > 1
    assert max(gap for _, gaps in seen for gap in gaps) < 1e-5


def test_a_pair_that_spells_the_pad_token_has_its_text(tmp_path: Path, base: Path) -> None:
    config = stage(tmp_path, num_steps=4)
    path = Path(config.data.path)  # type: ignore[union-attr]
    tokenizer = transformers.AutoTokenizer.from_pretrained(base)
    path.write_text(path.read_text().replace("apples", f"apples {tokenizer.pad_token}"))
    told = run(config, make_context(tmp_path, base)).metrics
    assert told["data/rows_with_control_text"] == told["data/pairs"]
    rows = Dataset.from_list([{"chosen_ids": [1, tokenizer.pad_token_id], "rejected_ids": [1]}])
    with pytest.raises(StageError, match="is in a pair, and it is the token that this model pads with"):
        require_no_pad(rows, tokenizer)


@pytest.mark.parametrize("params", [{"type": "full"}, {"type": "lora", "r": 4}])
def test_a_stage_with_a_token_of_its_own_that_is_killed_ends_with_the_same_weights(
    params: dict[str, Any], tmp_path: Path, base: Path
) -> None:
    file = pad_with_eos(base) / "tokenizer.json"
    file.write_text(file.read_text().replace("<|pad|>", "<|begin|>"))
    config = stage(tmp_path, num_steps=4, checkpoint={"every_steps": 2}, params=params)
    whole, killed = (make_context(tmp_path / name, base) for name in ("whole", "killed"))
    run(config, whole)
    with pytest.raises(Killed):
        run(config, replace(killed, metrics=KillsAt(killed.folder / "metrics.jsonl", 3)))  # type: ignore[arg-type]
    run(config, killed)
    assert artifact.weights_digest(whole.output) == artifact.weights_digest(killed.output)


def in_head(model: Any, *_: Any) -> None:
    with torch.no_grad():
        model.score.weight.mul_(1.5)


@pytest.mark.parametrize(
    ("named", "where", "name", "damage"),
    [
        ("merge", hand_over, "merged", in_head),
        ("cast", hand_over, "cast_parameters", in_head),
        ("save", of_rewards, "release", None),
        ("tokenizer", of_rewards, "release", None),
        ("pooling", of_rewards, "release", None),
    ],
)
def test_a_step_that_changes_what_was_learned_is_named(
    named: str,
    where: Any,
    name: str,
    damage: Callable[..., None] | None,
    tmp_path: Path,
    base: Path,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    context = make_context(tmp_path, base)
    written = artifact.writing(context)

    def on_disk(*_: Any) -> None:
        changes: dict[str, tuple[str, dict[str, Any]]] = {
            "save": ("config.json", {"rms_norm_eps": 0.3}),
            "tokenizer": ("tokenizer_config.json", {"pad_token": "1"}),
            "pooling": ("config.json", {"pad_token_id": 5}),
        }
        file, change = changes[named]
        (written / file).write_text(json.dumps({**json.loads((written / file).read_text()), **change}))

    after(monkeypatch, name, damage or on_disk, where)
    config = stage(tmp_path, num_steps=4, learning_rate=3e-2, params={"type": "lora", "r": 4})
    with pytest.raises(StageError, match=f"the hand-over broke at step '{named}'"):
        run(config, context)
    assert not context.output.exists()


def test_a_reward_model_that_scores_otherwise_than_when_it_was_handed_over_is_refused(
    tmp_path: Path, base: Path
) -> None:
    context = trained(tmp_path, base)
    manifest = artifact.read(context.output, "reward_model")
    assert manifest.score_probe is not None and set(manifest.moved) == {"tie", "cast", "save", "pooling"}
    served = load_model(ModelRewardConfig(model=str(context.output), precision="bfloat16"))
    assert len({len(served.tokens(turns)) for turns in manifest.score_probe.conversations}) > 1
    config = context.output / "config.json"
    config.write_text(json.dumps({**json.loads(config.read_text()), "rms_norm_eps": 0.3}))
    with pytest.raises(RewardError, match="is not the one that stage 'stage' handed over"):
        load_model(ModelRewardConfig(model=str(context.output)))


def test_the_stage_warns_of_nothing_and_refuses_a_policy_that_lacks_weights(tmp_path: Path, base: Path) -> None:
    (tmp_path / "stage").mkdir()
    with WarningsFile(tmp_path / "stage" / "warnings.jsonl").kept():
        trained(tmp_path, base)
    assert warnings_of(tmp_path / "stage") == [], "that its head is new goes without saying"
    tensors = load_file(base / "model.safetensors")
    del tensors["model.norm.weight"]
    save_file(tensors, base / "model.safetensors", metadata={"format": "pt"})
    with pytest.raises(StageError, match=r"lack 1 of the model's, such as model.norm.weight"):
        run(stage(tmp_path), make_context(tmp_path / "other", base))
