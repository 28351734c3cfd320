from collections import Counter
from collections.abc import Iterator
from pathlib import Path

import pytest
import torch
from transformers import PreTrainedModel

from rollout.config import TransformersEngineConfig, WeightSyncConfig
from rollout.engine import EngineModel, Pool
from rollout.pools import start_pool
from rollout.types import GenerationRequest, RolloutError
from rollout.weight_sync import WeightSync, policy_weights
from tests.rollout.tiny_models import CONTEXT, FAMILIES, answers, save_config, tiny_model, token_logprobs

PROBES = [[5, 6, 7, 8], [9, 2, 3]]


def start(model: PreTrainedModel, folder: Path, **options: int) -> Pool:
    """A pool that holds the model's weights as version 3."""
    engine = EngineModel(folder=save_config(model, folder), precision="float32", seed=0)
    pool = start_pool(TransformersEngineConfig(max_model_tokens=CONTEXT, **options), engine)
    sync = WeightSync(pool, WeightSyncConfig(max_drift=1e-5, folder=str(folder)))
    sync.publish(policy_weights(model), 3, PROBES, [token_logprobs(model, probe) for probe in PROBES])
    sync.close()
    return pool


def request(prompt: tuple[int, ...] = (5, 6, 7), seed: int = 1, **changes: object) -> GenerationRequest:
    values = {"num_completions": 4, "max_tokens": 20, "temperature": 1.0, "eos_ids": (1, 2), **changes}
    return GenerationRequest(prompt_ids=prompt, seed=seed, **values)


@pytest.fixture(scope="module", params=FAMILIES)
def family(
    request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory
) -> Iterator[tuple[PreTrainedModel, Pool]]:
    model = tiny_model(request.param)
    pool = start(model, tmp_path_factory.mktemp(request.param))
    yield model, pool
    pool.close()
    pool.close()


@pytest.mark.parametrize("temperature", [1.0, 0.7])
def test_reported_logprobs_are_those_of_a_plain_forward_at_the_sampling_temperature(
    family: tuple[PreTrainedModel, Pool], temperature: float
) -> None:
    model, pool = family
    [completions] = answers(pool, [request(temperature=temperature)])
    assert len({completion.token_ids for completion in completions}) > 1
    for completion in completions:
        expected = token_logprobs(model, [5, 6, 7, *completion.token_ids], temperature)[2:]
        assert completion.logprobs == pytest.approx(expected, abs=1e-5)
        assert completion.versions == (3,) * len(completion.token_ids)


def test_a_completion_ends_with_the_end_token_or_for_want_of_tokens(
    family: tuple[PreTrainedModel, Pool],
) -> None:
    eos_ids = tuple(range(0, 64, 8))
    found = answers(family[1], [request((seed,), seed, eos_ids=eos_ids) for seed in range(9)])
    completions = [completion for group in found for completion in group]
    assert {completion.finish_reason for completion in completions} == {"stop", "length"}
    for completion in completions:
        *inner, last = completion.token_ids
        assert not set(inner) & set(eos_ids)
        assert (last in eos_ids) == (completion.finish_reason == "stop")
        assert completion.finish_reason == "stop" or len(completion.token_ids) == 20


def test_completions_do_not_depend_on_what_else_is_asked(family: tuple[PreTrainedModel, Pool]) -> None:
    pool = family[1]
    alone = answers(pool, [request()])[0]
    amid = answers(pool, [request((9,), 50), request(), request((8, 8), 60)])[1]
    assert alone == amid


def test_completion_g_is_the_one_of_seed_plus_g(family: tuple[PreTrainedModel, Pool]) -> None:
    pool = family[1]
    together = answers(pool, [request(seed=40)])[0]
    apart = [answers(pool, [request(seed=40 + g, num_completions=1)])[0][0] for g in range(4)]
    assert [c.token_ids for c in together] == [c.token_ids for c in apart]


def test_greedy_takes_the_most_likely_token(family: tuple[PreTrainedModel, Pool]) -> None:
    model, pool = family
    first, second = answers(pool, [request(temperature=0.0, num_completions=2, eos_ids=())])[0]
    sequence = [5, 6, 7, *first.token_ids]
    best = model(torch.tensor([sequence])).logits[0].argmax(-1).tolist()
    assert sequence[3:] == best[2:-1]
    assert first.token_ids == second.token_ids


def test_tokens_are_drawn_as_often_as_the_model_says(tmp_path: Path) -> None:
    model = tiny_model("qwen3")
    pool = start(model, tmp_path)
    [drawn] = answers(pool, [request(num_completions=4000, max_tokens=1)])
    counts = Counter(completion.token_ids[0] for completion in drawn)
    expected = model(torch.tensor([[5, 6, 7]])).logits[0, -1].softmax(-1).tolist()
    deviations = [abs(counts[token] / 4000 - share) for token, share in enumerate(expected)]
    assert max(deviations) < 4 * 0.5 / 4000**0.5  # four standard deviations of the likeliest kind of token


def test_splitting_a_group_for_memory_changes_no_token(tmp_path: Path) -> None:
    model = tiny_model("llama")
    whole, split = start(model, tmp_path / "a"), start(model, tmp_path / "b", max_batch_tokens=50)
    assert [c.token_ids for c in answers(whole, [request()])[0]] == [
        c.token_ids for c in answers(split, [request()])[0]
    ]


def test_a_request_that_does_not_fit_says_so(family: tuple[PreTrainedModel, Pool]) -> None:
    with pytest.raises(ValueError, match=r"3 tokens of prompt and 200 of completion.* 128 tokens"):
        answers(family[1], [request(max_tokens=200)])


def test_weights_of_another_model_are_refused(tmp_path: Path) -> None:
    pool = start(tiny_model("qwen3"), tmp_path)
    sync = WeightSync(pool, WeightSyncConfig(folder=str(tmp_path)))
    with pytest.raises(RolloutError, match="do not fit"):
        sync.publish(policy_weights(tiny_model("gpt_neox")), 1, PROBES, [[0.0] * 3, [0.0] * 2])
