"""The demo's GRPO with a reward that fails on a tenth of its calls, next to the same run without failures.

    make demo && python -m benchmarks.failing_reward

Runs the demo's recipe again under another name, a quarter of an hour, with `digits_right` below in its place.
"""

import hashlib
import json
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import yaml

from benchmarks.conditions import conditions, keep
from examples.arithmetic import rewards

FAILING_FRACTION = 0.1
RECIPE, RUNS = Path("configs/quickstart.yaml"), Path("runs")


def digits_right(
    prompts: list[Any], completions: list[Any], answer: list[str], group_id: str, step: int, **columns: list[Any]
) -> list[float]:
    """Mark as the demo does, but raise for a tenth of the groups, the same ones in every run."""
    draw = hashlib.sha256(f"{group_id}/{step}".encode()).digest()
    if step > 0 and int.from_bytes(draw[:4], "big") < FAILING_FRACTION * 2**32:
        raise ConnectionError("the judge is out")
    return rewards.digits_right(prompts=prompts, completions=completions, answer=answer)


def recipe() -> dict[str, Any]:
    """Return the demo's recipe, changed in its name and in GRPO's graded reward."""
    found: dict[str, Any] = yaml.safe_load(RECIPE.read_text())
    found["name"] = "failing-reward"
    for reward in found["stages"]["grpo"]["rewards"]:
        if reward.get("import_path") == "examples.arithmetic.rewards:digits_right":
            reward["import_path"] = "benchmarks.failing_reward:digits_right"
    return found


def lost_fractions(run: Path) -> Iterator[float]:
    """Yield the share of answers that could not be scored, step by step."""
    for file in sorted((run / "grpo").glob("attempt_*/metrics.jsonl")):
        for line in file.read_text().splitlines():
            yield json.loads(line).get("reward/unscorable_fraction", 0.0)


def compare(plain: Path, failing: Path) -> dict[str, Any]:
    """Return what GRPO reached in both runs, each with its interval."""
    reached = {}
    for name, run in (("plain", plain), ("failing", failing)):
        exam = json.loads((run / "summary.json").read_text())["exams"]["grpo"]["dev/accuracy"]
        lost = list(lost_fractions(run))
        reached[name] = {**exam, "unscorable_fraction": sum(lost) / len(lost)}
    return {**reached, "conditions": conditions()}


def main() -> None:
    """Run, compare, keep."""
    file = RUNS / "failing-reward.yaml"
    file.write_text(yaml.safe_dump(recipe(), sort_keys=False))
    subprocess.run([sys.executable, "-m", "pipeline.cli", "run", str(file), "--resume"], check=True)
    found = compare(RUNS / "quickstart", RUNS / "failing-reward")
    keep("failing_reward.json", found)
    print(json.dumps(found, indent=2))


if __name__ == "__main__":
    main()
