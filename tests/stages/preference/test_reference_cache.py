import fcntl
import logging
from pathlib import Path

import pytest
from datasets import Dataset, Value

from stages.preference.reference_cache import ReferenceCache

ROWS = Dataset.from_list([{"prompt_ids": [1, 2], "chosen_ids": [at], "id": str(at)} for at in range(4)])
VALUES = [-1.5, -2.25, 0.0, -3e-8]


class Reference:
    """Counts how often it is asked."""

    def __init__(self) -> None:
        self.asked = 0

    def __call__(self) -> Dataset:
        self.asked += 1
        return ROWS.add_column("ref_chosen_logps", VALUES, feature=Value("float32"))


def through(folder: Path, reference: Reference, rows: Dataset = ROWS, **identity: object) -> tuple[Dataset, bool]:
    cache = ReferenceCache(folder, {"weights": "abc", **identity})
    return cache.through(rows, reference), cache.report()["preference/reference_was_on_disk"] == 1.0


def test_it_is_computed_once_and_found_by_the_next_run(tmp_path: Path) -> None:
    reference = Reference()
    computed, was_found = through(tmp_path, reference)
    found, again = through(tmp_path, reference)
    assert (was_found, again, reference.asked) == (False, True, 1)
    assert found["ref_chosen_logps"] == computed["ref_chosen_logps"]
    assert found.features == computed.features and found["id"] == ROWS["id"]


def test_other_weights_other_tokens_and_another_order_are_another_reference(tmp_path: Path) -> None:
    reference = Reference()
    through(tmp_path, reference)
    through(tmp_path, reference, weights="other")
    through(tmp_path, reference, precision="bfloat16")
    through(tmp_path, reference, ROWS.select([3, 2, 1, 0]))
    through(tmp_path, reference, ROWS.map(lambda row: {"prompt_ids": [*row["prompt_ids"], 7]}))
    assert reference.asked == 5


@pytest.mark.parametrize("damage", ["cut", "flipped", "empty"])
def test_a_damaged_file_is_computed_again_and_said(
    tmp_path: Path, caplog: pytest.LogCaptureFixture, damage: str
) -> None:
    reference = Reference()
    through(tmp_path, reference)
    [file] = tmp_path.glob("*.safetensors")
    content = bytearray(file.read_bytes())
    if damage == "flipped":
        content[-2] ^= 0xFF
    file.write_bytes(b"" if damage == "empty" else content if damage == "flipped" else content[:-3])
    with caplog.at_level(logging.WARNING):
        _, was_found = through(tmp_path, reference)
    assert not was_found and "computed again" in caplog.text
    assert through(tmp_path, reference)[1]


def test_what_a_kill_left_half_written_is_written_over(tmp_path: Path) -> None:
    (tmp_path / ".writing").write_bytes(b"half")
    through(tmp_path, Reference())
    [file] = tmp_path.glob("*.safetensors")
    assert {path.name for path in tmp_path.iterdir()} == {file.name, ".lock"}


def test_while_another_process_writes_nothing_is_kept_and_the_other_is_left_alone(tmp_path: Path) -> None:
    (tmp_path / ".writing").write_bytes(b"half")
    with (tmp_path / ".lock").open("w") as other:
        fcntl.flock(other, fcntl.LOCK_EX)
        computed, was_found = through(tmp_path, Reference())
    assert not was_found and computed["ref_chosen_logps"][0] == VALUES[0]
    assert not list(tmp_path.glob("*.safetensors")) and (tmp_path / ".writing").read_bytes() == b"half"
