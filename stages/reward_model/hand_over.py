"""A reward model is handed over: a plain Hugging Face folder, proved step by step to score as the model that learned.

    live -> merged -> cast -> written and read back by the `model` reward -> read back by plain transformers

See `stages.hand_over`; here the probes are conversations, and what is compared are their scores.
"""

from collections.abc import Sequence
from pathlib import Path
from typing import Any

import peft
import torch

from rewards.config import ModelRewardConfig
from rewards.model import RewardModel, load_model, padded_with
from rewards.types import Message
from stages import artifact
from stages.artifact import ScoreProbe
from stages.base import StageContext
from stages.data.rows import Row, fingerprint
from stages.hand_over import bare, release, require_same_tokens, to_plain
from stages.models import policy_folder
from stages.proof import Proof, Values
from stages.reward_model.config import RewardModelStage

NUM_PROBES, LONGEST_PROBE = 4, 1024
"""Conversations, and tokens of each; they are of different lengths, where there are such."""


def save(
    model: Any, tokenizer: Any, config: RewardModelStage, context: StageContext, version: int, pairs: Sequence[Row]
) -> None:
    """Publish the model as this stage's output, proved; an adapter is merged. The model is used up.

    Raises StageError that names the step which broke it.
    """
    model = bare(model)
    as_written = as_served(config, context, artifact.writing(context))
    probe = probes(RewardModel(model, tokenizer, batch_size=1, max_tokens=as_written.max_tokens), pairs)
    rows = [tokens for tokens, _ in probe]
    conversations = [turns for _, turns in probe]

    def said_by(model: Any) -> Values:
        context.metrics.alive()  # each step of a large model takes minutes
        return [[score] for score in scores_alone(model, rows)]

    said = said_by(model)
    proof = Proof(of="a probe conversation's score", said=said, scale=max(1.0, *(abs(score) for [score] in said)))

    def fill(folder: Path) -> None:
        plain = to_plain(model, context.facts.precision, proof, said_by)
        plain.save_pretrained(folder)
        tokenizer.save_pretrained(folder)
        release(plain)
        require_same_tokens(tokenizer, folder, context.facts, rows)
        served = load_model(as_written)
        proof.after("save", [[score] for score in served.logits(conversations)])
        proof.after("pooling", [[score] for score in scores_by_transformers(served, conversations)])

    artifact.write(
        context,
        fill,
        lambda files: artifact.manifest(
            context,
            files,
            kind="reward_model",
            data={role: fingerprint(data) for role, data in config.datasets().items()},
            version=version,
            dtype=context.facts.precision,
            started_from=artifact.weights_digest(policy_folder(context)),
            weights_sha256=artifact.weights_digest(artifact.writing(context)),
            adapter="none" if config.params.type == "full" else "merged",
            score_probe=ScoreProbe(
                conversations=[[dict(turn) for turn in turns] for turns in conversations],
                scores=[score for [score] in proof.said],
            ),
            moved=proof.moved,
        ),
    )


def as_served(config: RewardModelStage, context: StageContext, folder: Path) -> ModelRewardConfig:
    """Return the `model` reward that serves what lies in a folder, with conversations as long as were learned from."""
    trusted = context.facts.trust_remote_code
    return ModelRewardConfig(model=str(folder), max_tokens=config.max_tokens, trust_remote_code=trusted)


def probes(model: RewardModel, pairs: Sequence[Row]) -> list[tuple[list[int], list[Message]]]:
    """Return some conversations with their tokens, from the shortest to the longest of the first pairs."""
    conversations = [[*pair["prompt"], *pair[side]] for pair in pairs[:16] for side in ("chosen", "rejected")]
    by_length = sorted(((model.tokens(turns), turns) for turns in conversations), key=lambda it: len(it[0]))
    usable = [found for found in by_length if len(found[0]) <= LONGEST_PROBE] or by_length[:1]
    last = len(usable) - 1
    return [usable[place] for place in sorted({round(last * at / (NUM_PROBES - 1)) for at in range(NUM_PROBES)})]


@torch.no_grad()
def scores_alone(model: Any, rows: Sequence[Sequence[int]]) -> list[float]:
    """Return each conversation's score by itself: without padding its last token is the last, whatever pads."""
    was_training = model.training
    model.eval()
    plain = model.get_base_model() if isinstance(model, peft.PeftModel) else model
    place = next(model.parameters()).device
    with padded_with(plain.config, None):
        scores = [model(input_ids=torch.tensor([row], device=place)).logits[0, 0].item() for row in rows]
    model.train(was_training)
    return scores


@torch.no_grad()
def scores_by_transformers(served: RewardModel, conversations: Sequence[list[Message]]) -> list[float]:
    """Return the scores that anybody gets who has transformers pad a batch on the right, and nothing else."""
    rows = {"input_ids": [served.tokens(turns) for turns in conversations]}
    batch = served.tokenizer.pad(rows, padding_side="right", return_tensors="pt").to(served.model.device)
    scores: list[float] = served.model(**batch).logits[:, 0].tolist()
    return scores
