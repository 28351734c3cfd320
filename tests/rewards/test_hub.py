"""Names on the Hub, asked of the real client and a Hub on the loopback: what moves, what stays, what is unknown."""

from collections.abc import Iterator
from pathlib import Path

import pytest

from rewards.hub import HubError, HubName, UnreachableError, commit_of, model_files
from rewards.remote_code import require_read_code
from tests.hub import FakeHub, serving

FIRST = {"config.json": b"{}", "model.safetensors": b"first"}
SECOND = {"config.json": b"{}", "model.safetensors": b"second"}


@pytest.fixture
def hub(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> Iterator[FakeHub]:
    with serving(monkeypatch, tmp_path / "home") as found:
        yield found


def name(revision: str | None = None, path: str = "org/m", *, runs_code: bool = False) -> HubName:
    return HubName(kind="model", id=path, revision=revision, runs_code=runs_code)


def test_a_branch_or_tag_is_the_commit_that_it_is_on_the_hub_now(hub: FakeHub) -> None:
    first = hub.push("models/org/m", FIRST, branch="v1")
    second = hub.push("models/org/m", SECOND)
    assert [commit_of(name(revision)) for revision in (None, "main", "v1")] == [second, second, first]
    other = hub.push("datasets/org/m", {"train.jsonl": b"{}"})
    assert commit_of(HubName(kind="dataset", id="org/m", revision=None)) == other


def test_a_commit_is_itself_and_nobody_is_asked(hub: FakeHub) -> None:
    assert commit_of(name("0" * 40)) == "0" * 40
    assert hub.asked == []


def test_files_are_those_of_the_commit_though_the_branch_has_moved(hub: FakeHub) -> None:
    first = hub.push("models/org/m", {**FIRST, "pytorch_model.bin": b"a pickle"})
    hub.push("models/org/m", SECOND)
    folder = model_files(name(first))
    assert (folder / "model.safetensors").read_bytes() == b"first"
    assert not (folder / "pytorch_model.bin").exists()
    assert (model_files(name()) / "model.safetensors").read_bytes() == b"second"


def test_without_the_hub_a_branch_is_what_it_was_last_and_files_come_from_the_cache(hub: FakeHub) -> None:
    first = hub.push("models/org/m", FIRST)
    model_files(name(commit_of(name())))
    hub.close()
    assert commit_of(name()) == first
    assert (model_files(name(first)) / "model.safetensors").read_bytes() == b"first"
    with pytest.raises(UnreachableError, match=r"model org/m@v2 could not be looked up.* model_revision as a commit"):
        commit_of(name("v2"))


@pytest.mark.parametrize(
    ("asked", "says"),
    [
        (name("v9"), r"'org/m' has no revision 'v9' on the Hub"),
        (name(path="org/none"), r"'org/none' is neither here \(seen from .*\) nor to be had from the Hub: 404"),
        (name(path="org/a..b"), r"'org/a..b' is neither here"),
    ],
)
def test_what_the_hub_does_not_have_is_named(hub: FakeHub, asked: HubName, says: str) -> None:
    hub.push("models/org/m", FIRST)
    with pytest.raises(HubError, match=says) as caught:
        commit_of(asked)
    assert not isinstance(caught.value, UnreachableError) and "\n" not in str(caught.value)


def test_a_commit_that_is_not_there_has_no_files(hub: FakeHub) -> None:
    hub.push("models/org/m", FIRST)
    with pytest.raises(HubError, match=r"model org/m@1111.* nor to be had from the Hub"):
        model_files(name("1" * 40))


def test_code_from_the_hub_runs_at_a_commit_alone(tmp_path: Path) -> None:
    require_read_code(name("a" * 40, runs_code=True))
    require_read_code(name("main"))
    require_read_code(name(path=str(tmp_path), runs_code=True))
    for revision in (None, "main", "a" * 39, "A" * 40):
        with pytest.raises(HubError, match="read it at one commit and name that by its 40 digits"):
            require_read_code(name(revision, runs_code=True))
