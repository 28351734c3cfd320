"""What is said of places in which there can be no private folder, or none with room for sockets."""

import tempfile
from pathlib import Path

import pytest

from pipeline import temporary
from pipeline.temporary import notes, problems
from tests.users import folder_for_all


@pytest.fixture(autouse=True)
def usual(monkeypatch: pytest.MonkeyPatch) -> None:
    for name in ("TMPDIR", "RAY_TMPDIR", "VLLM_RPC_BASE_PATH"):
        monkeypatch.delenv(name, raising=False)
    monkeypatch.setattr(tempfile, "tempdir", "/tmp")


def problem() -> str:
    [said] = problems()
    return said


def test_the_usual_folder_will_do_and_nothing_is_left_in_it(monkeypatch: pytest.MonkeyPatch) -> None:
    with folder_for_all() as here:
        monkeypatch.setattr(tempfile, "tempdir", str(here))
        assert not list(problems())
        assert list(here.iterdir()) == []


def test_a_usual_folder_with_a_long_name_will_do_for_sockets_go_elsewhere(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    long = tmp_path / ("x" * 60)
    long.mkdir()
    monkeypatch.setattr(tempfile, "tempdir", str(long))
    assert not list(problems())


@pytest.mark.parametrize(("variable", "room"), [("RAY_TMPDIR", 20), ("VLLM_RPC_BASE_PATH", 51)])
def test_a_named_folder_that_leaves_no_room_is_refused(
    monkeypatch: pytest.MonkeyPatch, variable: str, room: int
) -> None:
    for length in (room, room + 1):
        monkeypatch.setenv(variable, "/tmp/" + "x" * (length - len("/tmp/")))
        said = list(problems())
        assert len(said) == (length > room)
    assert f"its name of {room + 1} bytes is too long" in said[0]
    assert said[0].endswith(f"set {variable} to a folder that can be written to, with a name of at most {room} bytes")


def test_a_folder_that_cannot_be_written_to_is_refused(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("RAY_TMPDIR", "/proc")
    assert problem().startswith("/proc is to hold sockets and will not do (") and "set RAY_TMPDIR" in problem()


@pytest.mark.parametrize(("mode", "is_told"), [(0o1777, False), (0o777, True), (0o757, True), (0o755, False)])
def test_a_folder_in_which_all_may_rename_everything_is_told(
    monkeypatch: pytest.MonkeyPatch, mode: int, is_told: bool
) -> None:
    monkeypatch.setattr(temporary, "SHARED_MEMORY", Path("/none"))
    with folder_for_all(mode) as shared:
        for variable in ("RAY_TMPDIR", "VLLM_RPC_BASE_PATH"):
            monkeypatch.setenv(variable, str(shared))
        assert not list(problems())
        said = list(notes())
        assert len(said) == is_told
        if is_told:
            assert said[0].startswith(f"{shared} has no sticky bit") and said[0].endswith(f"chmod +t {shared}")


def test_no_folder_at_all_is_said(monkeypatch: pytest.MonkeyPatch) -> None:
    def none() -> str:
        raise FileNotFoundError("No usable temporary directory found")

    monkeypatch.setattr(tempfile, "gettempdir", none)
    assert "there is no folder for temporary files" in problem()
