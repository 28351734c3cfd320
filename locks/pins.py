"""Lock files as pip reads them: one version a package, with the hashes of its files."""

import re
import tomllib
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Literal

from packaging.utils import canonicalize_name

LOCKS = Path(__file__).parent
ROOT = LOCKS.parent
SetUp = Literal["cpu", "nvidia"]
FILES: dict[SetUp, tuple[str, ...]] = {
    "cpu": ("cpu.txt", "torch-cpu.txt", "torch-cuda.txt"),
    "nvidia": ("nvidia.txt",),
}
"""The lock files of each set-up. Of the two of torch the first is taken if pip has it, or else the second."""
_FIRST = re.compile(r"(?P<name>[\w.-]+)==(?P<version>[\w.+!-]+)(?: ; (?P<marker>.*?))?(?: \\)?")


@dataclass(frozen=True, slots=True, kw_only=True)
class Pin:
    """One package of a lock file."""

    name: str
    """As indexes normalise it."""
    version: str
    marker: str
    """Where it is installed, as Python's packages say it; "" for everywhere."""
    hashes: tuple[str, ...]
    """SHA-256 of the files that may be installed."""
    asked_by: tuple[str, ...]
    """Packages that ask for it."""

    @property
    def where(self) -> str:
        """The marker, as it stands after name and version."""
        return f" ; {self.marker}" if self.marker else ""

    def __str__(self) -> str:
        """Return its lines."""
        hashes = (f"--hash=sha256:{digest}" for digest in self.hashes)
        first = " \\\n    ".join([f"{self.name}=={self.version}{self.where}", *hashes])
        return f"{first}\n    # via {', '.join(self.asked_by) or 'pyproject.toml'}"


def requirements(set_up: SetUp) -> list[str]:
    """Return what a set-up is asked to have: to run, to be worked on, and to be built."""
    tree = tomllib.loads((ROOT / "pyproject.toml").read_text())
    groups, extras = tree["dependency-groups"], tree["project"]["optional-dependencies"]
    engine = groups["cpu"] if set_up == "cpu" else extras["gpu"]
    return [*tree["project"]["dependencies"], *groups["dev"], *tree["build-system"]["requires"], *engine]


def pins(set_up: SetUp) -> list[Pin]:
    """Return all pins of a set-up, as its files have them."""
    return [pin for name in FILES[set_up] for pin in pins_in(name)]


def pins_in(file: str) -> list[Pin]:
    """Return the pins of a lock file; of one that is not there none."""
    return list(read((LOCKS / file).read_text())) if (LOCKS / file).is_file() else []


def read(text: str) -> Iterator[Pin]:
    """Yield the pins of a lock file. Raises ValueError for a line that is none."""
    lines = [line for line in text.splitlines() if line.strip() and not line.startswith("#")]
    starts = [at for at, line in enumerate(lines) if not line.startswith(" ")]
    for start, end in zip(starts, [*starts[1:], len(lines)], strict=True):
        first = _FIRST.fullmatch(lines[start])
        if first is None:
            raise ValueError(f"{lines[start]!r} is no line of a lock, which is name==version with its hashes below")
        below = [line.strip() for line in lines[start + 1 : end]]
        comments = " ".join(line.lstrip("# ") for line in below if line.startswith("#")).removeprefix("via")
        yield Pin(
            name=canonicalize_name(first["name"]),
            version=first["version"],
            marker=first["marker"] or "",
            hashes=tuple(digest for line in below for digest in re.findall(r"--hash=sha256:([0-9a-f]{64})", line)),
            asked_by=tuple(each for each in re.split(r"[,\s]+", comments) if re.fullmatch(r"\w[\w-]*", each)),
        )
