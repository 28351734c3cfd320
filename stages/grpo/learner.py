"""The learner: a policy, its optimizer, and one update a batch. Called by the driver alone, whatever number of ranks
hold it.

Shapes: N sampled tokens of a micro-batch; see `stages.grpo.batch`.
"""

import copy
import itertools
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

import peft
import torch
import transformers
from accelerate import Accelerator
from torch import Tensor
from torch.distributed.checkpoint.state_dict import StateDictOptions, get_model_state_dict
from torch.distributed.tensor import DTensor

from rollout.types import Rollout, RolloutGroup
from stages.base import RunFacts, StageError
from stages.grpo.advantages import advantages_of
from stages.grpo.batch import Part, Tokens, TrainingBatch, unweighted_batch
from stages.grpo.config import GRPOStage
from stages.grpo.loss_config import OnlinePreference
from stages.grpo.losses import LOSSES, correction, kl
from stages.grpo.metrics import folded, metrics_of
from stages.grpo.ranks import Ranks, together
from stages.grpo.state import LearnerState
from stages.logprobs import sequence_logprobs
from stages.models import Policy, load_reference, without_dropout
from stages.packed.forward import AnswerForward, Scored, costs_of
from stages.packed.packing import PackedRows
from stages.params import lora_config
from stages.preference.pair_loss import AnswerLogprobs, price
from stages.training import SCHEDULES

STEP_ZERO_TOLERANCE = 1e-4
"""How far policy and reference, both computed alike, may differ on a probe token before the first step, in nats."""
MIXED = {"float32": "no", "bfloat16": "bf16", "float16": "fp16"}


class Learner:
    """Holds what training changes: weights, optimizer, schedule, scaler and random state.

    Several ranks make it together, each with the same policy; then the first is asked, and the others `follow`.
    """

    def __init__(self, policy: Policy, config: GRPOStage, facts: RunFacts, ranks: Ranks | None = None) -> None:
        self.ranks = ranks or Ranks()
        if self.ranks.num > 1 and facts.precision == "float16":
            raise StageError("float16 scales its loss, which several ranks do not do together; take bfloat16")
        self._config = config
        self._accelerator = Accelerator(mixed_precision=MIXED[facts.precision], cpu=not torch.cuda.is_available())
        adapter = lora_config(config.params)
        model = policy.model if adapter is None else peft.get_peft_model(policy.model, adapter)
        self._reference = (
            self.ranks.shard(load_reference(policy, trust_remote_code=facts.trust_remote_code))
            if config.has_reference and adapter is None
            else None
        )
        if torch.cuda.is_available():
            model.gradient_checkpointing_enable(gradient_checkpointing_kwargs={"use_reentrant": False})
        without_dropout(model)
        model.train()  # nothing else depends on it, but transformers checkpoints activations in training mode alone
        self._costs = costs_of(model.config, sum(parameter.numel() for parameter in model.parameters()))
        if self.ranks.num > 1:
            model = model.cpu()  # from there each rank takes its part
        keeps_copy = self.ranks.num > 1 and self.ranks.index == 0
        self._whole = replace(policy, model=copy.deepcopy(model) if keeps_copy else model)
        self._model = self.ranks.shard(model)
        trained = [parameter for parameter in self._model.parameters() if parameter.requires_grad]
        optimizer = torch.optim.AdamW(trained, lr=config.learning_rate, weight_decay=config.weight_decay)
        self._schedule = transformers.get_scheduler(
            SCHEDULES[config.schedule],
            optimizer,
            num_warmup_steps=config.warmup_steps,
            num_training_steps=config.num_steps,
        )
        self._optimizer = self._accelerator.prepare(optimizer)
        with self._accelerator.autocast():
            self._forward = AnswerForward(
                self._model,
                temperature=config.sampling.temperature,
                precision=facts.precision,
                with_entropy=config.entropy_coef > 0,
            )

    @together
    def policy(self) -> Policy:
        """Return the policy as it is now, on the first rank; of several, a copy with all weights, on the CPU."""
        if self.ranks.num > 1:
            self.ranks.settle(self._model)
            options = StateDictOptions(full_state_dict=True, cpu_offload=True)
            state = get_model_state_dict(self._model, options=options)
            if self.ranks.index == 0:
                self._whole.model.load_state_dict(state)
        return self._whole

    @together
    def logprobs(self, sequences: Sequence[Sequence[int]]) -> list[list[float]]:
        """Return for each sequence of T tokens the T - 1 log-probabilities of tokens 1..T-1, in nats."""
        found: list[list[float]] = sequence_logprobs(self._model, sequences)
        return found

    @together
    def require_reference(self, probe: Sequence[Sequence[int]]) -> None:
        """Check that the policy, before its first step, is the reference it is held to.

        Raises StageError where an adapter's initialisation changed the weights below it, say.
        """
        if not self._config.has_reference:
            return
        with self._accelerator.autocast():
            policy = sequence_logprobs(self._model, probe)
            if self._reference is not None:
                reference = sequence_logprobs(self._reference, probe)
            else:
                with self._model.disable_adapter():
                    reference = sequence_logprobs(self._model, probe)
        pairs = (pair for rows in zip(policy, reference, strict=True) for pair in zip(*rows, strict=True))
        drift = max(abs(own - held_to) for own, held_to in pairs)
        if not drift <= STEP_ZERO_TOLERANCE:
            raise StageError(
                f"before the first step the policy differs from its reference by {drift:.3g} nats on a probe token "
                f"(limit {STEP_ZERO_TOLERANCE:g}), so the KL would be measured to another model than the one that "
                "training starts from; an adapter must start as no change (PEFT's init_lora_weights: true)"
            )

    @together
    def update(self, batch: TrainingBatch, scale: float = 1.0, hints: TrainingBatch | None = None) -> dict[str, float]:
        """Take one optimizer step on the batch, at the scheduled learning rate times ``scale``; return its metrics.

        ``hints`` are learned by likelihood in the same step. Raises StageError on a loss that is not finite.
        """
        found: list[dict[str, float]] = []
        batch, priced = self._priced(batch)
        for part in self._parts(batch):
            loss, metrics = self._loss(part)
            self._backward(loss, part)
            found += [] if part.is_filler else [metrics]
        totals = folded(metrics for rank in self.ranks.gathered(found) for metrics in rank)
        totals |= priced
        if hints is not None and self._config.hint is not None:
            totals["train/hint_nll_nats"] = self._learn_hints(hints, self._config.hint.coef)
        _require_finite("loss", totals["train/loss"])
        norm = _number(self._accelerator.clip_grad_norm_(self._model.parameters(), self._config.max_grad_norm))
        if self._accelerator.scaler is None:  # with a scaler, a step that overflows is skipped and the scale lowered
            _require_finite("gradient norm", norm)
        learning_rate = scale * self._schedule.get_last_lr()[0]
        for parameters in self._optimizer.param_groups:
            parameters["lr"] = learning_rate
        self._optimizer.step()
        is_skipped = self._optimizer.step_was_skipped
        if not is_skipped:
            self._schedule.step()
        self._optimizer.zero_grad()
        own = {"train/grad_norm": norm, "train/learning_rate": learning_rate, "train/skipped_steps": float(is_skipped)}
        return {**totals, **own}

    @together
    def gradient_products(self, batches: Mapping[str, TrainingBatch]) -> dict[tuple[str, str], float]:
        """Return the inner products of the gradients that these batches would give, by pair, up to a common factor.

        Nothing is learned. Keeps one gradient a batch in memory, KL left out.
        """
        gradients = {name: self._gradient(batch) for name, batch in batches.items()}
        pairs = itertools.combinations_with_replacement(gradients, 2)
        own = {
            (a, b): float(sum((x * y).sum() for x, y in zip(gradients[a], gradients[b], strict=True))) for a, b in pairs
        }
        found = {pair: sum(rank[pair] for rank in self.ranks.gathered(own)) for pair in own}
        return found | {(b, a): product for (a, b), product in found.items()}

    def with_kl_in_reward(self, groups: Sequence[RolloutGroup]) -> list[RolloutGroup]:
        """Return the groups with the KL to the reference, summed over each answer's tokens, taken from its reward.

        The policy's own log-probabilities are the engine's. Without a penalty in the reward they are as they were; so
        are groups without signal, which a KL shall not give one.
        """
        config = self._config
        if config.kl.coef == 0 or config.kl.where == "loss":
            return list(groups)
        signal = [row is not None for row in advantages_of(groups, config)]
        batch, places = unweighted_batch([group for group, has in zip(groups, signal, strict=True) if has])
        sums = self._kl_by_answer(batch) if places else []
        penalties = {id(rollout): config.kl.coef * value for rollout, value in zip(places, sums, strict=True)}
        return [_less(group, penalties) for group in groups]

    @together
    def save(self, folder: Path) -> None:
        """Write everything that `load` needs to go on as if nothing had happened, with any number of ranks."""
        self._state().save(folder)

    @together
    def load(self, folder: Path) -> None:
        """Take up what `save` wrote."""
        self._state().load(folder)

    def _state(self) -> LearnerState:
        return LearnerState(
            model=self._model,
            optimizer=self._optimizer.optimizer,
            schedule=self._schedule,
            scaler=self._accelerator.scaler,
            ranks=self.ranks,
        )

    def _parts(self, batch: TrainingBatch) -> Iterator[Part]:
        parts = batch.micro_batches(
            self._config.micro_batch_tokens,
            self._costs,
            shares=self._forward.shares,
            rank=self.ranks.index,
            num_ranks=self.ranks.num,
        )
        return (part.to(self._accelerator.device) for part in parts)

    def _backward(self, loss: Tensor, part: Part) -> None:
        """Add a part's gradient to that of the batch; the ranks take the mean of theirs, and the sum is wanted."""
        self._accelerator.backward(loss * (0.0 if part.is_filler else float(self.ranks.num)))

    def _priced(self, batch: TrainingBatch) -> tuple[TrainingBatch, dict[str, float]]:
        """Return a batch of pairs with the advantages by which a policy gradient is that of its loss, and its metrics;
        any other batch as it is."""
        if not isinstance(self._config.loss, OnlinePreference):
            return batch, {}
        answers = self._under_both(batch)
        pairs = [(answers[pair.chosen], answers[pair.rejected]) for pair in batch.pairs]
        found = price(pairs, [pair.gap for pair in batch.pairs], self._config.loss.of)
        order = [place for pair in batch.pairs for place in (pair.chosen, pair.rejected)]
        by_place = dict(zip(order, found.gradients, strict=True))
        gradients_N = torch.cat([by_place[place] for place in range(len(batch.answers))]).cpu()
        tokens = replace(batch.tokens, advantages_N=-gradients_N / batch.tokens.weights_N)
        return replace(batch, tokens=tokens), {"train/loss": found.loss, **found.metrics}

    @torch.no_grad()
    def _under_both(self, batch: TrainingBatch) -> dict[int, AnswerLogprobs]:
        """Return the batch's answers, by their places, under the policy as it is now and the reference.

        A loss without a reference gets one of 0 nats.
        """
        found: dict[int, AnswerLogprobs] = {}
        for part in self._parts(batch):
            policy_N = self._scored(self._model, part.rows).logprobs_N.cpu()
            is_held = self._config.has_reference
            reference_N = self._reference_logprobs(part.rows).cpu() if is_held else torch.zeros_like(policy_N)
            places, lengths = torch.unique_consecutive(part.tokens.answers_N.cpu(), return_counts=True)
            under = (each.split(lengths.tolist()) for each in (policy_N, reference_N))
            if not part.is_filler:
                for place, own, held in zip(places.tolist(), *under, strict=True):
                    found[place] = AnswerLogprobs(policy_T=own, reference_T=held)
        return {place: answer for rank in self.ranks.gathered(found) for place, answer in rank.items()}

    @together
    def _kl_by_answer(self, batch: TrainingBatch) -> list[float]:
        """Return [S]: the KL to the reference, summed over the tokens of each answer, in nats."""
        sums = torch.zeros(len(batch.answers))
        for part in self._parts(batch):
            kl_N = kl(part.tokens.engine_logprobs_N, self._reference_logprobs(part.rows), self._config.kl)
            if not part.is_filler:
                sums.index_add_(0, part.tokens.answers_N.cpu(), kl_N.cpu())
        total: list[float] = torch.stack(self.ranks.gathered(sums)).sum(0).tolist()
        return total

    def _learn_hints(self, hints: TrainingBatch, coef: float) -> float:
        """Add the gradient of the hints' negative log-likelihood; return it, in nats a prompt."""
        total = 0.0
        for part in self._parts(hints):
            nll = -(self._scored(self._model, part.rows, temperature=1.0).logprobs_N * part.tokens.weights_N).sum()
            self._backward(coef * nll, part)
            total += 0.0 if part.is_filler else nll.item()
        return sum(self.ranks.gathered(total))

    def _gradient(self, batch: TrainingBatch) -> list[Tensor]:
        """Return this rank's part of the gradient of the policy loss by trained parameter, scaled as the precision
        needs; leave none."""
        for part in self._parts(batch):
            loss_N = self._policy_loss(self._scored(self._model, part.rows).logprobs_N, part.tokens)
            self._backward((loss_N * part.tokens.weights_N).sum(), part)
        trained = [parameter for parameter in self._model.parameters() if parameter.requires_grad]
        gradient = [_own(torch.zeros_like(p) if p.grad is None else p.grad).detach().float().clone() for p in trained]
        self._optimizer.zero_grad()
        return gradient

    def _loss(self, part: Part) -> tuple[Tensor, dict[str, float]]:
        config, rows, tokens = self._config, part.rows, part.tokens
        scored = self._scored(self._model, rows)
        loss_N = self._policy_loss(scored.logprobs_N, tokens)
        metrics = metrics_of(scored.logprobs_N.detach(), tokens, config)
        metrics["train/forwarded_tokens"] = float(rows.num_tokens)
        if config.kl.coef > 0 and config.kl.where == "loss":
            kl_N = kl(scored.logprobs_N, self._reference_logprobs(rows), config.kl)
            loss_N = loss_N + config.kl.coef * kl_N
            metrics["policy/kl_nats"] = float((kl_N.detach() * tokens.weights_N).sum())
        if scored.entropies_N is not None:
            loss_N = loss_N - config.entropy_coef * scored.entropies_N
            metrics["policy/entropy_nats"] = float((scored.entropies_N.detach() * tokens.weights_N).sum())
        loss = (loss_N * tokens.weights_N).sum()
        return loss, {**metrics, "train/loss": loss.item()}

    def _policy_loss(self, logprobs_N: Tensor, tokens: Tokens) -> Tensor:
        """Return [N]. The ratio is to the engine that sampled; with a correction, to the policy before the update."""
        config = self._config
        old_N, weight_N = tokens.engine_logprobs_N, None
        if config.correction is not None:
            old_N = logprobs_N.detach()
            weight_N = correction(old_N, tokens.engine_logprobs_N, tokens.answers_N, config.correction)
        loss_N = LOSSES[config.loss.type](logprobs_N, old_N, tokens.advantages_N, tokens.answers_N, config.loss)
        return loss_N if weight_N is None else weight_N * loss_N

    def _scored(self, model: Any, rows: PackedRows, temperature: float | None = None) -> Scored:
        with self._accelerator.autocast():
            return self._forward(model, rows, temperature)

    @torch.no_grad()
    def _reference_logprobs(self, rows: PackedRows) -> Tensor:
        if self._reference is not None:
            return self._scored(self._reference, rows).logprobs_N
        with self._model.disable_adapter():  # without its adapter, the policy is the reference
            return self._scored(self._model, rows).logprobs_N


def _less(group: RolloutGroup, penalties: Mapping[int, float]) -> RolloutGroup:
    """Return the group with penalties, by identity of the rollout, taken from its scores, which show them as a part."""

    def less(rollout: Rollout) -> Rollout:
        penalty, score = penalties.get(id(rollout), 0.0), rollout.score
        value = None if score.value is None else score.value - penalty
        return replace(rollout, score=replace(score, value=value, parts={**score.parts, "kl_penalty": -penalty}))

    greedy = None if group.greedy is None else less(group.greedy)
    return replace(group, rollouts=tuple(map(less, group.rollouts)), greedy=greedy)


def _own(tensor: Tensor) -> Tensor:
    """Return this rank's part of a tensor."""
    return tensor.to_local() if isinstance(tensor, DTensor) else tensor


def _number(value: Tensor) -> float:
    return float(value.full_tensor() if isinstance(value, DTensor) else value)


def _require_finite(what: str, value: float) -> None:
    if value != value or value in (float("inf"), float("-inf")):
        raise StageError(
            f"the {what} is {value}; no step was taken and the last checkpoint is whole. "
            "Lower the learning rate, or read the last rollouts, then resume"
        )
