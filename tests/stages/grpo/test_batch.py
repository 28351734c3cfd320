import pytest
import torch

from stages.grpo.batch import make_batch, token_weights
from stages.packed.packing import Costs
from tests.stages.grpo.groups import group, stage

COSTS = Costs(a_token=1.0, a_pair=0.0)


def test_tokens_of_all_answers_line_up() -> None:
    groups = [group([1, 2], [([3, 4, 5], 1.0), ([6], 0.0)], [[-0.1, -0.2, -0.3], [-0.4]])]
    batch = make_batch(groups, stage())
    assert batch is not None
    tokens = batch.tokens
    assert [answer.token_ids for answer in batch.answers] == [(3, 4, 5), (6,)]
    assert tokens.answers_N.tolist() == [0, 0, 0, 1]
    torch.testing.assert_close(tokens.engine_logprobs_N, torch.tensor([-0.1, -0.2, -0.3, -0.4]))
    torch.testing.assert_close(tokens.advantages_N[:3], tokens.advantages_N[:1].expand(3))
    assert tokens.advantages_N[0] == -tokens.advantages_N[3] > 0


def test_groups_without_signal_and_unscored_answers_are_left_out() -> None:
    dull = group([1], [([2], 1.0), ([3], 1.0)])
    lively = group([4], [([5], 1.0), ([6], 0.0), ([7], None)])
    batch = make_batch([dull, lively], stage())
    assert batch is not None
    assert [answer.token_ids for answer in batch.answers] == [(5,), (6,)]
    assert make_batch([dull], stage()) is None


def test_answers_that_were_cut_off_count_in_the_group_and_teach_nothing_where_so_asked() -> None:
    one = group([4], [([5], 1.0), ([6], 0.0), ([7], 0.5)], finish_reasons=["stop", "length", "stop"])
    kept, masked = make_batch([one], stage()), make_batch([one], stage(mask_truncated=True))
    assert kept is not None and masked is not None
    assert [answer.token_ids for answer in masked.answers] == [(5,), (7,)]
    assert masked.tokens.advantages_N.tolist() == kept.tokens.advantages_N[[0, 2]].tolist()


def test_weights_as_defined() -> None:
    assert token_weights([3, 1], "token", 9).tolist() == [0.25] * 4
    assert token_weights([3, 1], "sequence", 9).tolist() == pytest.approx([1 / 6] * 3 + [1 / 2])
    assert token_weights([3, 1], "constant", 10).tolist() == pytest.approx([1 / 20] * 4)


@pytest.mark.parametrize("num_ranks", [1, 2, 3])
@pytest.mark.parametrize("shares", [True, False])
def test_parts_of_all_ranks_hold_every_token_once_with_what_belongs_to_it(shares: bool, num_ranks: int) -> None:
    groups = [
        group([1, 2], [([10 + n] * n, float(n % 2)) for n in (1, 4, 2, 3)]),
        group([3], [([20 + n] * n, float(n % 2)) for n in (2, 5, 1, 4)]),
    ]
    batch = make_batch(groups, stage())
    assert batch is not None
    of_answer = {at: answer.token_ids[0] for at, answer in enumerate(batch.answers)}
    parts = [
        list(batch.micro_batches(14, COSTS, shares=shares, rank=rank, num_ranks=num_ranks)) for rank in range(num_ranks)
    ]
    assert len({len(own) for own in parts}) == 1
    seen: list[int] = []
    for part in (part for own in parts for part in own):
        assert part.rows.num_tokens <= 14
        assert [of_answer[at] for at in part.tokens.answers_N.tolist()] == part.rows.targets_N.tolist()
        seen += [] if part.is_filler else part.rows.targets_N.tolist()
    assert sorted(seen) == sorted(token for answer in batch.answers for token in answer.token_ids)
    weights = [float(part.tokens.weights_N.sum()) for own in parts for part in own if not part.is_filler]
    assert sum(weights) == pytest.approx(1.0)


def test_a_rank_without_rows_of_its_own_forwards_what_another_has() -> None:
    batch = make_batch([group([1, 2], [([3], 1.0), ([4, 5], 0.0)])], stage())
    assert batch is not None
    parts = [list(batch.micro_batches(100, COSTS, rank=rank, num_ranks=2)) for rank in range(2)]
    assert [[part.is_filler for part in own] for own in parts] == [[False], [True]]
