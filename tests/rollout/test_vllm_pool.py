"""Real vLLM engines in real Ray actors, on the CPU. Minutes."""

import copy
import os
import signal
import subprocess
import sys
import time
from collections.abc import Iterator
from pathlib import Path

import psutil
import pytest
import ray
import torch
from ray.util.placement_group import placement_group, remove_placement_group
from ray.util.scheduling_strategies import PlacementGroupSchedulingStrategy
from transformers import PreTrainedModel

from rollout.config import VLLMEngineConfig, WeightSyncConfig
from rollout.engine import EngineModel
from rollout.pools import start_pool
from rollout.types import Completion, GenerationRequest, RolloutError
from rollout.weight_sync import SyncReport, WeightSync, policy_weights
from rollout.workers import RayPool
from tests.rollout.tiny_models import CONTEXT, answers, save_config, tiny_model, token_logprobs

pytestmark = pytest.mark.real

PROBES = [[5, 6, 7, 8, 9, 10], [3, 2, 60, 61]]


def start(model: PreTrainedModel, folder: Path, **changes: object) -> RayPool:
    engine = EngineModel(folder=save_config(model, folder), precision="float32", seed=0)
    small_steps = {"max_num_batched_tokens": CONTEXT}  # so that few prompts fit into one step of the scheduler
    values = {"max_num_seqs": 64, "request_timeout_s": 120, "extra": small_steps, **changes}
    config = VLLMEngineConfig(max_model_tokens=CONTEXT, **values)
    pool = start_pool(config, engine)
    assert isinstance(pool, RayPool)
    return pool


def publish(pool: RayPool, model: PreTrainedModel, version: int, **changes: object) -> SyncReport:
    sync = WeightSync(pool, WeightSyncConfig(max_drift=1e-4, **changes))
    try:
        expected = [token_logprobs(model, probe) for probe in PROBES]
        return sync.publish(policy_weights(model), version, PROBES, expected)
    finally:
        sync.close()


def request(prompt: tuple[int, ...] = (5, 6, 7), seed: int = 1, **changes: object) -> GenerationRequest:
    values = {"num_completions": 4, "max_tokens": 20, "temperature": 1.0, "eos_ids": (1, 2), **changes}
    return GenerationRequest(prompt_ids=prompt, seed=seed, **values)


def assert_logprobs_are_the_models(
    completions: tuple[Completion, ...], model: PreTrainedModel, temperature: float
) -> None:
    for completion in completions:
        expected = token_logprobs(model, [5, 6, 7, *completion.token_ids], temperature)[2:]
        assert completion.logprobs == pytest.approx(expected, abs=1e-4)


def is_alive(pid: int) -> bool:
    return psutil.pid_exists(pid) and psutil.Process(pid).status() != psutil.STATUS_ZOMBIE


def core_of(actor: int, within_s: float = 30.0) -> int:
    """vLLM's own process below an actor: its core, in which the worker runs."""
    deadline = time.monotonic() + within_s
    while True:
        below = {child.pid: child for child in psutil.Process(actor).children(recursive=True)}
        engines = [pid for pid, child in below.items() if "resource_tracker" not in " ".join(child.cmdline())]
        if len(engines) == 1 and below[engines[0]].ppid() == actor:
            return engines[0]
        assert time.monotonic() < deadline, {pid: child.cmdline() for pid, child in below.items()}
        time.sleep(0.1)


def assert_soon_gone(pids: list[int], within_s: float = 60.0) -> None:
    deadline = time.monotonic() + within_s
    while left := [pid for pid in pids if is_alive(pid)]:
        assert time.monotonic() < deadline, f"processes {left} are still there after {within_s} s"
        time.sleep(0.1)


@pytest.fixture(scope="module", autouse=True)
def cluster() -> Iterator[None]:
    ray.init(num_cpus=3, include_dashboard=False, log_to_driver=False, _node_ip_address="127.0.0.1")
    yield
    ray.shutdown()


@pytest.fixture(scope="module")
def qwen3(tmp_path_factory: pytest.TempPathFactory) -> Iterator[tuple[PreTrainedModel, RayPool]]:
    model = tiny_model("qwen3")
    assert model.config.tie_word_embeddings
    pool = start(model, tmp_path_factory.mktemp("qwen3"), sleep=True)
    publish(pool, model, 0)
    core = core_of(pool.pids[0])
    yield model, pool
    pool.close()
    pool.close()
    assert_soon_gone([*pool.pids, core])


@pytest.mark.parametrize("temperature", [0.0, 0.7, 1.0])
def test_sampled_logprobs_are_the_learners_at_the_sampling_temperature(
    qwen3: tuple[PreTrainedModel, RayPool], temperature: float
) -> None:
    model, pool = qwen3
    [completions] = answers(pool, [request(temperature=temperature)])
    assert len(completions) == 4
    assert_logprobs_are_the_models(completions, model, temperature or 1.0)


@pytest.mark.parametrize("transport", ["shared_memory", "broadcast"])
def test_every_sync_brings_new_weights_though_the_head_is_tied(
    qwen3: tuple[PreTrainedModel, RayPool], transport: str
) -> None:
    model, pool = qwen3
    [before] = pool.logprobs(PROBES)
    report = publish(pool, changed := tiny_model("qwen3", seed=1), 1, transport=transport)
    [after] = pool.logprobs(PROBES)
    assert report.drift_max < 1e-4
    assert max(abs(a - b) for a, b in zip(before[0], after[0], strict=True)) > 0.1
    [completions] = answers(pool, [request()])
    assert_logprobs_are_the_models(completions, changed, 1.0)
    assert {version for completion in completions for version in completion.versions} == {1}
    publish(pool, model, 0)


def test_a_pool_that_slept_answers_with_the_next_weights(qwen3: tuple[PreTrainedModel, RayPool]) -> None:
    model, pool = qwen3
    pool.sleep()
    pool.sleep()
    publish(pool, changed := tiny_model("qwen3", seed=3), 5)
    [completions] = answers(pool, [request()])
    assert_logprobs_are_the_models(completions, changed, 1.0)
    publish(pool, model, 0)


def test_weights_that_are_not_the_learners_are_noticed(qwen3: tuple[PreTrainedModel, RayPool]) -> None:
    model, pool = qwen3
    other = tiny_model("qwen3", seed=2)
    sync = WeightSync(pool, WeightSyncConfig())
    with pytest.raises(RolloutError, match="engine 0 differs from the learner"):
        sync.publish(policy_weights(other), 1, PROBES, [token_logprobs(model, probe) for probe in PROBES])
    sync.close()
    publish(pool, model, 0)


def test_a_sync_without_the_tied_head_is_refused_by_name(qwen3: tuple[PreTrainedModel, RayPool]) -> None:
    model, pool = qwen3
    sync = WeightSync(pool, WeightSyncConfig())
    headless = [(name, tensor) for name, tensor in policy_weights(model) if name != "lm_head.weight"]
    with pytest.raises(RolloutError, match=r"engine 0 failed to load version 1: .*'lm_head.weight'"):
        sync.publish(headless, 1, PROBES, [token_logprobs(model, probe) for probe in PROBES])
    sync.close()
    publish(pool, model, 0)


def test_seeds_repeat_and_completion_g_is_the_one_of_seed_plus_g(
    qwen3: tuple[PreTrainedModel, RayPool],
) -> None:
    pool = qwen3[1]
    requests = [request((5, 6, seed), seed) for seed in range(40)]
    first, second = dict(enumerate(answers(pool, requests))), dict(enumerate(answers(pool, requests)))
    assert {at: [c.token_ids for c in group] for at, group in first.items()} == {
        at: [c.token_ids for c in group] for at, group in second.items()
    }
    [alone] = answers(pool, [request((5, 6, 7), 7 + 2, num_completions=1)])
    assert alone[0].token_ids == first[7][2].token_ids


def test_more_prompts_than_fit_into_one_step_are_answered(qwen3: tuple[PreTrainedModel, RayPool]) -> None:
    prompts = [tuple(3 + (7 * at + t) % 50 for t in range(30)) for at in range(40)]
    requests = [request(prompt, seed=at) for at, prompt in enumerate(prompts)]
    assert all(len(completions) == 4 for completions in answers(qwen3[1], requests))


def test_a_completion_ends_with_its_end_token_or_for_want_of_tokens(
    qwen3: tuple[PreTrainedModel, RayPool],
) -> None:
    eos_ids = tuple(range(0, 64, 8))
    groups = dict(enumerate(answers(qwen3[1], [request((seed,), seed, eos_ids=eos_ids) for seed in range(9)])))
    completions = [completion for group in groups.values() for completion in group]
    assert {completion.finish_reason for completion in completions} == {"stop", "length"}
    for completion in completions:
        *inner, last = completion.token_ids
        assert not set(inner) & set(eos_ids)
        assert (last in eos_ids) == (completion.finish_reason == "stop")
        assert completion.finish_reason == "stop" or len(completion.token_ids) == 20


def test_late_completions_are_cut_where_they_are(qwen3: tuple[PreTrainedModel, RayPool]) -> None:
    model, pool = qwen3
    many = [request((5, 6, 7), seed, max_tokens=100, eos_ids=(), num_completions=64) for seed in range(9)]
    late = request((5, 6, 7), 4, max_tokens=100, eos_ids=(), deadline_s=0.05)
    *others, cut = answers(pool, [*many, late])
    assert {len(completion.token_ids) for completions in others for completion in completions} == {100}
    assert {completion.finish_reason for completion in cut} == {"deadline"}
    assert all(len(completion.token_ids) < 100 for completion in cut)
    assert_logprobs_are_the_models(cut, model, 1.0)


def test_weights_land_while_completions_are_in_flight_and_each_token_has_its_version(
    qwen3: tuple[PreTrainedModel, RayPool],
) -> None:
    """Versions differ in the output head alone, so that the keys and values of one serve the others."""
    model, pool = qwen3
    heads = {}
    for version in (11, 12, 13):
        torch.manual_seed(version)
        heads[version] = copy.deepcopy(model)
        heads[version].config.tie_word_embeddings = False
        heads[version].lm_head.weight = torch.nn.Parameter(torch.randn_like(model.lm_head.weight))
    publish(pool, heads[11], 11)
    futures = [pool.submit(request((5, 6, 7), seed, max_tokens=100, eos_ids=())) for seed in range(40)]
    for version in (12, 13):
        time.sleep(0.15)
        publish(pool, heads[version], version)
    completions = [completion for future in futures for completion in future.result(60)]
    spans = [tuple(sorted(set(completion.versions))) for completion in completions]
    assert any(len(span) > 1 for span in spans), spans
    assert all(list(completion.versions) == sorted(completion.versions) for completion in completions)
    scored = {version: head for version, head in heads.items() if any(version in span for span in spans)}
    for completion in completions:
        sequence = [5, 6, 7, *completion.token_ids]
        expected = {version: token_logprobs(head, sequence)[2:] for version, head in scored.items()}
        of_its_version = [expected[version][at] for at, version in enumerate(completion.versions)]
        assert completion.logprobs == pytest.approx(of_its_version, abs=1e-4)
    assert {v for c in answers(pool, [request((5, 6, 7), 99)])[0] for v in c.versions} == {13}
    publish(pool, model, 0)


@pytest.mark.exhaustive
def test_a_killed_engine_is_replaced_with_the_current_weights_and_its_prompts_are_asked_again(tmp_path: Path) -> None:
    model = tiny_model("gpt_neox")
    pool = start(model, tmp_path)
    sync = WeightSync(pool, WeightSyncConfig(max_drift=1e-4, transport="broadcast"))  # who dies leaves a group behind
    for version in (0, 1):
        model = tiny_model("gpt_neox", seed=version)
        expected = [token_logprobs(model, probe) for probe in PROBES]
        sync.publish(policy_weights(model), version, PROBES, expected)
    pid, core = pool.pids[0], core_of(pool.pids[0])
    futures = [pool.submit(request(max_tokens=100, eos_ids=(), seed=seed)) for seed in range(300)]
    futures[0].result(60)
    os.kill(pid, signal.SIGKILL)
    found = [future.result(180) for future in futures]
    assert_soon_gone([pid, core])
    assert pool.pids[0] != pid
    assert {version for completions in found for completion in completions for version in completion.versions} == {1}
    assert_logprobs_are_the_models(found[-1], model, 1.0)
    assert pool.take_metrics() == {"rollout/engine_restarts": 1.0, "rollout/engines_ready": 1.0}
    core = core_of(pool.pids[0])
    futures = [pool.submit(request(max_tokens=100, eos_ids=(), seed=seed)) for seed in range(100)]
    futures[0].result(60)
    os.kill(core, signal.SIGKILL)  # vLLM's own process below the actor; both threads hear of it
    [again] = pool.logprobs(PROBES)
    assert again[0] == pytest.approx(expected[0], abs=1e-4)
    assert all(len(future.result(180)) == 4 for future in futures)
    assert pool.take_metrics() == {"rollout/engine_restarts": 1.0, "rollout/engines_ready": 1.0}
    sync.close()
    pool.close()
    assert_soon_gone([*pool.pids, core])


@pytest.mark.exhaustive
def test_where_no_engine_can_be_had_everything_fails_by_its_name(tmp_path: Path) -> None:
    pool = start(tiny_model("qwen3"), tmp_path, max_restarts=0)
    future = pool.submit(request(max_tokens=100, eos_ids=(), num_completions=400))
    core = core_of(pool.pids[0])
    os.kill(pool.pids[0], signal.SIGKILL)
    with pytest.raises(RolloutError, match=r"no engine is left to answer. engine 0: .*can be resumed"):
        future.result(30)
    with pytest.raises(RolloutError, match="no engine is left"):
        pool.submit(request()).result(30)
    with pytest.raises(RolloutError, match="no engine is left"):
        pool.logprobs(PROBES)
    pool.close()
    assert_soon_gone([core])


@pytest.mark.exhaustive
def test_an_engine_that_answers_nothing_is_replaced(tmp_path: Path) -> None:
    model = tiny_model("qwen3")
    pool = start(model, tmp_path, request_timeout_s=15.0)  # an engine's first forward takes 3 s, more under load
    sync = WeightSync(pool, WeightSyncConfig(max_drift=1e-4))
    sync.publish(policy_weights(model), 0, PROBES, [token_logprobs(model, probe) for probe in PROBES])
    pid = pool.pids[0]
    stopped = core_of(pid)
    os.kill(stopped, signal.SIGSTOP)
    completions = pool.submit(request()).result(300)
    assert_logprobs_are_the_models(completions, model, 1.0)
    assert pool.pids[0] != pid
    second = pool.pids[0]
    os.kill(second, signal.SIGSTOP)  # the actor itself, which has nothing to do: nobody notices before the next weights
    model = tiny_model("qwen3", seed=1)
    report = publish(pool, model, 1, timeout_s=15.0)
    assert report.drift_max < 1e-4 and pool.pids[0] != second
    sync.close()
    pool.close()
    assert_soon_gone([pid, stopped, second])


def _drift_of_an_engine_started_here(folder: Path) -> float:
    model = tiny_model("llama")
    pool = start(model, folder)
    try:
        return publish(pool, model, 0).drift_max
    finally:
        pool.close()


@pytest.mark.exhaustive
def test_engines_take_the_bundles_after_the_learners(tmp_path: Path) -> None:
    group = placement_group([{"CPU": 1}, {"CPU": 1}])  # with the qwen3 pool, the whole cluster
    ray.get(group.ready(), timeout=60)
    learner = ray.remote(_drift_of_an_engine_started_here).options(
        num_cpus=1,
        scheduling_strategy=PlacementGroupSchedulingStrategy(group, placement_group_bundle_index=0),
    )
    answer = learner.remote(tmp_path)
    assert ray.get(answer, timeout=300) < 1e-4
    remove_placement_group(group)


_DRIVER = """
import pathlib, sys, time, ray
from tests.rollout.test_vllm_pool import core_of, start, tiny_model
ray.init(num_cpus=2, include_dashboard=False, log_to_driver=False, _node_ip_address="127.0.0.1")
pool = start(tiny_model("qwen3"), pathlib.Path(sys.argv[1]))
print("pids", *pool.pids, core_of(pool.pids[0]), flush=True)
time.sleep(600)
"""


@pytest.mark.exhaustive
def test_a_killed_driver_leaves_no_process(tmp_path: Path) -> None:
    environment = {key: value for key, value in os.environ.items() if not key.startswith("RAY_")}
    driver = subprocess.Popen(
        [sys.executable, "-c", _DRIVER, str(tmp_path)], stdout=subprocess.PIPE, text=True, env=environment
    )
    try:
        assert driver.stdout is not None
        line = next(line for line in driver.stdout if line.startswith("pids"))
    finally:
        driver.kill()
        driver.wait(timeout=10)
    assert_soon_gone([int(pid) for pid in line.split()[1:]], within_s=60)
