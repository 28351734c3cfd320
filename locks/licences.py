"""`make licences`: writes docs/licences.md, under which licences everything stands that `make setup` installs.

What packages say of themselves is asked of pip, which has it from the index and installs nothing.
"""

import json
import re
import subprocess
import sys
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any

from packaging.utils import canonicalize_name

from locks.pins import FILES, ROOT, Pin, pins, pins_in

PAGE = ROOT / "docs" / "licences.md"
NAMES = {
    "Apache Software License": "Apache-2.0",
    "BSD License": "BSD",
    "GNU Lesser General Public License v2 (LGPLv2)": "LGPL-2.0",
    "ISC License (ISCL)": "ISC",
    "MIT License": "MIT",
    "Mozilla Public License 2.0 (MPL 2.0)": "MPL-2.0",
    "Other/Proprietary License": "proprietary",
    "Python Software Foundation License": "PSF-2.0",
    "The Unlicense (Unlicense)": "Unlicense",
}
"""Short names for what trove classifiers call licences."""
WORDS = {r"(?i)apache": "Apache-2.0", r"(?i)mit\b": "MIT", r"(?i)(3-clause )?bsd": "BSD", r"(?i)isc\b": "ISC"}
"""And what their beginnings mean where a package says it in words of its own."""
READ_IN_THE_FILES = {
    "cuda-toolkit": "none, for it holds no files",
    "oss-harmony": "Apache-2.0",
    "quack-kernels": "Apache-2.0",
    "setuptools": "MIT",
    "torchcodec": "BSD-3-Clause",
}
"""Licences of packages that name none, from the files that they come with."""
PERMISSIVE = re.compile(
    r"0BSD|Apache-2\.0|BSD(-[23]-Clause)?|BSL-1\.0|CC0-1\.0|CNRI-Python|HPND|ISC|LLVM-exception|MIT(-0|-CMU)?|PSF-2\.0|"
    r"Python-2\.0|Unlicense|Zlib"
)
"""Licences that ask for their text and the authors' names to be kept, and for nothing else."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Kind:
    """Licences that ask for more."""

    title: str
    pattern: str
    means: str
    """For whoever installs Strop, and for whoever passes on an environment or an image with it."""


KINDS = (
    Kind(
        title="Proprietary, NVIDIA's",
        pattern=r"(?i)nvidia",
        means="may be used and, by the terms of their CUDA toolkit and of each library, be passed on as part of an "
        "application for NVIDIA's GPUs; not be changed or taken apart. Whoever passes on an image that holds them "
        "accepts these terms, and has to pass them on.",
    ),
    Kind(
        title="Proprietary, others'",
        pattern=r"(?i)proprietary|licenseref",
        means="may be used, and be passed on unchanged with their licence; not be changed or taken apart.",
    ),
    Kind(
        title="GPL",
        pattern=r"\bA?GPL",
        means="may be used as you like; whoever passes on a program that is made with them passes on its source, too.",
    ),
    Kind(
        title="LGPL",
        pattern=r"LGPL",
        means="may be used from programs of any licence. Whoever passes on an environment or image that holds them "
        "keeps their licence with them, offers their source, and leaves them replaceable, as Python packages are.",
    ),
    Kind(
        title="MPL",
        pattern=r"MPL",
        means="may be used from programs of any licence. Only who passes on changed files of theirs offers these "
        "files' source.",
    ),
)
INSIDE = {
    "numpy": "OpenBLAS (BSD) and libgfortran (GPL-3.0 with GCC's exception for what is linked with it)",
    "opencv-python-headless": "FFmpeg (LGPL-2.1), which is a file of its own and can be replaced",
    "pyzmq": "libzmq (MPL-2.0) and libsodium (ISC)",
    "torchcodec": "libnvjpeg (by the terms of NVIDIA's CUDA toolkit), dav1d, libavif and others (BSD)",
}
"""What wheels hold, besides what their packages say of themselves."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Package:
    """A package of the lock files."""

    name: str
    version: str
    licence: str
    files: tuple[str, ...]
    """The lock files that it is in."""


def main() -> None:
    """Write the page."""
    found: dict[tuple[str, str], dict[str, str]] = {}
    for set_up, files in FILES.items():
        licences = {str(canonicalize_name(each["name"])): licence_of(each) for each in asked_of_pip(pins(set_up))}
        for file in files:
            for pin in pins_in(file):
                found.setdefault((pin.name, pin.version), {})[file] = licences[pin.name]
    packages = [
        Package(name=name, version=version, licence=next(iter(by_file.values())), files=tuple(by_file))
        for (name, version), by_file in sorted(found.items())
    ]
    PAGE.write_text("\n".join(page(packages)) + "\n")
    print(f"{PAGE}: {len(packages)} packages")


def asked_of_pip(asked: Sequence[Pin]) -> list[dict[str, Any]]:
    """Return the metadata of all packages that this Python would get.

    Without hashes: with them pip would fetch whole files, gigabytes of CUDA among them, to read a line of each.
    """
    with TemporaryDirectory() as folder:
        names, report = Path(folder) / "names.txt", Path(folder) / "report.json"
        builds = [pin for pin in asked if "+" not in pin.version]  # the others are the same package
        names.write_text("".join(f"{pin.name}=={pin.version}{pin.where}\n" for pin in builds))
        command = [
            sys.executable, "-m", "pip", "install", "--quiet", "--dry-run", "--ignore-installed", "--no-deps",
            "--report", str(report), "--requirement", str(names),
        ]  # fmt: skip
        subprocess.run(command, check=True, timeout=3600)
        return [each["metadata"] for each in json.loads(report.read_text())["install"]]


def licence_of(metadata: Mapping[str, Any]) -> str:
    """Return a package's licence: an SPDX expression, or what comes near to one."""
    if expression := metadata.get("license_expression"):
        return str(expression)
    told = next(iter(str(metadata.get("license") or "").strip().splitlines()), "")
    if re.fullmatch(r"[\w.-]+( (AND|OR|WITH) [\w.-]+)*", told) and re.search(r"\d|\b(MIT|ISC)\b", told):
        return told
    for pattern, name in WORDS.items():
        if re.match(pattern, told):
            return name
    classifiers = [each for each in metadata.get("classifier", ()) if each.startswith("License ::")]
    named = [NAMES.get(last, last) for each in classifiers if (last := each.rpartition(" :: ")[2]) != "OSI Approved"]
    if "proprietary" in named and told:
        return f"proprietary: {told}"
    return " AND ".join(dict.fromkeys(named)) or READ_IN_THE_FILES.get(canonicalize_name(metadata["name"])) or told


def asks_more(licence: str) -> bool:
    """Say whether a licence is another than the permissive ones."""
    words = re.findall(r"[\w.+-]+", licence)
    return not licence.startswith("none") and any(
        word not in ("AND", "OR", "WITH") and not PERMISSIVE.fullmatch(word) for word in words
    )


def page(packages: Sequence[Package]) -> Iterator[str]:
    """Yield the page's lines."""
    yield "# Licences of what is installed\n"
    yield (
        "Strop stands under Apache-2.0. What `make setup` installs was published by others, under licences of their\n"
        "own, and is no part of this repository. `make licences` writes this page from what the packages of `locks/`\n"
        "say of themselves. It is a help to find them, and no legal advice. What you train stands under none of them.\n"
    )
    yield "## Those that ask for more than their text and names to be kept\n"
    rest = [package for package in packages if asks_more(package.licence)]
    for kind in KINDS:
        these = [package for package in rest if re.search(kind.pattern, f"{package.name} {package.licence}")]
        rest = [package for package in rest if package not in these]
        if these:
            yield f"**{kind.title}**: {', '.join(f'`{package.name}`' for package in these)}. They {kind.means}\n"
    if rest:
        names = ", ".join(f"`{package.name}` ({package.licence})" for package in rest)
        yield f"**Others**: {names}. Read them before you pass them on.\n"
    yield "Some wheels hold libraries of others:\n"
    there = {package.name for package in packages}
    yield from (f"- `{name}`: {what}" for name, what in INSIDE.items() if name in there)
    yield "\n## All\n"
    yield "| package | version | licence | in |\n|---|---|---|---|"
    for package in packages:
        files = ", ".join(file.removesuffix(".txt") for file in package.files)
        yield f"| {package.name} | {package.version} | {package.licence} | {files} |"


if __name__ == "__main__":
    main()
