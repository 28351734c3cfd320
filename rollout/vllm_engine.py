"""One copy of the policy in vLLM's own engine, on a CPU or on GPUs. Lives in a Ray actor, see `workers`.

vLLM is imported when an engine is made and not before: it reads its environment at import.
"""

import asyncio
import os
from collections.abc import AsyncIterator, Coroutine, Sequence
from contextlib import asynccontextmanager
from pathlib import Path
from typing import Any
from uuid import uuid4

from rollout.config import VLLMEngineConfig
from rollout.engine import EngineModel
from rollout.orphans import own_descendants
from rollout.types import Completion, FinishReason, GenerationRequest, RolloutError

_LOOK_EVERY_S = 1.0
_FINISH_REASONS: dict[str, FinishReason] = {"stop": "stop", "length": "length"}


class VLLMEngine:
    """An `Engine` around AsyncLLM. Making one blocks until vLLM is ready, 20 s and more.

    Weights change between requests, never within one: a load waits for what is in flight and holds back what
    comes after. So every token of a completion has the version that the engine held when it was asked.
    """

    def __init__(self, model: EngineModel, config: VLLMEngineConfig) -> None:
        self.version = -1
        self._gate = _Gate()
        _set_environment(config)
        own_descendants()
        from vllm.engine.arg_utils import AsyncEngineArgs
        from vllm.v1.engine.async_llm import AsyncLLM

        self._llm = AsyncLLM.from_engine_args(AsyncEngineArgs(**_engine_arguments(model, config)))

    async def generate(self, request: GenerationRequest) -> tuple[Completion, ...]:
        """Answer one prompt. A greedy request is answered once, since all its completions are the same."""
        from vllm import SamplingParams
        from vllm.sampling_params import RequestOutputKind

        num_samples = request.num_completions if request.temperature > 0 else 1
        params = SamplingParams(
            n=num_samples,
            seed=request.seed,
            temperature=request.temperature,
            max_tokens=request.max_tokens,
            stop_token_ids=list(request.eos_ids),
            ignore_eos=True,  # the end token that the model's own configuration names
            logprobs=0,
            detokenize=False,
            output_kind=RequestOutputKind.FINAL_ONLY,
        )
        async with self._gate.passing():
            output = await self._ask(request.prompt_ids, params)
            version = self.version
        samples = sorted(output.outputs, key=lambda sample: sample.index)
        completions = tuple(_completion(sample, version) for sample in samples)
        return completions * (request.num_completions // num_samples)

    async def logprobs(self, sequences: Sequence[Sequence[int]]) -> list[list[float]]:
        """Ask vLLM for prompt log-probabilities; all sequences are in flight together."""
        from vllm import SamplingParams

        params = SamplingParams(prompt_logprobs=0, max_tokens=1, temperature=1.0, detokenize=False)
        async with self._gate.passing():
            outputs = await asyncio.gather(*(self._ask(sequence, params) for sequence in sequences))
        return [
            [output.prompt_logprobs[at][sequence[at]].logprob for at in range(1, len(sequence))]
            for sequence, output in zip(sequences, outputs, strict=True)
        ]

    async def load_weights(self, files: Sequence[Path], version: int) -> None:
        """Load the files in every worker and forget all cached keys and values of the old weights."""
        async with self._gate.closed():
            await self._while_alive(self._update([str(file) for file in files], version))
            self.version = version

    def close(self) -> None:
        """Stop vLLM's processes."""
        self._llm.shutdown(timeout=5.0)

    async def _ask(self, token_ids: Sequence[int], params: Any) -> Any:
        """Wait for the one output of a request; every request here is FINAL_ONLY or one token long."""

        async def last_output() -> Any:
            prompt = {"prompt_token_ids": list(token_ids)}
            return [output async for output in self._llm.generate(prompt, params, uuid4().hex)][-1]

        return await self._while_alive(last_output())

    async def _update(self, files: list[str], version: int) -> None:
        from vllm.distributed.weight_transfer.base import WeightTransferUpdateRequest

        await self._llm.start_weight_update()
        await self._llm.update_weights(WeightTransferUpdateRequest(update_info={"files": files}))
        await self._llm.finish_weight_update(str(version))
        if not await self._llm.reset_prefix_cache():
            raise RolloutError(f"vLLM kept its prefix cache when version {version} came in")

    async def _while_alive(self, call: Coroutine[Any, Any, Any]) -> Any:
        """Wait for vLLM, and look whether it lives: a killed core can leave its callers waiting for ever."""
        task = asyncio.ensure_future(call)
        try:
            while not task.done():
                await asyncio.wait({task}, timeout=_LOOK_EVERY_S)
                if self._llm.errored and not task.done():
                    raise RolloutError("vLLM's engine core process died; its log or the kernel's says why")
            return task.result()
        finally:
            task.cancel()


class _Gate:
    """Lets many pass together; closing waits until all have left and holds back who comes."""

    def __init__(self) -> None:
        self._inside = 0
        self._open = True
        self._changed = asyncio.Condition()

    @asynccontextmanager
    async def passing(self) -> AsyncIterator[None]:
        async with self._changed:
            await self._changed.wait_for(lambda: self._open)
            self._inside += 1
        try:
            yield
        finally:
            async with self._changed:
                self._inside -= 1
                self._changed.notify_all()

    @asynccontextmanager
    async def closed(self) -> AsyncIterator[None]:
        async with self._changed:
            await self._changed.wait_for(lambda: self._open)
            self._open = False
            await self._changed.wait_for(lambda: self._inside == 0)
        try:
            yield
        finally:
            async with self._changed:
                self._open = True
                self._changed.notify_all()


def _set_environment(config: VLLMEngineConfig) -> None:
    """Set what vLLM reads from its environment; what the user has set stays, but for the cache size."""
    os.environ["VLLM_CPU_KVCACHE_SPACE"] = str(config.cpu_cache_gib)
    defaults = {
        "VLLM_CPU_OMP_THREADS_BIND": "nobind",
        "OMP_NUM_THREADS": "1",
        "VLLM_LOGGING_LEVEL": "WARNING",
        "VLLM_NO_USAGE_STATS": "1",
        "DO_NOT_TRACK": "1",
    }
    for name, value in defaults.items():
        os.environ.setdefault(name, value)


def _engine_arguments(model: EngineModel, config: VLLMEngineConfig) -> dict[str, Any]:
    """Return vLLM's arguments. Raises ValueError where `extra` names one that is ours to set."""
    from vllm.config.weight_transfer import WeightTransferConfig
    from vllm.platforms import current_platform

    on_cpu = current_platform.is_cpu()
    ours = {
        "model": str(model.folder),
        "skip_tokenizer_init": True,  # tokens in, tokens out
        "generation_config": "vllm",  # the folder's own would add sampling settings and end tokens to ours
        "dtype": model.precision,
        "seed": model.seed,
        "max_model_len": config.max_model_tokens,
        "max_num_seqs": config.max_num_seqs,
        "tensor_parallel_size": config.tensor_parallel,
        "trust_remote_code": model.trust_remote_code,
        "logprobs_mode": "processed_logprobs",  # at the sampling temperature
        # Weights come by the first sync. On a CPU a tied head would silently keep its old packed ones.
        "load_format": "dummy",
        "hf_overrides": {"tie_word_embeddings": False},
        "weight_transfer_config": WeightTransferConfig(backend="shared_memory"),
        "worker_extension_cls": "rollout.vllm_transport.WorkerExtension",
    }
    clashes = sorted(ours.keys() & config.extra.keys())
    if clashes:
        raise ValueError(f"'extra' sets {clashes[0]!r}, which Strop sets itself; take it out of 'extra'")
    device: dict[str, Any] = _cpu_arguments(config) if on_cpu else {"gpu_memory_utilization": config.memory_fraction}
    if config.tensor_parallel > 1:  # inside a placement group vLLM would ask Ray for the same GPUs once more
        device["distributed_executor_backend"] = "mp"
    return {**device, "disable_log_stats": True, **config.extra, **ours}


def _cpu_arguments(config: VLLMEngineConfig) -> dict[str, Any]:
    """Return what vLLM needs on a CPU.

    A prompt must not be prefilled in chunks: for the token sampled after an unfinished chunk vLLM winds the request's
    generator back, which a CPU generator cannot do, and the engine dies ("CPU Generator does not use offset").
    """
    return {
        "enforce_eager": True,
        "enable_chunked_prefill": False,
        "max_num_batched_tokens": max(8192, config.max_model_tokens),
    }


def _completion(sample: Any, version: int) -> Completion:
    """Return vLLM's sample as ours. Raises RolloutError where vLLM gave it up, by an abort for instance."""
    token_ids = tuple(sample.token_ids)
    if sample.finish_reason not in _FINISH_REASONS:
        raise RolloutError(f"vLLM ended a completion after {len(token_ids)} tokens: {sample.finish_reason!r}")
    return Completion(
        token_ids=token_ids,
        logprobs=tuple(entry[token].logprob for entry, token in zip(sample.logprobs, token_ids, strict=True)),
        versions=(version,) * len(token_ids),
        finish_reason=_FINISH_REASONS[sample.finish_reason],
    )
