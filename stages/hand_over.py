"""A policy is handed over: what learned becomes a plain Hugging Face folder, proved step by step to be the same model.

    live -> gathered -> merged -> tied -> cast -> written and read back

Probes are asked before the first step, of the model that learned, adapter and all, in float32: autocast's rounding
would hide what a step does. See `stages.proof` for what is compared.
"""

import logging
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any

import peft
import torch
import transformers
from accelerate.utils import extract_model_from_parallel

from rollout.engine import Precision
from stages import artifact
from stages.artifact import Manifest, Probe
from stages.base import RunFacts, StageContext
from stages.data.config import DataSetConfig
from stages.data.rendering import TokenizerChat
from stages.data.rows import fingerprint
from stages.logprobs import sequence_logprobs
from stages.model_folder import generation_eos_ids
from stages.models import DTYPES, Policy, cast_parameters, load_tokenizer, template_digest
from stages.params import is_said_to_be_tied, is_tied, merged, settle_tie
from stages.proof import Proof, Step, Values, broken

logger = logging.getLogger(__name__)

PROBE_CONVERSATION = [{"role": "user", "content": "What is 1 plus 1?"}, {"role": "assistant", "content": "2"}]
Say = Callable[[Any], Values]
"""What a model says of the probes."""


def save_policy(
    context: StageContext,
    policy: Policy,
    *,
    version: int,
    data: Sequence[tuple[str, DataSetConfig]],
    probes: Sequence[Sequence[int]],
    live: Callable[[Sequence[Sequence[int]]], Values] | None = None,
) -> Path:
    """Publish the policy as this stage's output, proved. An adapter is merged into the weights, and kept next to them.

    ``live`` gives the log-probabilities of the model that learned, where the policy may be a copy of it. The policy is
    used up: its weights are let go of before the folder is read, so that there are never two whole models in memory.
    Raises StageError that names the step which broke it.
    """
    sequences = artifact.probe_sequences(probes) or [rendered_probe(policy.tokenizer)]
    model, is_adapted = bare(policy.model), isinstance(policy.model, peft.PeftModel)

    def said_by(model: Any) -> Values:
        context.metrics.alive()  # each step of a large model takes minutes
        said: Values = sequence_logprobs(model, sequences)
        return said

    said = live(sequences) if live is not None else said_by(model)
    proof = Proof(of="a probe token's log-probability in nats", said=said)
    if live is not None:
        proof.after("gather", said_by(model))

    def fill(folder: Path) -> None:
        if is_adapted:
            save_adapter(model, folder / "adapter")
        plain = to_plain(model, context.facts.precision, proof, said_by)
        write(plain, policy, folder)
        was_tied, place = is_tied(plain), next(plain.parameters()).device
        release(plain)
        require_same_tokens(policy.tokenizer, folder, context.facts, sequences)
        proof.after("save", said_by(read_back(folder, context.facts, policy, was_tied=was_tied).to(place)))
        logger.info("the hand-over is proved; its steps moved a probe token by at most %s nats", proof.moved)

    def describe(files: Mapping[str, str]) -> Manifest:
        return artifact.manifest(
            context,
            files,
            kind="model",
            data={role: fingerprint(config) for role, config in data},
            version=version,
            adapter="merged" if is_adapted else "none",
            probe=Probe(token_ids=sequences, logprobs=[list(row) for row in proof.said]),
            moved=proof.moved,
            **_identity(policy, context),
        )

    return artifact.write(context, fill, describe)


def _identity(policy: Policy, context: StageContext) -> dict[str, Any]:
    """Return what a manifest says of a policy whose files are being written."""
    return {
        "dtype": context.facts.precision,
        "eos_ids": list(policy.eos_ids),
        "chat_template_sha256": template_digest(policy.tokenizer),
        "started_from": policy.weights_sha256,
        "weights_sha256": artifact.weights_digest(artifact.writing(context)),
    }


def bare(model: Any) -> Any:
    """Return a model without what was put around it for the training: containers, and autocast."""
    return extract_model_from_parallel(model, keep_fp32_wrapper=False)


def to_plain(model: Any, precision: Precision, proof: Proof, said_by: Say) -> Any:
    """Return a trained model as a plain one in the run's precision, made in place and proved after each step."""
    if isinstance(model, peft.PeftModel):
        try:
            model = merged(model)
        except (RuntimeError, ValueError, TypeError, AttributeError) as error:  # PEFT's refusals
            raise broken("merge", f"PEFT cannot merge this adapter: {error}") from error
        proof.after("merge", said_by(model))
    settle_tie(model)
    proof.after("tie", said_by(model))
    cast_parameters(model, DTYPES[precision])
    cast_parameters(model, torch.float32)  # rounded by now, as whoever loads them will compute with them
    proof.after("cast", said_by(model), rounded_to=precision)
    cast_parameters(model, DTYPES[precision])
    return model


def save_adapter(model: Any, folder: Path) -> None:
    """Save an adapter alone."""
    for config in model.peft_config.values():  # PEFT writes sets in the order of this process's hashes
        vars(config).update({key: sorted(value) for key, value in vars(config).items() if type(value) is set})
    model.save_pretrained(folder)


def write(model: Any, policy: Policy, folder: Path) -> None:
    """Write a plain model and its tokenizer."""
    model.config.use_cache = True
    model.save_pretrained(folder)
    policy.tokenizer.save_pretrained(folder)


def release(model: torch.nn.Module) -> None:
    """Let go of a model's weights, whoever else holds the model."""
    for parameter in model.parameters():
        parameter.grad = None
        parameter.data = torch.empty(0, dtype=parameter.dtype)
    if torch.cuda.is_available():
        torch.cuda.empty_cache()


def read_back(folder: Path, facts: RunFacts, policy: Policy, *, was_tied: bool) -> Any:
    """Load a written policy as the next stage does. Raises StageError where a part is missing or another's."""
    model, found = transformers.AutoModelForCausalLM.from_pretrained(
        folder,
        dtype=torch.float32,
        use_safetensors=True,
        trust_remote_code=facts.trust_remote_code,
        attn_implementation="sdpa",
        output_loading_info=True,
    )
    require_all_there(found)
    found_tied = is_tied(model), is_said_to_be_tied(model)
    if found_tied != (was_tied, was_tied):
        now, told, before = ("share a weight" if tied else "have one each" for tied in (*found_tied, was_tied))
        raise broken("tie", f"embeddings and output head {now}, by config.json they {told}, and they {before} in truth")
    ends = generation_eos_ids(folder)
    if set(ends) != set(policy.eos_ids):
        raise broken("EOS", f"generation_config.json ends turns at {ends}, and training did at {policy.eos_ids}")
    return model


def require_all_there(found: dict[str, Any]) -> None:
    """Raise StageError where a folder lacks weights, or has others, by what transformers says of the loading."""
    lacking = sorted(str(name) for kind in ("missing_keys", "mismatched_keys") for name in found.get(kind, ()))
    beyond = sorted(found.get("unexpected_keys", ()))
    for what, names in (("not written, or in another shape", lacking), ("written, and not the model's", beyond)):
        if names:
            raise broken("save", f"{len(names)} weights were {what}, {names[0]} among them")


def require_same_tokens(tokenizer: Any, folder: Path, facts: RunFacts, sequences: Sequence[Sequence[int]]) -> None:
    """Raise StageError where a folder's tokenizer makes other tokens of the probes' texts, or ends turns elsewhere."""
    texts = [tokenizer.decode(tokens) for tokens in sequences]
    written = load_tokenizer(folder, facts)
    before, after = (_habits(each, texts) for each in (tokenizer, written))
    for what, value in before.items():
        if after[what] != value:
            step: Step = "EOS" if what == "EOS token" else "tokenizer"
            raise broken(step, f"the {what} is {after[what]!r:.200}, and was {value!r:.200}")


def _habits(tokenizer: Any, texts: Sequence[str]) -> dict[str, Any]:
    """Return what of a tokenizer decides which tokens a model gets, by name."""
    return {
        "EOS token": tokenizer.eos_token_id,
        "pad token": tokenizer.pad_token_id,
        "first token": tokenizer.bos_token_id,
        "chat template": tokenizer.chat_template,
        "number of tokens": len(tokenizer),
        "text of the probes in tokens": [tokenizer(text).input_ids for text in texts],
        "answered probe conversation in tokens": rendered_probe(tokenizer),
        "asked probe conversation in tokens": rendered_probe(tokenizer, add_generation_prompt=True),
    }


def rendered_probe(tokenizer: Any, **how: Any) -> list[int]:
    """Return a short conversation in tokens; of a template that refuses it, in plain words instead."""
    try:
        chat = TokenizerChat(tokenizer)
        return chat.token_ids(chat.render(PROBE_CONVERSATION, **how))
    except Exception:  # a template may raise anything, and then does so again
        tokens: list[int] = tokenizer(" ".join(turn["content"] for turn in PROBE_CONVERSATION)).input_ids
        return tokens
