"""Exams that a policy sits at its checkpoints while it learns: whether it still improves, and where it was best.

What was reached is kept in each checkpoint, so a stage that is resumed decides as if it had not been interrupted.
"""

import json
import logging
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from statistics import fmean

from rollout.config import SamplingConfig
from rollout.records import write_groups
from stages.base import StageContext
from stages.evaluate.config import EarlyStopConfig
from stages.evaluate.examine import marks_of
from stages.generation import Rollouts, derive_seed, open_rollouts, probes, prompts_of
from stages.models import Policy

logger = logging.getLogger(__name__)

FILE = "early_stop.json"
"""In a checkpoint: accuracies by version."""


class EarlyStop:
    """The exam, and what the policy has reached in it."""

    def __init__(self, config: EarlyStopConfig, context: StageContext, policy: Policy, rollouts: Rollouts) -> None:
        self._config = config
        self._context = context
        self._policy = policy
        self._rollouts = rollouts
        self._prompts = prompts_of(context, config, "exam", policy.tokenizer)
        self._reached: dict[int, float] = {}

    def sit(self, version: int) -> None:
        """Examine the policy as it is now."""
        self._rollouts.publish(self._policy, version, probes(self._prompts, self._config.sync.num_probes))
        sampling = SamplingConfig(temperature=0.0, max_tokens=self._config.max_tokens)
        seed = derive_seed(self._context.seed, "early stop")
        groups = self._rollouts.collector(sampling).collect(self._prompts, 1, seed)
        self._rollouts.pool.sleep()
        write_groups(self._context.rollouts / f"early_stop_{version:06d}.parquet", groups)
        self._reached[version] = fmean(marks_of(groups).values())
        self._context.metrics.write(version, {"early_stop/accuracy": self._reached[version]})
        logger.info("version %d reaches %.3f in the exam", version, self._reached[version])

    @property
    def best(self) -> int | None:
        """The first version that none later was better than; the start does not count, for it is no checkpoint."""
        return self._best_and_since()[0]

    @property
    def is_over(self) -> bool:
        """Whether the policy has stopped to improve."""
        return self._best_and_since()[1] >= self._config.patience

    def save(self, folder: Path) -> None:
        """Write what was reached into a checkpoint."""
        (folder / FILE).write_text(json.dumps(self._reached))

    def load(self, folder: Path) -> None:
        """Take up what was reached when a checkpoint was written."""
        self._reached = {int(version): reached for version, reached in json.loads((folder / FILE).read_text()).items()}

    def report(self) -> dict[str, float]:
        """Return where the policy was best, as metrics; warn where that is no better than the start."""
        best = self.best
        if best is None:
            return {}
        start = self._reached.get(0)
        if start is not None and self._reached[best] <= start:
            logger.warning(
                "no checkpoint is better in the exam of early_stop than the start was (%.3f, best %.3f): what is "
                "learned here does not help",
                start,
                self._reached[best],
            )
        return {
            **({"early_stop/accuracy_at_start": start} if start is not None else {}),
            "early_stop/accuracy": self._reached[best],
            "early_stop/best_version": float(best),
            "early_stop/last_version": float(max(self._reached)),
        }

    def _best_and_since(self) -> tuple[int | None, int]:
        """Return the best version, and how many were examined after it."""
        best, since = None, 0
        for version in sorted(version for version in self._reached if version > 0):
            if best is None or self._reached[version] > self._reached[best] + self._config.min_gain:
                best, since = version, 0
            else:
                since += 1
        return best, since


@contextmanager
def open_early_stop(
    config: EarlyStopConfig | None, context: StageContext, policy: Policy
) -> Iterator[EarlyStop | None]:
    """Start the engines that examine a policy while it learns; nothing where the recipe does not ask for it."""
    if config is None:
        yield None
        return
    with open_rollouts(context, policy, config) as rollouts:
        yield EarlyStop(config, context, policy, rollouts)
