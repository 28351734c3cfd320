"""Stage contexts in a temporary folder, without a pipeline around them."""

from pathlib import Path
from typing import Any

from stages.base import RunFacts, StageContext
from stages.metrics import MetricsFile


def make_context(root: Path, model: Path, *, name: str = "stage", inputs: Any = None, **facts: Any) -> StageContext:
    """Return a context whose stage has the folder ``root / name``; metrics go to its `metrics.jsonl`."""
    defaults: dict[str, Any] = {"seed": 3, "engine": {"type": "transformers", "max_model_tokens": 128}}
    return StageContext(
        name=name,
        folder=root / name,
        inputs=inputs or {},
        facts=RunFacts.model_validate({"model": str(model), **defaults, **facts}),
        fingerprint=f"fingerprint of {name}",
        seed=11,
        metrics=MetricsFile(root / name / "metrics.jsonl"),
    )
