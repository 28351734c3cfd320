"""Settings of every test: tiny models gain nothing from threads, and lose much where cores are shared."""

import os
import tempfile
from collections.abc import Iterator

import pytest

os.environ.update(
    OMP_NUM_THREADS="1",
    OMP_WAIT_POLICY="PASSIVE",
    TOKENIZERS_PARALLELISM="false",
    HF_HUB_OFFLINE="1",
    HF_HUB_DISABLE_PROGRESS_BARS="1",
    RAY_ENABLE_WINDOWS_OR_OSX_CLUSTER="0",  # as `pipeline.launch` has it: loopback alone
)


@pytest.fixture(autouse=True)
def _temporary_files_where_they_were() -> Iterator[None]:
    """Undo `rewards.own_files.use_own_files`, which is meant for a whole process: tests share theirs."""
    names = ("TMPDIR", "RAY_TMPDIR", "VLLM_RPC_BASE_PATH", "TORCHINDUCTOR_CACHE_DIR")
    before, folder = {name: os.environ.get(name) for name in names}, tempfile.tempdir
    yield
    tempfile.tempdir = folder
    for name, value in before.items():
        if value is None:
            os.environ.pop(name, None)
        else:
            os.environ[name] = value
