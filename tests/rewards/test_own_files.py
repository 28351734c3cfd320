"""Temporary files, sockets and caches of a process are out of others' reach, wherever it begins."""

import json
import os
import stat
import subprocess
import sys
import tempfile
from pathlib import Path

import pytest

from rewards import own_files
from rewards.own_files import LONGEST_SOCKET, PREFIX, SHORT, SOCKETS, folder_for_sockets, make_caches_private, room_in
from rewards.private import is_private
from tests.users import folder_for_all

PLACES = ("TMPDIR", *SOCKETS)
CACHES = ("XDG_CACHE_HOME", "XDG_CONFIG_HOME", "HF_HOME", "NUMBA_CACHE_DIR", "TORCH_HOME", "TRITON_CACHE_DIR",
          "TORCHINDUCTOR_CACHE_DIR", "VLLM_CACHE_ROOT")  # fmt: skip
BEGINS = f"""
import json, os, pathlib, tempfile
from rewards.own_files import use_own_files
from rewards.private import is_private
use_own_files(); use_own_files()
assert tempfile.gettempdir() == os.environ["TMPDIR"]
places = {{name: os.environ[name] for name in {PLACES}}}
assert all(is_private(pathlib.Path(place)) for place in places.values())
print(json.dumps(places))
"""


@pytest.fixture
def home(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """Return a home that others may look into, as Debian makes them."""
    for name in (*PLACES, *CACHES):
        monkeypatch.delenv(name, raising=False)
    (tmp_path / "home").mkdir(mode=0o755)
    monkeypatch.setenv("HOME", str(tmp_path / "home"))
    return tmp_path / "home"


def begun(**environment: str) -> dict[str, Path]:
    """Return where a process put its files that began in this environment and has ended."""
    environment = {**os.environ, **environment}
    done = subprocess.run([sys.executable, "-c", BEGINS], capture_output=True, text=True, timeout=60, env=environment)
    assert done.returncode == 0, done.stderr
    return {name: Path(place) for name, place in json.loads(done.stdout).items()}


@pytest.mark.usefixtures("home")
def test_a_process_makes_one_folder_of_its_own_which_goes_with_it() -> None:
    with folder_for_all() as shared:
        places = begun(TMPDIR=str(shared))
        assert len(set(places.values())) == 1 and places["TMPDIR"].parent == shared
        assert list(shared.iterdir()) == []


@pytest.mark.usefixtures("home")
def test_what_the_driver_has_made_stays() -> None:
    with folder_for_all() as shared:
        expected = {name: shared / f"{PREFIX}{number}" for number, name in enumerate(PLACES)}
        for folder in expected.values():
            folder.mkdir(mode=0o700)
        assert begun(**{name: str(folder) for name, folder in expected.items()}) == expected


@pytest.mark.usefixtures("home")
def test_sockets_go_where_they_are_sent_but_into_a_private_folder() -> None:
    with folder_for_all() as shared, folder_for_all() as other:
        places = begun(TMPDIR=str(shared), RAY_TMPDIR=str(other))
        assert places["RAY_TMPDIR"].parent == other
        assert places["VLLM_RPC_BASE_PATH"] == places["TMPDIR"]
        assert list(other.iterdir()) == []


@pytest.mark.parametrize("variable", SOCKETS)
def test_sockets_go_to_tmp_where_the_usual_folder_s_name_is_too_long(
    monkeypatch: pytest.MonkeyPatch, variable: str
) -> None:
    monkeypatch.delenv(variable, raising=False)
    longest = LONGEST_SOCKET - len("/strop-run-12345678") - len(SOCKETS[variable])
    for length, is_used in ((longest, True), (longest + 1, False)):
        usual = "/" + "x" * (length - 1)
        monkeypatch.setattr(tempfile, "tempdir", usual)
        assert folder_for_sockets(variable) == (Path(usual) if is_used else SHORT)
    monkeypatch.setenv(variable, "/" + "y" * 90)
    assert folder_for_sockets(variable) == Path("/" + "y" * 90), "as it is said"


def test_a_folder_of_ours_needs_no_other_in_it(tmp_path: Path) -> None:
    (tmp_path / f"{PREFIX}a").mkdir(mode=0o755)
    (tmp_path / f"{PREFIX}b").mkdir(mode=0o700)
    rooms = [room_in(tmp_path / f"{PREFIX}{name}", "RAY_TMPDIR") for name in "ab"]
    assert rooms[1] - rooms[0] == len(f"/{PREFIX}12345678")


def test_caches_that_are_missing_are_made_private(home: Path) -> None:
    make_caches_private()
    assert {path.name for path in home.iterdir()} == {".cache", ".config", ".triton"}
    assert all(is_private(path) for path in home.rglob("*"))


def test_a_cache_that_is_there_keeps_its_mode_and_gets_private_ones_below(
    home: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    (home / ".cache" / "huggingface").mkdir(parents=True)
    for folder in (home / ".cache", home / ".cache" / "huggingface"):
        folder.chmod(0o755)
    monkeypatch.setenv("TORCH_HOME", str(tmp_path / "elsewhere"))
    make_caches_private()
    modes = {path.name: stat.S_IMODE(path.stat().st_mode) for path in (home / ".cache").iterdir()}
    assert modes == {"huggingface": 0o755, **dict.fromkeys(("vllm", "numba", "flashinfer", "torchinductor"), 0o700)}
    assert is_private(tmp_path / "elsewhere")


def test_what_torch_compiles_outlives_the_run(home: Path) -> None:
    told = f"{BEGINS}print(os.environ.get('TORCHINDUCTOR_CACHE_DIR'))"
    for where, expected in ((home, str(home / ".cache" / "torchinductor")), (Path("/proc/none"), "None")):
        environment = {**os.environ, "HOME": str(where)}
        done = subprocess.run([sys.executable, "-c", told], capture_output=True, text=True, timeout=60, env=environment)
        assert done.stdout.splitlines()[-1] == expected, done.stderr


def test_a_name_in_tmp_that_torch_has_chosen_is_not_used(
    home: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    for said, expected in (("/tmp/torchinductor_root", home / ".cache" / "torchinductor"), (tmp_path / "x",) * 2):
        monkeypatch.setenv("TORCHINDUCTOR_CACHE_DIR", str(said))
        make_caches_private()
        assert own_files._compiled() == expected and is_private(expected)


@pytest.mark.usefixtures("home")
def test_a_machine_without_a_home_is_no_reason_to_fail(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("HOME", "/proc/none")
    make_caches_private()
