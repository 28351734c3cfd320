"""One copy of the policy in vLLM's own engine, on a CPU or on GPUs. Lives in a Ray actor, see `workers`.

vLLM is imported when an engine is made and not before: it reads its environment at import.
"""

import asyncio
import os
from collections.abc import Coroutine, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any
from uuid import uuid4

from rollout.config import VLLMEngineConfig
from rollout.engine import EngineModel
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
        self._in_flight: dict[str, list[_Change]] = {}
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
        name = uuid4().hex
        changes = self._in_flight[name] = []
        try:
            output = await self._ask(request.prompt_ids, params, name, request.deadline_s)
        finally:
            del self._in_flight[name]
        samples = sorted(output.outputs, key=lambda sample: sample.index)
        completions = tuple(_completion(sample, changes, self.version) for sample in samples)
        return completions * (request.num_completions // num_samples)

    async def logprobs(self, sequences: Sequence[Sequence[int]]) -> list[list[float]]:
        """Ask vLLM for prompt log-probabilities; all sequences are in flight together."""
        from vllm import SamplingParams

        params = SamplingParams(prompt_logprobs=0, max_tokens=1, temperature=1.0, detokenize=False)
        outputs = await asyncio.gather(*(self._ask(sequence, params, uuid4().hex) for sequence in sequences))
        return [
            [output.prompt_logprobs[at][sequence[at]].logprob for at in range(1, len(sequence))]
            for sequence, output in zip(sequences, outputs, strict=True)
        ]

    async def load_weights(self, files: Sequence[Path], version: int) -> None:
        """Load the files in every worker, between two steps of what is in flight."""
        async with self._updating:
            await self._while_alive(self._update([str(file) for file in files], version))

    def close(self) -> None:
        """Stop vLLM's processes."""
        self._llm.shutdown(timeout=5.0)

    async def _ask(self, token_ids: Sequence[int], params: Any, name: str, deadline_s: float | None = None) -> Any:
        """Wait for the one output of a request; every request here is FINAL_ONLY or one token long.

        At its deadline it is given up, and the output is what there is until then.
        """

        async def last_output() -> Any:
            # keys and values that older weights have made of the same prompt are another prompt's
            prompt = {"prompt_token_ids": list(token_ids), "cache_salt": str(self.version)}
            return [output async for output in self._llm.generate(prompt, params, name)][-1]

        ending = asyncio.create_task(self._end_late(name, deadline_s)) if deadline_s is not None else None
        try:
            return await self._while_alive(last_output())
        finally:
            if ending is not None:
                ending.cancel()

    async def _end_late(self, name: str, deadline_s: float) -> None:
        await asyncio.sleep(deadline_s)
        await self._llm.abort(name)

    async def _update(self, files: list[str], version: int) -> None:
        from vllm.distributed.weight_transfer.base import WeightTransferUpdateRequest

        await self._llm.pause_generation(mode="keep", clear_cache=False)
        try:
            await self._until_outputs_are_read()
            self._note_change()
            await self._llm.start_weight_update()
            await self._llm.update_weights(WeightTransferUpdateRequest(update_info={"files": files}))
            await self._llm.finish_weight_update(str(version))
            self.version = version
        finally:
            await self._llm.resume_generation()

    async def _until_outputs_are_read(self) -> None:
        """Wait until what the paused core has sent lies with the requests, where tokens are counted."""
        await self._llm.is_paused()  # its answer comes after all tokens that were sent before it
        while not self._llm.engine_core.outputs_queue.empty():
            await asyncio.sleep(0.001)
        await asyncio.sleep(0.02)

    def _note_change(self) -> None:
        """Note how many tokens each completion in flight has, so that they keep the version that is being replaced."""
        for state in self._llm.output_processor.request_states.values():
            changes = self._in_flight.get(state.external_req_id)
            if changes is None:
                continue  # a probe
            if not changes or changes[-1].version != self.version:
                parent = state.parent_req
                ended = [] if parent is None else [at for at, out in enumerate(parent.output_aggregator) if out]
                changes.append(_Change(version=self.version, num_tokens=dict.fromkeys(ended)))
            changes[-1].num_tokens[state.request_index] = state.detokenizer.num_output_tokens()

    async def _while_alive(self, call: Coroutine[Any, Any, Any]) -> Any:
        """Wait for vLLM, and look whether it lives: a killed core can leave its callers waiting for ever."""
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


@dataclass(frozen=True, slots=True, kw_only=True)
class _Change:
    """New weights landed while a request was in flight."""

    version: int
    """What sampled until then."""
    num_tokens: dict[int, int | None]
    """Completion -> its tokens until then; None for one that had ended. One that is not there had not begun."""


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


def _completion(sample: Any, changes: Sequence[_Change], version: int) -> Completion:
    """Return vLLM's sample as ours. Raises RolloutError where vLLM ended it for a reason that we do not know."""
    token_ids = tuple(sample.token_ids)
    if sample.finish_reason not in _FINISH_REASONS:
        raise RolloutError(f"vLLM ended a completion after {len(token_ids)} tokens: {sample.finish_reason!r}")
    return Completion(
        token_ids=token_ids,
        logprobs=tuple(entry[token].logprob for entry, token in zip(sample.logprobs, token_ids, strict=True)),
        versions=_versions(len(token_ids), sample.index, changes, version),
        finish_reason=_FINISH_REASONS[sample.finish_reason],
    )


def _versions(length: int, index: int, changes: Sequence[_Change], version: int) -> tuple[int, ...]:
    """Return the version of each token of completion ``index``; ``version`` sampled those after the last change."""
    found: list[int] = []
    for change in changes:
        until = change.num_tokens.get(index, 0)
        until = length if until is None else until
        found += [change.version] * (until - len(found))
    return tuple(found + [version] * (length - len(found)))
