"""The update alone, ours and TRL's, on the same model and the same answers.

    python -m benchmarks.learner sizes SETTING WORK                          # fastest micro-batches, as JSON
    python -m benchmarks.learner measure SETTING WORK OURS_TOKENS TRL_SIZE   # times, turn about, as JSON
    python -m benchmarks.learner memory SETTING WORK SIDE SIZE               # most memory of one update, as JSON

SETTING is `cpu`, a model of 5 M parameters, or `gpu`, one of the shape of Qwen2.5-0.5B in bfloat16 on an NVIDIA GPU.

An update is everything from scored groups to changed weights: the batch, forward, loss, backward, clip, Adam. TRL's is
its own `_compute_loss` over its own padded slices, accumulated, with the same clip and optimizer.
"""

import contextlib
import gc
import io
import json
import math
import random
import statistics
import sys
import tempfile
import time
import warnings
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
import transformers

from rewards.types import Score
from rollout.engine import Precision
from rollout.types import Completion, Prompt, Rollout, RolloutGroup
from stages.base import RunFacts
from stages.grpo.batch import make_batch
from stages.grpo.config import GRPOStage
from stages.grpo.learner import Learner
from stages.models import Policy

GROUPS, GROUP, WARM_UP, RUNS = 4, 8, 2, 7
VOCAB = 8_000

Update = Callable[[list[RolloutGroup]], None]


def heavy_tailed(draw: random.Random, scale: int = 1) -> int:
    """Return a length from 16 to 256 with a mean of about 60, or so many times that."""
    return scale * min(256, 16 + int(draw.expovariate(1 / 46)))


@dataclass(frozen=True, slots=True, kw_only=True)
class Setting:
    """A model, and the answers that it learns from."""

    shape: Mapping[str, int]
    precision: Precision
    device: str
    works: Mapping[str, tuple[int, Callable[[random.Random], int]]]
    """Tokens of a prompt, and of an answer."""
    our_tokens: Sequence[int]
    """Micro-batches that are tried before the better one is measured."""
    trl_sizes: Sequence[int]

    def make_model(self, *, tie_word_embeddings: bool = True) -> Any:
        """Return a fresh model in float32, its head its own where that is asked for."""
        torch.manual_seed(0)
        config = transformers.Qwen3Config(**self.shape, tie_word_embeddings=tie_word_embeddings)
        model = transformers.AutoModelForCausalLM.from_config(config, dtype=torch.float32, attn_implementation="sdpa")
        return model.to(self.device)

    def groups_of(self, work: str, seed: int) -> list[RolloutGroup]:
        """Return scored groups of random tokens."""
        draw = random.Random(seed)
        prompt_tokens, length = self.works[work]
        return [_group(draw, self.shape["vocab_size"], prompt_tokens, length) for _ in range(GROUPS)]


CPU = Setting(
    shape={
        "vocab_size": VOCAB,
        "hidden_size": 256,
        "intermediate_size": 768,
        "num_hidden_layers": 4,
        "num_attention_heads": 4,
        "num_key_value_heads": 2,
        "head_dim": 64,
        "max_position_embeddings": 1024,
    },
    precision="float32",
    device="cpu",
    works={"shared_prompt": (256, heavy_tailed), "uniform": (16, lambda draw: 128)},
    our_tokens=(1024, 2048),
    trl_sizes=(1, 2, 4, 8),
)
GPU = Setting(
    shape={
        "vocab_size": 151_936,
        "hidden_size": 896,
        "intermediate_size": 4864,
        "num_hidden_layers": 24,
        "num_attention_heads": 14,
        "num_key_value_heads": 2,
        "head_dim": 64,
        "max_position_embeddings": 4096,
    },
    precision="bfloat16",
    device="cuda",
    works={
        "shared_prompt": (1024, lambda draw: heavy_tailed(draw, 4)),
        "uniform": (128, lambda draw: 1024),
    },
    our_tokens=(8192, 16384, 32768),
    trl_sizes=(4, 8, 16, 32),
)
SETTINGS = {"cpu": CPU, "gpu": GPU}


def our_update(setting: Setting, max_tokens: int) -> Update:
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
    policy = Policy(model=setting.make_model(), tokenizer=None, folder=Path(), eos_ids=(0,), weights_sha256="")
    learner = Learner(policy, config, RunFacts(model="none", precision=setting.precision))

    def update(groups: list[RolloutGroup]) -> None:
        batch = make_batch(groups, config)
        assert batch is not None
        learner.update(batch)

    return update


def trl_update(setting: Setting, size: int) -> Update:
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
        bf16=setting.precision == "bfloat16",
        use_cpu=setting.device == "cpu",
        gradient_checkpointing=setting.device != "cpu",  # as ours
        report_to="none",
        loss_type="dapo",
        temperature=1.0,
    )
    from examples.arithmetic.base_model import make_tokenizer

    model = setting.make_model()
    trainer = trl.GRPOTrainer(
        model=model,
        reward_funcs=[lambda completions, **_: [0.0] * len(completions)],
        args=arguments,
        train_dataset=Dataset.from_list([{"prompt": "a"}] * size),
        processing_class=make_tokenizer(["a"]),
    )
    trainer.current_gradient_accumulation_steps = num_parts
    optimizer = torch.optim.AdamW(model.parameters(), lr=1e-5)
    if setting.device != "cpu":
        model.gradient_checkpointing_enable(gradient_checkpointing_kwargs={"use_reentrant": False})
    model.train()

    def update(groups: list[RolloutGroup]) -> None:
        inputs = {name: value.to(setting.device) for name, value in _trl_inputs(groups).items()}
        for start in range(0, GROUPS * GROUP, size):
            part = {k: v if v.dim() == 0 else v[start : start + size] for k, v in inputs.items()}
            with trainer.compute_loss_context_manager():
                loss = trainer._compute_loss(model, part)
            loss.backward()
        torch.nn.utils.clip_grad_norm_(model.parameters(), 1.0)
        optimizer.step()
        optimizer.zero_grad()

    return update


def measure(setting: Setting, work: str, our_tokens: int, trl_size: int) -> dict[str, object]:
    """Time both sides turn about on fresh answers."""
    sides = {"ours": our_update(setting, our_tokens), "trl": trl_update(setting, trl_size)}
    seconds: dict[str, list[float]] = {side: [] for side in sides}
    works: dict[str, list[float]] = {"tokens": [], "flops": []}
    parameters = sum(parameter.numel() for parameter in setting.make_model().parameters())
    for run in range(WARM_UP + RUNS):
        groups = setting.groups_of(work, run)
        for side, update in sides.items():
            spent = timed(update, groups)
            if run >= WARM_UP:
                seconds[side].append(spent)
        if run >= WARM_UP:
            works["tokens"].append(sum(len(r.completion.token_ids) for group in groups for r in group.rollouts))
            works["flops"].append(_flops(setting, groups, parameters))
    medians = {side: statistics.median(found) for side, found in seconds.items()}
    return {
        "ratio": medians["trl"] / medians["ours"],
        **medians,
        "unit": "s an update",
        "runs": RUNS,
        "our_micro_batch_tokens": our_tokens,
        "trl_micro_batch_size": trl_size,
        **{f"{side}_answer_tokens_per_s": sum(works["tokens"]) / sum(found) for side, found in seconds.items()},
        **{f"{side}_model_tflops_per_s": sum(works["flops"]) / sum(found) / 1e12 for side, found in seconds.items()},
    }


def best_sizes(setting: Setting, work: str) -> tuple[int, int]:
    """Return our tokens and TRL's completions a micro-batch that are the fastest of a few."""
    ours = {size: _median(our_update(setting, size), setting, work) for size in setting.our_tokens}
    theirs = {size: _median(trl_update(setting, size), setting, work) for size in setting.trl_sizes}
    print(f"{work}: micro-batches tried, seconds: ours {_shown(ours)}; TRL {_shown(theirs)}", file=sys.stderr)
    return min(ours, key=lambda size: ours[size]), min(theirs, key=lambda size: theirs[size])


def memory(setting: Setting, work: str, side: str, size: int) -> dict[str, object]:
    """Return the most memory that an update takes beyond what lay there before, in MiB: the largest of three."""
    update = our_update(setting, size) if side == "ours" else trl_update(setting, size)
    update(setting.groups_of(work, 0))  # the optimizer's state is there
    peaks = []
    for run in range(1, 4):
        groups = setting.groups_of(work, run)
        gc.collect()
        before = _begin_peak(setting)
        update(groups)
        peaks.append((_peak(setting) - before) / 2**20)
    return {"mib": max(peaks)}


def timed(work: Update, groups: list[RolloutGroup]) -> float:
    """Return the seconds that it takes, the GPU's work included."""
    start = time.perf_counter()
    work(groups)
    if torch.cuda.is_available():
        torch.cuda.synchronize()
    return time.perf_counter() - start


def _median(update: Update, setting: Setting, work: str) -> float:
    """Return the seconds of an update after two, in which kernels are chosen and compiled."""
    seconds = []
    for run in range(5):
        try:
            seconds.append(timed(update, setting.groups_of(work, run)))
        except torch.cuda.OutOfMemoryError:
            return math.inf
    return statistics.median(seconds[2:])


def _flops(setting: Setting, groups: Sequence[RolloutGroup], parameters: int) -> float:
    """Return what forward and backward passes of the answers need, each with its prompt alone: 6 a parameter and token,
    and 12 a pair of tokens that see each other and unit of width in each layer. What is computed twice counts once."""
    width = setting.shape["num_attention_heads"] * setting.shape["head_dim"] * setting.shape["num_hidden_layers"]
    lengths = [len(g.prompt.token_ids) + len(r.completion.token_ids) for g in groups for r in g.rollouts]
    return sum(6.0 * parameters * length + 12.0 * width * length**2 / 2 for length in lengths)


def _shown(found: dict[int, float]) -> str:
    return ", ".join(f"{size}: {seconds:.2f}" for size, seconds in found.items())


def _begin_peak(setting: Setting) -> int:
    """Have the peak of memory begin anew; return what is in use, in bytes."""
    if setting.device == "cuda":
        torch.cuda.reset_peak_memory_stats()
        return int(torch.cuda.memory_allocated())
    Path("/proc/self/clear_refs").write_text("5")
    return 1024 * _status("VmRSS")


def _peak(setting: Setting) -> int:
    return torch.cuda.max_memory_allocated() if setting.device == "cuda" else 1024 * _status("VmHWM")


def _status(name: str) -> int:
    """Return a figure of this process in KiB."""
    lines = Path("/proc/self/status").read_text().splitlines()
    return next(int(line.split()[1]) for line in lines if line.startswith(f"{name}:"))


def _group(draw: random.Random, vocab: int, prompt_tokens: int, length: Callable[[random.Random], int]) -> RolloutGroup:
    prompt = tuple(draw.randrange(2, vocab) for _ in range(prompt_tokens))
    rollouts = []
    for at in range(GROUP):
        token_ids = tuple(draw.randrange(2, vocab) for _ in range(length(draw)))
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


def main(command: str, setting_name: str, *arguments: str) -> None:
    """Do what the command line says; print JSON."""
    setting = SETTINGS[setting_name]
    warnings.simplefilter("ignore")
    with contextlib.redirect_stdout(io.StringIO()):
        if command == "sizes":
            found: object = best_sizes(setting, *arguments)
        elif command == "measure":
            found = measure(setting, arguments[0], int(arguments[1]), int(arguments[2]))
        else:
            found = memory(setting, arguments[0], arguments[1], int(arguments[2]))
    print(json.dumps(found))


if __name__ == "__main__":
    main(*sys.argv[1:])
