"""Rows of tokens as one data set of Arrow's."""

from collections.abc import Iterator

from stages.data.arrow import AT_ONCE, as_dataset


def test_all_rows_are_there_in_their_order() -> None:
    rows = ({"input_ids": [n, n + 1], "labels": [-100, n]} for n in range(AT_ONCE + 1))
    found = as_dataset(rows, lambda: None)
    assert found["input_ids"][:2] == [[0, 1], [1, 2]] and found["labels"][-1] == [-100, AT_ONCE]
    assert len(found) == AT_ONCE + 1


def test_a_sign_of_life_is_given_after_every_thousand_rows() -> None:
    made = 0
    seen: list[int] = []

    def rows() -> Iterator[dict[str, list[int]]]:
        nonlocal made
        for made in range(1, 2501):
            yield {"input_ids": [made]}

    as_dataset(rows(), lambda: seen.append(made))
    assert seen == [1000, 2000, 2500]
