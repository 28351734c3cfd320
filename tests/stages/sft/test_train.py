"""What supervised fine-tuning makes of its data."""

from collections import Counter

from stages.data.examples import Example
from stages.sft.train import counted, in_trl

EXAMPLE = Example(prompt_ids=(1, 2), token_ids=(3, 4, 5, 6), given=((1, 2),))


def test_trl_is_given_labels_for_what_is_learned_alone() -> None:
    assert in_trl(EXAMPLE) == {"input_ids": [1, 2, 3, 4, 5, 6], "labels": [-100, -100, 3, -100, 5, 6]}


def test_tokens_that_are_cut_do_not_count_as_learned() -> None:
    found = {}
    for max_tokens in (9, 5, 2):
        data = Counter[str]()
        assert list(counted([EXAMPLE, EXAMPLE], max_tokens, data)) == [EXAMPLE, EXAMPLE]
        found[max_tokens] = (data["data/examples"], data["data/learned_tokens"])
    assert found == {9: (2, 6), 5: (2, 4), 2: (0, 0)}
