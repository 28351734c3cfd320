from pathlib import Path

import pytest
import torch

from rollout.config import WeightSyncConfig
from rollout.types import RolloutError
from rollout.weight_sync import WeightSync, policy_weights
from tests.fakes import FakePool
from tests.rollout.tiny_models import FAMILIES, tiny_model

PROBES = [[1, 2, 3]]
LOGPROBS = [[-1.0, -2.0]]


def sync_with(folder: Path, *engine_logprobs: list[list[float]], max_drift: float = 1e-3) -> WeightSync:
    pool = FakePool(engine_logprobs=engine_logprobs or [LOGPROBS])
    return WeightSync(pool, WeightSyncConfig(max_drift=max_drift, folder=str(folder)))


def weights(**changes: torch.Tensor) -> list[tuple[str, torch.Tensor]]:
    return [*{"a": torch.zeros(4), "b": torch.ones(3, dtype=torch.bfloat16), **changes}.items()]


def test_the_engines_get_the_weights_before_they_are_probed(tmp_path: Path) -> None:
    pool = FakePool(engine_logprobs=[LOGPROBS])
    sync = WeightSync(pool, WeightSyncConfig(folder=str(tmp_path)))
    sync.publish(weights(a=torch.arange(4.0)), 7, PROBES, LOGPROBS)
    assert pool.events == ["loaded 7", "logprobs"]
    assert torch.equal(pool.weights["a"], torch.arange(4.0))
    for version in (8, 9):
        sync.publish(weights(), version, PROBES, LOGPROBS)
    assert [Path(ticket["file"]).exists() for ticket in pool.tickets] == [False, True, True], (
        "the last are for engines that are replaced"
    )


def test_a_report_counts_bytes_that_changed_and_drift(tmp_path: Path) -> None:
    sync = sync_with(tmp_path, [[-1.0, -2.25]], [[-1.0, -2.0]], max_drift=0.5)
    first = sync.publish(weights(), 0, PROBES, LOGPROBS)
    second = sync.publish(weights(a=torch.tensor([0.0, 0.0, 5.0, -0.0])), 1, PROBES, LOGPROBS)
    assert (first.bytes, first.changed_bytes) == (4 * 4 + 3 * 2, 4 * 4 + 3 * 2)
    assert second.changed_bytes == 2 * 4  # the 5 and the sign of the last zero
    assert (second.drift_max, second.drift_mean) == (0.25, 0.25 / 4)  # two engines, two tokens each
    assert second.metrics() == {
        "sync/time_s": second.seconds,
        "sync/size_bytes": 22,
        "sync/changed_bytes": 8,
        "sync/drift_max": 0.25,
        "sync/drift_mean": 0.0625,
    }


def test_the_learner_may_change_its_weights_in_place_between_syncs(tmp_path: Path) -> None:
    sync, tensor = sync_with(tmp_path), torch.zeros(4)
    sync.publish(weights(a=tensor), 0, PROBES, LOGPROBS)
    tensor += 1
    assert sync.publish(weights(a=tensor), 1, PROBES, LOGPROBS).changed_bytes == 16


@pytest.mark.parametrize("off", [-2.1, float("nan")])
def test_drift_stops_the_run_and_names_engine_probe_and_limit(tmp_path: Path, off: float) -> None:
    sync = sync_with(tmp_path, LOGPROBS, [[-1.0, off]])
    with pytest.raises(RolloutError, match=r"version 2, engine 1 .* probe 0; the limit is 0.001"):
        sync.publish(weights(), 2, PROBES, LOGPROBS)


def test_no_file_is_left_behind_by_an_error_and_close(tmp_path: Path) -> None:
    sync = sync_with(tmp_path)
    sync._pool.load_error = RolloutError("engine 0 died")
    with pytest.raises(RolloutError, match="died"):
        sync.publish(weights(), 2, PROBES, LOGPROBS)
    sync.close()
    sync.close()
    assert list(tmp_path.iterdir()) == []


@pytest.mark.parametrize(("probes", "logprobs"), [([], []), ([[1]], [[]]), ([[1, 2]], [[-1.0, -1.0]]), ([[1, 2]], [])])
def test_probes_and_logprobs_that_do_not_belong_together_are_refused(
    tmp_path: Path, probes: list[list[int]], logprobs: list[list[float]]
) -> None:
    with pytest.raises(ValueError, match="at least one probe"):
        sync_with(tmp_path).publish(weights(), 0, probes, logprobs)


def test_spent_weights_are_refused(tmp_path: Path) -> None:
    with pytest.raises(ValueError, match="no weights"):
        sync_with(tmp_path).publish(iter([]), 0, PROBES, LOGPROBS)


@pytest.mark.parametrize("family", FAMILIES)
def test_policy_weights_are_complete_and_hold_the_output_head(family: str) -> None:
    model = tiny_model(family)
    sent = dict(policy_weights(model))
    assert sent.keys() >= {name for name, _ in model.named_parameters()}
    assert torch.equal(sent["lm_head.weight"], model.get_output_embeddings().weight)
    assert not any(tensor.requires_grad for tensor in sent.values())
