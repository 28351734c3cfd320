import pytest
import torch

from stages.packed.packing import PADDING, Answer, Costs, deal, micro_batches, pack, row_length, rows_of

FREE_PAIRS = Costs(a_token=1.0, a_pair=0.0)


def answers(prompt: int, *lengths: int, group: int = 0) -> list[Answer]:
    return [Answer(group=group, prompt=(1,) * prompt, token_ids=tuple(range(10 * n, 10 * n + n))) for n in lengths]


def test_a_row_by_hand() -> None:
    packed = pack([Answer(group=0, prompt=(1, 2), token_ids=ids) for ids in ((3, 4, 5), (6,), (7, 8))], [[0, 1], [2]])
    assert packed.tokens_RT.tolist() == [[1, 2, 3, 4, 5, 6], [1, 2, 7, 8, 0, 0]]
    assert packed.positions_RT.tolist() == [[0, 1, 2, 3, 4, 2], [0, 1, 2, 3, 4, 4]]
    assert packed.branches_RT.tolist() == [[0, 0, 1, 1, 1, 2], [0, 0, 1, 1, PADDING, PADDING]]
    assert packed.targets_N.tolist() == [3, 4, 5, 6, 7, 8]
    assert packed.predictors_N.tolist() == [1, 2, 3, 1, 6 + 1, 6 + 2]
    mask = packed.mask()
    assert mask is not None
    assert mask[0, 0].int().tolist() == [
        [1, 0, 0, 0, 0, 0],
        [1, 1, 0, 0, 0, 0],
        [1, 1, 1, 0, 0, 0],
        [1, 1, 1, 1, 0, 0],
        [1, 1, 1, 1, 1, 0],
        [1, 1, 0, 0, 0, 1],
    ]
    assert mask.any(dim=-1).all(), "padding sees the prompt, or its softmax would be of nothing"


def test_what_the_policy_did_not_sample_is_in_the_row_and_not_scored() -> None:
    answer = Answer(group=0, prompt=(1, 2), token_ids=(3, 4, 5, 6, 7), given=((1, 3),))
    packed = pack([answer], [[0]])
    assert answer.sampled == [0, 3, 4]
    assert packed.tokens_RT.tolist() == [[1, 2, 3, 4, 5, 6, 7]]
    assert packed.targets_N.tolist() == [3, 6, 7]
    assert packed.predictors_N.tolist() == [1, 4, 5]


def test_loads_are_dealt_evenly() -> None:
    loads = [9, 1, 8, 2, 7, 3]
    dealt = deal(loads, 2)
    assert sorted(at for own in dealt for at in own) == list(range(6))
    assert [sum(loads[at] for at in own) for own in dealt] == [15, 15]
    assert deal([5], 3) == [[0], [], []]


def test_positions_of_padding_stay_within_those_of_sequences() -> None:
    packed = pack(answers(2, 5, 5, 5), [[0, 1], [2]])
    assert packed.tokens_RT.shape == (2, 12) and int(packed.positions_RT.max()) == 2 + 5 - 1


def test_rows_of_one_answer_need_no_mask() -> None:
    assert pack(answers(2, 3, 1), [[0], [1]]).mask() is None


def test_where_pairs_are_free_a_group_is_one_row_and_where_tokens_are_each_answer_is() -> None:
    group = answers(8, 1, 2, 3, 4)
    assert [sorted(row) for row in rows_of(group, FREE_PAIRS, 100)] == [[0, 1, 2, 3]]
    assert len(rows_of(group, Costs(a_token=0.0, a_pair=1.0), 100)) == 4


def test_a_row_is_within_the_budget_and_holds_one_group() -> None:
    members = [*answers(8, 5, 5, 5, 5), *answers(3, 2, 2, group=1)]
    rows = rows_of(members, FREE_PAIRS, 18)
    assert sorted(at for row in rows for at in row) == list(range(6))
    assert all(row_length(members, row) <= 18 for row in rows)
    assert all(len({members[at].group for at in row}) == 1 for row in rows)
    assert len(rows_of(answers(30, 9, 9), FREE_PAIRS, 18)) == 2  # nothing fits, and yet all is there


@pytest.mark.parametrize("budget", [1, 7, 12, 40])
def test_micro_batches_hold_each_row_once_padded_within_the_budget(budget: int) -> None:
    lengths = [3, 9, 4, 4, 1, 7, 7]
    parts = list(micro_batches(lengths, budget))
    assert sorted(at for part in parts for at in part) == list(range(len(lengths)))
    for part in parts:
        assert len(part) == 1 or len(part) * max(lengths[at] for at in part) <= budget


def test_packing_is_the_same_every_time() -> None:
    group = answers(8, 3, 3, 3, 1)
    assert torch.equal(pack(group, [[0, 1]]).tokens_RT, pack(group, [[0, 1]]).tokens_RT)
    assert rows_of(group, FREE_PAIRS, 100) == rows_of(group, FREE_PAIRS, 100)
