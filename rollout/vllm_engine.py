"""One copy of the policy in vLLM's own engine, on a CPU or on GPUs. Lives in a Ray actor, see `workers`.

vLLM is imported when an engine is made and not before: it reads its environment at import.
"""

import asyncio
import os
from collections.abc import Coroutine, Sequence
from typing import Any
from uuid import uuid4

from rollout.config import VLLMEngineConfig
from rollout.engine import EngineModel, Ticket
from rollout.orphans import own_descendants
from rollout.types import Completion, FinishReason, GenerationRequest, RolloutError

_LOOK_EVERY_S = 1.0
_FINISH_REASONS: dict[str, FinishReason] = {"stop": "stop", "length": "length", "abort": "deadline"}


class EngineDeadError(RolloutError):
    """vLLM's own processes died; the engine answers no more."""


class VLLMEngine:
    """An `Engine` around AsyncLLM. Making one blocks until vLLM is ready, 20 s and more.

    Weights land while requests are in flight: these stand still meanwhile and go on with the new ones, on the keys and
    values that they have. Each token has the version that sampled it.
    """

    def __init__(self, model: EngineModel, config: VLLMEngineConfig) -> None:
        self.version = -1
        self._cache_salt = ""
        self._is_asleep = False
        self._updating = asyncio.Lock()
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
        output = await self._ask(request.prompt_ids, params, request.deadline_s)
        samples = sorted(output.outputs, key=lambda sample: sample.index)
        completions = tuple(_completion(sample) for sample in samples)
        return completions * (request.num_completions // num_samples)

    async def logprobs(self, sequences: Sequence[Sequence[int]]) -> list[list[float]]:
        """Ask vLLM for prompt log-probabilities; all sequences are in flight together."""
        from vllm import SamplingParams

        params = SamplingParams(prompt_logprobs=0, max_tokens=1, temperature=1.0, detokenize=False)
        outputs = await asyncio.gather(*(self._ask(sequence, params) for sequence in sequences))
        return [
            [output.prompt_logprobs[at][sequence[at]].logprob for at in range(1, len(sequence))]
            for sequence, output in zip(sequences, outputs, strict=True)
        ]

    async def load_weights(self, ticket: Ticket, version: int) -> None:
        """Have every worker fetch them, between two steps of what is in flight."""
        async with self._updating:
            await self._while_alive(self._update(ticket, version))

    async def sleep(self) -> None:
        """Free the GPU: weights and cache are given up, and allocated again for the next weights."""
        from vllm.platforms import current_platform

        if self._is_asleep or current_platform.is_cpu():
            return
        self._is_asleep = True
        await self._while_alive(self._llm.sleep(level=2, mode="keep"))

    def close(self) -> None:
        """Stop vLLM's processes."""
        self._llm.shutdown(timeout=5.0)

    async def _ask(self, token_ids: Sequence[int], params: Any, deadline_s: float | None = None) -> Any:
        """Wait for the one output of a request; every request here is FINAL_ONLY or one token long.

        At its deadline it is given up, and the output is what there is until then.
        """
        from vllm.inputs.engine import tokens_input

        name = uuid4().hex

        async def last_output() -> Any:
            # keys and values that older weights have made of the same prompt are another prompt's
            prompt = tokens_input(list(token_ids), cache_salt=self._cache_salt)
            return [output async for output in self._llm.generate(prompt, params, name)][-1]

        ending = asyncio.create_task(self._end_late(name, deadline_s)) if deadline_s is not None else None
        try:
            return await self._while_alive(last_output())
        finally:
            if ending is not None:
                ending.cancel()

    async def _end_late(self, name: str, deadline_s: float) -> None:
        """Abort a request at its deadline, again until it is gone: vLLM forgets what it has not registered yet.

        Under its parent's id where it has several samples, else vLLM would keep the parent.
        """
        await asyncio.sleep(deadline_s)
        while True:
            states = [s for s in self._llm.output_processor.request_states.values() if s.external_req_id == name]
            for own in {state.parent_req.request_id if state.parent_req else state.request_id for state in states}:
                await self._llm.abort(own, internal=True)
            await asyncio.sleep(_LOOK_EVERY_S)

    async def _update(self, ticket: Ticket, version: int) -> None:
        from vllm.distributed.weight_transfer.base import WeightTransferUpdateRequest

        await self._llm.pause_generation(mode="keep", clear_cache=False)
        self._cache_salt = str(version)  # what comes from now on is first computed when they have landed
        try:
            if self._is_asleep:
                await self._llm.wake_up(["weights"])
            await self._llm.start_weight_update()
            await self._llm.update_weights(WeightTransferUpdateRequest(update_info={"ticket": ticket}))
            await self._llm.finish_weight_update(str(version))
            if self._is_asleep:
                await self._llm.wake_up(["kv_cache"])
                self._is_asleep = False
            self.version = version
        finally:
            await self._llm.resume_generation()

    async def _while_alive(self, call: Coroutine[Any, Any, Any]) -> Any:
        """Wait for vLLM, and look whether it lives: a killed core can leave its callers waiting without end."""
        from vllm.v1.engine.exceptions import EngineDeadError as VLLMDeadError

        task = asyncio.ensure_future(call)
        try:
            while not task.done():
                await asyncio.wait({task}, timeout=_LOOK_EVERY_S)
                if self._llm.errored and not task.done():
                    raise EngineDeadError("vLLM's engine core process died; its log or the kernel's says why")
            return task.result()
        except VLLMDeadError as error:
            raise EngineDeadError(str(error)) from error
        finally:
            task.cancel()


def _set_environment(config: VLLMEngineConfig) -> None:
    """Set what vLLM reads from its environment; what the user has set stays, but for what the config says."""
    os.environ["VLLM_CPU_KVCACHE_SPACE"] = str(config.cpu_cache_gib)
    os.environ["OMP_NUM_THREADS"] = str(config.cpu_threads)
    defaults = {
        "VLLM_CPU_OMP_THREADS_BIND": "nobind",
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
        "weight_transfer_config": WeightTransferConfig(backend="strop"),
        "worker_extension_cls": "rollout.vllm_transport.WorkerExtension",
    }
    clashes = sorted(ours.keys() & config.extra.keys())
    if clashes:
        raise ValueError(f"'extra' sets {clashes[0]!r}, which Strop sets itself; take it out of 'extra'")
    device: dict[str, Any] = _cpu_arguments(config) if on_cpu else _gpu_arguments(config)
    if config.tensor_parallel > 1:  # inside a placement group vLLM would ask Ray for the same GPUs once more
        device["distributed_executor_backend"] = "mp"
    return {**device, "disable_log_stats": True, **config.extra, **ours}


def _cpu_arguments(config: VLLMEngineConfig) -> dict[str, Any]:
    """Return what vLLM needs on a CPU.

    A prompt must not be prefilled in chunks: for the token sampled after an unfinished chunk vLLM winds the request's
    generator back, which a CPU generator cannot do, and the engine dies ("CPU Generator does not use offset").

    A worker alone runs in the core's own process. vLLM would give it one of its own, whose threads it could count and
    bind, as `_set_environment` has done by now, and have the core wait for it in a loop that takes a whole processor.
    """
    alone = {"distributed_executor_backend": "vllm.v1.executor.uniproc_executor.UniProcExecutor"}
    return {
        **(alone if config.tensor_parallel == 1 else {}),
        "enforce_eager": True,
        "enable_chunked_prefill": False,
        "max_num_batched_tokens": max(8192, config.max_model_tokens),
    }


def _gpu_arguments(config: VLLMEngineConfig) -> dict[str, Any]:
    return {"gpu_memory_utilization": config.memory_fraction, "enable_sleep_mode": config.sleep}


def _completion(sample: Any) -> Completion:
    """Return vLLM's sample as ours. Raises RolloutError where vLLM ended it for a reason that we do not know."""
    token_ids = tuple(sample.token_ids)
    if sample.finish_reason not in _FINISH_REASONS:
        raise RolloutError(f"vLLM ended a completion after {len(token_ids)} tokens: {sample.finish_reason!r}")
    spans = sample.weight_versions or []
    versions = tuple(int(span.version) for span in spans for _ in range(span.start, span.end))
    if len(versions) != len(token_ids):
        raise RolloutError(f"vLLM says of {len(versions)} of {len(token_ids)} tokens which weights sampled them")
    return Completion(
        token_ids=token_ids,
        logprobs=tuple(entry[token].logprob for entry, token in zip(sample.logprobs, token_ids, strict=True)),
        versions=versions,
        finish_reason=_FINISH_REASONS[sample.finish_reason],
    )
