"""A real run on a terminal: drawn, from real metrics, until somebody presses Ctrl-C."""

from pathlib import Path

import psutil
import pytest

from tests.end_to_end.runs import is_alive, wait_for, write_recipe, write_rows
from tests.models import write_tiny_model
from tests.pipeline.screen import HIDE, SHOW, Terminal, screen

pytestmark = [pytest.mark.real, pytest.mark.exhaustive]


def test_a_run_is_drawn_and_ctrl_c_leaves_a_clean_terminal_and_no_process(tmp_path: Path) -> None:
    rows = [{"prompt": f"What is {n} plus 1?", "answer": str(n + 1)} for n in range(40)]
    grpo = {
        "kind": "grpo", "prompts": write_rows(tmp_path / "d.jsonl", rows), "num_steps": 2000, "prompts_per_step": 3,
        "group_size": 4, "sampling": {"max_tokens": 12},
        "rewards": [{"import_path": "tests.end_to_end.rewards:share_of_digits", "gold_value": None}],
    }  # fmt: skip
    engine = {"type": "transformers", "max_model_tokens": 64}
    model = str(write_tiny_model(tmp_path / "base"))
    recipe = write_recipe(tmp_path / "recipe.yaml", name="r", model=model, engine=engine, stages={"grpo": grpo})
    terminal = Terminal("-m", "pipeline.cli", "run", recipe, "--runs", tmp_path, columns=80)
    try:
        terminal.read_until(lambda output: "tokens/s" in output, timeout_s=300)
        family = psutil.Process(terminal.process.pid).children(recursive=True)
        shown = screen(terminal.output)
        terminal.press("\x03")
        assert terminal.end(timeout_s=120) == 130
    finally:
        terminal.kill()
    told = {line.split()[0] for line in shown if line.startswith("  ")}
    assert {"step", "reward", "learning", "staleness", "drift", "answers", "queues", "tokens/s", "last"} <= told
    assert [line.split()[:3] for line in shown if line.startswith("grpo  ")] == [["grpo", "grpo", "running"]]
    assert max(map(len, shown)) <= 80
    assert terminal.output.rfind(SHOW) > terminal.output.rfind(HIDE)
    after = screen(terminal.output)
    assert sum(line.startswith("stage  ") for line in after) == 1, "one view, not torn"
    assert any(line.startswith("stopped; to go on: strop resume") for line in after)
    wait_for(lambda: not [p for p in family if is_alive(p)], "the stopped driver's processes to end", 90.0)
