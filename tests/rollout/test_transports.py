"""Each way for weights to travel; between real processes where that matters."""

import json
import multiprocessing
import os
import signal
import subprocess
import sys
import threading
import time
from concurrent.futures import ThreadPoolExecutor
from inspect import signature
from pathlib import Path
from typing import Any

import pytest
import torch
from torch.multiprocessing import reductions

from rollout.config import WeightSyncConfig
from rollout.engine import Reach, Ticket
from rollout.transports import broadcast, cuda_ipc
from rollout.transports.broadcast import Broadcast
from rollout.transports.registry import Routes, fetch
from rollout.transports.shared_memory import SharedMemory, _require_space
from rollout.types import RolloutError

CPU = torch.device("cpu")


def weights(seed: int = 0) -> dict[str, torch.Tensor]:
    """Types change twice, one is a scalar, one is empty."""
    drawn = torch.Generator().manual_seed(seed)
    sizes: list[tuple[str, tuple[int, ...], torch.dtype]] = [
        ("embed", (7, 3), torch.float32),
        ("scale", (), torch.float32),
        ("a", (5,), torch.bfloat16),
        ("b", (2, 2, 2), torch.bfloat16),
        ("none", (0, 4), torch.float32),
        ("head", (7, 3), torch.float32),
    ]
    return {name: torch.randn(shape, generator=drawn).to(dtype) for name, shape, dtype in sizes}


def assert_same(found: dict[str, torch.Tensor], expected: dict[str, torch.Tensor]) -> None:
    assert list(found) == list(expected)
    for name, tensor in expected.items():
        assert found[name].dtype == tensor.dtype
        assert torch.equal(found[name], tensor), name


def config(**values: Any) -> WeightSyncConfig:
    return WeightSyncConfig(**values)


@pytest.mark.parametrize(
    ("reach", "named", "opened"),
    [
        ("same_machine", "auto", "SharedMemory"),
        ("same_gpu", "auto", "CudaIPC"),
        ("own_gpu", "auto", "Broadcast"),
        ("other_machine", "auto", "Broadcast"),
        ("same_machine", "broadcast", "Broadcast"),
        ("own_gpu", "shared_memory", "SharedMemory"),
        ("other_machine", "shared_memory", "SharedMemory"),
    ],
)
def test_the_transport_is_the_recipes_or_what_reaches_the_engine(
    tmp_path: Path, reach: Reach, named: str, opened: str
) -> None:
    routes = Routes(config(transport=named, folder=str(tmp_path)), tmp_path)
    assert type(routes.to(reach)).__name__ == opened
    routes.close()
    assert list(tmp_path.iterdir()) == []


@pytest.mark.parametrize(
    ("reach", "named"),
    [
        ("own_gpu", "cuda_ipc"),
        ("same_machine", "cuda_ipc"),
        ("other_machine", "cuda_ipc"),
        ("same_gpu", "broadcast"),
        ("other_machine", "shared_memory"),
    ],
)
def test_a_transport_that_cannot_reach_the_engine_is_refused(tmp_path: Path, reach: Reach, named: str) -> None:
    shipment = Routes(config(transport=named), tmp_path).ship(weights(), 0)
    with pytest.raises(RolloutError, match=f"sync.transport is {named}, but .* take the line out"):
        shipment.ticket("0-0", 1, reach)


def test_one_version_reaches_engines_here_and_elsewhere(tmp_path: Path) -> None:
    routes = Routes(config(folder=str(tmp_path / "here")), tmp_path)
    (tmp_path / "here").mkdir()
    shipment = routes.ship(weights(), 3)
    away = shipment.ticket("1-0", 1, "other_machine")
    assert list((tmp_path / "here").iterdir()) == []  # no engine is here yet
    assert_same(dict(fetch(away, device=CPU)), weights())
    here = dict(fetch(shipment.ticket("0-0", 1, "same_machine"), device=CPU))
    assert_same({name: here[name] for name in weights()}, weights())
    shipment.withdraw()
    routes.close()
    with pytest.raises(RolloutError, match="version 3 of the weights is withdrawn"):
        shipment.ticket("0-1", 1, "same_machine")  # to an engine that is ready too late
    assert [path.name for path in tmp_path.rglob("*")] == ["here"]


def test_files_hold_every_tensor_and_the_one_before_the_last_withdrawn_is_gone(tmp_path: Path) -> None:
    transport = SharedMemory(tmp_path)
    shipment = transport.ship(weights(), 3)
    found = dict(fetch(shipment.ticket("0-0", 1), device=CPU))
    assert_same({name: found[name] for name in weights()}, weights())
    shipment.withdraw()
    shipment.withdraw()
    assert Path(shipment.ticket("0-0", 1)["file"]).exists()  # an engine that is being replaced may still read it
    transport.ship(weights(), 4).withdraw()
    assert not Path(shipment.ticket("0-0", 1)["file"]).exists()
    transport.close()
    transport.close()
    assert list(tmp_path.iterdir()) == []


def test_what_a_killed_run_left_is_removed_and_a_living_run_is_spared(tmp_path: Path) -> None:
    killed = (
        "import os, signal, pathlib, sys; from rollout.transports.shared_memory import SharedMemory\n"
        "folder = SharedMemory(pathlib.Path(sys.argv[1]))._folder\n"
        "(folder.path / 'version-1.safetensors').write_bytes(b'x'); os.kill(os.getpid(), signal.SIGKILL)"
    )
    subprocess.run([sys.executable, "-c", killed, str(tmp_path)], timeout=60, check=False)
    [left] = tmp_path.iterdir()
    alive = SharedMemory(tmp_path)
    assert not left.exists()
    [kept] = tmp_path.iterdir()
    other = SharedMemory(tmp_path)
    assert kept.exists()
    alive.close()
    other.close()


def test_runs_that_begin_at_the_same_moment_take_nothing_from_each_other(tmp_path: Path) -> None:
    """Each looks for what killed ones left while the others' folders are new and not locked yet."""

    def begins(number: int) -> None:
        transport = SharedMemory(tmp_path)
        transport.ship(weights(), number)
        transport.close()

    with ThreadPoolExecutor(8) as pool:
        list(pool.map(begins, range(400)))
    assert list(tmp_path.iterdir()) == []


def test_weights_that_do_not_fit_are_refused_before_they_are_written(tmp_path: Path) -> None:
    huge = torch.empty(1, dtype=torch.float32).as_strided((2**50,), (0,))
    with pytest.raises(RolloutError, match=r"GB free and the weights are .* sync\.folder"):
        _require_space(tmp_path, huge.numel() * huge.element_size())


@pytest.mark.parametrize("bucket_bytes", [1, 40, 2**20])
def test_a_broadcast_brings_every_version_whatever_is_sent_together(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, bucket_bytes: int
) -> None:
    monkeypatch.setattr(broadcast, "BUCKET_BYTES", bucket_bytes)
    transport = Broadcast(tmp_path, timeout_s=20)
    for version in range(3):
        ticket = transport.ship(weights(version), version).ticket("0-0", 1)
        assert_same(dict(fetch(ticket, device=CPU)), weights(version))
    transport.close()
    assert not Path(ticket["meeting_point"]).exists()


def _receive(ticket: Ticket, worker: int, found: Any) -> None:
    """A worker of an engine, in a process of its own."""
    for version in range(2):
        tensors = dict(fetch(ticket, device=CPU, worker=worker))
        found.put((worker, version, {name: tensor.float().tolist() for name, tensor in tensors.items()}))


@pytest.mark.processes
def test_all_workers_of_an_engine_get_a_broadcast_and_an_engine_that_died_disturbs_no_other(tmp_path: Path) -> None:
    processes = multiprocessing.get_context("spawn")
    transport = Broadcast(tmp_path, timeout_s=150)
    found = processes.Queue()
    first, second = transport.ship(weights(0), 0), transport.ship(weights(1), 1)
    ticket = first.ticket("1-0", 2)
    workers = [processes.Process(target=_receive, args=(ticket, worker, found), daemon=True) for worker in (0, 1)]
    of_the_dead = processes.Queue()  # its lock may die with it
    dead = processes.Process(target=_receive, args=(first.ticket("0-0", 1), 0, of_the_dead), daemon=True)
    for process in [*workers, dead]:
        process.start()
    assert {found.get(timeout=150)[:2] for _ in range(2)} == {(0, 0), (1, 0)}
    assert of_the_dead.get(timeout=150)[:2] == (0, 0)
    os.kill(dead.pid or 0, signal.SIGKILL)
    dead.join()
    second.ticket("0-0", 1)  # sent to nobody
    assert second.ticket("1-0", 2) == ticket
    expected = {name: tensor.float().tolist() for name, tensor in weights(1).items()}
    assert sorted(found.get(timeout=150) for _ in range(2)) == [(0, 1, expected), (1, 1, expected)]
    assert_same(dict(fetch(second.ticket("0-1", 1), device=CPU)), weights(1))  # who takes the place of the dead
    transport.close()


@pytest.mark.processes
def test_a_receiver_that_stands_still_holds_the_sender_no_longer_than_its_limit(
    tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    processes = multiprocessing.get_context("spawn")
    transport = Broadcast(tmp_path, timeout_s=30)
    found = processes.Queue()
    worker = processes.Process(
        target=_receive, args=(transport.ship(weights(), 0).ticket("0-0", 1), 0, found), daemon=True
    )
    worker.start()
    found.get(timeout=150)
    os.kill(worker.pid or 0, signal.SIGSTOP)
    huge = {"a": torch.zeros(2**24)}  # more than sockets hold
    start = time.monotonic()
    transport.ship(huge, 1).ticket("0-0", 1)
    [sending] = [thread for thread in threading.enumerate() if thread.name == "weights"]
    sending.join(90)
    assert not sending.is_alive()
    assert time.monotonic() - start < 80
    assert "engine 0-0 did not take version 1" in caplog.text
    os.kill(worker.pid or 0, signal.SIGKILL)
    transport.close()


def test_a_receiver_to_whom_nobody_sends_gives_up(tmp_path: Path) -> None:
    ticket = {
        "way": "broadcast",
        "meeting_point": str(tmp_path / "nobody"),
        "size": 2,
        "timeout_s": 1.0,
        "on_gpu": False,
        "bucket_bytes": 1,
        "tensors": [("a", "float32", [1])],
    }
    start = time.monotonic()
    with pytest.raises(RuntimeError):
        dict(fetch(ticket, device=CPU))
    assert time.monotonic() - start < 80


def test_a_handle_of_a_tensor_on_a_gpu_is_plain_and_opens_as_torch_would_open_it(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    names = list(signature(reductions.rebuild_cuda_tensor).parameters)
    made: dict[str, Any] = {
        "tensor_cls": torch.Tensor, "tensor_size": torch.Size([3, 2]), "tensor_stride": (2, 1), "tensor_offset": 4,
        "storage_cls": torch.UntypedStorage, "dtype": torch.bfloat16, "storage_device": 5, "storage_handle": b"h",
        "storage_size_bytes": 512, "storage_offset_bytes": 64, "requires_grad": False, "ref_counter_handle": b"r",
        "ref_counter_offset": 7, "event_handle": b"e", "event_sync_required": True,
    }  # fmt: skip
    assert names == list(made), "torch has changed its handles"
    opened: dict[str, Any] = {}
    monkeypatch.setattr(cuda_ipc, "reduce_tensor", lambda tensor: (None, tuple(made.values())))
    monkeypatch.setattr(cuda_ipc, "rebuild_cuda_tensor", lambda **parts: opened.update(parts))
    handle = cuda_ipc.handle(torch.zeros(3, 2, dtype=torch.bfloat16))
    json.dumps({name: part.hex() if isinstance(part, bytes) else part for name, part in handle.items()})
    cuda_ipc.opened(handle, torch.device("cuda", 1))
    assert opened == {**made, "tensor_size": [3, 2], "tensor_stride": [2, 1], "storage_device": 1}


def test_a_folder_for_weights_that_is_not_there_is_made(tmp_path: Path) -> None:
    transport = SharedMemory(tmp_path / "not" / "there")
    assert transport._folder.path.parent == tmp_path / "not" / "there"
    transport.close()
    (tmp_path / "file").write_text("")
    with pytest.raises(RolloutError, match=r"cannot be put into .*/file .*; name a folder .* in sync\.folder"):
        SharedMemory(tmp_path / "file")
