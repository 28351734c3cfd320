"""Tiny models of each architecture, with a tokenizer and a template, made in a second."""

import json
from pathlib import Path
from typing import Any

import torch
import transformers

from examples.arithmetic.base_model import make_tokenizer

TEXTS = ["What is 12 plus 30?", "How many are 7 minus 5?", "0+1=1\n\\boxed{42}", "apples and books 3 4 5 6 7 8 9"]

SIZES: dict[str, Any] = {
    "hidden_size": 64,
    "intermediate_size": 64,
    "num_hidden_layers": 2,
    "num_attention_heads": 2,
    "max_position_embeddings": 256,
}


def tiny_model(kind: str, *, vocab_size: int, seed: int = 0, **changes: Any) -> Any:
    """Return a fresh float32 model: kind is `qwen3`, `llama` or `gpt_neox`."""
    torch.manual_seed(seed)
    sizes = {**SIZES, "vocab_size": vocab_size, **changes}
    if kind == "qwen3":
        config = transformers.Qwen3Config(**sizes, num_key_value_heads=1, head_dim=32)
    elif kind == "llama":
        config = transformers.LlamaConfig(**sizes, num_key_value_heads=1, head_dim=32)
    else:
        config = transformers.GPTNeoXConfig(**sizes)
    return transformers.AutoModelForCausalLM.from_config(config, dtype=torch.float32, attn_implementation="sdpa")


def pad_with_eos(folder: Path) -> Path:
    """Have a model folder name its EOS for padding, as many instruction-tuned models do."""
    for name, key in (("tokenizer_config.json", "_token"), ("config.json", "_token_id")):
        file = folder / name
        tree = json.loads(file.read_text())
        file.write_text(json.dumps({**tree, f"pad{key}": tree[f"eos{key}"]}))
    return folder


def write_tiny_model(folder: Path, kind: str = "qwen3", seed: int = 0, **changes: Any) -> Path:
    """Write a model folder with weights, tokenizer and template."""
    tokenizer = make_tokenizer(TEXTS)
    ids = {"eos_token_id": tokenizer.eos_token_id, "pad_token_id": tokenizer.pad_token_id, "bos_token_id": None}
    model = tiny_model(kind, seed=seed, **{"vocab_size": len(tokenizer), **ids, **changes})
    model.save_pretrained(folder)
    tokenizer.save_pretrained(folder)
    return folder
