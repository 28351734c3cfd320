"""One update of GRPO, ours and TRL's, on the same model and the same answers: what `benchmarks.learner` measures.

An update is everything from scored groups to changed weights: the batch, forward, loss, backward, clip, Adam. TRL's is
its own `_compute_loss` over its own padded slices, accumulated, with the same clip and optimizer.
"""

import random
import tempfile
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
import transformers

from examples.arithmetic.base_model import make_tokenizer
from rewards.types import Score
from rollout.engine import Precision
from rollout.types import Completion, Prompt, Rollout, RolloutGroup
from stages.base import RunFacts
from stages.grpo.batch import make_batch
from stages.grpo.config import GRPOStage
from stages.grpo.learner import Learner
from stages.models import Policy

GROUPS, GROUP = 4, 8
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
    """Micro-batches that are tried before the fastest one is measured."""
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
OUR_STAGE = {"kind": "grpo", "prompts": "none.jsonl", "rewards": ["math"], "num_steps": 10_000, "schedule": "constant"}


def our_updates(setting: Setting, sizes: Iterable[int]) -> dict[int, Update]:
    """Return our learner's step by the tokens of a micro-batch; all of one model."""
    policy = Policy(model=setting.make_model(), tokenizer=None, folder=Path(), eos_ids=(0,), weights_sha256="")
    facts = RunFacts(model="none", precision=setting.precision)

    def of(size: int) -> Update:
        config = GRPOStage.model_validate({**OUR_STAGE, "micro_batch_tokens": size})
        learner = Learner(policy, config, facts)

        def update(groups: list[RolloutGroup]) -> None:
            batch = make_batch(groups, config)
            assert batch is not None
            learner.update(batch)

        return update

    return {size: of(size) for size in sizes}


def trl_updates(setting: Setting, sizes: Iterable[int]) -> dict[int, Update]:
    """Return TRL's step by the completions of a micro-batch; all of one trainer."""
    trainer = _trl_trainer(setting)
    model = trainer.model
    optimizer = torch.optim.AdamW(model.parameters(), lr=1e-5)
    if setting.device != "cpu":
        model.gradient_checkpointing_enable(gradient_checkpointing_kwargs={"use_reentrant": False})
    model.train()

    def of(size: int) -> Update:
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

    return {size: of(size) for size in sizes}


def _trl_trainer(setting: Setting) -> Any:
    """Return TRL's trainer. Its batch size is not used: the loss of a slice is a share of the whole batch's tokens."""
    import trl
    from datasets import Dataset

    arguments = trl.GRPOConfig(
        output_dir=tempfile.mkdtemp(),
        per_device_train_batch_size=GROUP,
        gradient_accumulation_steps=GROUPS,
        num_generations=GROUP,
        beta=0.0,
        bf16=setting.precision == "bfloat16",
        use_cpu=setting.device == "cpu",
        gradient_checkpointing=setting.device != "cpu",  # as ours
        report_to="none",
        loss_type="dapo",
        temperature=1.0,
    )
    trainer = trl.GRPOTrainer(
        model=setting.make_model(),
        reward_funcs=[lambda completions, **_: [0.0] * len(completions)],
        args=arguments,
        train_dataset=Dataset.from_list([{"prompt": "a"}] * GROUP),
        processing_class=make_tokenizer(["a"]),
    )
    trainer.current_gradient_accumulation_steps = GROUPS
    return trainer


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
