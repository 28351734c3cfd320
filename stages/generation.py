"""What the stages that generate share: engines, rewards and weight sync, opened together and closed together."""

import hashlib
from collections.abc import Callable, Iterator, Sequence
from contextlib import closing, contextmanager
from dataclasses import dataclass
from typing import Any

import torch

from rewards import combine
from rewards.combinations import Combination
from rewards.scorer import Scorer
from rollout.collector import Collector
from rollout.config import SamplingConfig
from rollout.engine import EngineModel, Pool
from rollout.types import Prompt
from rollout.weight_sync import SyncReport, WeightSync
from rollout.workers import start_pool
from stages.answering import AnsweringStageConfig
from stages.base import StageContext
from stages.logprobs import sequence_logprobs
from stages.models import DTYPES, Policy
from stages.params import weights


@dataclass(frozen=True, slots=True, kw_only=True)
class Rollouts:
    """Everything between prompts and scored groups."""

    pool: Pool
    scorer: Scorer
    sync: WeightSync
    decode: Callable[[Sequence[int]], str]
    eos_ids: tuple[int, ...]
    dtype: torch.dtype
    """In which weights travel: the run's precision."""
    alive: Callable[[], None]
    """Called at every answer, as a sign of life."""

    def collector(self, sampling: SamplingConfig) -> Collector:
        """Return a collector that samples in this way."""
        return Collector(
            self.pool,
            self.scorer,
            self.decode,
            sampling,
            self.eos_ids,
            score_timeout_s=2 * self.scorer.longest_wait_s,
            on_answer=self.alive,
        )

    def publish(self, policy: Policy, version: int, probes: Sequence[Sequence[int]]) -> SyncReport:
        """Give the engines the policy's weights and compare log-probabilities on the probes."""
        sent = ((name, tensor.to(self.dtype)) for name, tensor in weights(policy.model))
        return self.sync.publish(sent, version, probes, sequence_logprobs(policy.model, probes))


@contextmanager
def open_rollouts(
    context: StageContext, policy: Policy, config: AnsweringStageConfig, combination: Combination | None = None
) -> Iterator[Rollouts]:
    """Start reward workers and engines of the policy's shape; the engines hold no weights until the first publish.

    The combination is the stage's where its state goes into checkpoints, else a fresh one.
    """
    facts = context.facts
    model = EngineModel(
        folder=policy.folder,
        precision=facts.precision,
        seed=context.seed,
        trust_remote_code=facts.trust_remote_code,
        log_folder=context.metrics.folder,
    )
    combination = combination or combine.build(config.combine, config.scored_by())
    with Scorer(config.scored_by(), config.scoring, combination) as scorer:
        pool = start_pool(facts.engine, model)
        try:
            with closing(WeightSync(pool, config.sync, precision=facts.precision)) as weight_sync:
                yield Rollouts(
                    pool=pool,
                    scorer=scorer,
                    sync=weight_sync,
                    decode=decoder(policy.tokenizer),
                    eos_ids=policy.eos_ids,
                    dtype=DTYPES[facts.precision],
                    alive=context.metrics.alive,
                )
        finally:
            pool.close()


def decoder(tokenizer: Any) -> Callable[[Sequence[int]], str]:
    """Return a function from token ids to text without special tokens."""
    return lambda token_ids: str(tokenizer.decode(token_ids, skip_special_tokens=True))


def probes(prompts: Sequence[Prompt], num: int) -> list[tuple[int, ...]]:
    """Return the token sequences on which learner and engines are compared."""
    return [prompt.token_ids for prompt in prompts[:: max(1, len(prompts) // num)]][:num]


def derive_seed(seed: int, *what: object) -> int:
    """Return a seed that follows from another one and a name, and from nothing else."""
    digest = hashlib.sha256(repr((seed, *what)).encode()).digest()
    return int.from_bytes(digest[:4], "little") & 0x7FFFFFFF
