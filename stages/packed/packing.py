"""Which answers are forwarded in one row with their prompt, and which rows in one micro-batch. Knows no model.

Shapes: S answers, R rows of a micro-batch, T tokens of its longest row, N sampled tokens of the answers in it.

A row is a prompt and some of its answers, one after the other. Each answer sees the prompt and itself, as if it were
alone, so the prompt of a group is computed once. Positions start again at the prompt's length for each answer.
"""

from collections import defaultdict
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, fields

import torch
from torch import Tensor
from torch.nn.attention.flex_attention import BlockMask, create_block_mask

from rollout.types import places_outside

PROMPT, PADDING = 0, -1
"""Branches of a row's tokens besides its answers', which count from 1."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Answer:
    """A prompt and one answer to it."""

    group: int
    """The same for answers to the same prompt."""
    prompt: tuple[int, ...]
    token_ids: tuple[int, ...]
    """At least one."""
    given: tuple[tuple[int, int], ...] = ()
    """Places [start, end) of tokens that the policy did not sample; they are seen and not scored."""

    @property
    def sampled(self) -> list[int]:
        """Places of the tokens that are scored."""
        return places_outside(self.given, len(self.token_ids))


@dataclass(frozen=True, slots=True, kw_only=True)
class Costs:
    """What a forward and backward pass takes, in any unit."""

    a_token: float
    a_pair: float
    """For each token and each token of its row, seen or not."""

    def of(self, length: int, num_answers: int) -> float:
        """Return the costs of a row; one answer needs no mask, and half of its pairs are left out."""
        pairs = length * length * (0.5 if num_answers == 1 else 1.0)
        return self.a_token * length + self.a_pair * pairs


@dataclass(frozen=True, slots=True, kw_only=True)
class PackedRows:
    """Some rows as tensors."""

    tokens_RT: Tensor
    """[R, T] padded with 0 on the right."""
    positions_RT: Tensor
    """[R, T] place of each token in its own sequence."""
    branches_RT: Tensor
    """[R, T] PROMPT, an answer from 1, or PADDING."""
    predictors_N: Tensor
    """[N] places in the flattened rows whose prediction is the sampled token."""
    targets_N: Tensor
    """[N] the sampled tokens, answer by answer."""

    @property
    def num_tokens(self) -> int:
        """Padding included."""
        return int(self.tokens_RT.numel())

    def mask(self) -> Tensor | None:
        """Return [R, 1, T, T], True where a token sees another; None where every row is plain causal attention."""
        if int(self.branches_RT.max()) <= 1:
            return None
        seer, seen = self.branches_RT.unsqueeze(2), self.branches_RT.unsqueeze(1)
        length = self.tokens_RT.shape[1]
        causal = torch.ones(length, length, dtype=torch.bool, device=seer.device).tril()
        return (causal & ((seen == PROMPT) | (seen == seer))).unsqueeze(1)

    def block_mask(self) -> BlockMask:
        """Return the same in blocks, of which FlexAttention leaves out those where nothing is seen."""
        branches_RT = self.branches_RT

        def sees(row: Tensor, head: Tensor, seer: Tensor, seen: Tensor) -> Tensor:
            branch = branches_RT[row, seen]
            return (seen <= seer) & ((branch == PROMPT) | (branch == branches_RT[row, seer]))

        num_rows, length = branches_RT.shape
        return create_block_mask(sees, num_rows, None, length, length, device=branches_RT.device)

    def to(self, device: torch.device) -> "PackedRows":
        """Return the same rows on a device."""
        return PackedRows(**{field.name: getattr(self, field.name).to(device) for field in fields(self)})


def rows_of(answers: Sequence[Answer], costs: Costs, max_tokens: int) -> list[list[int]]:
    """Return rows as places in ``answers``: each group split evenly into as many rows as cost the least.

    Sharing saves the prompt and costs pairs of tokens that do not see each other. A row holds ``max_tokens`` at most,
    unless it is one answer.
    """
    groups: dict[int, list[int]] = defaultdict(list)
    for at, answer in enumerate(answers):
        groups[answer.group].append(at)
    return [row for members in groups.values() for row in _cheapest(answers, members, costs, max_tokens)]


def row_length(answers: Sequence[Answer], row: Sequence[int]) -> int:
    """Return the tokens of a row."""
    return len(answers[row[0]].prompt) + sum(len(answers[at].token_ids) for at in row)


def micro_batches(lengths: Sequence[int], max_tokens: int) -> Iterator[list[int]]:
    """Yield places in ``lengths``, long ones first, so that each part padded to its longest is at most ``max_tokens``.

    A row that is longer by itself makes a part of its own.
    """
    part: list[int] = []
    for at in sorted(range(len(lengths)), key=lambda at: -lengths[at]):
        if part and (len(part) + 1) * lengths[part[0]] > max_tokens:
            yield part
            part = []
        part.append(at)
    if part:
        yield part


def deal(loads: Sequence[int], num: int) -> list[list[int]]:
    """Return places in ``loads`` for each of ``num`` ranks: the heaviest first, each to whoever has the least."""
    dealt: list[list[int]] = [[] for _ in range(num)]
    totals = [0] * num
    for at in sorted(range(len(loads)), key=lambda at: -loads[at]):
        rank = totals.index(min(totals))
        dealt[rank].append(at)
        totals[rank] += loads[at]
    return dealt


def pack(answers: Sequence[Answer], rows: Sequence[Sequence[int]]) -> PackedRows:
    """Return the rows as tensors, N in the order of the rows and of the answers in them."""
    longest = max(row_length(answers, row) for row in rows)
    tokens_RT = torch.zeros(len(rows), longest, dtype=torch.long)
    # padding never counts further than a sequence does: some models look at the largest position
    last = max(len(answers[at].prompt) + len(answers[at].token_ids) for row in rows for at in row) - 1
    positions_RT = torch.arange(longest).clamp(max=last).repeat(len(rows), 1)
    branches_RT = torch.full((len(rows), longest), PADDING)
    predictors: list[int] = []
    targets: list[int] = []
    for r, row in enumerate(rows):
        prompt = answers[row[0]].prompt
        end = len(prompt)
        tokens_RT[r, :end] = torch.tensor(prompt)
        branches_RT[r, :end] = PROMPT
        for branch, at in enumerate(row, start=1):
            token_ids = answers[at].token_ids
            start, end = end, end + len(token_ids)
            tokens_RT[r, start:end] = torch.tensor(token_ids)
            branches_RT[r, start:end] = branch
            positions_RT[r, start:end] = torch.arange(len(prompt), len(prompt) + len(token_ids))
            # the first token is predicted from the prompt's last one, the others in their branch
            sampled = answers[at].sampled
            before = [start + place - 1 if place else len(prompt) - 1 for place in sampled]
            predictors += [r * longest + place for place in before]
            targets += [token_ids[place] for place in sampled]
    return PackedRows(
        tokens_RT=tokens_RT,
        positions_RT=positions_RT,
        branches_RT=branches_RT,
        predictors_N=torch.tensor(predictors),
        targets_N=torch.tensor(targets),
    )


def _cheapest(answers: Sequence[Answer], members: Sequence[int], costs: Costs, max_tokens: int) -> list[list[int]]:
    longest_first = sorted(members, key=lambda at: -len(answers[at].token_ids))
    best, least = [[at] for at in longest_first], float("inf")
    for num_rows in range(len(members), 0, -1):
        rows = [longest_first[start::num_rows] for start in range(num_rows)]
        lengths = [row_length(answers, row) for row in rows]
        if num_rows < len(members) and max(lengths) > max_tokens:
            break
        # rows are padded to the longest of their like
        total = sum(costs.of(max(lengths), len(row)) for row in rows)
        if total < least:
            best, least = rows, total
    return best
