"""One copy of the policy in the stage's own process: transformers' forward and a decode loop of ours.

A request is always computed alone and in the same steps, so its completions depend on the weights and on the
request, and on nothing else that happens to be asked: a run that is resumed samples the same tokens. Exact,
and slow.
"""

from collections.abc import Iterator, Sequence
from typing import Any

import torch
from transformers import AutoConfig, AutoModelForCausalLM

from rollout.config import TransformersEngineConfig
from rollout.engine import EngineModel, Ticket, require_fit
from rollout.transports.registry import fetch
from rollout.types import Completion, GenerationRequest, RolloutError

_Step = tuple[torch.Tensor, torch.Tensor]


class TransformersEngine:
    """An `Engine` around a transformers causal language model, on the GPU if there is one.

    Completion g draws its uniform numbers from a generator of its own, seeded with ``seed + g``, one number a
    token. Shapes in this file: G completions, T tokens, V vocabulary.
    """

    def __init__(self, model: EngineModel, config: TransformersEngineConfig) -> None:
        self.version = -1
        self._config = config
        self._device = torch.device("cuda" if torch.cuda.is_available() else "cpu")
        architecture = AutoConfig.from_pretrained(model.folder, trust_remote_code=model.trust_remote_code)
        # As in vLLM a head has its own weights, sent under its own name: an adapter may have taught it and the
        # embeddings apart.
        architecture.tie_word_embeddings = architecture.get_text_config().tie_word_embeddings = False
        dtype = getattr(torch, model.precision)
        fresh = AutoModelForCausalLM.from_config(architecture, dtype=dtype, trust_remote_code=model.trust_remote_code)
        self._model = fresh.to(self._device).eval()

    async def generate(self, request: GenerationRequest) -> tuple[Completion, ...]:
        """Answer one prompt, as many completions at a time as `max_batch_tokens` allows."""
        require_fit([request], self._config.max_model_tokens)
        row_tokens = len(request.prompt_ids) + request.max_tokens
        rows = max(1, self._config.max_batch_tokens // row_tokens)
        seeds = range(request.seed, request.seed + request.num_completions)
        chunks = [seeds[at : at + rows] for at in range(0, len(seeds), rows)]
        return tuple(completion for chunk in chunks for completion in self._decode(request, chunk))

    async def logprobs(self, sequences: Sequence[Sequence[int]]) -> list[list[float]]:
        """Score each sequence in a forward of its own."""
        return [self._score(sequence) for sequence in sequences]

    async def load_weights(self, ticket: Ticket, version: int) -> None:
        """Copy the weights in. Raises RolloutError where names or shapes are not the model's."""
        try:
            self._model.load_state_dict(dict(fetch(ticket, device=self._device)))
        except RuntimeError as error:
            raise RolloutError(
                f"the weights of version {version} do not fit the engine's model; send policy_weights(model) "
                f"of the same architecture: {error}"
            ) from error
        self.version = version

    def close(self) -> None:
        """Let go of the model."""
        del self._model

    def _score(self, sequence: Sequence[int]) -> list[float]:
        token_ids = torch.tensor(sequence, device=self._device)
        with torch.inference_mode():
            logprobs_TV = self._model(token_ids[None]).logits[0].float().log_softmax(-1)
        scored: list[float] = logprobs_TV[:-1].gather(-1, token_ids[1:, None])[:, 0].tolist()
        return scored

    def _decode(self, request: GenerationRequest, seeds: Sequence[int]) -> list[Completion]:
        """Sample one completion a seed, all in step until the last has ended or the tokens are used up."""
        uniforms_GT = _uniforms(seeds, request.max_tokens).to(self._device)
        eos = torch.tensor(request.eos_ids, device=self._device, dtype=torch.long)
        ended_G = torch.zeros(len(seeds), dtype=torch.bool, device=self._device)
        steps = []
        with torch.inference_mode():
            for token_G, logprob_G in self._steps(request, uniforms_GT):
                steps.append((token_G, logprob_G))
                ended_G |= torch.isin(token_G, eos)
                if ended_G.all():
                    break
        tokens, logprobs = (torch.stack(column, 1).tolist() for column in zip(*steps, strict=True))
        ends = frozenset(request.eos_ids)
        return [self._completion(*row, ends) for row in zip(tokens, logprobs, strict=True)]

    def _steps(self, request: GenerationRequest, uniforms_GT: torch.Tensor) -> Iterator[_Step]:
        """Yield the next token of every row and its log-probability, both [G], until no token is left."""
        inputs = torch.tensor([request.prompt_ids] * len(uniforms_GT), device=self._device)
        cache: Any = None
        for uniform_G in uniforms_GT.unbind(1):
            output = self._model(input_ids=inputs, past_key_values=cache, use_cache=True, logits_to_keep=1)
            cache = output.past_key_values
            token_G, logprob_G = _sample(output.logits[:, -1], request.temperature, uniform_G)
            yield token_G, logprob_G
            inputs = token_G[:, None]

    def _completion(self, tokens: list[int], logprobs: list[float], eos_ids: frozenset[int]) -> Completion:
        """Cut a row after its first end token."""
        end = next((at for at, token in enumerate(tokens) if token in eos_ids), None)
        length = len(tokens) if end is None else end + 1
        return Completion(
            token_ids=tuple(tokens[:length]),
            logprobs=tuple(logprobs[:length]),
            versions=(self.version,) * length,
            finish_reason="length" if end is None else "stop",
        )


def _uniforms(seeds: Sequence[int], num_tokens: int) -> torch.Tensor:
    """Return [G, T] numbers in [0, 1), row g from seed g; drawn on the CPU, so that devices agree."""
    generators = [torch.Generator().manual_seed(seed) for seed in seeds]
    return torch.stack([torch.rand(num_tokens, generator=g, dtype=torch.float64) for g in generators])


def _sample(logits_GV: torch.Tensor, temperature: float, uniform_G: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor]:
    """Return each row's token, where its cumulative distribution passes ``uniform_G``, and its logprob.

    At temperature 0 the token is the most likely one and its log-probability is the one at temperature 1.
    """
    logprobs_GV = (logits_GV.float() / (temperature or 1.0)).log_softmax(-1)
    if temperature == 0:
        token_G = logprobs_GV.argmax(-1)
    else:
        cumulative_GV = logprobs_GV.double().exp().cumsum(-1)
        target_G1 = uniform_G[:, None] * cumulative_GV[:, -1:]
        token_G = torch.searchsorted(cumulative_GV, target_G1, right=True)[:, 0]
        token_G = token_G.clamp(max=logits_GV.shape[-1] - 1)
    return token_G, logprobs_GV.gather(-1, token_G[:, None])[:, 0]
