"""A vLLM server of our own, for the rewards that a language model gives. It ends with the worker that starts it."""

import http.client
import os
import secrets
import signal
import socket
import subprocess
import sys
import uuid
from functools import partial
from pathlib import Path

from rewards.own_files import SERVERS, use_own_files
from rewards.strays import die_with_parent
from rewards.types import RewardError
from rewards.waits import Wait

START_TIMEOUT_S = 600.0
"""How long the server may take to load its model. The scorer's ``start_timeout_s`` is 120 by default; raise that."""
POLL_S = 0.2
HOST = "localhost"
"""What the server is called in requests, which go to its socket."""


def serve(
    model: str,
    max_model_tokens: int,
    gpu_memory_utilization: float,
    *,
    revision: str | None = None,
    dtype: str = "auto",
) -> tuple[Path, str]:
    """Serve a model, a folder or a Hub id at a revision; return the Unix socket at which it listens, and its key, once
    it answers.

    At a port, another user could listen before the server does, or once it has died, and give the marks.

    On the GPU where there is one. It belongs to this process's group, so that it is killed with this worker, and ends
    by itself where that is killed alone. Raises RewardError where it does not start.
    """
    key = secrets.token_urlsafe()
    use_own_files()
    place = Path(os.environ[SERVERS]) / str(uuid.uuid4())
    arguments = {
        "model": model,
        "served-model-name": model,
        "uds": str(place),
        "max-model-len": str(max_model_tokens),
        "gpu-memory-utilization": str(gpu_memory_utilization),
        "generation-config": "vllm",
        "dtype": dtype,
        "load-format": "safetensors",  # in a pickle code can hide
        "uvicorn-log-level": "warning",
        **({f"{what}revision": revision for what in ("", "tokenizer-", "code-")} if revision else {}),
    }
    command = [sys.executable, "-m", "vllm.entrypoints.openai.api_server", "--disable-log-stats"]
    command += [f"--{name}={value}" for name, value in arguments.items()]
    server = subprocess.Popen(
        [*command, *_for_cpu(max_model_tokens)],
        env=_environment(key),
        stdin=subprocess.DEVNULL,
        preexec_fn=partial(die_with_parent, os.getpid(), signal.SIGTERM),  # asked so, it ends its engine too
    )

    def answers() -> bool:
        if server.poll() is not None:
            raise RewardError(
                f"the vLLM server for {model!r} ended with exit code {server.returncode} before it answered; what it "
                "printed is in the stage's log"
            )
        return _answers(place)

    try:
        with Wait(f"the vLLM server for {model!r} to answer", START_TIMEOUT_S, fails=RewardError) as wait:
            wait.until(answers, every_s=POLL_S)
    except RewardError:
        server.kill()
        raise
    return place, key


class _Connection(http.client.HTTPConnection):
    """HTTP over a Unix socket."""

    def __init__(self, place: Path) -> None:
        super().__init__(HOST, timeout=5)
        self._place = place

    def connect(self) -> None:
        self.sock = socket.socket(socket.AF_UNIX)
        self.sock.settimeout(self.timeout)
        self.sock.connect(str(self._place))


def _answers(place: Path) -> bool:
    """Ask directly: no proxy of the environment, no redirect."""
    connection = _Connection(place)
    try:
        connection.request("GET", "/health")
        return connection.getresponse().status == 200
    except (OSError, http.client.HTTPException):
        return False
    finally:
        connection.close()


def _for_cpu(max_model_tokens: int) -> list[str]:
    """Return what vLLM needs without a GPU; with chunks of a prompt its engine dies there of seeded sampling."""
    import torch

    if torch.cuda.is_available():
        return []
    tokens = max(8192, max_model_tokens)
    return ["--enforce-eager", "--no-enable-chunked-prefill", f"--max-num-batched-tokens={tokens}"]


def _environment(key: str) -> dict[str, str]:
    defaults = {
        "VLLM_CPU_KVCACHE_SPACE": "1",
        "VLLM_CPU_OMP_THREADS_BIND": "nobind",
        "OMP_NUM_THREADS": "1",
        "VLLM_LOGGING_LEVEL": "WARNING",
        "VLLM_NO_USAGE_STATS": "1",
        "DO_NOT_TRACK": "1",
    }
    return {**defaults, **os.environ, "VLLM_API_KEY": key}
