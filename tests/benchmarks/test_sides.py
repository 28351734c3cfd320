"""The sides that benchmarks compare do the same work, on a model and data too small to time."""

from dataclasses import replace

import pytest

from benchmarks import learner, preference, updates

pytestmark = pytest.mark.training

TINY = replace(
    updates.CPU,
    shape={
        "vocab_size": 500,
        "hidden_size": 32,
        "intermediate_size": 32,
        "num_hidden_layers": 1,
        "num_attention_heads": 1,
        "num_key_value_heads": 1,
        "head_dim": 32,
        "max_position_embeddings": 256,
    },
    works={"shared_prompt": (8, lambda draw: draw.randint(2, 9))},
    our_tokens=(1024,),
    trl_sizes=(4, 16),
)


def test_both_sides_of_dpo_have_the_same_losses(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(preference, "CPU", TINY)
    monkeypatch.setattr(preference, "VOCAB", TINY.shape["vocab_size"])
    monkeypatch.setattr(preference, "WORKS", {"prefix_long": (16, 4)})
    monkeypatch.setattr(preference, "TRL_PAIRS", (4, 8))
    monkeypatch.setattr(preference, "OUR_TOKENS", (1024,))
    found = preference.measure("prefix_long", 2)
    assert found["largest_difference_of_losses"] < 1e-4
    assert found["trl_micro_batch_pairs"] in (4, 8)
    assert set(found["tried_s"]) == {"ours, 1024 tokens", "trl, 4 pairs", "trl, 8 pairs"}
    assert len(found["ours"]["rounds"]) == len(found["trl"]["rounds"]) == 2


def test_an_update_of_grpo_is_tried_and_measured_on_both_sides() -> None:
    sizes = learner.best_sizes(TINY, "shared_prompt")
    assert (sizes["ours"], sizes["trl"] in (4, 16)) == (1024, True)
    found = learner.measure(TINY, "shared_prompt", sizes["ours"], sizes["trl"], 2)
    assert found["ratio"]["low"] <= found["ratio"]["median"] <= found["ratio"]["high"]
    assert len(found["ours"]["rounds"]) == len(found["trl"]["rounds"]) == 2
