"""A vLLM server of our own, for the rewards that a language model gives. It ends with the worker that starts it."""

import http.client
import os
import secrets
import signal
import socket
import subprocess
import sys
from functools import partial

from rewards.strays import die_with_parent
from rewards.types import RewardError
from rewards.waits import Wait

START_TIMEOUT_S = 600.0
"""How long the server may take to load its model. The scorer's ``start_timeout_s`` is 120 by default; raise that."""
POLL_S = 0.2


def serve(model: str, max_model_tokens: int, gpu_memory_utilization: float, *, dtype: str = "auto") -> tuple[str, str]:
    """Serve a model, a folder or a Hub id, on the loopback; return its base URL and key once it answers.

    On the GPU where there is one. It belongs to this process's group, so that it is killed with this worker, and ends
    by itself where that is killed alone. Raises RewardError where it does not start.
    """
    key = secrets.token_urlsafe()
    port = _free_port()
    arguments = {
        "model": model,
        "served-model-name": model,
        "host": "127.0.0.1",
        "port": str(port),
        "max-model-len": str(max_model_tokens),
        "gpu-memory-utilization": str(gpu_memory_utilization),
        "generation-config": "vllm",
        "dtype": dtype,
        "load-format": "safetensors",  # in a pickle code can hide
        "uvicorn-log-level": "warning",
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
        return _answers(port)

    try:
        with Wait(f"the vLLM server for {model!r} to answer", START_TIMEOUT_S, fails=RewardError) as wait:
            wait.until(answers, every_s=POLL_S)
    except RewardError:
        server.kill()
        raise
    return f"http://127.0.0.1:{port}/v1", key


def _free_port() -> int:
    with socket.create_server(("127.0.0.1", 0)) as found:
        return int(found.getsockname()[1])


def _answers(port: int) -> bool:
    """Ask directly: no proxy of the environment, no redirect."""
    connection = http.client.HTTPConnection("127.0.0.1", port, timeout=5)
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
