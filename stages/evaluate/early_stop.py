"""Exams that a policy sits at its checkpoints while it learns: whether it still improves, and where it was best.

What was reached is kept in each checkpoint, so a stage that is resumed decides as if it had not been interrupted.
"""

import json
import logging
import math
from collections.abc import Callable, Iterable, Iterator
from contextlib import ExitStack, contextmanager
from pathlib import Path
from statistics import fmean

from rollout.collector import summarize
from rollout.config import SamplingConfig
from rollout.records import write_groups
from stages.base import StageContext
from stages.evaluate.config import EarlyStopConfig
from stages.evaluate.examine import marks_of
from stages.generation import Rollouts, derive_seed, open_rollouts, probes, prompts_of
from stages.metrics import Clock
from stages.models import Policy

logger = logging.getLogger(__name__)

FILE = "early_stop.json"
"""In a checkpoint: accuracies by version."""
ANSWERS = "early_stop_{}.parquet"
"""Among the stage's rollouts: the answers of a version."""


class EarlyStop:
    """The exam, and what the policy has reached in it."""

    def __init__(
        self, config: EarlyStopConfig, context: StageContext, policy: Policy, start: Callable[[], Rollouts]
    ) -> None:
        """``start`` starts the engines; it is called when the policy first sits the exam."""
        self._config = config
        self._context = context
        self._policy = policy
        self._prompts = prompts_of(context, config, "exam", policy.tokenizer)
        self._start = start
        self._rollouts: Rollouts | None = None
        self._reached: dict[int, float] = {}

    def sit(self, version: int) -> None:
        """Examine the policy as it is now."""
        rollouts = self._rollouts = self._rollouts or self._start()
        clock = Clock()
        rollouts.publish(self._policy, version, probes(self._prompts, self._config.sync.num_probes))
        clock.lap("sync")
        sampling = SamplingConfig(temperature=0.0, max_tokens=self._config.max_tokens)
        seed = derive_seed(self._context.seed, "early stop")
        groups = rollouts.collector(sampling).collect(self._prompts, 1, seed)
        clock.lap("generate_and_score")
        rollouts.pool.sleep()
        write_groups(self._context.rollouts / ANSWERS.format(f"{version:06d}"), groups)
        self._reached[version] = fmean(marks_of(groups).values())
        told = {f"early_stop/{name}": value for name, value in {**summarize(groups), **clock.laps}.items()}
        self._context.metrics.write(version, {"early_stop/accuracy": self._reached[version], **told})
        logger.info("version %d reaches %.3f in the exam", version, self._reached[version])

    @property
    def best(self) -> int | None:
        """The first version that none later was better than; the start does not count, for it is no checkpoint."""
        return self._best_and_since()[0]

    def bests_of(self, versions: Iterable[int]) -> set[int]:
        """Return what was the best at each of these versions: who goes on from one of them may need it."""
        found = (self._best_and_since(until=version)[0] for version in versions)
        return {best for best in found if best is not None}

    @property
    def is_over(self) -> bool:
        """Whether the policy has stopped to improve."""
        return self._best_and_since()[1] >= self._config.patience

    def save(self, folder: Path) -> None:
        """Write what was reached into a checkpoint."""
        (folder / FILE).write_text(json.dumps(self._reached))

    def load(self, folder: Path) -> None:
        """Take up what was reached when a checkpoint was written; answers of later exams are removed."""
        self._reached = {int(version): reached for version, reached in json.loads((folder / FILE).read_text()).items()}
        for file in self._context.rollouts.glob(ANSWERS.format("*")):
            if file.name not in {ANSWERS.format(f"{version:06d}") for version in self._reached}:
                file.unlink()

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

    def _best_and_since(self, until: float = math.inf) -> tuple[int | None, int]:
        """Return the best version, and how many were examined after it; later ones than ``until`` do not count."""
        best, since = None, 0
        for version in sorted(version for version in self._reached if 0 < version <= until):
            if best is None or self._reached[version] > self._reached[best] + self._config.min_gain:
                best, since = version, 0
            else:
                since += 1
        return best, since


@contextmanager
def open_early_stop(
    config: EarlyStopConfig | None, context: StageContext, policy: Policy
) -> Iterator[EarlyStop | None]:
    """Prepare the exams of a policy that learns, and end their engines; nothing where the recipe asks for none."""
    if config is None:
        yield None
        return
    with ExitStack() as engines:
        yield EarlyStop(config, context, policy, lambda: engines.enter_context(open_rollouts(context, policy, config)))
