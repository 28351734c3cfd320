"""Policies: loaded with every check that the hand-over asks for."""

import hashlib
import logging
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import peft
import torch
import transformers

from rewards.chat_template import RunawayTemplateError
from rewards.hub import HubError, model_files
from rewards.remote_code import require_read_code
from stages import artifact
from stages.artifact import Manifest, Probe
from stages.base import RunFacts, StageContext, StageError
from stages.generation_config import savable
from stages.logprobs import sequence_logprobs
from stages.model_check import require_fit
from stages.model_folder import (
    ModelFolderError,
    generation_eos_ids,
    generation_settings,
    read_model_config,
    weight_files,
)
from stages.proof import EXACT, differences

logger = logging.getLogger(__name__)

DTYPES = {"float32": torch.float32, "bfloat16": torch.bfloat16, "float16": torch.float16}
NUMBERS_OF_DROPOUT = ("dropout", "attention_dropout", "activation_dropout", "hidden_dropout", "layerdrop")
"""Attributes by which modules of transformers' drop something without a module for it."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Policy:
    """A loaded model with all that belongs to it."""

    model: Any
    """A transformers causal model, or PEFT's wrapper around one."""
    tokenizer: Any
    folder: Path
    """Where it was loaded from."""
    eos_ids: tuple[int, ...]
    """Tokens that end a turn."""
    weights_sha256: str
    """Of the weights it was loaded with: the identity of the reference."""


def device() -> torch.device:
    """Return the device that learners use: the GPU where there is one."""
    return torch.device("cuda" if torch.cuda.is_available() else "cpu")


def base_folder(facts: RunFacts) -> Path:
    """Return the folder of the base model; of a Hub id the files of its revision are downloaded first."""
    if Path(facts.model).is_dir():
        return Path(facts.model)
    name = facts.hub_name()
    try:
        require_read_code(name)
        folder = model_files(name)
    except HubError as error:
        raise StageError(str(error)) from error
    try:
        require_fit(folder, trust_remote_code=facts.trust_remote_code)
    except (ModelFolderError, RunawayTemplateError) as error:
        raise StageError(f"{name} from the Hub: {error}") from error
    return folder


def policy_folder(context: StageContext, role: str = "policy") -> Path:
    """Return the folder of the policy in this role: an earlier stage's output, or the base model."""
    return context.inputs[role] if role in context.inputs else base_folder(context.facts)


def load_policy(context: StageContext, *, role: str = "policy") -> Policy:
    """Load a policy in float32 (the learner's own precision; autocast does the rest), verified against its manifest.

    Raises StageError where tokenizer, template, EOS, precision or log-probabilities differ from what was handed over.
    """
    transformers.set_seed(context.seed)  # a fresh adapter's weights follow from it
    folder = policy_folder(context, role)
    require_model(folder)
    tokenizer = load_tokenizer(folder, context.facts)
    eos_ids = end_tokens(folder, tokenizer)
    model, info = transformers.AutoModelForCausalLM.from_pretrained(
        folder,
        dtype=torch.float32,
        use_safetensors=True,
        trust_remote_code=context.facts.trust_remote_code,
        attn_implementation="sdpa",
        generation_config=savable(generation_settings(folder), eos_ids),
        output_loading_info=True,
    )
    if missing := sorted(info["missing_keys"]):
        raise StageError(
            f"the weights in {folder} lack {len(missing)} of those that a {type(model).__name__} has, such as "
            f"{missing[0]}: random numbers would take their place; name a whole causal language model"
        )
    model = model.to(device())
    model.config.use_cache = False
    policy = Policy(
        model=model,
        tokenizer=tokenizer,
        folder=folder,
        eos_ids=eos_ids,
        weights_sha256=artifact.weights_digest(folder),
    )
    if (folder / artifact.MANIFEST).is_file():
        _verify(policy, verify_files(folder, tokenizer, context.facts))
    return policy


def require_model(folder: Path) -> None:
    """Raise StageError where a folder holds no whole model in safetensors that can be trained, as `check` would."""
    try:
        read_model_config(folder)
        weight_files(folder)
    except ModelFolderError as error:
        raise StageError(str(error)) from error


def load_tokenizer(folder: Path, facts: RunFacts) -> Any:
    """Load a tokenizer that has a chat template and an EOS token.

    Where it names no pad token EOS pads: the losses here mask by position, so an EOS that ends a turn still counts.
    """
    tokenizer = transformers.AutoTokenizer.from_pretrained(folder, trust_remote_code=facts.trust_remote_code)
    try:
        tokenizer.get_chat_template()
    except ValueError as error:
        raise StageError(f"the tokenizer in {folder} has no chat template that is used: {error}") from error
    if tokenizer.eos_token_id is None:
        raise StageError(f"the tokenizer in {folder} names no eos_token; generation would never end")
    if tokenizer.pad_token_id is None:
        tokenizer.pad_token = tokenizer.eos_token
    return tokenizer


def load_reference(policy: Policy, *, trust_remote_code: bool) -> Any:
    """Load a frozen copy of the weights that the policy was loaded with."""
    reference = transformers.AutoModelForCausalLM.from_pretrained(
        policy.folder,
        dtype=torch.float32,
        use_safetensors=True,
        attn_implementation="sdpa",
        trust_remote_code=trust_remote_code,
        generation_config=policy.model.generation_config,
    )
    return reference.to(device()).eval().requires_grad_(False)


def load_weights(model: Any, folder: Path) -> None:
    """Give a model the weights that transformers or PEFT saved in a folder; an adapter gets those of an adapter."""
    if isinstance(model, peft.PeftModel):
        saved = peft.load_peft_weights(str(folder))
        peft.set_peft_model_state_dict(model, saved)
        if lost := sorted(set(peft.get_peft_model_state_dict(model)) - set(saved)):
            raise StageError(f"the adapter in {folder} lacks {len(lost)} of what trains, such as {lost[0]}")
        return
    saved = type(model).from_pretrained(folder, dtype=torch.float32, use_safetensors=True)
    model.load_state_dict(saved.state_dict())


def cast_parameters(model: torch.nn.Module, dtype: torch.dtype) -> None:
    """Cast what is learned, in place, and no buffer: a rotary table that was rounded once is another model."""
    for parameter in model.parameters():
        parameter.data = parameter.data.to(dtype)


def without_dropout(model: torch.nn.Module) -> None:
    """Ratios compare the policy with itself: a dropout that differs between two passes would be taken for change."""
    for module in model.modules():
        if isinstance(module, torch.nn.Dropout):
            module.p = 0.0
        for name in NUMBERS_OF_DROPOUT:
            if isinstance(getattr(module, name, None), float):
                setattr(module, name, 0.0)


def verify_files(folder: Path, tokenizer: Any, facts: RunFacts) -> Manifest:
    """Return the manifest of a policy's folder whose files, precision and chat template are what was handed over.

    Raises StageError for what is not.
    """
    manifest = artifact.read(folder, "model")
    _require_same(folder, manifest, "precision", manifest.dtype, facts.precision)
    _require_same(folder, manifest, "chat template", manifest.chat_template_sha256, template_digest(tokenizer))
    return manifest


def _verify(policy: Policy, manifest: Manifest) -> None:
    folder = policy.folder
    _require_same(folder, manifest, "end-of-turn tokens", manifest.eos_ids, list(policy.eos_ids))
    _require_same(folder, manifest, "weights", manifest.weights_sha256, policy.weights_sha256)
    if manifest.probe is not None:
        drift = probe_drift(policy, manifest.probe)
        if not drift <= EXACT:
            raise StageError(
                f"the policy loaded from {policy.folder} is not the one that stage {manifest.stage!r} saved: a probe "
                f"token's log-probability moved by {drift:.3g} nats (limit {EXACT:g})"
            )
        logger.info("hand-over from %s verified; largest drift on its probe %.2g nats", manifest.stage, drift)


def _require_same(folder: Path, manifest: Manifest, what: str, handed_over: Any, loaded: Any) -> None:
    if handed_over != loaded:
        raise StageError(
            f"the {what} loaded from {folder} ({loaded}) is not what stage {manifest.stage!r} handed over "
            f"({handed_over})"
        )


def probe_drift(policy: Policy, probe: Probe) -> float:
    """Return the largest difference on a probe token between now and when the artifact was saved, in nats."""
    return max(differences(probe.logprobs, sequence_logprobs(policy.model, probe.token_ids)), default=0.0)


def end_tokens(folder: Path, tokenizer: Any) -> tuple[int, ...]:
    """Return the tokens that end a turn by the folder's files: a model's class has a default that might be any."""
    return tuple(sorted({*generation_eos_ids(folder), tokenizer.eos_token_id}))


def template_digest(tokenizer: Any) -> str:
    """Return the hash of a template, or of several by their names, whatever their order."""
    template = tokenizer.chat_template
    if isinstance(template, dict):
        template = sorted(template.items()) if set(template) != {"default"} else template["default"]
    return hashlib.sha256(str(template).encode()).hexdigest()
