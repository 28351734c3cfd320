"""The sandbox by Podman or Docker: a container an order, of an image that the recipe names.

The image brings Python and what programs may import; of Strop there is the folder `inside`, read-only. Memory,
processes and files are bounded as a sum by the engine, the rest by the same program and filter as in `jail`.
"""

import contextlib
import os
import secrets
import shutil
import subprocess
import uuid
from collections.abc import Iterator, Sequence
from typing import ClassVar

from rewards.enclosure import (
    HOME,
    INSIDE,
    JAIL_USERS,
    OURS,
    OWN_MEMORY_BYTES,
    OWN_PROCESSES,
    Limits,
    Place,
    SandboxError,
    plain_environment,
    program,
)

ENGINES = ("podman", "docker")
"""Podman first: it needs neither root nor a service."""
ENGINE_S = 20.0
"""What an engine may take to answer a question, or to remove a container."""
OPEN_FILES = 256
"""Said since what engines ask for by themselves is often more than this user may give. The code gets fewer."""
PREFIX = "strop-sandbox-"
"""Of the containers' names."""


class Container:
    """Makes containers of one image, which must be there: nothing is pulled while a run waits for its rewards."""

    is_jailed: ClassVar[bool] = True
    way_out: ClassVar[str] = (
        "Install Podman (Debian: apt install podman) or Docker, pull the image on each machine that runs rewards, or "
        "say sandbox: bubblewrap, or, for code that you trust, sandbox: none"
    )

    def __init__(self, image: str) -> None:
        """Look for an engine and the image."""
        self._image = image
        self._engine = next((path for path in map(shutil.which, ENGINES) if path is not None), None)
        if self._engine is None:
            raise SandboxError("there is neither podman nor docker")
        found = _ask([self._engine, "image", "inspect", image])
        if found.returncode != 0:
            complaint = (found.stderr.strip().splitlines() or ["it says nothing"])[-1]
            pull = f"{os.path.basename(self._engine)} pull {image}"
            raise SandboxError(f"the image {image!r} is not there ({complaint}); say `{pull}`, or change sandbox_image")

    @contextlib.contextmanager
    def entered(self, limits: Limits) -> Iterator[Place]:
        """Lend a container. It ends with its standard input, and is removed by its name where it does not."""
        assert self._engine is not None
        name, user = f"{PREFIX}{uuid.uuid4().hex}", secrets.choice(JAIL_USERS)
        made = command(self._engine, self._image, name, user, limits)
        yield Place(command=made, env=dict(os.environ), stop=lambda: remove(str(self._engine), name))


def command(engine: str, image: str, name: str, user: int, limits: Limits) -> list[str]:
    """Return the engine's command for a container of this name with our program in it, which is run by this user."""
    memory_bytes, processes = limits.memory_bytes + OWN_MEMORY_BYTES, limits.processes + OWN_PROCESSES
    made = [engine, "run", "--rm", "--interactive", f"--name={name}", "--pull=never", "--log-driver=none"]
    made += ["--network=none", "--cap-drop=all", "--security-opt=no-new-privileges", f"--user={user}:{user}"]
    made += [f"--memory={memory_bytes}", f"--memory-swap={memory_bytes}", f"--pids-limit={processes}"]
    made += [f"--ulimit=nproc={processes}:{processes}", f"--ulimit=nofile={OPEN_FILES}:{OPEN_FILES}"]
    made += ["--read-only", f"--shm-size={limits.disk_bytes}", f"--workdir={HOME}"]
    made += [f"--tmpfs={HOME}:rw,nosuid,nodev,mode=1777,size={limits.disk_bytes}"]
    if os.path.basename(engine) == "podman":  # else there are further folders to write to
        made += ["--read-only-tmpfs=false"]
    made += [f"--volume={INSIDE}:{OURS}/rewards/inside:ro,z"]  # z: where there is SELinux, it may be read
    made += [f"--env={variable}={value}" for variable, value in plain_environment(HOME).items()]
    return [*made, "--entrypoint=python3", image, *program(OURS)]


def remove(engine: str, name: str) -> None:
    """Kill and remove a container, if there still is one; SandboxError where the engine does not do it in time."""
    gone = _ask([engine, "rm", "--force", name])
    if gone.returncode != 0 and "no such container" not in gone.stderr.lower():
        raise SandboxError(f"{engine} does not remove the container {name}: {gone.stderr.strip()}")


def _ask(question: Sequence[str]) -> "subprocess.CompletedProcess[str]":
    try:
        return subprocess.run(question, capture_output=True, text=True, timeout=ENGINE_S)
    except (OSError, subprocess.TimeoutExpired) as error:
        raise SandboxError(f"{' '.join(question[:3])} does not answer: {error}") from error
