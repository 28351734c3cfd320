"""Rows of one turn are the tokens that TRL makes of them, learned where TRL learns them."""

from itertools import pairwise
from pathlib import Path
from typing import Any

import pytest
import trl
from datasets import Dataset

from examples.arithmetic.base_model import make_tokenizer
from examples.arithmetic.problems import make_splits
from examples.task import spoken
from stages.data.examples import answer
from stages.data.rendering import TokenizerChat, whole_ids
from stages.preference.reference_cache import ReferenceCache
from stages.preference.tokens import in_tokens
from stages.preference.trainer import AnswerTrainer
from stages.sft.train import in_trl
from tests.models import tiny_model

pytestmark = pytest.mark.training

ROWS = make_splits(17)["train"][:24]
TOKENIZER = make_tokenizer(spoken(ROWS))
CHAT = TokenizerChat(TOKENIZER)
PAIRS = [
    {"prompt": row["prompt"], "chosen": row["completion"], "rejected": other["completion"]}
    for row, other in pairwise(ROWS)
]


def prepared(kind: Any, config: Any, folder: Path, rows: Any, **more: Any) -> Dataset:
    arguments = config(
        output_dir=str(folder), use_cpu=True, bf16=False, report_to="none", disable_tqdm=True, max_length=96,
        per_device_train_batch_size=5, **more.pop("values", {}),
    )  # fmt: skip
    model = more.pop("model", None) or tiny_model("qwen3", vocab_size=len(TOKENIZER))
    data = Dataset.from_list([dict(row) for row in rows])
    return kind(model=model, args=arguments, train_dataset=data, processing_class=TOKENIZER, **more).train_dataset


def test_sft(tmp_path: Path) -> None:
    rows = [{"prompt": row["prompt"], "completion": row["completion"]} for row in ROWS]
    expected = prepared(trl.SFTTrainer, trl.SFTConfig, tmp_path, rows, values={"completion_only_loss": True})
    ours = [in_trl(answer(CHAT, row, "completion")) for row in rows]
    found = prepared(trl.SFTTrainer, trl.SFTConfig, tmp_path, ours)
    for column in ("input_ids", "labels"):
        assert list(found[column]) == list(expected[column])


def test_pairs(tmp_path: Path) -> None:
    values = {"precompute_ref_log_probs": True}
    expected = prepared(trl.DPOTrainer, trl.DPOConfig, tmp_path, PAIRS, values=values)
    ours = [in_tokens(CHAT, pair, ("chosen", "rejected")) for pair in PAIRS]
    for column in ("prompt_ids", "chosen_ids", "rejected_ids"):
        assert [row[column] for row in ours] == list(expected[column])
    assert all(all(row["chosen_mask"]) and len(row["chosen_mask"]) == len(row["chosen_ids"]) for row in ours)


@pytest.mark.parametrize("variant", ["kto", "apo_zero_unpaired"])
def test_answers_one_by_one(tmp_path: Path, variant: str) -> None:
    rows = [
        {"prompt": row["prompt"], "completion": row["completion"], "label": at % 2 == 0} for at, row in enumerate(ROWS)
    ]
    values = {"loss_type": variant, "precompute_ref_log_probs": True}
    expected = prepared(trl.KTOTrainer, trl.KTOConfig, tmp_path, rows, values=values)
    ours = [{**in_tokens(CHAT, row, ["completion"]), "label": row["label"]} for row in rows]
    reference = ReferenceCache(tmp_path / "reference", {})
    found = prepared(AnswerTrainer, trl.KTOConfig, tmp_path, ours, values=values, reference=reference)
    for column in ("prompt_ids", "completion_ids", "label", "ref_logps"):
        assert list(found[column]) == list(expected[column])
    if variant == "kto":
        assert list(found["KL_completion_ids"]) == list(expected["KL_completion_ids"])
        assert list(found["ref_KL_logps"]) == list(expected["ref_KL_logps"])


def test_reward_models(tmp_path: Path) -> None:
    import transformers

    config = tiny_model("qwen3", vocab_size=len(TOKENIZER)).config
    config.num_labels, config.pad_token_id = 1, TOKENIZER.pad_token_id
    model = transformers.AutoModelForSequenceClassification.from_config(config)
    expected = prepared(trl.RewardTrainer, trl.RewardConfig, tmp_path, PAIRS, model=model)
    for side in ("chosen", "rejected"):
        assert [whole_ids(CHAT, pair, side) for pair in PAIRS] == list(expected[f"{side}_ids"])
