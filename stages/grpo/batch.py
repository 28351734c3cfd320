"""Groups become tensors, here and in `stages.packed.packing`, and nowhere else.

Shapes: S answers that train, N sampled tokens of all of them, one answer after the other.
"""

from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, fields, replace

import torch
from torch import Tensor

from rollout.types import Completion, Rollout, RolloutGroup
from stages.grpo.advantages import advantages_of
from stages.grpo.config import GRPOStage
from stages.grpo.loss_config import Aggregate, OnlinePreference
from stages.grpo.pairs import PairPlaces, places
from stages.packed.packing import Answer, Costs, PackedRows, deal, micro_batches, pack, row_length, rows_of


@dataclass(frozen=True, slots=True, kw_only=True)
class Tokens:
    """What the loss knows of some sampled tokens besides their log-probabilities under the policy."""

    engine_logprobs_N: Tensor
    """[N] what the engine gave each, in nats."""
    advantages_N: Tensor
    """[N] of the answer that it is part of."""
    weights_N: Tensor
    """[N] share of each in the batch's loss; what the config's `aggregate` says. Those of a whole batch sum to 1,
    but for `constant`."""
    answers_N: Tensor
    """[N] place of its answer in the batch."""

    def __getitem__(self, places: Tensor) -> "Tokens":
        """Return some of the tokens."""
        return Tokens(**{field.name: getattr(self, field.name)[places] for field in fields(self)})

    def to(self, device: torch.device) -> "Tokens":
        """Return the same on a device."""
        return Tokens(**{field.name: getattr(self, field.name).to(device) for field in fields(self)})


@dataclass(frozen=True, slots=True, kw_only=True)
class Part:
    """What is forwarded at once."""

    rows: PackedRows
    tokens: Tokens
    is_filler: bool
    """Whether it is forwarded for the sake of the other ranks alone, which have another part; it counts nothing."""

    def to(self, device: torch.device) -> "Part":
        """Return the same on a device."""
        return Part(rows=self.rows.to(device), tokens=self.tokens.to(device), is_filler=self.is_filler)


@dataclass(frozen=True, slots=True, kw_only=True)
class TrainingBatch:
    """All answers that one optimizer step learns from."""

    answers: tuple[Answer, ...]
    """[S]."""
    tokens: Tokens
    pairs: tuple[PairPlaces, ...] = ()
    """Under a loss of pairs: which answers they are. Their advantages follow from the policy, which the batch does not
    know."""

    def micro_batches(
        self, max_tokens: int, costs: Costs, *, shares: bool = True, rank: int = 0, num_ranks: int = 1
    ) -> "Iterator[Part]":
        """Yield a rank's parts of at most ``max_tokens`` forwarded tokens, in rows of like length; `packing` says how.

        The weights were fixed for the whole batch, so the losses of all parts of all ranks add up to the loss of the
        whole. Each rank has as many parts: they meet in every one of them.
        """
        alone = [[at] for at in range(len(self.answers))]
        rows = rows_of(self.answers, costs, max_tokens) if shares else alone
        lengths = [row_length(self.answers, row) for row in rows]
        parts = [
            [[dealt[at] for at in part] for part in micro_batches([lengths[at] for at in dealt], max_tokens)]
            for dealt in deal(lengths, num_ranks)
        ]
        num_parts, shortest = max(map(len, parts)), lengths.index(min(lengths))
        starts = torch.tensor([0, *(len(answer.sampled) for answer in self.answers)]).cumsum(0).tolist()
        for number in range(num_parts):
            is_filler = number >= len(parts[rank])
            chosen = [rows[at] for at in ([shortest] if is_filler else parts[rank][number])]
            places = torch.cat([torch.arange(starts[at], starts[at + 1]) for row in chosen for at in row])
            yield Part(rows=pack(self.answers, chosen), tokens=self.tokens[places], is_filler=is_filler)


def make_batch(groups: Sequence[RolloutGroup], config: GRPOStage) -> TrainingBatch | None:
    """Return the answers of all groups that have signal; None where none has."""
    found = advantages_of(groups, config)
    batch = _batch(groups, found, config)
    if batch is None or not isinstance(config.loss, OnlinePreference):
        return batch
    return replace(batch, pairs=places(groups, found))


def batches_by_reward(groups: Sequence[RolloutGroup], config: GRPOStage) -> dict[str, TrainingBatch]:
    """Return the batch that each reward alone would make, without its weight; not of rewards without signal."""
    labels = [reward.label for reward in config.rewards]
    batches = {label: _batch(groups, advantages_of(groups, config, label), config) for label in labels}
    return {label: batch for label, batch in batches.items() if batch is not None}


def hint_batch(groups: Sequence[RolloutGroup]) -> TrainingBatch | None:
    """Return the hints of all groups as answers to their prompts; a token weighs 1 over the number of groups."""
    hinted = [(place, group.prompt) for place, group in enumerate(groups) if group.prompt.hint_ids]
    if not hinted:
        return None
    lengths = torch.tensor([len(prompt.hint_ids) for _, prompt in hinted])
    num = int(lengths.sum())
    return TrainingBatch(
        answers=tuple(
            Answer(group=place, prompt=prompt.token_ids, token_ids=prompt.hint_ids) for place, prompt in hinted
        ),
        tokens=Tokens(
            engine_logprobs_N=torch.zeros(num),
            advantages_N=torch.zeros(num),
            weights_N=torch.full((num,), 1.0 / len(groups)),
            answers_N=torch.arange(len(hinted)).repeat_interleave(lengths),
        ),
    )


def token_weights(lengths_S: Sequence[int], aggregate: Aggregate, max_tokens: int) -> Tensor:
    """Return [N] weights of the tokens of answers so long, as the config defines them."""
    lengths = torch.tensor(lengths_S)
    if aggregate == "token":
        each_S = torch.full((len(lengths),), 1.0 / int(lengths.sum()))
    elif aggregate == "sequence":
        each_S = 1.0 / (lengths * len(lengths))
    else:
        each_S = torch.full((len(lengths),), 1.0 / (len(lengths) * max_tokens))
    return each_S.repeat_interleave(lengths)


def unweighted_batch(groups: Sequence[RolloutGroup]) -> tuple[TrainingBatch, list[Rollout]]:
    """Return every answer of the groups, greedy ones too, to be scored and not learned from; and their rollouts."""
    chosen = [
        (place, group, rollout)
        for place, group in enumerate(groups)
        for rollout in (*group.rollouts, *([group.greedy] if group.greedy else []))
        if rollout.completion.token_ids
    ]
    with_zeros = [(place, group, rollout.completion, 0.0) for place, group, rollout in chosen]
    return _tensors(with_zeros, torch.zeros), [rollout for _, _, rollout in chosen]


def _batch(
    groups: Sequence[RolloutGroup], given: Sequence[Sequence[float | None] | None], config: GRPOStage
) -> TrainingBatch | None:
    chosen = [
        (place, group, rollout.completion, advantage)
        for place, (group, advantages_G) in enumerate(zip(groups, given, strict=True))
        if advantages_G is not None
        for rollout, advantage in zip(group.rollouts, advantages_G, strict=True)
        if advantage is not None and _teaches(rollout.completion, config)
    ]
    if not chosen:
        return None
    lengths_S = [len(completion.sampled) for _, _, completion, _ in chosen]
    weights_N = token_weights(lengths_S, config.loss.aggregate, config.sampling.max_tokens)
    return _tensors(chosen, lambda num: weights_N)


def _tensors(
    chosen: Sequence[tuple[int, RolloutGroup, Completion, float]], weights: Callable[[int], Tensor]
) -> TrainingBatch:
    lengths = torch.tensor([len(completion.sampled) for _, _, completion, _ in chosen], dtype=torch.long)
    logprobs = [value for _, _, completion, _ in chosen for value in completion.sampled_logprobs]
    return TrainingBatch(
        answers=tuple(
            Answer(group=place, prompt=group.prompt.context_ids, token_ids=completion.token_ids, given=completion.given)
            for place, group, completion, _ in chosen
        ),
        tokens=Tokens(
            engine_logprobs_N=torch.tensor(logprobs),
            advantages_N=torch.tensor([advantage for *_, advantage in chosen]).repeat_interleave(lengths),
            weights_N=weights(int(lengths.sum())),
            answers_N=torch.arange(len(chosen)).repeat_interleave(lengths),
        ),
    )


def _teaches(completion: Completion, config: GRPOStage) -> bool:
    """Say whether there is anything to learn from it: one that was cut before its first token has none."""
    return bool(completion.token_ids) and not (config.mask_truncated and completion.finish_reason != "stop")
