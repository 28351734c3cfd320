"""A reward model in a worker of its own, against the model asked directly."""

import json
from pathlib import Path

import pytest
import torch
import transformers
from safetensors.torch import load_file, save_file

from examples.arithmetic.base_model import make_tokenizer
from rewards.config import FunctionRewardConfig, ModelRewardConfig
from rewards.model import load_model
from rewards.scorer import Scorer, in_lanes
from rewards.scoring_config import ScoringConfig
from rewards.types import RewardError
from tests.hub import files_of, serving
from tests.models import SIZES, TEXTS
from tests.rewards.attempts import group

pytestmark = pytest.mark.processes

ANSWERS = ["3 4 5", "6", "3 4 5 6 7 8 9 3 4 5 6 7 8 9", "apples"]


def write_reward_model(folder: Path, num_labels: int = 1) -> Path:
    torch.manual_seed(3)
    tokenizer = make_tokenizer(TEXTS)
    config = transformers.Qwen3Config(
        **SIZES, num_key_value_heads=1, head_dim=32, vocab_size=len(tokenizer), num_labels=num_labels,
        pad_token_id=tokenizer.pad_token_id,
    )  # fmt: skip
    transformers.AutoModelForSequenceClassification.from_config(config).save_pretrained(folder)
    tokenizer.save_pretrained(folder)
    return folder


def logit(folder: Path, answer: str, max_tokens: int = 2048) -> float:
    tokenizer = transformers.AutoTokenizer.from_pretrained(folder)
    model = transformers.AutoModelForSequenceClassification.from_pretrained(folder).eval()
    turns = [{"role": "user", "content": "?"}, {"role": "assistant", "content": answer}]
    ids = tokenizer.apply_chat_template(turns, return_dict=False)[-max_tokens:]
    with torch.no_grad():
        return float(model(input_ids=torch.tensor([ids])).logits[0, 0])


def score(reward: ModelRewardConfig) -> list[float | None]:
    with Scorer([reward], ScoringConfig()) as scorer:
        return [one.value for one in scorer.submit(group(*ANSWERS)).result(60)]


def test_each_answer_gets_its_logit_whatever_it_is_batched_with(tmp_path: Path) -> None:
    folder = write_reward_model(tmp_path / "rm")
    expected = [logit(folder, answer) for answer in ANSWERS]
    assert score(ModelRewardConfig(model=str(folder), batch_size=3)) == pytest.approx(expected, abs=1e-5)
    cut = score(ModelRewardConfig(model=str(folder), max_tokens=10))
    assert cut == pytest.approx([logit(folder, answer, 10) for answer in ANSWERS], abs=1e-5)


def test_a_model_has_a_worker_of_its_own() -> None:
    plain, model = FunctionRewardConfig(import_path="a:b"), ModelRewardConfig(model="m")
    assert in_lanes([model, plain]) == [[plain], [model]]


@pytest.mark.parametrize("num_labels", [2])
def test_a_head_of_several_labels_is_no_reward_model(tmp_path: Path, num_labels: int) -> None:
    folder = write_reward_model(tmp_path / "rm", num_labels)
    with pytest.raises(RewardError, match="has 2 labels"):
        score(ModelRewardConfig(model=str(folder)))


def test_a_model_that_is_not_there(tmp_path: Path) -> None:
    with pytest.raises(RewardError, match="cannot be loaded"):
        score(ModelRewardConfig(model=str(tmp_path / "none")))


def test_a_model_on_the_hub_is_that_of_its_commit_though_the_branch_has_moved(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    folder = write_reward_model(tmp_path / "rm")
    with serving(monkeypatch, tmp_path / "home") as hub:
        first = hub.push("models/org/rm", files_of(folder))
        expected = logit(folder, "42")
        weights = load_file(folder / "model.safetensors")
        save_file({key: value * 2 for key, value in weights.items()}, folder / "model.safetensors", {"format": "pt"})
        hub.push("models/org/rm", files_of(folder))
        assert logit(folder, "42") != expected
        found = load_model(ModelRewardConfig(model="org/rm", model_revision=first))
        turns = [{"role": "user", "content": "?"}, {"role": "assistant", "content": "42"}]
        assert found.logits([turns]) == pytest.approx([expected], abs=1e-6)
        commits = {path.split("/")[4] for path in hub.asked if path.startswith("/org/rm/resolve/")}
        assert commits == {first}


CODE = """
from pathlib import Path
Path({mark!r}).write_text("was here")
from transformers import Qwen3Config
class Own(Qwen3Config):
    model_type = "own"
"""


def test_code_in_another_repository_is_not_run(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """A model's config may name it there, where no revision of the model says which commit it is."""
    folder, mark = write_reward_model(tmp_path / "rm"), tmp_path / "mark"
    config = json.loads((folder / "config.json").read_text())
    elsewhere = {**config, "model_type": "own", "auto_map": {"AutoConfig": "org/code--own.Own"}}
    with serving(monkeypatch, tmp_path / "home") as hub:
        hub.push("models/org/code", {"own.py": CODE.format(mark=str(mark)).encode()})
        commit = hub.push("models/org/rm", {**files_of(folder), "config.json": json.dumps(elsewhere).encode()})
        with pytest.raises(RewardError, match="'org/rm' cannot be loaded"):
            load_model(ModelRewardConfig(model="org/rm", model_revision=commit, trust_remote_code=True))
        assert not mark.exists()
        with pytest.raises(RewardError, match="read it at one commit"):
            load_model(ModelRewardConfig(model="org/rm", trust_remote_code=True))


def test_a_folder_of_ours_does_not_bring_code_or_weights_of_the_day_in(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    folder, mark = write_reward_model(tmp_path / "rm"), tmp_path / "mark"
    config = folder / "config.json"
    before = config.read_text()
    elsewhere = {"model_type": "own", "auto_map": {"AutoConfig": "org/code--own.Own"}}
    with serving(monkeypatch, tmp_path / "home") as hub:
        hub.push("models/org/code", {"own.py": CODE.format(mark=str(mark)).encode()})
        hub.push("models/org/base", files_of(folder))
        config.write_text(json.dumps({**json.loads(before), **elsewhere}))
        with pytest.raises(RewardError, match=r"names code of another repository, 'org/code--own.Own'"):
            load_model(ModelRewardConfig(model=str(folder), trust_remote_code=True))
        config.write_text(before)
        (folder / "adapter_config.json").write_text('{"peft_type": "LORA", "base_model_name_or_path": "org/base"}')
        with pytest.raises(RewardError, match="holds an adapter, whose base 'org/base' would be fetched"):
            load_model(ModelRewardConfig(model=str(folder)))
        assert hub.asked == [] and not mark.exists()
