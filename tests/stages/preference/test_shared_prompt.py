"""Pairs whose prompt is forwarded once, against TRL's own trainer: losses and gradients, for every loss."""

from pathlib import Path
from typing import Any, get_args

import peft
import pytest
import torch
import trl
from datasets import Dataset

from examples.arithmetic.base_model import make_tokenizer
from stages.preference.loss_config import TRLLossType
from stages.preference.reference_cache import ReferenceCache
from stages.preference.shared_prompt import NOT_COMPUTED
from stages.preference.trainer import PairTrainer
from tests.models import TEXTS, tiny_model

TOKENIZER = make_tokenizer(TEXTS)
ROWS = [
    {"prompt": "0 1 2 3 4 5 6", "chosen": "7 8", "rejected": "9"},
    {"prompt": "5", "chosen": "1", "rejected": "2 3 4 5 6 7"},
    {"prompt": "3 4", "chosen": "6 6 6", "rejected": "1 2"},
    {"prompt": "9 8 7 6 5", "chosen": "4 3 2 1 0", "rejected": "0 0"},
]
"""Prompts longer than answers and shorter, answers of one token and of several."""


def in_tokens(row: dict[str, str]) -> dict[str, list[int]]:
    """As TRL makes tokens of texts."""
    prompt = TOKENIZER.encode(row["prompt"])
    answers = {
        side: TOKENIZER.encode(row["prompt"] + row[side] + TOKENIZER.eos_token)[len(prompt) :]
        for side in ("chosen", "rejected")
    }
    ids = {f"{side}_ids": tokens for side, tokens in answers.items()}
    return {"prompt_ids": prompt, **ids, **{f"{side}_mask": [1] * len(tokens) for side, tokens in answers.items()}}


def trainer_of(kind: type, folder: Path, model: Any, peft_config: Any = None, **values: Any) -> Any:
    arguments = trl.DPOConfig(
        output_dir=str(folder),
        per_device_train_batch_size=len(ROWS),
        precompute_ref_log_probs=True,
        use_cpu=True,
        bf16=False,
        gradient_checkpointing=False,
        report_to="none",
        disable_tqdm=True,
        **values,
    )
    reference = ReferenceCache(folder / kind.__name__, {})
    rows = [in_tokens(row) for row in ROWS] if kind is PairTrainer else ROWS
    more = {"precision": "float32", "row_tokens": 40, "reference": reference} if kind is PairTrainer else {}
    return kind(
        model=model,
        args=arguments,
        train_dataset=Dataset.from_list(rows),
        processing_class=TOKENIZER,
        peft_config=peft_config,
        **more,
    )


def loss_and_gradients(
    kind: type, folder: Path, *, moved: bool = True, **values: Any
) -> tuple[torch.Tensor, dict[str, torch.Tensor], Any]:
    trainer = trainer_of(kind, folder, tiny_model("qwen3", vocab_size=len(TOKENIZER)), **values)
    inputs = trainer.data_collator(list(trainer.train_dataset))
    drawn = torch.Generator().manual_seed(3)
    with torch.no_grad():  # away from the reference, where most losses have no curvature to show
        for parameter in trainer.model.parameters():
            if parameter.requires_grad and moved:
                parameter += 0.05 * torch.randn(parameter.shape, generator=drawn)
    trainer.model.train()
    loss = trainer.compute_loss(trainer.model, inputs)
    loss.backward()
    gradients = {name: p.grad.clone() for name, p in trainer.model.named_parameters() if p.grad is not None}
    return loss.detach(), gradients, trainer


def assert_equal_to_trl(folder: Path, **values: Any) -> None:
    loss, gradients, ours = loss_and_gradients(PairTrainer, folder, **values)
    expected, theirs, trls = loss_and_gradients(trl.DPOTrainer, folder, **values)
    torch.testing.assert_close(loss, expected, atol=1e-5, rtol=1e-5)
    assert gradients.keys() == theirs.keys() and gradients
    for name, gradient in gradients.items():
        torch.testing.assert_close(gradient, theirs[name], atol=1e-5, rtol=1e-4)
    for column in ("ref_chosen_logps", "ref_rejected_logps"):
        assert ours.train_dataset[column] == pytest.approx(trls.train_dataset[column], abs=1e-5)
    told, expected_told = ours._metrics["train"], trls._metrics["train"]
    assert told.keys() == expected_told.keys() - set(NOT_COMPUTED)
    for name, found in told.items():
        assert found == pytest.approx(expected_told[name], abs=1e-5), name


@pytest.mark.parametrize("variant", get_args(TRLLossType))
def test_every_loss_is_trls_with_the_prompt_forwarded_once(tmp_path: Path, variant: str) -> None:
    smoothing = {"label_smoothing": 0.1} if variant in ("robust", "exo_pair") else {}
    assert_equal_to_trl(tmp_path, loss_type=[variant], **smoothing)


@pytest.mark.parametrize(
    "values",
    [
        {"loss_type": ["sigmoid", "bco_pair", "sft"], "loss_weights": [0.8, 0.2, 1.0]},
        {"ld_alpha": 0.5},
        {"f_divergence_type": "js_divergence"},
        {"max_length": 8},
        {"peft_config": peft.LoraConfig(target_modules="all-linear", r=2)},
    ],
)
def test_sums_lengths_divergences_cuts_and_adapters_too(tmp_path: Path, values: dict[str, Any]) -> None:
    assert_equal_to_trl(tmp_path, **values)


def test_prompts_are_shared_and_few_tokens_are_forwarded_twice(tmp_path: Path) -> None:
    trainer = trainer_of(PairTrainer, tmp_path, tiny_model("qwen3", vocab_size=len(TOKENIZER)))
    assert trainer._shared._forward.shares
