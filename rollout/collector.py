"""Prompts in, scored groups out: has them answered, scores each group once its answers are there, and counts.

prompt -> GenerationRequest -> conversation -> Episodes -> Attempts -> scorer -> Scores -> RolloutGroup
"""

import logging
import statistics
import threading
import time
from collections import Counter, defaultdict
from collections.abc import Callable, Sequence
from concurrent.futures import FIRST_COMPLETED, Future, wait
from dataclasses import replace
from functools import partial
from typing import Protocol

from rewards.futures import settle, when_all
from rewards.types import FAILURES, Attempt, Score
from rewards.waits import Wait
from rollout.config import SamplingConfig
from rollout.engine import Pool
from rollout.episodes import Conversation, Episode
from rollout.types import GenerationRequest, Prompt, Rollout, RolloutError, RolloutGroup, request_seed

logger = logging.getLogger(__name__)

SIGNAL_TOLERANCE = 1e-6
"""Rewards of a group that lie closer together than this say nothing about which answer is better."""


class GroupScorer(Protocol):
    """What the collector asks of `rewards.scorer.Scorer`."""

    def submit(self, group: Sequence[Attempt], /) -> "Future[list[Score]]":
        """Score one group in the background, one score an attempt, in their order."""
        ...

    def check_budget(self) -> None:
        """Raise RewardError when too many attempts could not be scored."""
        ...

    @property
    def num_waiting(self) -> int:
        """Groups that no worker has taken up yet."""
        ...

    def take_metrics(self) -> dict[str, float]:
        """Return the mean of what rewards have logged since the last call."""
        ...


class Collector:
    """Turns prompts into scored groups, any number of them at once.

    ``conversation`` is how the pool's engines answer a prompt: in one turn, or several. ``on_answer`` is called
    whenever a prompt is answered or scored. ``score_timeout_s`` is the longest time without any group being scored,
    once generation is over.
    """

    def __init__(
        self,
        pool: Pool,
        scorer: GroupScorer,
        conversation: Conversation,
        sampling: SamplingConfig,
        eos_ids: Sequence[int],
        *,
        score_timeout_s: float = 600.0,
        on_answer: Callable[[], None] = lambda: None,
    ) -> None:
        self._pool = pool
        self._scorer = scorer
        self._conversation = conversation
        self._sampling = sampling
        self._eos_ids = tuple(eos_ids)
        self._score_timeout_s = score_timeout_s
        self._on_answer = on_answer
        self._num_generating = 0
        self._lock = threading.Lock()
        self._heard = self._generated = time.monotonic()
        self._waited_s = 0.0
        self._longest_queue = 0

    def submit(
        self, prompt: Prompt, num_completions: int, seed: int, step: int = 0, *, with_greedy: bool = False
    ) -> "Future[RolloutGroup]":
        """Have a prompt answered ``num_completions`` times and scored; returns at once.

        ``step`` is the version that the group is to lead to, for rewards that ask. ``with_greedy`` has it answered
        greedily too, and that scored with the others. The future raises RolloutError or RewardError where the answers
        or their scores cannot be had.
        """
        whole = Future[RolloutGroup]()
        sampled = GenerationRequest(
            prompt_ids=prompt.context_ids,
            num_completions=num_completions,
            max_tokens=self._sampling.max_tokens,
            temperature=self._sampling.temperature,
            seed=seed,
            eos_ids=self._eos_ids,
            deadline_s=self._sampling.deadline_s,
        )
        requests = [sampled, replace(sampled, num_completions=1, temperature=0.0)] if with_greedy else [sampled]
        answers = [self._conversation.submit(prompt, request) for request in requests]
        with self._lock:
            self._num_generating += 1
        when_all(answers, partial(self._score, prompt, step, whole))
        return whole

    def collect(self, prompts: Sequence[Prompt], num_completions: int, seed: int, step: int = 0) -> list[RolloutGroup]:
        """Answer every prompt ``num_completions`` times and score; groups come in the order of the prompts.

        Raises RolloutError when completions or scores fail to come, RewardError when the scorer's budget is spent.
        """
        futures = [
            self.submit(prompt, num_completions, request_seed(seed, index), step)
            for index, prompt in enumerate(prompts)
        ]
        return self.wait(futures)

    def wait(self, futures: "Sequence[Future[RolloutGroup]]") -> list[RolloutGroup]:
        """Return the groups in their order, once all are there; raises as `collect` does."""
        start = heard = time.monotonic()
        pending = set(futures)
        way_out = "a reward hangs past its deadline, or there are too few workers"
        with Wait("groups", self._score_timeout_s, way_out=way_out, fails=RolloutError) as waiting:
            while pending:
                done, pending = wait(pending, timeout=waiting.slice_s(), return_when=FIRST_COMPLETED)
                for future in done:
                    future.result()
                if done or self._num_generating or self._heard > heard:  # the engines have deadlines of their own
                    heard = self._heard
                    waiting.renew()
                what = "answered" if self._num_generating else "scored"
                waiting.look(f"{len(pending)} of {len(futures)} groups to be {what}")
        if self._num_generating == 0:
            self._waited_s += max(0.0, time.monotonic() - max(start, self._generated))
        self._scorer.check_budget()
        return [future.result() for future in futures]

    def take_metrics(self) -> dict[str, float]:
        """Return what rewards logged since the last call, and how long they were waited for once all answers came."""
        metrics = {
            **self._scorer.take_metrics(),
            **self._pool.take_metrics(),
            "reward/wait_s": self._waited_s,
            "reward/queue_groups_max": float(self._longest_queue),
        }
        self._waited_s, self._longest_queue = 0.0, 0
        return metrics

    def _score(
        self,
        prompt: Prompt,
        step: int,
        whole: "Future[RolloutGroup]",
        answers: "Sequence[Future[tuple[Episode, ...]]]",
    ) -> None:
        """Hand answers on to the scorer. Runs in a thread of whoever has finished them."""
        with self._lock:
            self._num_generating -= 1
        self._heard = self._generated = time.monotonic()
        try:
            episodes = [episode for found in answers for episode in found.result()]
            num_sampled = len(answers[0].result())
            self._on_answer()
            scores = self._scorer.submit([_attempt(prompt, episode, step) for episode in episodes])
            self._longest_queue = max(self._longest_queue, self._scorer.num_waiting)
            scores.add_done_callback(lambda found: self._finish(prompt, episodes, num_sampled, found, whole))
        except BaseException as error:  # whoever waits for the group is to hear of it
            whole.set_exception(error)

    def _finish(
        self,
        prompt: Prompt,
        episodes: Sequence[Episode],
        num_sampled: int,
        scores: "Future[list[Score]]",
        whole: "Future[RolloutGroup]",
    ) -> None:
        """Put a group together. Runs in a thread of the scorer's."""
        self._heard = time.monotonic()

        def group() -> RolloutGroup:
            rollouts = [_rollout(episode, score) for episode, score in zip(episodes, scores.result(), strict=True)]
            greedy = rollouts[num_sampled] if len(rollouts) > num_sampled else None
            self._on_answer()
            return RolloutGroup(prompt=prompt, rollouts=tuple(rollouts[:num_sampled]), greedy=greedy)

        settle(whole, group)


def _attempt(prompt: Prompt, episode: Episode, step: int) -> Attempt:
    completion = episode.completion
    return Attempt(
        prompt=prompt.messages,
        completion=episode.turns,
        completion_ids=completion.sampled_ids,
        completion_logprobs=completion.sampled_logprobs,
        columns={**prompt.columns, **episode.columns},
        opening=prompt.opening,
        group_id=prompt.id,
        step=step,
        failure=episode.failure,
    )


def _rollout(episode: Episode, score: Score) -> Rollout:
    return Rollout(
        completion=episode.completion,
        response=episode.response,
        score=score,
        turns=episode.turns if len(episode.turns) > 1 else (),
        columns=episode.columns,
    )


def has_signal(group: RolloutGroup, tolerance: float) -> bool:
    """Say whether a group's rewards differ by more than a tolerance; unscorable rollouts do not count."""
    values = [rollout.score.value for rollout in group.rollouts if rollout.score.value is not None]
    return bool(values) and max(values) - min(values) > tolerance


def summarize(groups: Sequence[RolloutGroup], *, tolerance: float = SIGNAL_TOLERANCE) -> dict[str, float]:
    """Return the metrics of a collection; a mean of nothing is left out.

    A group whose rewards spread no further than ``tolerance`` has no signal.
    """
    rollouts = [rollout for group in groups for rollout in group.rollouts]
    if not rollouts:
        return {}
    scores = [rollout.score for rollout in rollouts]
    causes = Counter(score.cause for score in scores)
    cut = sum(rollout.completion.finish_reason != "stop" for rollout in rollouts)
    failures = sum(causes[cause] for cause in FAILURES)
    return {
        **_reward_metrics(scores),
        **{f"reward/{name}/mean": mean for name, mean in part_means(groups).items()},
        **_seconds(groups),
        "reward/unscorable_fraction": failures / len(rollouts),
        **{f"reward/cause/{cause}/count": float(count) for cause, count in sorted(causes.items())},
        "rollout/sampled_tokens": float(sum(len(r.completion.sampled) for r in rollouts)),
        "rollout/length/mean_tokens": statistics.fmean(len(r.completion.sampled) for r in rollouts),
        "rollout/turns/mean": statistics.fmean(_num_turns(r) for r in rollouts),
        "rollout/truncated_fraction": cut / len(rollouts),
        "rollout/no_signal_fraction": sum(not has_signal(group, tolerance) for group in groups) / len(groups),
    }


def _num_turns(rollout: Rollout) -> int:
    """Return how often the policy had its turn."""
    return sum(turn["role"] == "assistant" for turn in rollout.messages)


def _reward_metrics(scores: Sequence[Score]) -> dict[str, float]:
    """Return mean and population deviation of the values."""
    values = [score.value for score in scores if score.value is not None]
    return {"reward/mean": statistics.fmean(values), "reward/std": statistics.pstdev(values)} if values else {}


def _seconds(groups: Sequence[RolloutGroup]) -> dict[str, float]:
    """Return how long rewards took for a group, and how many attempts they would mark a second, one after the other."""
    seconds = [max(rollout.score.seconds for rollout in group.rollouts) for group in groups]
    attempts = sum(len(group.rollouts) for group in groups)
    return {"reward/group_s_max": max(seconds), "reward/attempts_per_s": attempts / max(sum(seconds), 1e-9)}


def part_means(groups: Sequence[RolloutGroup]) -> dict[str, float]:
    """Return the mean of each reward's own values, before weights, over all attempts that it could mark."""
    parts: dict[str, list[float]] = defaultdict(list)
    for group in groups:
        for rollout in group.rollouts:
            for name, part in rollout.score.parts.items():
                if part is not None:
                    parts[name].append(part)
    return {name: statistics.fmean(part) for name, part in parts.items()}
