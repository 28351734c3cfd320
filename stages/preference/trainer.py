"""TRL's DPO and KTO trainers, with the prompt of a pair forwarded once and the reference kept on disk."""

from collections.abc import Callable
from typing import Any

import trl

from rollout.engine import Precision
from stages.data.rows import Row
from stages.preference.reference_cache import NoReference, ReferenceCache
from stages.preference.shared_prompt import NOT_COMPUTED, SharedPrompts
from stages.preference.token_weights import COLUMNS, Weighing, WeightedCollator, require_one_a_token
from stages.preference.tokens import MASKS, MaskedCollator, is_learned


class _TakesTokens:
    """Learns from rows that are tokens already, and takes the reference's log-probabilities from disk where it can."""

    data_collator: Any
    _signature_columns: Any

    def __init__(self, *arguments: Any, reference: ReferenceCache | NoReference, **named: Any) -> None:
        self.reference = reference
        super().__init__(*arguments, **named)

    def _precompute_ref_logps(self, dataset: Any, name: str, batch_size: int) -> Any:
        compute = super()._precompute_ref_logps  # type: ignore[misc]
        self.data_collator = MaskedCollator(self.data_collator)
        return self.reference.through(dataset, lambda: compute(dataset, name, batch_size))

    def _prepare_dataset(self, dataset: Any, processing_class: Any, args: Any, name: str) -> Any:
        """Leave out rows with an answer of which nothing is learned: it would count as one of probability 1."""
        return dataset.filter(lambda row: is_learned(row, args.max_length))

    def _set_signature_columns_if_needed(self) -> None:
        super()._set_signature_columns_if_needed()  # type: ignore[misc]
        self._signature_columns = [*self._signature_columns, *MASKS]


class AnswerTrainer(_TakesTokens, trl.KTOTrainer):  # type: ignore[misc]
    """TRL's, but for the data and the reference."""

    def _prepare_dataset(self, dataset: Any, processing_class: Any, args: Any, name: str) -> Any:
        """Give each answer's prompt another one of its micro-batch, too, for the estimate of the KL, as TRL does."""
        dataset = super()._prepare_dataset(dataset, processing_class, args, name)
        return dataset.map(_next_answers, batched=True, batch_size=args.per_device_train_batch_size)


class PairTrainer(_TakesTokens, trl.DPOTrainer):  # type: ignore[misc]
    """Everything is TRL's but who answers when its loss asks the model for log-probabilities, and an offset."""

    def __init__(
        self,
        *arguments: Any,
        precision: Precision,
        row_tokens: int | None,
        token_weights: bool = False,
        raised_by: Callable[[Row], float] = lambda row: 0.0,
        **named: Any,
    ) -> None:
        """With ``row_tokens`` rows of so many tokens are forwarded, prompts once; with None, TRL's padded batches.

        ``raised_by`` are the nats by which the reference's log-probability of a pair's chosen answer is raised.
        """
        self.raised_by = raised_by
        self._precision = precision
        self._row_tokens = row_tokens
        self._has_weights = token_weights
        self._shared: SharedPrompts | None = None
        super().__init__(*arguments, **named)

    def _precompute_ref_logps(self, dataset: Any, name: str, batch_size: int) -> Any:
        if self._has_weights:
            require_one_a_token(dataset)
            self.data_collator = WeightedCollator(self.data_collator)
        dataset = super()._precompute_ref_logps(dataset, name, batch_size)
        raises = [self.raised_by(row) for row in dataset]
        if not any(raises):
            return dataset
        name, feature = "ref_chosen_logps", dataset.features["ref_chosen_logps"]
        raised = [logprob + by for logprob, by in zip(dataset[name], raises, strict=True)]
        return dataset.remove_columns(name).add_column(name, raised, feature=feature)

    def _set_signature_columns_if_needed(self) -> None:
        super()._set_signature_columns_if_needed()
        if self._has_weights:
            self._signature_columns = [*self._signature_columns, *COLUMNS]

    def compute_ref_log_probs(self, model: Any, inputs: Any) -> Any:
        """Return the reference's log-probabilities of chosen and rejected answers, [B] each."""
        return super().compute_ref_log_probs(self._asked(model), inputs)

    def _compute_loss(self, model: Any, inputs: Any, return_outputs: bool) -> Any:
        loss = super()._compute_loss(self._asked(model), inputs, return_outputs)
        if self._row_tokens is not None:
            metrics = self._metrics["train" if self.model.training else "eval"]
            for name in NOT_COMPUTED:
                metrics.pop(name, None)
        return loss

    def _asked(self, model: Any) -> Any:
        asked = self._unweighted(model)
        return Weighing(asked) if self._has_weights else asked

    def _unweighted(self, model: Any) -> Any:
        if self._row_tokens is None:
            return model
        if self._shared is None:
            with self.accelerator.autocast():
                self._shared = SharedPrompts(self.model, precision=self._precision, max_tokens=self._row_tokens)
        return self._shared.standing_in_for(model)


def _next_answers(rows: dict[str, list[Any]]) -> dict[str, list[Any]]:
    return {f"KL_{name}": rows[name][-1:] + rows[name][:-1] for name in ("completion_ids", "completion_mask")}
