"""Random models small enough for tests, of the three families that the engines are tried with."""

from collections.abc import Sequence
from pathlib import Path

import torch
from transformers import (
    AutoModelForCausalLM,
    GPTNeoXConfig,
    LlamaConfig,
    PreTrainedModel,
    Qwen3Config,
)

from rollout.engine import Pool
from rollout.types import Completion, GenerationRequest

VOCABULARY = 64
CONTEXT = 128
_SIZES = {
    "vocab_size": VOCABULARY,
    "hidden_size": 64,
    "num_hidden_layers": 2,
    "num_attention_heads": 2,
    "intermediate_size": 128,
    "max_position_embeddings": CONTEXT,
    "bos_token_id": 0,
    "eos_token_id": 1,
}
_CONFIGS = {
    "qwen3": lambda: Qwen3Config(**_SIZES, num_key_value_heads=1, head_dim=32, tie_word_embeddings=True),
    "llama": lambda: LlamaConfig(**_SIZES, num_key_value_heads=1, tie_word_embeddings=True),
    "gpt_neox": lambda: GPTNeoXConfig(**_SIZES, tie_word_embeddings=False),
}
FAMILIES = tuple(_CONFIGS)


def tiny_model(family: str, seed: int = 0) -> PreTrainedModel:
    """A model with weights large enough for its answers to be far from uniform."""
    torch.manual_seed(seed)
    model = AutoModelForCausalLM.from_config(_CONFIGS[family]()).eval()
    with torch.no_grad():
        for parameter in model.parameters():
            if parameter.dim() > 1:
                parameter.normal_(std=0.3)
    return model


def save_config(model: PreTrainedModel, folder: Path) -> Path:
    """Write what an engine starts from: the configuration alone."""
    model.config.architectures = [type(model).__name__]
    model.config.save_pretrained(folder)
    return folder


def token_logprobs(model: PreTrainedModel, sequence: list[int], temperature: float = 1.0) -> list[float]:
    """The log-probabilities of tokens 1..T-1, by a plain forward."""
    with torch.no_grad():
        logits_TV = model(torch.tensor([sequence])).logits[0].float() / temperature
    logprobs_TV = logits_TV.log_softmax(-1)
    return [logprobs_TV[at - 1, token].item() for at, token in enumerate(sequence) if at]


def answers(pool: Pool, requests: Sequence[GenerationRequest]) -> list[tuple[Completion, ...]]:
    """Ask for all of them at once, and return their answers in order."""
    futures = [pool.submit(request) for request in requests]
    return [future.result(120) for future in futures]
