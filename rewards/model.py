"""The model reward: what does a trained reward model say? A transformers model with a head of one label."""

from collections.abc import Callable, Sequence
from typing import TYPE_CHECKING, Any

from rewards.types import Message, RewardError, RewardFunction

if TYPE_CHECKING:
    from rewards.config import ModelRewardConfig


def load(config: "ModelRewardConfig") -> RewardFunction:
    """Load the model once and return a reward: its logit for the whole conversation, as `load_model` says."""
    logits_of = load_model(config)

    def model_reward(prompts: list[Any], completions: list[Any], **columns: list[Any]) -> list[float | None]:
        found = logits_of([[*prompt, *turns] for prompt, turns in zip(prompts, completions, strict=True)])
        return list(found)

    return model_reward


def load_model(config: "ModelRewardConfig") -> Callable[[Sequence[list[Message]]], list[float]]:
    """Load the model, on the GPU where there is one, and return a function from conversations to logits.

    A logit has no scale of its own: a difference of d means odds of e^d that the better one is preferred, and 0 means
    nothing. Conversations go through the model's own chat template, or are joined by newlines where it has none; of one
    that is longer than ``max_tokens`` the end is kept, since the answer is there. Shapes: B conversations a batch.
    """
    import torch
    import transformers

    if config.model is None:
        raise RewardError(f"the reward model of stage {config.stage!r} is there in its run alone; name its folder")
    transformers.utils.logging.set_verbosity_error()
    has_gpu = torch.cuda.is_available()
    device = torch.device(("cuda" if has_gpu else "cpu") if config.device == "auto" else config.device)
    try:
        trusted = {"trust_remote_code": config.trust_remote_code}
        tokenizer = transformers.AutoTokenizer.from_pretrained(config.model, truncation_side="left", **trusted)
        model = transformers.AutoModelForSequenceClassification.from_pretrained(
            config.model, dtype=config.precision, **trusted
        )
        model.to(device).eval()
    except Exception as error:
        raise RewardError(f"reward model {config.model!r} cannot be loaded: {error}") from error
    if model.config.num_labels != 1:
        raise RewardError(
            f"reward model {config.model!r} has {model.config.num_labels} labels; a reward is the logit of one"
        )
    if tokenizer.pad_token_id is None:
        tokenizer.pad_token = tokenizer.eos_token
    model.config.pad_token_id = tokenizer.pad_token_id

    def logits_of(conversations: Sequence[list[Message]]) -> list[float]:
        texts = [_text(tokenizer, turns) for turns in conversations]
        by_length = sorted(range(len(texts)), key=lambda at: len(texts[at]))  # little padding in each batch
        logits = [0.0] * len(texts)
        for start in range(0, len(texts), config.batch_size):
            places = by_length[start : start + config.batch_size]
            batch = tokenizer(
                [texts[at] for at in places],
                return_tensors="pt",
                padding=True,
                truncation=True,
                max_length=config.max_tokens,
                add_special_tokens=tokenizer.chat_template is None,
            ).to(device)
            with torch.no_grad():
                logits_B = model(input_ids=batch.input_ids, attention_mask=batch.attention_mask).logits[:, 0].float()
            for at, logit in zip(places, logits_B.tolist(), strict=True):
                logits[at] = logit
        return logits

    return logits_of


def _text(tokenizer: Any, turns: list[Message]) -> str:
    if tokenizer.chat_template is None:
        return "\n".join(turn["content"] for turn in turns)
    return str(tokenizer.apply_chat_template(turns, tokenize=False))
