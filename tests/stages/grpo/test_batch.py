import pytest
import torch

from stages.grpo.batch import make_batch, token_weights
from tests.stages.grpo.groups import group, stage


def test_tokens_masks_and_log_probabilities_line_up_with_next_token_predictions() -> None:
    batch = make_batch([group([1, 2], [([3, 4, 5], 1.0), ([6], 0.0)], [[-0.1, -0.2, -0.3], [-0.4]])], stage())
    assert batch is not None
    assert batch.tokens_BT.tolist() == [[1, 2, 3, 4, 5], [1, 2, 6, 0, 0]]
    assert batch.attention_BT.tolist() == [[1, 1, 1, 1, 1], [1, 1, 1, 0, 0]]
    assert batch.answer_BT.tolist() == [[0, 1, 1, 1], [0, 1, 0, 0]]
    torch.testing.assert_close(batch.engine_logprobs_BT, torch.tensor([[0.0, -0.1, -0.2, -0.3], [0.0, -0.4, 0.0, 0.0]]))


def test_groups_without_signal_and_unscored_answers_are_left_out() -> None:
    dull = group([1], [([2], 1.0), ([3], 1.0)])
    lively = group([4], [([5], 1.0), ([6], 0.0), ([7], None)])
    batch = make_batch([dull, lively], stage())
    assert batch is not None
    assert batch.tokens_BT.tolist() == [[4, 5], [4, 6]]
    assert make_batch([dull], stage()) is None


def test_weights_by_token_and_by_sequence_sum_to_one_as_defined() -> None:
    answers = torch.tensor([[0.0, 1.0, 1.0, 1.0], [0.0, 1.0, 0.0, 0.0]])
    assert token_weights(answers, "token").tolist() == [[0, 0.25, 0.25, 0.25], [0, 0.25, 0, 0]]
    by_sequence = token_weights(answers, "sequence")
    assert by_sequence[0].tolist() == pytest.approx([0, 1 / 6, 1 / 6, 1 / 6])
    assert by_sequence[1].tolist() == pytest.approx([0, 0.5, 0, 0])


def test_micro_batches_hold_every_sequence_once_and_no_needless_padding() -> None:
    answers = [([3] * n, float(n % 2)) for n in (1, 4, 2, 3)]
    batch = make_batch([group([1, 2], answers)], stage())
    assert batch is not None
    parts = list(batch.micro_batches(2))
    assert [part.tokens_BT.shape for part in parts] == [(2, 6), (2, 4)]
    assert sum(float(part.weights_BT.sum()) for part in parts) == pytest.approx(1.0)
    assert sum(float(part.answer_BT.sum()) for part in parts) == 10
