"""What `make setup` installs is what the lock files name, to the byte; and they fit pyproject.toml."""

import base64
import hashlib
import re
import subprocess
import sys
import zipfile
from pathlib import Path

import pytest
from packaging.requirements import Requirement
from packaging.utils import canonicalize_name

from locks.licences import PAGE
from locks.pins import FILES, LOCKS, ROOT, SetUp, pins, pins_in, read, requirements

SET_UPS: list[SetUp] = ["cpu", "nvidia"]
ALL = [name for names in FILES.values() for name in names]


@pytest.mark.parametrize("set_up", SET_UPS)
def test_each_requirement_is_locked_within_its_range(set_up: SetUp) -> None:
    """Fails where pyproject.toml was edited: run `make lock`."""
    locked: dict[str, list[str]] = {}
    for pin in pins(set_up):
        locked.setdefault(pin.name, []).append(pin.version)
    for requirement in map(Requirement, requirements(set_up)):
        versions = locked.get(canonicalize_name(requirement.name), [])
        assert versions, f"{requirement} is in no lock file of {set_up}; run make lock"
        for version in versions:
            assert requirement.specifier.contains(version, prereleases=True), f"{requirement}: locked is {version}"


@pytest.mark.parametrize("set_up", SET_UPS)
def test_nothing_is_locked_that_nothing_asks_for(set_up: SetUp) -> None:
    """Fails where a requirement was taken out of pyproject.toml: run `make lock`."""
    asked = {canonicalize_name(Requirement(each).name) for each in requirements(set_up)}
    found = {pin.name: pin.asked_by for pin in pins(set_up)}
    for name, asked_by in found.items():
        assert name in asked or any(canonicalize_name(each) in found for each in asked_by), f"nothing asks for {name}"


@pytest.mark.parametrize("file", ALL)
def test_each_line_of_a_lock_is_one_version_with_its_hashes(file: str) -> None:
    text = (LOCKS / file).read_text()
    found = list(read(text))
    assert all(pin.hashes for pin in found), [pin.name for pin in found if not pin.hashes]
    assert len({(pin.name, pin.marker) for pin in found}) == len(found)
    assert not re.search(r"https?:|file:|^-", text, re.MULTILINE), "no index, no link, no option: pip has its own"
    assert text.count("==") - sum(pin.marker.count("==") for pin in found) == len(found)


def test_what_breaks_on_a_cpu_is_not_installed_there() -> None:
    assert not {"torchvision", "torchaudio", "torchcodec"} & {pin.name for pin in pins("cpu")}
    assert not [pin.name for pin in pins_in("cpu.txt") if pin.name.startswith("nvidia-")]


def test_torch_without_a_gpu_is_one_of_two_builds_of_one_version() -> None:
    """pip takes no file of a folder if the index has another with a hash of the same line, so they are two files."""
    builds = {file: [pin.version for pin in pins_in(file) if pin.name == "torch"] for file in FILES["cpu"]}
    [cpu], [cuda] = builds["torch-cpu.txt"], builds["torch-cuda.txt"]
    assert cpu == f"{cuda}+cpu" and builds["cpu.txt"] == []


def test_setup_installs_by_the_locks_alone() -> None:
    installs = [line for line in (ROOT / "Makefile").read_text().splitlines() if "pip install" in line]
    assert len(installs) == 3
    for line in installs:
        by_lock = line.count("pip install") == line.count("--require-hashes --no-deps --requirement locks/")
        assert by_lock or line.endswith("--no-deps --no-build-isolation --editable ."), line


def test_the_page_of_licences_covers_the_locks() -> None:
    """Fails where the locks have changed: run `make licences`."""
    rows = re.findall(r"^\| ([\w.-]+) \| (\S+) \| (.+?) \| ([\w, -]+) \|$", PAGE.read_text(), re.MULTILINE)
    told = {(name, version.partition("+")[0], file) for name, version, _, files in rows for file in files.split(", ")}
    locked = {
        (pin.name, pin.version.partition("+")[0], file.removesuffix(".txt"))
        for file in ALL
        for pin in pins_in(file)
        if not pin.marker  # which another Python than the one that wrote the page may meet
    }
    assert locked <= told, sorted(locked - told)[:5]
    assert not [name for name, _, licence, _ in rows if licence in ("not said", "")]


def test_a_forged_package_is_not_installed(tmp_path: Path) -> None:
    """A wheel of the right name and version, from an index that somebody else writes to."""
    [pin] = [pin for pin in pins("cpu") if pin.name == "mdurl"]
    forged = write_wheel(tmp_path / "index", pin.name, pin.version)
    lock = tmp_path / "lock.txt"
    lock.write_text(f"{pin}\n")
    refused = install(tmp_path, "--require-hashes", "--requirement", str(lock))
    assert refused.returncode != 0 and "DO NOT MATCH THE HASHES" in refused.stderr, refused.stderr
    assert not (tmp_path / "site" / "mdurl").exists()
    digest = hashlib.sha256(forged.read_bytes()).hexdigest()
    lock.write_text(f"{pin.name}=={pin.version} --hash=sha256:{digest}\n")
    taken = install(tmp_path, "--require-hashes", "--requirement", str(lock))
    assert taken.returncode == 0 and (tmp_path / "site" / "mdurl").exists(), "the forgery is one that pip would take"


def install(tmp_path: Path, *arguments: str) -> "subprocess.CompletedProcess[str]":
    command = [sys.executable, "-m", "pip", "--isolated", "install", "--no-deps", "--no-index", "--no-cache-dir",
               "--find-links", str(tmp_path / "index"), "--target", str(tmp_path / "site"), *arguments]  # fmt: skip
    return subprocess.run(command, capture_output=True, text=True, timeout=60)


def write_wheel(folder: Path, name: str, version: str) -> Path:
    """Write a wheel with a module that says who was here."""
    folder.mkdir()
    info = f"{name}-{version}.dist-info"
    files = {
        f"{name}/__init__.py": "print('forged')\n",
        f"{info}/METADATA": f"Metadata-Version: 2.1\nName: {name}\nVersion: {version}\n",
        f"{info}/WHEEL": "Wheel-Version: 1.0\nGenerator: forger\nRoot-Is-Purelib: true\nTag: py3-none-any\n",
    }

    def row(path: str, text: str) -> str:
        digest = base64.urlsafe_b64encode(hashlib.sha256(text.encode()).digest()).rstrip(b"=").decode()
        return f"{path},sha256={digest},{len(text)}\n"

    files[f"{info}/RECORD"] = "".join(row(path, text) for path, text in files.items()) + f"{info}/RECORD,,\n"
    wheel = folder / f"{name}-{version}-py3-none-any.whl"
    with zipfile.ZipFile(wheel, "w") as archive:
        for path, text in files.items():
            archive.writestr(path, text)
    return wheel
