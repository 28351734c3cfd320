"""What the stages that generate share: engines, rewards and weight sync, opened together and closed together."""

import copy
import hashlib
import threading
from collections.abc import Callable, Iterator, Sequence
from contextlib import closing, contextmanager
from dataclasses import dataclass
from typing import Any

import torch

from rewards import combine
from rewards.chat_template import TemplateError, settings_of, write
from rewards.combinations import Combination
from rewards.scorer import Scorer
from rewards.types import Message
from rollout.collector import Collector
from rollout.config import SamplingConfig
from rollout.engine import EngineModel, Pool
from rollout.environment import open_environment, tools_of
from rollout.episodes import Conversation, OneTurn, Turns
from rollout.pools import start_pool
from rollout.types import Prompt
from rollout.weight_sync import SyncReport, WeightSync
from stages.answer_text import decoder
from stages.answering import AnsweringStageConfig
from stages.base import StageContext, StageError
from stages.data.prompts import load_prompts
from stages.data.rendering import TokenizerChat
from stages.logprobs import sequence_logprobs
from stages.models import DTYPES, Policy
from stages.params import weights


@dataclass(frozen=True, slots=True, kw_only=True)
class Rollouts:
    """Everything between prompts and scored groups."""

    pool: Pool
    scorer: Scorer
    sync: WeightSync
    conversation: Conversation
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
            self.conversation,
            sampling,
            self.eos_ids,
            score_timeout_s=2 * self.scorer.longest_wait_s,
            on_answer=self.alive,
        )

    def publish(
        self,
        policy: Policy,
        version: int,
        probes: Sequence[Sequence[int]],
        logprobs: Sequence[Sequence[float]] | None = None,
    ) -> SyncReport:
        """Give the engines the policy's weights and compare log-probabilities on the probes.

        ``logprobs`` are those of whoever learns, where the policy is a copy of what is learned.
        """
        sent = ((name, tensor.to(self.dtype)) for name, tensor in weights(policy.model))
        expected = sequence_logprobs(policy.model, probes) if logprobs is None else logprobs
        return self.sync.publish(sent, version, probes, expected)


@contextmanager
def open_rollouts(
    context: StageContext, policy: Policy, config: AnsweringStageConfig, combination: Combination | None = None
) -> Iterator[Rollouts]:
    """Start reward workers, the environment's, and engines of the policy's shape; these hold no weights until the
    first publish.

    The combination is the stage's where its state goes into checkpoints, else a fresh one.
    """
    facts = context.facts
    model = EngineModel(
        folder=policy.folder.resolve(),
        precision=facts.precision,
        seed=context.seed,
        trust_remote_code=facts.trust_remote_code,
        log_folder=context.metrics.folder,
    )
    rewards = config.rewards_with(context.inputs)
    combination = combination or combine.build(config.combine, rewards)
    decode = decoder(policy.tokenizer)
    with (
        open_environment(config.environment, config.scoring) as environment,
        Scorer(rewards, config.scoring, combination) as scorer,
    ):
        continued = after_turn(policy.tokenizer, policy.eos_ids)
        pool = start_pool(facts.engine, model)
        conversation: Conversation = OneTurn(pool, decode)
        if environment is not None and config.environment is not None:
            conversation = Turns(pool, environment, decode, continued, max_turns=config.environment.max_turns)
        try:
            with closing(
                WeightSync(pool, config.sync, precision=facts.precision, meeting_folder=context.metrics.folder)
            ) as weight_sync:
                yield Rollouts(
                    pool=pool,
                    scorer=scorer,
                    sync=weight_sync,
                    conversation=conversation,
                    eos_ids=policy.eos_ids,
                    dtype=DTYPES[facts.precision],
                    alive=context.metrics.alive,
                )
        finally:
            pool.close()


def prompts_of(context: StageContext, config: AnsweringStageConfig, role: str, tokenizer: Any) -> list[Prompt]:
    """Return the prompts of one of the stage's data sets, in the words and with the tools that engines are to get."""
    return load_prompts(
        config.datasets()[role],
        config.columns(),
        config.scored_by(),
        tokenizer,
        room=config.room(role, context.facts.engine),
        tools=tools_of(config.environment, config.scoring),
        alive=context.metrics.alive,
    )


def after_turn(tokenizer: Any, eos_ids: Sequence[int]) -> Callable[[Sequence[Message], Prompt], tuple[int, ...]]:
    """Return a function from messages to the tokens that follow a finished turn of the policy, up to its next one.

    They are what the chat template writes after the end of the turn, in a short conversation with the prompt's own
    settings: what the policy has said is not rendered, and may be written differently (without its thoughts, say) once
    others follow it. The function raises ValueError for messages that the template refuses, StageError where it does
    not end turns. Thread-safe.
    """
    lock = threading.Lock()
    chat = TokenizerChat(copy.deepcopy(tokenizer))  # a tokenizer that others use meanwhile may refuse
    before: list[Message] = [{"role": "user", "content": "x"}, {"role": "assistant", "content": "x"}]

    def tokens(messages: Sequence[Message], prompt: Prompt) -> tuple[int, ...]:
        settings = settings_of(prompt.columns)

        def rendered(turns: Sequence[Message], *, asks: bool) -> list[int]:
            said = write(chat.render, turns, add_generation_prompt=asks, settings=settings, control=chat.control)
            return chat.token_ids(said)

        with lock:
            finished = rendered(before, asks=False)
            try:
                whole = rendered([*before, *messages], asks=True)
            except TemplateError as error:
                roles = [message["role"] for message in messages]
                raise ValueError(f"the chat template refuses messages of the roles {roles}: {error}") from error
        num_ends = sum(token in eos_ids for token in finished)
        ends = [place + 1 for place, token in enumerate(whole) if token in eos_ids]
        if not num_ends or len(ends) < num_ends:
            raise StageError(
                "the chat template writes a turn of the policy without an end-of-turn token, so an environment cannot "
                "go on from what was sampled; mend the template"
            )
        return tuple(whole[ends[num_ends - 1] :])

    return tokens


def probes(prompts: Sequence[Prompt], num: int) -> list[tuple[int, ...]]:
    """Return the token sequences on which learner and engines are compared."""
    return [prompt.token_ids for prompt in prompts[:: max(1, len(prompts) // num)]][:num]


def derive_seed(seed: int, *what: object) -> int:
    """Return a seed that follows from another one and a name, and from nothing else."""
    digest = hashlib.sha256(repr((seed, *what)).encode()).digest()
    return int.from_bytes(digest[:4], "little") & 0x7FFFFFFF
