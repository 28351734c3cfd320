import shutil
from pathlib import Path

import pytest

from stages import checkpoints


def save(root: Path, step: int, text: str = "weights", keep: int = 9) -> None:
    checkpoints.save(root, step, lambda folder: (folder / "model").write_text(text) and None, keep=keep)


def test_the_newest_whole_version_is_found(tmp_path: Path) -> None:
    save(tmp_path, 5)
    save(tmp_path, 10)
    assert checkpoints.latest(tmp_path) == 10


def test_a_version_without_its_marker_is_removed(tmp_path: Path) -> None:
    for step in (5, 10):
        save(tmp_path, step)
    (checkpoints.step_folder(tmp_path, 10) / checkpoints.MARKER).unlink()
    assert checkpoints.latest(tmp_path) == 5
    assert [path.name for path in tmp_path.iterdir()] == ["step_000005"]


@pytest.mark.parametrize(
    ("content", "says"),
    [
        ("weig", "model has 4 bytes of 7"),
        ("Weights", "the content of model has changed"),
        (None, "model is missing"),
    ],
)
def test_a_version_that_was_damaged_is_said_and_set_aside_for_the_one_before(
    content: str | None, says: str, tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    for step in (5, 10):
        save(tmp_path, step)
    file = checkpoints.step_folder(tmp_path, 10) / "model"
    file.unlink()
    if content is not None:
        file.write_text(content)
    assert checkpoints.latest(tmp_path) == 5
    [told] = caplog.records
    assert told.levelname == "ERROR" and says in told.message
    assert sorted(path.name for path in tmp_path.iterdir()) == ["damaged_step_000010", "step_000005"]
    assert checkpoints.latest(tmp_path) == 5 and len(caplog.records) == 1


def test_what_a_kill_left_half_written_is_removed(tmp_path: Path) -> None:
    save(tmp_path, 5)
    (tmp_path / ".writing_step_000010").mkdir()
    (tmp_path / "checkpoint-10").mkdir()
    assert checkpoints.latest(tmp_path) == 5
    assert [path.name for path in tmp_path.iterdir()] == ["step_000005"]


def test_a_marker_that_was_cut_short_is_no_marker(tmp_path: Path) -> None:
    save(tmp_path, 5)
    save(tmp_path, 10)
    (checkpoints.step_folder(tmp_path, 10) / checkpoints.MARKER).write_text('{"mod')
    (tmp_path / "checkpoint-11").mkdir()
    (tmp_path / "checkpoint-11" / checkpoints.MARKER).write_text("")
    assert checkpoints.latest(tmp_path) == 5


def test_only_the_newest_are_kept(tmp_path: Path) -> None:
    for step in (1, 2, 3):
        save(tmp_path, step, keep=2)
    assert checkpoints.steps(tmp_path) == [2, 3]


def test_a_failure_while_writing_leaves_the_last_version(tmp_path: Path) -> None:
    save(tmp_path, 5)

    def full(folder: Path) -> None:
        (folder / "model").write_text("wei")
        raise OSError(28, "No space left on device")

    with pytest.raises(OSError):
        checkpoints.save(tmp_path, 10, full, keep=1)
    assert checkpoints.latest(tmp_path) == 5


def test_nothing_saved_is_no_version(tmp_path: Path) -> None:
    assert checkpoints.latest(tmp_path / "none") is None


@pytest.mark.parametrize("content", [b"", b'{"model": {"bytes": 7, "sha', b"[]", b'{"model": {"bytes": 7}}', b"\xff{}"])
def test_a_version_whose_marker_was_damaged_is_set_aside_too_and_if_none_is_left_that_is_said(
    content: bytes, tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    save(tmp_path, 5)
    (checkpoints.step_folder(tmp_path, 5) / checkpoints.MARKER).write_bytes(content)
    assert checkpoints.steps(tmp_path) == []
    assert checkpoints.latest(tmp_path) is None
    damaged, again = caplog.records
    assert {damaged.levelname, again.levelname} == {"ERROR"}
    assert "COMPLETE cannot be read" in damaged.message and "the stage starts over" in again.message
    assert (tmp_path / "damaged_step_000005" / "model").is_file()


def test_a_version_that_was_half_removed_is_none_that_was_damaged(
    tmp_path: Path, caplog: pytest.LogCaptureFixture, monkeypatch: pytest.MonkeyPatch
) -> None:
    for step in (5, 10):
        save(tmp_path, step)

    def killed(folder: Path) -> None:
        raise KeyboardInterrupt

    with monkeypatch.context() as patch, pytest.raises(KeyboardInterrupt):
        patch.setattr(shutil, "rmtree", killed)
        checkpoints.prune(tmp_path, keep=1)
    assert checkpoints.steps(tmp_path) == [10]
    assert checkpoints.latest(tmp_path) == 10
    assert [path.name for path in tmp_path.iterdir()] == ["step_000010"] and not caplog.records


@pytest.mark.parametrize(("of_folder", "of_files"), [(0o755, 0o644), (0o700, 0o600), (0o775, 0o664)])
def test_whoever_may_read_a_folder_may_read_its_files(tmp_path: Path, of_folder: int, of_files: int) -> None:
    (tmp_path / "new").mkdir()
    (tmp_path / "new").chmod(of_folder)
    for name in ("model.safetensors", "config.json"):
        (tmp_path / "new" / name).touch(mode=0o600)
    checkpoints.publish(tmp_path / "new", tmp_path / "output")
    assert {path.stat().st_mode & 0o777 for path in (tmp_path / "output").iterdir()} == {of_files}


def test_what_torch_s_writer_says_of_a_full_disk_is_put_in_words() -> None:
    told = checkpoints.of_full_disk("[enforce fail at inline_container.cc:672] . unexpected pos 704 vs 598")
    assert told is not None and told.startswith("is the disk full, or a quota used up? ([enforce fail")
    assert (
        checkpoints.of_full_disk("[enforce fail at inline_container.cc:197] . file not found: archive/data.pkl") is None
    )
    assert checkpoints.of_full_disk("CUDA out of memory") is None
