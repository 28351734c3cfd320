"""The learner: a policy, its optimizer, and one update a batch. On accelerate; called by the driver alone.

Shapes: N sampled tokens of a micro-batch; see `stages.grpo.batch`.
"""

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

from rollout.types import Rollout, RolloutGroup
from stages.base import RunFacts, StageError
from stages.grpo.batch import Tokens, TrainingBatch, advantages_of, unweighted_batch
from stages.grpo.config import ClippedRatio, GRPOStage, SequenceRatio
from stages.grpo.forward import AnswerForward, Scored, costs_of
from stages.grpo.losses import LOSSES, correction, kl, mean_by_answer
from stages.grpo.packing import PackedRows
from stages.logprobs import sequence_logprobs
from stages.models import Policy, load_reference
from stages.params import lora_config
from stages.training import SCHEDULES

STEP_ZERO_TOLERANCE = 1e-4
"""How far policy and reference, both computed alike, may differ on a probe token before the first step, in nats."""
NUMBERS_OF_DROPOUT = ("dropout", "attention_dropout", "activation_dropout", "hidden_dropout", "layerdrop")
"""Attributes by which modules of transformers' drop something without a module for it."""
MIXED = {"float32": "no", "bfloat16": "bf16", "float16": "fp16"}


class Learner:
    """Holds what training changes: weights, optimizer, schedule, scaler and random state."""

    def __init__(self, policy: Policy, config: GRPOStage, facts: RunFacts) -> None:
        self._config = config
        self._accelerator = Accelerator(mixed_precision=MIXED[facts.precision], cpu=not torch.cuda.is_available())
        adapter = lora_config(config.params)
        model = policy.model if adapter is None else peft.get_peft_model(policy.model, adapter)
        self._reference = (
            load_reference(policy, trust_remote_code=facts.trust_remote_code)
            if config.kl.coef > 0 and adapter is None
            else None
        )
        trained = [parameter for parameter in model.parameters() if parameter.requires_grad]
        optimizer = torch.optim.AdamW(trained, lr=config.learning_rate, weight_decay=config.weight_decay)
        schedule = transformers.get_scheduler(
            SCHEDULES[config.schedule],
            optimizer,
            num_warmup_steps=config.warmup_steps,
            num_training_steps=config.num_steps,
        )
        self._model, self._optimizer, self._schedule = self._accelerator.prepare(model, optimizer, schedule)
        if torch.cuda.is_available():
            model.gradient_checkpointing_enable(gradient_checkpointing_kwargs={"use_reentrant": False})
        # autocast is entered below, so its wrapper goes: it would cast all logits of a batch to float32 at once
        bare = self._accelerator.unwrap_model(self._model, keep_fp32_wrapper=False)
        self.policy = replace(policy, model=bare)
        _without_dropout(bare)
        bare.train()  # nothing else depends on it, but transformers checkpoints activations in training mode alone
        self._costs = costs_of(bare.config, sum(parameter.numel() for parameter in bare.parameters()))
        with self._accelerator.autocast():
            self._forward = AnswerForward(
                bare,
                temperature=config.sampling.temperature,
                precision=facts.precision,
                with_entropy=config.entropy_coef > 0,
            )

    def require_reference(self, probe: Sequence[Sequence[int]]) -> None:
        """Check that the policy, before its first step, is the reference it is held to.

        Raises StageError where an adapter's initialisation changed the weights below it, say.
        """
        if self._config.kl.coef == 0:
            return
        with self._accelerator.autocast():
            policy = sequence_logprobs(self.policy.model, probe)
            if self._reference is not None:
                reference = sequence_logprobs(self._reference, probe)
            else:
                with self.policy.model.disable_adapter():
                    reference = sequence_logprobs(self.policy.model, probe)
        pairs = (pair for rows in zip(policy, reference, strict=True) for pair in zip(*rows, strict=True))
        drift = max(abs(own - held_to) for own, held_to in pairs)
        if not drift <= STEP_ZERO_TOLERANCE:
            raise StageError(
                f"before the first step the policy differs from its reference by {drift:.3g} nats on a probe token "
                f"(limit {STEP_ZERO_TOLERANCE:g}), so the KL would be measured to another model than the one that "
                "training starts from; an adapter must start as no change (PEFT's init_lora_weights: true)"
            )

    def update(self, batch: TrainingBatch, scale: float = 1.0, hints: TrainingBatch | None = None) -> dict[str, float]:
        """Take one optimizer step on the batch, at the scheduled learning rate times ``scale``; return its metrics.

        ``hints`` are learned by likelihood in the same step. Raises StageError on a loss that is not finite.
        """
        totals: dict[str, float] = {}
        for rows, tokens in self._parts(batch):
            loss, metrics = self._loss(rows, tokens)
            _require_finite("loss", loss.item())
            self._accelerator.backward(loss)
            totals = {name: _fold(name, totals.get(name), value) for name, value in metrics.items()}
        if hints is not None and self._config.hint is not None:
            totals["train/hint_nll_nats"] = self._learn_hints(hints, self._config.hint.coef)
        norm = self._accelerator.clip_grad_norm_(self._model.parameters(), self._config.max_grad_norm)
        if self._accelerator.scaler is None:  # with a scaler, a step that overflows is skipped and the scale lowered
            _require_finite("gradient norm", float(norm))
        learning_rate = scale * self._schedule.get_last_lr()[0]
        for parameters in self._optimizer.param_groups:
            parameters["lr"] = learning_rate
        self._optimizer.step()
        self._schedule.step()
        self._optimizer.zero_grad()
        return {**totals, "train/grad_norm": float(norm), "train/learning_rate": learning_rate}

    def gradient_products(self, batches: Mapping[str, TrainingBatch]) -> dict[tuple[str, str], float]:
        """Return the inner products of the gradients that these batches would give, by pair, up to a common factor.

        Nothing is learned. Keeps one gradient a batch in memory, KL left out.
        """
        gradients = {name: self._gradient(batch) for name, batch in batches.items()}
        pairs = itertools.combinations_with_replacement(gradients, 2)
        found = {
            (a, b): float(sum((x * y).sum() for x, y in zip(gradients[a], gradients[b], strict=True))) for a, b in pairs
        }
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
        sums = torch.zeros(len(batch.answers))
        for rows, tokens in self._parts(batch):
            kl_N = kl(tokens.engine_logprobs_N, self._reference_logprobs(rows), config.kl)
            sums.index_add_(0, tokens.answers_N.cpu(), kl_N.cpu())
        penalties = {id(rollout): config.kl.coef * float(value) for rollout, value in zip(places, sums, strict=True)}
        return [_less(group, penalties) for group in groups]

    def save(self, folder: Path) -> None:
        """Write everything that `load` needs to go on as if nothing had happened."""
        self._accelerator.save_state(str(folder), safe_serialization=True)

    def load(self, folder: Path) -> None:
        """Take up what `save` wrote."""
        self._accelerator.load_state(str(folder))

    def _parts(self, batch: TrainingBatch) -> Iterator[tuple[PackedRows, Tokens]]:
        device = self._accelerator.device
        parts = batch.micro_batches(self._config.micro_batch_tokens, self._costs, shares=self._forward.shares)
        return ((rows.to(device), tokens.to(device)) for rows, tokens in parts)

    def _learn_hints(self, hints: TrainingBatch, coef: float) -> float:
        """Add the gradient of the hints' negative log-likelihood; return it, in nats a prompt."""
        total = 0.0
        for rows, tokens in self._parts(hints):
            nll = -(self._scored(self._model, rows).logprobs_N * tokens.weights_N).sum()
            _require_finite("negative log-likelihood of hints", nll.item())
            self._accelerator.backward(coef * nll)
            total += nll.item()
        return total

    def _gradient(self, batch: TrainingBatch) -> list[Tensor]:
        """Return the gradient of the policy loss by trained parameter, scaled as the precision needs; leave none."""
        for rows, tokens in self._parts(batch):
            scored = self._scored(self._model, rows)
            self._accelerator.backward((self._policy_loss(scored.logprobs_N, tokens) * tokens.weights_N).sum())
        trained = [parameter for parameter in self._model.parameters() if parameter.requires_grad]
        gradient = [torch.zeros_like(p) if p.grad is None else p.grad.detach().float().clone() for p in trained]
        self._optimizer.zero_grad()
        return gradient

    def _loss(self, rows: PackedRows, tokens: Tokens) -> tuple[Tensor, dict[str, float]]:
        config = self._config
        scored = self._scored(self._model, rows)
        loss_N = self._policy_loss(scored.logprobs_N, tokens)
        metrics = _metrics(scored.logprobs_N.detach(), tokens, config)
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

    def _scored(self, model: Any, rows: PackedRows) -> Scored:
        with self._accelerator.autocast():
            return self._forward(model, rows)

    @torch.no_grad()
    def _reference_logprobs(self, rows: PackedRows) -> Tensor:
        if self._reference is not None:
            return self._scored(self._reference, rows).logprobs_N
        with self.policy.model.disable_adapter():  # without its adapter, the policy is the reference
            return self._scored(self._model, rows).logprobs_N


def _less(group: RolloutGroup, penalties: Mapping[int, float]) -> RolloutGroup:
    """Return the group with penalties, by identity of the rollout, taken from its scores, which show them as a part."""

    def less(rollout: Rollout) -> Rollout:
        penalty, score = penalties.get(id(rollout), 0.0), rollout.score
        value = None if score.value is None else score.value - penalty
        return replace(rollout, score=replace(score, value=value, parts={**score.parts, "kl_penalty": -penalty}))

    greedy = None if group.greedy is None else less(group.greedy)
    return replace(group, rollouts=tuple(map(less, group.rollouts)), greedy=greedy)


def _metrics(logprobs_N: Tensor, tokens: Tokens, config: GRPOStage) -> dict[str, float]:
    mismatch_N = logprobs_N - tokens.engine_logprobs_N
    share_N = tokens.weights_N
    metrics = {
        "policy/sampled_nll_nats": float(-(logprobs_N * share_N).sum()),
        "policy/mismatch_mean_nats": float((mismatch_N.abs() * share_N).sum()),
        "policy/mismatch_max_nats": float(mismatch_N.abs().max()),
        "train/answer_tokens": float(len(logprobs_N)),
    }
    loss = config.loss
    if isinstance(loss, ClippedRatio | SequenceRatio) and config.correction is None:
        by_answer = isinstance(loss, SequenceRatio)
        ratio_N = torch.exp(mean_by_answer(mismatch_N, tokens.answers_N) if by_answer else mismatch_N)
        too_low_N = (ratio_N < 1 - loss.clip_low) & (tokens.advantages_N < 0)
        too_high_N = (ratio_N > 1 + loss.clip_high) & (tokens.advantages_N > 0)
        metrics["policy/clipped_fraction"] = float(((too_low_N | too_high_N) * share_N).sum())
    if config.correction is not None:
        weight_N = correction(logprobs_N, tokens.engine_logprobs_N, tokens.answers_N, config.correction)
        metrics["policy/correction_mean"] = float((weight_N * share_N).sum())
    return metrics


def _fold(name: str, total: float | None, value: float) -> float:
    """Join the metrics of micro-batches: weighted means and counts add up, maxima do not."""
    if total is None:
        return value
    return max(total, value) if "_max" in name else total + value


def _require_finite(what: str, value: float) -> None:
    if value != value or value in (float("inf"), float("-inf")):
        raise StageError(
            f"the {what} is {value}; no step was taken and the last checkpoint is whole. "
            "Lower the learning rate, or read the last rollouts, then resume"
        )


def _without_dropout(model: torch.nn.Module) -> None:
    """Ratios compare the policy with itself: a dropout that differs between two passes would be taken for change."""
    for module in model.modules():
        if isinstance(module, torch.nn.Dropout):
            module.p = 0.0
        for name in NUMBERS_OF_DROPOUT:
            if isinstance(getattr(module, name, None), float):
                setattr(module, name, 0.0)
