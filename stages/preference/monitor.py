"""Whether learning a preference does harm: what becomes of good, bad and the policy's own answers while it learns.

A loss of pairs can fall while both of its answers become less likely, and what the policy says greedily takes what they
lose: the squeezing effect of Ren and Sutherland 2024, arXiv 2407.10490. Nothing here changes what is learned.
"""

import hashlib
import json
import logging
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from statistics import fmean
from typing import Any

import torch
import transformers

from stages.base import StageContext
from stages.data.examples import Example, answer
from stages.data.rendering import Chat
from stages.data.rows import Row
from stages.logprobs import sequence_logprobs
from stages.models import Policy
from stages.preference.config import Monitor
from stages.preference.tokens import cut

logger = logging.getLogger(__name__)

START = "monitor.json"
"""What was seen before the first step, for stages that are resumed."""
SQUEEZED_NATS = 0.05
"""By how much less likely good answers must have become, by token, to be called squeezed."""

AT_ONCE = 8
"""Answers whose logits are in memory at a time."""

Answer = tuple[list[int], list[int]]
"""A prompt's tokens and those of an answer that the policy gave."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Watched:
    """What is looked at, in tokens."""

    good: Sequence[Example]
    bad: Sequence[Example]
    are_pairs: bool
    """Whether the answers at the same place of the two are a pair."""

    @property
    def prompts(self) -> list[list[int]]:
        """Prompts of the good answers."""
        return [list(example.prompt_ids) for example in self.good]

    @property
    def name(self) -> str:
        """Identity of all of it."""
        sides = [[asdict(example) for example in side] for side in (self.good, self.bad)]
        return hashlib.sha256(json.dumps(sides).encode()).hexdigest()


class MonitorCallback(transformers.TrainerCallback):  # type: ignore[misc]
    """Looks every so many steps, and adds what it sees to what the trainer logs."""

    def __init__(self, watched: Watched, policy: Policy, config: Monitor, beta: float, context: StageContext) -> None:
        self._watched = watched
        self._policy = policy
        self._config = config
        self._beta = beta
        self._context = context
        self._start: dict[str, Any] = {}
        self._seen: dict[str, float] = {}
        self._has_warned = False

    def on_train_begin(self, args: Any, state: Any, control: Any, **_: Any) -> None:
        """Look before the first step, or take up what was seen then."""
        file = self._context.folder / START
        name = self._watched.name
        if state.global_step:
            self._start = json.loads(file.read_text()) if file.is_file() else {}
            if self._start.get("watched") != name:
                self._start = {}
                logger.warning("what is watched was not looked at before the first step; nothing is compared with it")
            return
        samples = sampled(self._policy, self._watched.prompts, self._config.max_tokens, self._context.seed)
        self._start = {"watched": name, "samples": samples, **self._look(samples)}
        _write(file, self._start)
        self._context.metrics.write(0, self._metrics(self._start), of=state.max_steps)

    def on_step_end(self, args: Any, state: Any, control: Any, **_: Any) -> None:
        """Look where it is time; called before the trainer logs this step."""
        is_due = state.global_step % self._config.every_steps == 0 or state.global_step == state.max_steps
        if not is_due or not self._start:
            return
        self._seen = self._metrics(self._look(self._start["samples"]))
        is_squeezed = self._seen["monitor/squeezing"] > 0
        if is_squeezed and not self._has_warned:
            self._has_warned = True
            logger.warning(
                "step %d: good answers are less likely than at the start and the policy's own more so: what is learned "
                "squeezes them out. Fewer steps, a lower learning rate, or pairs of the policy's own answers may help",
                state.global_step,
            )

    def on_log(self, args: Any, state: Any, control: Any, logs: dict[str, Any] | None = None, **_: Any) -> None:
        """Hand over what was seen in this step."""
        if logs is not None:
            logs.update(self._seen)
            self._seen = {}

    def _look(self, samples: Sequence[Answer]) -> dict[str, Any]:
        """Return log-probabilities as they are now, and what the policy says greedily."""
        greedy = greedy_answers(self._policy, self._watched.prompts, self._config.max_tokens)
        return {
            "good": _token_logprobs(self._policy, self._watched.good),
            "bad": _token_logprobs(self._policy, self._watched.bad),
            "sampled": _token_logprobs(self._policy, _as_examples(samples)),
            "greedy": _token_logprobs(self._policy, _as_examples(greedy)),
        }

    def _metrics(self, now: Mapping[str, Any]) -> dict[str, float]:
        start = self._start
        by_token = {name: (_by_token(now[name]), _by_token(start[name])) for name in ("good", "bad", "greedy")}
        gains = {name: _gains(now[name], start[name]) for name in ("good", "bad", "sampled")}
        lost = by_token["good"][1] - by_token["good"][0]
        squeezes = lost > SQUEEZED_NATS and by_token["greedy"][0] > by_token["greedy"][1]
        margins = [good - bad for good, bad in zip(gains["good"], gains["bad"], strict=False)]
        return {
            **{f"monitor/{name}_nats_a_token": found for name, (found, _) in by_token.items()},
            "monitor/margin": self._beta * (fmean(gains["good"]) - fmean(gains["bad"])),
            **({"monitor/accuracy": fmean(margin > 0 for margin in margins)} if self._watched.are_pairs else {}),
            "monitor/kl_nats": -fmean(gains["sampled"]),
            "monitor/greedy_tokens": fmean(len(row) for row in now["greedy"]),
            "monitor/squeezing": float(squeezes),
        }


def watched_pairs(rows: Sequence[Row], chat: Chat, max_tokens: int) -> Watched:
    """Return what is watched of pairs, cut where training cuts them."""
    sides = [[cut(answer(chat, row, side), max_tokens) for row in rows] for side in ("chosen", "rejected")]
    both = [(one, other) for one, other in zip(*sides, strict=True) if one and other]
    return Watched(good=[one for one, _ in both], bad=[other for _, other in both], are_pairs=True)


def watched_answers(rows: Sequence[Row], chat: Chat, max_tokens: int) -> Watched:
    """Return what is watched of answers that are good or bad one by one, cut where training cuts them."""
    sides: dict[bool, list[Example]] = {True: [], False: []}
    for row in rows:
        example = cut(answer(chat, row, "completion"), max_tokens)
        if example:
            sides[bool(row["label"])].append(example)
    return Watched(good=sides[True], bad=sides[False], are_pairs=False)


@torch.no_grad()
def greedy_answers(policy: Policy, prompts: Sequence[list[int]], max_tokens: int) -> list[Answer]:
    """Return what the policy says to each prompt, its end-of-turn token included."""
    return _generated(policy, prompts, max_tokens, do_sample=False)


@torch.no_grad()
def sampled(policy: Policy, prompts: Sequence[list[int]], max_tokens: int, seed: int) -> list[Answer]:
    """Return an answer to each prompt, sampled at temperature 1; the process's random state stays as it is."""
    with torch.random.fork_rng():
        torch.manual_seed(seed)
        return _generated(policy, prompts, max_tokens, do_sample=True, temperature=1.0, top_k=0, top_p=1.0)


def _generated(policy: Policy, prompts: Sequence[list[int]], max_tokens: int, **how: Any) -> list[Answer]:
    model, pad = policy.model, policy.tokenizer.pad_token_id
    was_training = model.training
    model.eval()
    longest = max(map(len, prompts))
    tokens_BT = torch.tensor([[pad] * (longest - len(prompt)) + prompt for prompt in prompts], device=model.device)
    mask_BT = torch.tensor([[0] * (longest - len(prompt)) + [1] * len(prompt) for prompt in prompts])
    written_BT = model.generate(
        input_ids=tokens_BT,
        attention_mask=mask_BT.to(model.device),
        max_new_tokens=max_tokens,
        eos_token_id=list(policy.eos_ids),
        pad_token_id=pad,
        use_cache=True,
        repetition_penalty=1.0,  # what the model's own configuration may say: an answer here is the policy's alone
        no_repeat_ngram_size=0,
        min_p=None,
        **how,
    )[:, longest:].tolist()
    model.train(was_training)
    return [(prompt, _ended(row, policy.eos_ids)) for prompt, row in zip(prompts, written_BT, strict=True)]


def _ended(tokens: list[int], eos_ids: Sequence[int]) -> list[int]:
    end = next((place for place, token in enumerate(tokens) if token in eos_ids), len(tokens) - 1)
    return tokens[: end + 1]


def _as_examples(answers: Sequence[Answer]) -> list[Example]:
    return [Example(prompt_ids=tuple(prompt), token_ids=tuple(tokens)) for prompt, tokens in answers]


def _token_logprobs(policy: Policy, examples: Sequence[Example]) -> list[list[float]]:
    """Return the log-probabilities of each example's learned tokens, in nats."""
    whole = [example.whole_ids for example in examples]
    parts = [whole[at : at + AT_ONCE] for at in range(0, len(whole), AT_ONCE)]
    rows = [row for part in parts for row in sequence_logprobs(policy.model, part)]
    return [
        [value for value, bit in zip(row[len(example.prompt_ids) - 1 :], example.learned, strict=True) if bit]
        for row, example in zip(rows, examples, strict=True)
    ]


def _by_token(rows: Sequence[Sequence[float]]) -> float:
    return fmean(value for row in rows for value in row)


def _gains(now: Sequence[Sequence[float]], start: Sequence[Sequence[float]]) -> list[float]:
    return [sum(row) - sum(before) for row, before in zip(now, start, strict=True)]


def _write(file: Path, content: Mapping[str, Any]) -> None:
    temporary = file.with_name(f".{file.name}.writing")
    file.parent.mkdir(parents=True, exist_ok=True)
    temporary.write_text(json.dumps(content))
    temporary.replace(file)
