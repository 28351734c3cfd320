"""Tokenizers with the chat templates of real models, in `templates/`: written by us, and alike in what they do."""

from functools import cache
from pathlib import Path
from typing import Any

import transformers
from tokenizers import Regex, Tokenizer, decoders, models, pre_tokenizers, trainers

from stages.data.rendering import TokenizerChat

TEMPLATES = Path(__file__).parent / "templates"
SPECIAL = {
    "qwen3": ["<|im_end|>", "<|im_start|>", "<think>", "</think>", "<tool_call>", "</tool_call>"],
    "llama3": ["<|eot_id|>", "<|begin_of_text|>", "<|start_header_id|>", "<|end_header_id|>"],
    "gemma": ["<end_of_turn>", "<bos>", "<start_of_turn>"],
    "mistral": [
        "</s>", "<s>", "[INST]", "[/INST]", "[AVAILABLE_TOOLS]", "[/AVAILABLE_TOOLS]", "[TOOL_CALLS]", "[TOOL_RESULTS]",
        "[/TOOL_RESULTS]",
    ],
}  # fmt: skip
"""The first ends a turn; the second begins a text, but for Qwen's."""
PIECES = r"\n+| ?[A-Za-z]+|\d|[^A-Za-z\d\n]"
"""Line breaks that follow each other are one token, as in the real ones."""


@cache
def tokenizer_of(name: str) -> Any:
    """Return a byte-level tokenizer with the template of a model."""
    tokenizer = Tokenizer(models.BPE())
    tokenizer.pre_tokenizer = pre_tokenizers.Sequence(
        [
            pre_tokenizers.Split(Regex(PIECES), behavior="isolated"),
            pre_tokenizers.ByteLevel(add_prefix_space=False, use_regex=False),
        ]
    )
    tokenizer.decoder = decoders.ByteLevel()
    special = ["<pad>", *SPECIAL[name]]
    trainer = trainers.BpeTrainer(
        vocab_size=600, special_tokens=special, initial_alphabet=sorted(pre_tokenizers.ByteLevel.alphabet()),
        show_progress=False,
    )  # fmt: skip
    tokenizer.train_from_iterator(
        ["assistant user system", "\n\n", "\n\n\n", " the weather in Paris is sunny"] * 3, trainer
    )
    return transformers.PreTrainedTokenizerFast(
        tokenizer_object=tokenizer,
        pad_token="<pad>",
        eos_token=SPECIAL[name][0],
        bos_token=None if name == "qwen3" else SPECIAL[name][1],
        additional_special_tokens=special[1:],
        chat_template=(TEMPLATES / f"{name}.jinja").read_text(),
        clean_up_tokenization_spaces=False,
    )


def chat_of(name: str, template: str | None = None) -> TokenizerChat:
    """Return a model's tokenizer with its template, or with another one."""
    tokenizer = tokenizer_of(name)
    if template is not None:
        tokenizer = transformers.PreTrainedTokenizerFast(
            tokenizer_object=tokenizer._tokenizer, chat_template=template, **tokenizer.special_tokens_map,
            clean_up_tokenization_spaces=False,
        )  # fmt: skip
    return TokenizerChat(tokenizer)
