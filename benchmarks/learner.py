"""The update alone, ours and TRL's, on the same model and the same answers.

    python -m benchmarks.learner measure WORK OURS_TOKENS TRL_SIZE   # times, turn about, as JSON
    python -m benchmarks.learner memory WORK SIDE SIZE               # most memory that one update takes, as JSON

An update is everything from scored groups to changed weights: the batch, forward, loss, backward, clip, Adam. TRL's is
its own `_compute_loss` over its own padded slices, accumulated, with the same clip and optimizer.
"""

import contextlib
import gc
import io
import json
import random
import statistics
import sys
import tempfile
import time
import warnings
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import torch
import transformers

from rewards.types import Score
from rollout.types import Completion, Prompt, Rollout, RolloutGroup
from stages.base import RunFacts
from stages.grpo.batch import make_batch
from stages.grpo.config import GRPOStage
from stages.grpo.learner import Learner
from stages.models import Policy

VOCAB, GROUPS, GROUP, WARM_UP, RUNS = 8_000, 4, 8, 2, 7
TRL_SIZES, OUR_TOKENS = (2, 4, 8, 16), (1024, 2048)
"""Micro-batches that are tried before the better one of each side is measured."""


def make_model(*, tie_word_embeddings: bool = True) -> Any:
    """Return a fresh model of about 5 M parameters, and 2 M more for a head of its own; float32."""
    torch.manual_seed(0)
    config = transformers.Qwen3Config(
        vocab_size=VOCAB,
        hidden_size=256,
        intermediate_size=768,
        num_hidden_layers=4,
        num_attention_heads=4,
        num_key_value_heads=2,
        head_dim=64,
        tie_word_embeddings=tie_word_embeddings,
        max_position_embeddings=1024,
    )
    return transformers.AutoModelForCausalLM.from_config(config, dtype=torch.float32, attn_implementation="sdpa")


def heavy_tailed(draw: random.Random) -> int:
    """Return a length from 16 to 256 with a mean of about 60."""
    return min(256, 16 + int(draw.expovariate(1 / 46)))


WORKS: dict[str, tuple[int, Callable[[random.Random], int]]] = {
    "shared_prompt": (256, heavy_tailed),
    "uniform": (16, lambda draw: 128),
}
"""Tokens of a prompt, and of an answer."""


def groups_of(work: str, seed: int) -> list[RolloutGroup]:
    """Return scored groups of random tokens."""
    draw = random.Random(seed)
    prompt_tokens, length = WORKS[work]
    return [_group(draw, prompt_tokens, length) for _ in range(GROUPS)]


def our_update(max_tokens: int) -> Callable[[list[RolloutGroup]], None]:
    """Return our learner's step."""
    config = GRPOStage.model_validate(
        {
            "kind": "grpo",
            "prompts": "none.jsonl",
            "rewards": ["math"],
            "num_steps": 10_000,
            "schedule": "constant",
            "micro_batch_tokens": max_tokens,
        }
    )
    policy = Policy(model=make_model(), tokenizer=None, folder=Path(), eos_ids=(0,), weights_sha256="")
    learner = Learner(policy, config, RunFacts(model="none"))

    def update(groups: list[RolloutGroup]) -> None:
        batch = make_batch(groups, config)
        assert batch is not None
        learner.update(batch)

    return update


def trl_update(size: int) -> Callable[[list[RolloutGroup]], None]:
    """Return TRL's step in micro-batches of so many completions."""
    import trl
    from datasets import Dataset

    num_parts = GROUPS * GROUP // size
    folder = tempfile.mkdtemp()
    arguments = trl.GRPOConfig(
        output_dir=folder,
        per_device_train_batch_size=size,
        gradient_accumulation_steps=num_parts,
        num_generations=GROUP,
        beta=0.0,
        bf16=False,
        use_cpu=True,
        gradient_checkpointing=False,
        report_to="none",
        loss_type="dapo",
        temperature=1.0,
    )
    from examples.arithmetic.base_model import make_tokenizer

    model = make_model()
    trainer = trl.GRPOTrainer(
        model=model,
        reward_funcs=[lambda completions, **_: [0.0] * len(completions)],
        args=arguments,
        train_dataset=Dataset.from_list([{"prompt": "a"}] * size),
        processing_class=make_tokenizer(["a"]),
    )
    trainer.current_gradient_accumulation_steps = num_parts
    optimizer = torch.optim.AdamW(model.parameters(), lr=1e-5)
    model.train()

    def update(groups: list[RolloutGroup]) -> None:
        inputs = _trl_inputs(groups)
        for start in range(0, GROUPS * GROUP, size):
            part = {k: v if v.dim() == 0 else v[start : start + size] for k, v in inputs.items()}
            trainer._compute_loss(model, part).backward()
        torch.nn.utils.clip_grad_norm_(model.parameters(), 1.0)
        optimizer.step()
        optimizer.zero_grad()

    return update


def measure(work: str, our_tokens: int, trl_size: int) -> dict[str, object]:
    """Time both sides turn about on fresh answers."""
    sides = {"ours": our_update(our_tokens), "trl": trl_update(trl_size)}
    seconds: dict[str, list[float]] = {side: [] for side in sides}
    for run in range(WARM_UP + RUNS):
        groups = groups_of(work, run)
        for side, update in sides.items():
            spent = timed(update, groups)
            seconds[side] += [spent] if run >= WARM_UP else []
    return {
        "ratio": statistics.median(seconds["trl"]) / statistics.median(seconds["ours"]),
        "ours": statistics.median(seconds["ours"]),
        "trl": statistics.median(seconds["trl"]),
        "unit": "s an update",
        "runs": RUNS,
        "our_micro_batch_tokens": our_tokens,
        "trl_micro_batch_size": trl_size,
    }


def best_sizes(work: str) -> tuple[int, int]:
    """Return our tokens and TRL's completions a micro-batch that are the fastest of a few."""
    ours = {size: _median(our_update(size), work) for size in OUR_TOKENS}
    theirs = {size: _median(trl_update(size), work) for size in TRL_SIZES}
    print(f"{work}: micro-batches tried, seconds: ours {_shown(ours)}; TRL {_shown(theirs)}", file=sys.stderr)
    return min(ours, key=lambda size: ours[size]), min(theirs, key=lambda size: theirs[size])


def memory(work: str, side: str, size: int) -> dict[str, object]:
    """Return the most memory that an update takes beyond what lay there before, in MiB: the largest of three."""
    update = our_update(size) if side == "ours" else trl_update(size)
    update(groups_of(work, 0))  # the optimizer's state is there
    peaks = []
    for run in range(1, 4):
        groups = groups_of(work, run)
        gc.collect()
        Path("/proc/self/clear_refs").write_text("5")  # the peak begins anew
        before = _status("VmRSS")
        update(groups)
        peaks.append((_status("VmHWM") - before) / 1024)
    return {"mib": max(peaks)}


def timed(work: Callable[[list[RolloutGroup]], None], groups: list[RolloutGroup]) -> float:
    """Return the seconds that it takes."""
    start = time.perf_counter()
    work(groups)
    return time.perf_counter() - start


def _median(update: Callable[[list[RolloutGroup]], None], work: str) -> float:
    return statistics.median(timed(update, groups_of(work, run)) for run in range(4))


def _shown(found: dict[int, float]) -> str:
    return ", ".join(f"{size}: {seconds:.2f}" for size, seconds in found.items())


def _status(name: str) -> int:
    """Return a figure of this process in KiB."""
    lines = Path("/proc/self/status").read_text().splitlines()
    return next(int(line.split()[1]) for line in lines if line.startswith(f"{name}:"))


def _group(draw: random.Random, prompt_tokens: int, length: Callable[[random.Random], int]) -> RolloutGroup:
    prompt = tuple(draw.randrange(2, VOCAB) for _ in range(prompt_tokens))
    rollouts = []
    for at in range(GROUP):
        token_ids = tuple(draw.randrange(2, VOCAB) for _ in range(length(draw)))
        completion = Completion(
            token_ids=token_ids,
            logprobs=(-9.0,) * len(token_ids),
            versions=(0,) * len(token_ids),
            finish_reason="stop",
        )
        rollouts.append(Rollout(completion=completion, response="", score=Score(value=float(at % 2), cause="ok")))
    return RolloutGroup(prompt=Prompt(id="p", messages=[], token_ids=prompt), rollouts=tuple(rollouts))


def _trl_inputs(groups: Sequence[RolloutGroup]) -> dict[str, torch.Tensor]:
    rows = [(group.prompt.token_ids, rollout.completion) for group in groups for rollout in group.rollouts]
    longest = max(len(completion.token_ids) for _, completion in rows)
    values = torch.tensor([float(rollout.score.value or 0) for group in groups for rollout in group.rollouts])
    by_group = values.view(len(groups), GROUP)
    advantages = (by_group - by_group.mean(1, keepdim=True)) / (by_group.std(1, keepdim=True) + 1e-4)

    def right(values: Sequence[float]) -> list[float]:
        return list(values) + [0] * (longest - len(values))

    return {
        "prompt_ids": torch.tensor([list(prompt) for prompt, _ in rows]),
        "prompt_mask": torch.tensor([[1] * len(prompt) for prompt, _ in rows]),
        "completion_ids": torch.tensor([right(completion.token_ids) for _, completion in rows]),
        "completion_mask": torch.tensor([right([1] * len(completion.token_ids)) for _, completion in rows]),
        "old_per_token_logps": torch.tensor([right(completion.logprobs) for _, completion in rows]),
        "advantages": advantages.flatten(),
        "num_items_in_batch": torch.tensor(float(sum(len(completion.token_ids) for _, completion in rows))),
    }


def main(command: str, *arguments: str) -> None:
    """Do what the command line says; print JSON."""
    warnings.simplefilter("ignore")
    with contextlib.redirect_stdout(io.StringIO()):
        if command == "sizes":
            found: object = best_sizes(*arguments)
        elif command == "measure":
            found = measure(arguments[0], int(arguments[1]), int(arguments[2]))
        else:
            found = memory(arguments[0], arguments[1], int(arguments[2]))
    print(json.dumps(found))


if __name__ == "__main__":
    main(*sys.argv[1:])
