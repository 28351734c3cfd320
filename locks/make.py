"""`make lock`: writes the lock files anew from pyproject.toml; with ARGS=--upgrade, for the newest versions it allows.

uv resolves for Linux on x86_64 and Python 3.11 to 3.14 (of later ones Ray has no files), whatever machine this is, and
installs nothing: hashes and requirements are the index's. What is pinned already stays, as long as pyproject.toml
allows it.
"""

import json
import subprocess
import sys
from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path
from tempfile import TemporaryDirectory

from packaging.utils import canonicalize_name

from locks.pins import LOCKS, ROOT, Pin, SetUp, pins, pins_in, read, requirements

CUDA = ("nvidia-", "cuda-", "triton")
"""Beginnings of the names of what torch asks for on Linux where it is not built for CPUs alone."""
CPU = "+cpu"
"""End of the version of torch's builds for CPUs."""
EVERYWHERE = (
    "python_full_version < '3.15' and platform_machine == 'x86_64' and platform_python_implementation == 'CPython' "
    "and sys_platform == 'linux'"
)
"""How uv says what pyproject.toml's `environments` say: with no more than that, a line holds wherever the file does."""
HEADS = {
    "cpu.txt": "All that is installed without a GPU, but for torch.",
    "torch-cpu.txt": "torch without a GPU: its build for CPUs, which not every index has.",
    "torch-cuda.txt": "torch where its build for CPUs is not to be had: it loads CUDA's libraries also without a GPU.",
    "nvidia.txt": "All that is installed with an NVIDIA GPU.",
}


def main(arguments: Sequence[str]) -> None:
    """Write all lock files."""
    cpu, nvidia = compiled("cpu", arguments), compiled("nvidia", arguments)
    torch, cuda = [pin for pin in cpu if pin.name == "torch"], of_cuda(cpu)
    write("cpu.txt", [pin for pin in cpu if pin not in [*torch, *cuda]])
    write("torch-cpu.txt", [for_cpus(pin) for pin in torch])
    write("torch-cuda.txt", [*torch, *cuda])
    write("nvidia.txt", nvidia)


def of_cuda(found: Sequence[Pin]) -> list[Pin]:
    """Return what nobody but torch asks for, and what it asks for itself, by their names libraries of CUDA."""
    named = [pin for pin in found if pin.name.startswith(CUDA)]
    names = {"torch", *(pin.name for pin in named)}
    return [pin for pin in named if {canonicalize_name(each) for each in pin.asked_by} <= names]


def compiled(set_up: SetUp, arguments: Sequence[str]) -> list[Pin]:
    """Return a set-up's pins, by uv."""
    with TemporaryDirectory() as folder:
        before = Path(folder) / "lock.txt"
        kept = [str(pin) for pin in pins(set_up) if not pin.version.endswith(CPU)]
        before.write_text("\n".join(kept))
        command = [
            sys.executable, "-m", "uv", "pip", "compile", "--quiet", "--universal", "--python-version", "3.11",
            "--generate-hashes", "--no-header", "--output-file", str(before), *arguments, "-",
        ]  # fmt: skip
        if set_up == "cpu":
            command += ["--overrides", str(LOCKS / "cpu-overrides.txt")]
        asked = "\n".join(requirements(set_up))
        subprocess.run(command, input=asked, text=True, check=True, cwd=ROOT, timeout=600)
        return [replace(pin, marker="" if pin.marker == EVERYWHERE else pin.marker) for pin in read(before.read_text())]


def for_cpus(torch: Pin) -> Pin:
    """Return the pin of torch's build for CPUs: with the hash of the one that pip has here, and those known before."""
    version = f"{torch.version}{CPU}"
    command = [
        sys.executable, "-m", "pip", "install", "--quiet", "--dry-run", "--no-deps", "--ignore-installed",
        "--report", "-", f"torch=={version}",
    ]  # fmt: skip
    found = subprocess.run(command, capture_output=True, text=True, timeout=600)
    hashes = {each for pin in pins_in("torch-cpu.txt") if pin.version == version for each in pin.hashes}
    if found.returncode == 0:
        [installed] = json.loads(found.stdout)["install"]
        hashes.add(installed["download_info"]["archive_info"]["hashes"]["sha256"])
    if not hashes:
        raise SystemExit(f"pip has no torch {version} here, and its hash is not known: {found.stderr.strip()}")
    return replace(torch, version=version, hashes=tuple(sorted(hashes)))


def write(name: str, found: Sequence[Pin]) -> None:
    """Write a lock file."""
    made = "Written by `make lock`, for Linux on x86_64 and Python 3.11 to 3.14; edit pyproject.toml instead."
    head = f"# {HEADS[name]}\n# {made}\n"
    (LOCKS / name).write_text(head + "".join(f"{pin}\n" for pin in found))
    print(f"{LOCKS / name}: {len(found)} packages")


if __name__ == "__main__":
    main(sys.argv[1:])
