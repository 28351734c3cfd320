"""The architecture, as a test: who may import whom, and where heavy libraries may appear."""

import ast
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest

ROOT = Path(__file__).parent.parent
MAY_IMPORT = {
    "pipeline": {"stages"},
    "stages": {"rollout", "rewards"},
    "rollout": {"rewards"},
    "rewards": set(),
}
FENCED = {
    "ray": {
        "pipeline/launch.py",
        "pipeline/reservation.py",
        "rollout/members.py",
        "rollout/nodes.py",
        "rollout/workers.py",
    },
    "vllm": {"rollout/vllm_engine.py", "rollout/vllm_transport.py"},
    "trl": {
        "stages/sft/train.py",
        "stages/reward_model/train.py",
        "stages/preference/paired.py",
        "stages/preference/unpaired.py",
        "stages/preference/trainer.py",
        "stages/preference/pair_loss.py",
    },
}
LIGHT_MODULES = ["pipeline.cli", "pipeline.check", "pipeline.run", "stages.config", "stages.registry", "rewards.scorer"]
HEAVY = ["torch", "ray", "vllm", "trl", "transformers", "datasets", "peft", "math_verify"]


def sources() -> Iterator[Path]:
    for package in MAY_IMPORT:
        yield from (ROOT / package).rglob("*.py")


SHARED = {
    f"rewards.{name}"
    for name in ("hub", "importing", "machine", "own_files", "printable", "private", "remote_code", "strays", "waits")
}
"""What all packages share lies in the lowest."""


def imported(path: Path) -> set[str]:
    found = set()
    for node in ast.walk(ast.parse(path.read_text())):
        if isinstance(node, ast.Import):
            found |= {alias.name.split(".")[0] for alias in node.names if alias.name not in SHARED}
        elif isinstance(node, ast.ImportFrom):
            assert node.level == 0, f"{path} has a relative import"
            if node.module not in SHARED:
                found.add((node.module or "").split(".")[0])
    return found


def test_packages_import_only_what_lies_below_them() -> None:
    for path in sources():
        package = path.relative_to(ROOT).parts[0]
        wrong = (imported(path) & set(MAY_IMPORT)) - MAY_IMPORT[package] - {package}
        assert not wrong, f"{path.relative_to(ROOT)} imports {wrong}"


def test_heavy_libraries_stay_behind_their_fences() -> None:
    for path in sources():
        name = path.relative_to(ROOT).as_posix()
        for library, allowed in FENCED.items():
            assert library not in imported(path) or name in allowed, f"{name} imports {library}"


@pytest.mark.parametrize("module", LIGHT_MODULES)
def test_light_modules_import_nothing_heavy(module: str) -> None:
    script = f"import sys, {module}; print([m for m in {HEAVY} if m in sys.modules])"
    result = subprocess.run([sys.executable, "-c", script], capture_output=True, text=True, cwd=ROOT, timeout=60)
    assert result.stdout.strip() == "[]", result.stdout + result.stderr


def test_packages_are_this_repository_s() -> None:
    import pipeline

    assert Path(pipeline.__file__).is_relative_to(ROOT)


def test_package_inits_hold_a_docstring_and_nothing_else() -> None:
    for package in MAY_IMPORT:
        for path in (ROOT / package).rglob("__init__.py"):
            body = ast.parse(path.read_text()).body
            assert len(body) == 1 and isinstance(body[0], ast.Expr), f"{path.relative_to(ROOT)} holds code"
