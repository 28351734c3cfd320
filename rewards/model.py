"""The model reward: what does a trained reward model say? A transformers model with a head of one label."""

from typing import TYPE_CHECKING, Any

from rewards.types import RewardError, RewardFunction

if TYPE_CHECKING:
    from rewards.config import ModelRewardConfig


def load(config: "ModelRewardConfig") -> RewardFunction:
    """Load the model once, on the GPU where there is one, and return a reward: its logit for the whole conversation.

    A logit has no scale of its own: a difference of d means odds of e^d that the better one is preferred, and 0 means
    nothing. Conversations go through the model's own chat template, or are joined by newlines where it has none; of one
    that is longer than ``max_tokens`` the end is kept, since the answer is there. Shapes: B conversations a batch.
    """
    import torch
    import transformers

    transformers.utils.logging.set_verbosity_error()
    has_gpu = torch.cuda.is_available()
    device = torch.device(("cuda" if has_gpu else "cpu") if config.device == "auto" else config.device)
    try:
        tokenizer = transformers.AutoTokenizer.from_pretrained(config.model, truncation_side="left")
        model = transformers.AutoModelForSequenceClassification.from_pretrained(config.model, dtype=config.precision)
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

    def model_reward(prompts: list[Any], completions: list[Any], **columns: list[Any]) -> list[float | None]:
        texts = [_text(tokenizer, [*prompt, *turns]) for prompt, turns in zip(prompts, completions, strict=True)]
        by_length = sorted(range(len(texts)), key=lambda at: len(texts[at]))  # little padding in each batch
        logits: list[float | None] = [None] * len(texts)
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

    return model_reward


def _text(tokenizer: Any, turns: list[dict[str, str]]) -> str:
    if tokenizer.chat_template is None:
        return "\n".join(turn["content"] for turn in turns)
    return str(tokenizer.apply_chat_template(turns, tokenize=False))
