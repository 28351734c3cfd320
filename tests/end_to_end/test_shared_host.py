"""A run on a machine that it shares: another user walks over all of it meanwhile, and can do nothing to what it makes.

The run is an ordinary user's whom no file knows, so that all with this number is of the run.
"""

import http.client
import json
import os
import shutil
import signal
import subprocess
import sys
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import Any

import grpc
import psutil
import pytest

from tests.end_to_end.runs import ROOT, is_alive, metrics, wait_for, write_recipe, write_rows
from tests.end_to_end.walk import of
from tests.models import write_tiny_model
from tests.users import do_as_nobody, folder_for_all, needs_root

pytestmark = [
    pytest.mark.real,
    pytest.mark.exhaustive,
    needs_root,
    pytest.mark.skipif(shutil.which("setpriv") is None, reason="there is no setpriv"),
]

USER = 54321
BECOMES_USER = [
    "setpriv", f"--reuid={USER}", f"--regid={USER}", "--clear-groups",
    "--inh-caps=-all,+dac_read_search", "--ambient-caps=+dac_read_search",
]  # fmt: skip
"""May read all files, for this checkout and its Python may lie in root's home. Nobody else can do more by that."""
SECRETS = {"HF_TOKEN": "hf_" + "q" * 34, "OPENAI_API_KEY": "sk-" + "q" * 40, "WANDB_API_KEY": "0123456789abcdef" * 2}
OWN = ("RAY_", "XDG_", "TMPDIR", "TORCHINDUCTOR_", "TRITON_")
"""What names of places begin with; torch has set one in this process."""
SKIPPED = ["/proc", "/sys", "/usr", sys.prefix, str(ROOT)]
LOOPBACK = {"127.0.0.1", "::1", "::ffff:127.0.0.1"}
SILENT: tuple[set[str], ...] = ({"UNAUTHENTICATED"}, {"HTTP 401"}, {"nothing"}, {"UNAVAILABLE"}, {"DEADLINE_EXCEEDED"})
"""What servers may say to those without a token; gloo, which knows none, says nothing or hangs up."""
LOOKS = {"read", "listed", "entered"}
RAYS = (
    "/ray.rpc.NodeInfoGcsService/GetAllNodeInfo",
    "/ray.rpc.NodeManagerService/GetNodeStats",
    "/ray.rpc.ObjectManagerService/Push",
    "/ray.rpc.CoreWorkerService/PushTask",
    "/ray.rpc.ReporterService/GetTraceback",
)
"""Methods of Ray's head, of a node, of its objects, of a worker, and of an agent."""


@pytest.fixture
def home() -> Iterator[Path]:
    """Yield a home that others may look into, with caches that they may look into: the usual one of many systems."""
    with folder_for_all(0o755) as folder:
        for path in (folder, folder / ".cache", folder / ".config", folder / "runs"):
            path.mkdir(mode=0o755, exist_ok=True)
            os.chown(path, USER, USER)
        yield folder


@contextmanager
def driven(home: Path, recipe: Path) -> Iterator["subprocess.Popen[str]"]:
    """Drive a run as the user, until the block ends, and tell what it said where that was not asked for."""
    kept = {name: value for name, value in os.environ.items() if not name.startswith(OWN)}
    environment = {**kept, **SECRETS, "HOME": str(home), "USER": "walked", "LOGNAME": "walked", "PYTHONPATH": str(ROOT)}
    run = [sys.executable, "-m", "pipeline.cli", "run", str(recipe), "--runs", str(home / "runs")]
    with subprocess.Popen(
        [*BECOMES_USER, *run], cwd=home, env=environment, stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True,
        umask=0o022,
    ) as driver:  # fmt: skip
        try:
            yield driver
        finally:
            driver.send_signal(signal.SIGTERM)
            driver.communicate(timeout=120)


def walked() -> dict[str, Any]:
    """Return what nobody has found on a walk, and done."""
    asked = json.dumps({"user": USER, "skipped": SKIPPED})
    done = do_as_nobody((ROOT / "tests" / "end_to_end" / "walk.py").read_text(), asked)
    assert done.returncode == 0, done.stderr
    found: dict[str, Any] = json.loads(done.stdout)
    return found


def lying_about() -> set[Path]:
    """Return what of the user's is in folders that all share."""
    found = set()
    for place in ("/tmp", "/var/tmp", "/dev/shm"):
        for path in Path(place).iterdir():
            with suppress(OSError):  # another program's, which is gone
                found |= {path} if path.lstat().st_uid == USER else set()
    return found


def living() -> list[psutil.Process]:
    """Return the user's processes."""
    users = [process for process in psutil.process_iter(["uids"]) if process.info["uids"].real == USER]
    return [process for process in users if is_alive(process)]


def said_without_token(port: int) -> set[str]:
    """Return what a server says to who calls it as one of Ray's, or as an HTTP server, and has no token."""
    connection = http.client.HTTPConnection("127.0.0.1", port, timeout=5)
    try:
        connection.request("GET", "/")
        return {f"HTTP {connection.getresponse().status}"}
    except TimeoutError:
        return {"nothing"}
    except (OSError, http.client.HTTPException):  # gRPC's answer, or the end of the connection
        pass
    finally:
        connection.close()
    said = set()
    with grpc.insecure_channel(f"127.0.0.1:{port}", options=[("grpc.enable_http_proxy", 0)]) as channel:
        for method in RAYS:
            try:
                channel.unary_unary(method)(b"", timeout=5)
                said.add("OK")
            except grpc.RpcError as error:
                said.add(error.code().name)
    return said - {"UNIMPLEMENTED"}


def test_another_user_can_reach_nothing_that_a_run_makes_outside_its_folder(home: Path, tmp_path: Path) -> None:
    inputs = home / "inputs"
    inputs.mkdir()
    rows = [{"prompt": f"What is {n} plus 1?", "answer": str(n + 1)} for n in range(20)]
    stage = {
        "kind": "grpo", "prompts": write_rows(inputs / "train.jsonl", rows), "num_steps": 5000, "prompts_per_step": 2,
        "group_size": 2, "sampling": {"max_tokens": 12}, "num_learners": 2,
        "rewards": [{"import_path": "tests.end_to_end.rewards:share_of_digits", "gold_value": None}, {"type": "math"}],
    }  # fmt: skip
    recipe = write_recipe(
        inputs / "recipe.yaml", name="shared", model=str(write_tiny_model(inputs / "base")), seed=5,
        engine={"type": "vllm", "max_model_tokens": 96}, stages={"grpo": stage},
    )  # fmt: skip
    run = home / "runs" / "shared"
    before = lying_about()
    with driven(home, recipe) as driver:
        wait_for(lambda: 2 in metrics(run, "grpo") or driver.poll() is not None, "step 2 of grpo", 600)
        assert driver.poll() is None, driver.communicate()[0]
        found = walked()
        ports = {port: said_without_token(port) for _, port in found["listens"]}
        environments = [(process / "environ").read_bytes() for process in of(USER)]
    open_to_all = {str(path) for path in (home, home / ".cache", home / ".config")}
    reached = [
        (path, act)
        for path, act in found["reached"]
        if act not in LOOKS or not (path in open_to_all or Path(path).is_relative_to(home / "runs"))
    ]
    assert reached == []
    assert {address for address, _ in found["listens"]} <= LOOPBACK
    assert {"UNAUTHENTICATED"} in ports.values()
    talkative = {port: said for port, said in ports.items() if said not in SILENT}
    assert talkative == {}
    tokens = {line for held in environments for line in held.split(b"\0") if line.startswith(b"RAY_AUTH_TOKEN=")}
    [token] = {line.partition(b"=")[2].decode() for line in tokens}
    assert len(found["commands"]) > 5
    for secret in (token, *SECRETS.values()):
        assert not [command for command in found["commands"] if secret in command]
    assert not (home / ".ray").exists(), "where Ray would have written its token"
    assert lying_about() - before == set()
    wait_for(lambda: not living(), "Ray's last agent, which looks once a minute whether its node is there, to end", 90)
