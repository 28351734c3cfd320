"""A reward model in a worker of its own, against the model asked directly."""

from pathlib import Path

import pytest
import torch
import transformers

from examples.arithmetic.base_model import make_tokenizer
from rewards.config import FunctionRewardConfig, ModelRewardConfig
from rewards.scorer import Scorer, in_lanes
from rewards.scoring_config import ScoringConfig
from rewards.types import RewardError
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
