"""What somebody has put into a folder of ours leads nowhere: no link is followed, no pipe waited for."""

import json
import os
import struct
from collections.abc import Callable
from pathlib import Path

import pytest

from pipeline.state import RunFolder, RunFolderError
from rewards.weight_files import ModelFolderError, require_own_files
from stages import artifact, checkpoints
from stages.artifact import Manifest
from stages.base import StageError
from stages.model_folder import read_header, weight_files
from stages.regular_files import open_own, regular_files


@pytest.fixture
def secret(tmp_path: Path) -> Path:
    file = tmp_path / "home" / "id_rsa"
    file.parent.mkdir()
    file.write_text("secret")
    file.chmod(0o600)
    return file


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    (tmp_path / "folder" / "sub").mkdir(parents=True)
    (tmp_path / "folder" / "a").write_text("a")
    (tmp_path / "folder" / "sub" / "b").write_text("b")
    return tmp_path / "folder"


def test_links_pipes_and_what_lies_behind_them_are_no_files_of_a_folder(folder: Path, secret: Path) -> None:
    (folder / "link").symlink_to(secret)
    (folder / "home").symlink_to(secret.parent)
    os.mkfifo(folder / "pipe")
    assert regular_files(folder) == [folder / "a", folder / "sub" / "b"]


@pytest.mark.parametrize("name", ["link", "home/id_rsa", "pipe", "sub", "../home/id_rsa", "", ".", "none"])
def test_only_files_below_a_folder_are_opened(folder: Path, secret: Path, name: str) -> None:
    (folder / "link").symlink_to(secret)
    (folder / "home").symlink_to(secret.parent)
    os.mkfifo(folder / "pipe")
    with pytest.raises((OSError, ValueError)):
        open_own(folder, name)
    with pytest.raises((OSError, ValueError)):
        open_own(folder, str(secret))
    with open_own(folder, "sub/b") as file:
        assert file.read() == b"b"


def test_publishing_a_folder_makes_no_linked_file_readable_for_others(folder: Path, secret: Path) -> None:
    (folder / "link").symlink_to(secret)
    os.link(secret, folder / "hard")
    (folder / "a").chmod(0o600)
    folder.chmod(0o755)
    checkpoints.publish(folder, folder.with_name("out"))
    assert secret.stat().st_mode & 0o777 == 0o600
    assert (folder.with_name("out") / "a").stat().st_mode & 0o777 == 0o644


def test_a_listed_file_that_has_become_a_link_stops_the_hand_over_and_the_resume(folder: Path, tmp_path: Path) -> None:
    digest = checkpoints.sha256(folder / "a")
    manifest = Manifest(kind="model", stage="s", fingerprint="f", files={"a": digest})
    (folder / "manifest.json").write_text(manifest.model_dump_json())
    assert artifact.read(folder, "model") == manifest
    checkpoints.commit(folder, tmp_path, 1)
    step = tmp_path / "step_000001"
    assert checkpoints.damage(step) is None
    (step / "a").rename(tmp_path / "same")
    (step / "a").symlink_to(tmp_path / "same")
    assert checkpoints.damage(step) == "a is missing, or a link"
    with pytest.raises(StageError, match=r"a in .* is missing, or a link"):
        artifact.read(step, "model")


def link(path: Path, secret: Path) -> None:
    path.symlink_to(secret)


def pipe(path: Path, _: Path) -> None:
    os.mkfifo(path)


@pytest.mark.parametrize("name", ["recipe.yaml", ".run.json.writing", "sft/attempt_001/stage.log", "sft/output/x.json"])
@pytest.mark.parametrize("put", [link, pipe])
def test_a_run_of_somebody_elses_that_leads_to_other_files_is_refused(
    folder: Path, secret: Path, name: str, put: Callable[[Path, Path], None]
) -> None:
    (folder / name).parent.mkdir(parents=True, exist_ok=True)
    RunFolder(folder).require_own()
    put(folder / name, secret)
    with pytest.raises(RunFolderError, match="which no run makes: remove it"):
        RunFolder(folder).require_own()


def test_a_run_s_own_links_and_folders_on_another_disk_are_let_be(folder: Path, secret: Path) -> None:
    (folder / "latest").symlink_to("sub")
    (folder / "within").symlink_to(folder / "a")
    (folder / "checkpoints").symlink_to(secret.parent)
    RunFolder(folder).require_own()


def test_links_of_a_model_s_folder_stay_in_it_or_in_its_repository_in_the_cache(folder: Path, secret: Path) -> None:
    (folder / "chat_template.jinja").symlink_to("a")
    require_own_files(folder)
    snapshot = folder / "models--org--name" / "snapshots" / "0123"
    (snapshot.parents[1] / "blobs").mkdir(parents=True)
    snapshot.mkdir(parents=True)
    (snapshot.parents[1] / "blobs" / "hash").write_text("{}")
    (snapshot / "config.json").symlink_to("../../blobs/hash")
    require_own_files(snapshot)
    (folder / "named").symlink_to(snapshot)
    require_own_files(folder / "named")
    (snapshot / "tokenizer_config.json").symlink_to(secret)
    with pytest.raises(ModelFolderError, match="is a link that leads out of the model's folder"):
        require_own_files(snapshot)
    (folder / "additional_chat_templates").mkdir()
    (folder / "additional_chat_templates" / "x.jinja").symlink_to(secret)
    with pytest.raises(ModelFolderError, match=r"x\.jinja is a link that leads out"):
        require_own_files(folder)


def safetensors(header: object, content: bytes = b"", length: int | None = None) -> bytes:
    text = json.dumps(header).encode()
    return struct.pack("<Q", len(text) if length is None else length) + text + content


def entry(start: int, end: int, shape: int = 4) -> dict[str, object]:
    return {"dtype": "F32", "shape": [shape], "data_offsets": [start, end]}


@pytest.mark.parametrize(
    "content",
    [
        safetensors({"a": entry(0, 16), "b": entry(8, 24)}, bytes(24)),  # overlapping
        safetensors({"a": entry(0, 16), "b": entry(0, 16)}, bytes(16)),
        safetensors({"a": entry(0, 16)}, bytes(8)),  # cut short
        safetensors({"a": entry(0, 16)}, bytes(64)),  # something behind it
        safetensors({"a": entry(0, 16, shape=2**40)}, bytes(16)),
        safetensors({"a": entry(16, 0)}, bytes(16)),
        safetensors({"a": entry(0, 16)}, bytes(16), length=2**63),
        safetensors({"a": entry(0, 16)}, bytes(16), length=10**9),
        safetensors([1], b""),
        b"\x80\x04c__builtin__\neval\n",
        b"",
    ],
)
def test_a_header_that_lies_is_refused(content: bytes, tmp_path: Path) -> None:
    (tmp_path / "model.safetensors").write_bytes(content)
    with pytest.raises(ModelFolderError, match="is not a whole safetensors file"):
        read_header(tmp_path / "model.safetensors")


def test_a_header_that_does_not_lie_is_read(tmp_path: Path) -> None:
    good = {"__metadata__": {"format": "pt"}, "a": entry(0, 16), "b": {**entry(16, 24), "dtype": "BF16"}}
    (tmp_path / "model.safetensors").write_bytes(safetensors(good, bytes(24)))
    assert read_header(tmp_path / "model.safetensors") == {
        "a": {"dtype": "F32", "shape": [4]},
        "b": {"dtype": "BF16", "shape": [4]},
    }


@pytest.mark.parametrize(
    ("name", "says"),
    [
        ("pytorch_model.bin", "may name .safetensors files that lie next to it alone"),
        ("../model.safetensors", "may name .safetensors files that lie next to it alone"),
        ("/etc/model.safetensors", "may name .safetensors files that lie next to it alone"),
        ("sub/model.safetensors", "may name .safetensors files that lie next to it alone"),
        ("MODEL.SAFETENSORS", "may name .safetensors files that lie next to it alone"),
        ("model-1.safetensors", "1 of 1 files that it names are missing"),
        (5, "may name .safetensors files that lie next to it alone"),
    ],
)
def test_an_index_names_nothing_but_safetensors_of_its_folder(name: object, says: str, tmp_path: Path) -> None:
    folder = tmp_path / "model"
    (folder / "sub").mkdir(parents=True)
    for file in (folder / "pytorch_model.bin", tmp_path / "model.safetensors", folder / "sub" / "model.safetensors"):
        file.write_bytes(b"")
    (folder / "dummy.safetensors").write_bytes(b"")
    (folder / "model.safetensors.index.json").write_text(json.dumps({"weight_map": {"a": name}, "metadata": {}}))
    with pytest.raises(ModelFolderError, match=says):
        weight_files(folder)


@pytest.mark.parametrize(
    "other", ["adapter_model.safetensors", "dummy.safetensors", "model.fp16.safetensors", "Model.safetensors"]
)
def test_other_safetensors_next_to_a_pickle_make_no_model(other: str, tmp_path: Path) -> None:
    (tmp_path / other).write_bytes(b"")
    (tmp_path / "pytorch_model.bin").write_bytes(b"")
    with pytest.raises(ModelFolderError, match=r"has no \.safetensors file that transformers would load"):
        weight_files(tmp_path)


def test_a_config_cannot_name_another_file_of_weights(tmp_path: Path) -> None:
    (tmp_path / "model.safetensors").write_bytes(b"")
    (tmp_path / "config.json").write_text(json.dumps({"transformers_weights": "adapter_model.bin"}))
    with pytest.raises(ModelFolderError, match=r"names 'adapter_model\.bin' by transformers_weights"):
        weight_files(tmp_path)
