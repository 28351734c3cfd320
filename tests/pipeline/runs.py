"""A run on disk without having been run: what the pages of runs are made from, with text that would act if it could."""

import json
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from pipeline.config import RunConfig
from pipeline.state import RunFolder, RunState, StageState
from rewards.types import Score
from rollout.records import write_groups
from rollout.types import Completion, Prompt, Rollout, RolloutGroup
from stages.base import Estimate, StageResult

HOSTILE = "</script><script>document.title = 'mine'</script><img src='http://127.0.0.1:9/x' onerror='alert(1)'><!--"


def answer(text: str, value: float | None, *versions: int) -> Rollout:
    """Return an answer with a token for each version."""
    completion = Completion(
        token_ids=tuple(range(5, 5 + len(versions))),
        logprobs=tuple(-0.5 * at for at in range(len(versions))),
        versions=versions,
        finish_reason="stop",
    )
    score = Score(
        value=value, cause="ok" if value is not None else "timeout", parts={"math": value or 0.0}, detail=text
    )
    return Rollout(completion=completion, response=text, score=score)


def group(name: str, question: str, *rollouts: Rollout) -> RolloutGroup:
    """Return the answers to a question."""
    prompt = Prompt(id=name, messages=[{"role": "user", "content": question}], token_ids=(1,), columns={"answer": "7"})
    return RolloutGroup(prompt=prompt, rollouts=rollouts)


def write_metrics(
    folder: RunFolder, stage: str, attempt: int, rows: Sequence[Mapping[str, Any]], end: str = ""
) -> None:
    """Write an attempt's metrics; ``end`` is what a kill left of a line."""
    file = folder.stage(stage) / f"attempt_{attempt:03d}" / "metrics.jsonl"
    file.parent.mkdir(parents=True)
    file.write_text("".join(json.dumps(row) + "\n" for row in rows) + end)


def write_run(root: Path, name: str = "r", **changes: Any) -> tuple[RunConfig, RunFolder]:
    """Write a run of two steps of GRPO, the second taken twice, and an exam; ``changes`` are of the GRPO stage."""
    grpo = {"kind": "grpo", "prompts": "p.jsonl", "num_steps": 2, "rewards": ["math"], "learning_rate": 0.25, **changes}
    exam = {"kind": "evaluate", "of": ["base", "grpo"], "tasks": {"dev": {"data": "d.jsonl"}}}
    config = RunConfig.model_validate({"name": name, "model": "somebody/model", "stages": {"grpo": grpo, "exam": exam}})
    folder = RunFolder(root / name)
    causes = {"reward/cause/ok/count": 3, "reward/cause/timeout/count": 1}
    first = {"step": 1, "num_steps": 2, "train/loss": 3.0, "time/learn_s": 2.0, **causes}
    undone = {"step": 2, "num_steps": 2, "train/loss": 2.5, "time/learn_s": 2.0, "reward/mean": 0.25}
    waited = {"time/generate_and_score_s": 1.5, "reward/wait_s": 0.5}
    again = {"step": 2, "num_steps": 2, "train/loss": 2.0, "time/learn_s": 3.0, "reward/mean": 0.5, **waited}
    write_metrics(folder, "grpo", 1, [first, undone])
    write_metrics(folder, "grpo", 2, [again])
    groups = [
        group("a", HOSTILE, answer("right", 1.0, 1, 1, 1), answer("wrong", 0.0, 0, 1), answer(HOSTILE, None, 1)),
        group("b", "what is seven?", answer("seven", 1.0, 1), answer("7", 1.0, 1)),
    ]
    write_groups(folder.stage("grpo") / "rollouts" / "step_000002.parquet", groups)
    sat = [group("e", "an exam?", answer("well", 1.0, 0, 0))]
    for model in ("base", "grpo"):
        write_groups(folder.stage("exam") / "rollouts" / model / "dev" / "accuracy.parquet", sat)
    half, most = Estimate(mean=0.5, low=0.4, high=0.6, num=9), Estimate(mean=0.75, low=0.7, high=0.9, num=9)
    exams = {"base": {"dev/accuracy": half}, "grpo": {"dev/accuracy": most}}
    folder.save_result("exam", StageResult(exams=exams, gains={"base->grpo": {"dev/accuracy": half}}))
    states = {
        "grpo": StageState(status="done", attempts=2, wall_s=9.0),
        "exam": StageState(status="done", attempts=1, wall_s=4.0),
    }
    folder.save(RunState(name=name, stages=states))
    folder.recipe.write_text(f"name: {name}  # {HOSTILE}\nendpoint: {{max_tokens: 64}}\n")
    folder.resolved.write_text(config.model_dump_json())
    return config, folder
