"""Whether a recipe's adapters can be put on its base model: built for real, without weights, elsewhere. `check` asks.

PEFT takes seconds to import, so a process of its own does it while other things are checked, and only for adapters that
say more than their rank.
"""

import contextlib
import json
import subprocess
import sys
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Self

from stages.adapter_config import FullParams, LoraParams
from stages.base import Problem, RunFacts, StageConfig
from stages.training import TrainingStageConfig

BOOTSTRAP = "import json, sys; sys.path[:] = json.loads(sys.argv[1]); from stages.adapter_trial import main; main()"
"""Finds modules where the parent finds them."""
TIMEOUT_S = 120
KILL_TIMEOUT_S = 10.0
"""How long a killed process may take to be gone."""


def _may_fail(params: FullParams | LoraParams) -> bool:
    """Say whether an adapter could be wrong: one on all linear layers, with PEFT's defaults, goes on every model."""
    return isinstance(params, LoraParams) and (params.target_modules != "all-linear" or bool(params.extra))


class AdapterTrial:
    """The adapters of some stages, being built; nothing where no stage has one or the base is no folder."""

    def __init__(self, stages: Mapping[str, StageConfig], facts: RunFacts) -> None:
        self._stages: dict[tuple[str, str, bool], list[str]] = {}
        for name, stage in stages.items():
            if isinstance(stage, TrainingStageConfig) and _may_fail(stage.params):
                key = (stage.params.model_dump_json(), stage.adapts, stage.adapts_head)
                self._stages.setdefault(key, []).append(name)
        self._process: subprocess.Popen[str] | None = None
        if not self._stages or not (Path(facts.model) / "config.json").is_file():
            return
        self._process = subprocess.Popen(
            [sys.executable, "-P", "-c", BOOTSTRAP, json.dumps(sys.path)],
            stdin=subprocess.PIPE, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True,
        )  # fmt: skip
        self._asked = json.dumps(
            {
                "folder": str(Path(facts.model).resolve()),
                "trust_remote_code": facts.trust_remote_code,
                "adapters": [(json.loads(params), *where) for params, *where in self._stages],
            }
        )

    def problems(self) -> Iterator[Problem]:
        """Wait for the answer, and yield what is wrong."""
        if self._process is None:
            return
        try:
            told, errors = self._process.communicate(self._asked, timeout=TIMEOUT_S)
        except subprocess.TimeoutExpired:
            yield f"note: adapters were not tried: PEFT took over {TIMEOUT_S} s"
            return
        names = [" and ".join(map(repr, each)) for each in self._stages.values()]
        if self._process.returncode:
            last = (errors.strip().splitlines() or ["it said nothing"])[-1]
            yield f"stage {names[0]}: the base model cannot be built for its adapter: {last}"
            return
        for stage, found in zip(names, json.loads(told.splitlines()[-1]), strict=True):
            yield from (f"stage {stage}: params: {problem}" for problem in found)

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        if self._process is not None and self._process.poll() is None:
            self._process.kill()
            with contextlib.suppress(subprocess.TimeoutExpired):
                self._process.communicate(timeout=KILL_TIMEOUT_S)
