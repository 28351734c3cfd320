"""The model reward: what does a trained reward model say? A transformers model with a head of one label.

transformers finds the token whose state a decoder's head reads by the pad token's id: where the token that ends a turn
pads, or several end one, it reads an earlier one. Here batches are padded with a token that none of their conversations
has, so that it is the last by the attention mask, whatever the tokenizer pads with and on whichever side.
"""

import json
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from functools import cached_property
from pathlib import Path
from typing import TYPE_CHECKING, Any

from rewards import control_tokens, encoding
from rewards.chat_template import settings_of, tools_of, write
from rewards.control_tokens import ControlTokens
from rewards.encoding import Encoding
from rewards.hub import model_files
from rewards.remote_code import require_own_code, require_own_weights, require_read_code
from rewards.types import Message, RewardError, RewardFunction
from rewards.weight_files import weight_files

if TYPE_CHECKING:
    from rewards.config import ModelRewardConfig

MANIFEST = "manifest.json"
"""Next to a reward model of ours: its `score_probe` has conversations and what they were scored when it was saved."""
DRIFT = {"float32": 1e-3, "float16": 0.02, "bfloat16": 0.1}
"""How far a probe's score may lie from that, times its size where that is above 1; by the precision of computing."""


def load(config: "ModelRewardConfig") -> RewardFunction:
    """Load the model once and return a reward: its logit for the whole conversation, see `RewardModel`."""
    model = load_model(config)

    def model_reward(prompts: list[Any], completions: list[Any], **columns: list[Any]) -> list[float | None]:
        rows = [{name: columns[name][at] for name in columns} for at in range(len(prompts))]
        whole = [[*prompt, *turns] for prompt, turns in zip(prompts, completions, strict=True)]
        return list(model.logits(whole, rows))

    return model_reward


class RewardModel:
    """Gives conversations numbers.

    A logit has no scale of its own: a difference of d means odds of e^d that the better one is preferred, and 0 means
    nothing. Conversations go through the model's own chat template, or are joined by newlines where it has none; of one
    that is longer than ``max_tokens`` the end is kept, since the answer is there. Shapes: B conversations a batch, T
    tokens.
    """

    def __init__(self, model: Any, tokenizer: Any, *, batch_size: int, max_tokens: int) -> None:
        """Take a loaded model and its tokenizer."""
        self.model = model
        self.tokenizer = tokenizer
        self._batch_size = batch_size
        self._max_tokens = max_tokens

    def logits(
        self, conversations: Sequence[list[Message]], columns: Sequence[Mapping[str, Any]] | None = None
    ) -> list[float]:
        """Return each conversation's logit, read at its last token.

        ``columns`` are those of each conversation's row: the template is given the tools and settings among them.
        """
        of_rows = columns or [{} for _ in conversations]
        rows = [self.tokens(turns, row) for turns, row in zip(conversations, of_rows, strict=True)]
        by_length = sorted(range(len(rows)), key=lambda at: len(rows[at]))  # little padding in each batch
        logits = [0.0] * len(rows)
        for start in range(0, len(rows), self._batch_size):
            places = by_length[start : start + self._batch_size]
            for at, logit in zip(places, self._of_batch([rows[at] for at in places]), strict=True):
                logits[at] = logit
        return logits

    def tokens(self, turns: list[Message], row: Mapping[str, Any] | None = None) -> list[int]:
        """Return a conversation's tokens, the end of what is too long; no turn's words become control tokens."""
        return self._encoding.token_ids(self.text(turns, row))[-self._max_tokens :]

    @cached_property
    def _control(self) -> ControlTokens:
        return control_tokens.of_tokenizer(self.tokenizer)

    @cached_property
    def _encoding(self) -> Encoding:
        return encoding.of_tokenizer(self.tokenizer, self._control, is_whole=self.tokenizer.chat_template is None)

    def text(self, turns: Sequence[Message], row: Mapping[str, Any] | None = None) -> str:
        """Return a conversation as the model reads it, marked where it spells control tokens."""
        from rewards.bounded_template import apply_of

        row = row or {}
        if self.tokenizer.chat_template is None:
            said = [self._control.marked(turn["content"] or "", turn["role"]) for turn in turns]
            return self._control.settled("\n".join(said))
        return write(
            apply_of(self.tokenizer),
            turns,
            add_generation_prompt=False,
            tools=tools_of(row),
            settings=settings_of(row),
            control=self._control,
        )

    def _of_batch(self, rows: Sequence[Sequence[int]]) -> list[float]:
        pad = self._unused_in(rows)
        if pad is None:
            return [logit for row in rows for logit in self._forward([row], None)]
        return self._forward(rows, pad)

    def _forward(self, rows: Sequence[Sequence[int]], pad: int | None) -> list[float]:
        import torch

        longest = max(map(len, rows))
        tokens_BT = torch.tensor([[*row, *[pad or 0] * (longest - len(row))] for row in rows])
        mask_BT = torch.tensor([[1] * len(row) + [0] * (longest - len(row)) for row in rows])
        device = next(self.model.parameters()).device
        with torch.no_grad(), padded_with(self.model.config, pad):
            output = self.model(input_ids=tokens_BT.to(device), attention_mask=mask_BT.to(device))
        logits: list[float] = output.logits[:, 0].float().tolist()
        return logits

    def _unused_in(self, rows: Sequence[Sequence[int]]) -> int | None:
        """Return a token that none of the rows has, the tokenizer's own pad first; None where they have all."""
        used = {token for row in rows for token in row}
        own = self.tokenizer.pad_token_id
        candidates = [*([] if own is None else [own]), *range(min(len(used) + 1, len(self.tokenizer)))]
        return next((token for token in candidates if token not in used), None)


@contextmanager
def padded_with(config: Any, pad: int | None) -> Iterator[None]:
    """Have a model take this token for padding inside the block; None: there is none, and a batch is one row."""
    configs = [config, config.get_text_config()]
    before = [each.pad_token_id for each in configs]
    for each in configs:
        each.pad_token_id = pad
    try:
        yield
    finally:
        for each, token in zip(configs, before, strict=True):
            each.pad_token_id = token


def load_model(config: "ModelRewardConfig") -> RewardModel:
    """Load the model, on the GPU where there is one; one that a stage handed over must score as it did then.

    Raises RewardError where it cannot be loaded, is none, or is another one.
    """
    import torch
    import transformers

    if config.model is None:
        raise RewardError(f"the reward model of stage {config.stage!r} is there in its run alone; name its folder")
    has_gpu = torch.cuda.is_available()
    device = torch.device(("cuda" if has_gpu else "cpu") if config.device == "auto" else config.device)
    try:
        folder = folder_of(config)
        weight_files(folder)  # raises where something else than safetensors would be loaded
        trusted = {"trust_remote_code": config.trust_remote_code}
        tokenizer = transformers.AutoTokenizer.from_pretrained(folder, **trusted)
        model = transformers.AutoModelForSequenceClassification.from_pretrained(
            folder, dtype=config.precision, use_safetensors=True, **trusted
        )
        model.to(device).eval()
    except Exception as error:
        raise RewardError(f"reward model {config.model!r} cannot be loaded: {error}") from error
    if model.config.num_labels != 1:
        raise RewardError(
            f"reward model {config.model!r} has {model.config.num_labels} labels; a reward is the logit of one"
        )
    served = RewardModel(model, tokenizer, batch_size=config.batch_size, max_tokens=config.max_tokens)
    _require_as_handed_over(served, config)
    return served


def folder_of(config: "ModelRewardConfig") -> Path:
    """Return the folder of a reward model; of one on the Hub the files of its revision are downloaded first.

    Raises HubError where they are not to be had, or where what is loaded or run might be another tomorrow.
    """
    name = config.hub_name()
    assert name is not None
    require_read_code(name)
    folder = model_files(name) if name.is_on_hub else Path(name.id)
    require_own_weights(folder)
    if config.trust_remote_code:
        require_own_code(folder)
    return folder


def _require_as_handed_over(served: RewardModel, config: "ModelRewardConfig") -> None:
    """Raise RewardError where a reward model of ours scores its probe otherwise than when it was saved."""
    manifest = _manifest(Path(str(config.model)) / MANIFEST)
    probe = manifest.get("score_probe") or {"conversations": [], "scores": []}
    usable = [
        (turns, score)
        for turns, score in zip(probe["conversations"], probe["scores"], strict=True)
        if len(served.tokens(turns)) < config.max_tokens  # or else it may have been cut
    ]
    if not usable:
        return
    conversations, scores = zip(*usable, strict=True)
    found = served.logits(conversations)
    limit = DRIFT[config.precision]
    for now, then in zip(found, scores, strict=True):
        if not abs(now - then) <= limit * max(1.0, abs(then)):
            raise RewardError(
                f"the reward model loaded from {config.model} is not the one that stage {manifest.get('stage')!r} "
                f"handed over: it gives a probe conversation {now:.4g}, and gave it {then:.4g}; run that stage again"
            )


def _manifest(file: Path) -> Mapping[str, Any]:
    """Return a manifest of ours; an empty one where there is none."""
    if not file.is_file():
        return {}
    try:
        tree = json.loads(file.read_text())
    except (OSError, ValueError) as error:
        raise RewardError(f"{file} cannot be read ({error}); run the stage that made it again") from error
    return tree if isinstance(tree, dict) else {}
