"""The sandbox by Podman or Docker: with an engine that plays Podman by bubblewrap, and with a real one where there is.

A real one is tried where it has the image that STROP_TEST_IMAGE names, or Debian's slim Python.
"""

import os
import subprocess
import sys
import time
import uuid
from dataclasses import replace
from pathlib import Path

import pytest

from rewards import container
from rewards.config import CodeRewardConfig
from rewards.container import command
from rewards.enclosure import OWN_MEMORY_BYTES, OWN_PROCESSES, SandboxError
from rewards.sandbox import Sandbox, Trial
from tests.rewards.sandboxes import LIMITS, jail, outcome, printed, running_with, wait_for

IMAGE = "python:3.11-slim"
ROOT = Path(__file__).parents[2]
ENGINE = f"""#!{sys.executable}
import os, pathlib, subprocess, sys
sys.path.insert(0, {str(ROOT)!r})
from rewards import jail
here = pathlib.Path(__file__).parent
with open(here / "called", "a") as file:
    file.write(" ".join(sys.argv[1:3]) + "\\n")
if sys.argv[1] == "image":
    sys.exit(0 if sys.argv[3] == {IMAGE!r} else "Error: no such image")
if sys.argv[1] == "rm":
    os.kill(int((here / sys.argv[3]).read_text()), 9)
    sys.exit()
options = dict(option.removeprefix("--").split("=", 1) for option in sys.argv if option[:2] == "--" and "=" in option)
inside = sys.argv[sys.argv.index({IMAGE!r}) + 1 :]
user, group = options["user"].split(":")
made = jail.command(int(options["shm-size"]))
made = made[: made.index("--")]
made.remove("--die-with-parent")
made = [*made, "--unshare-user", "--uid", user, "--gid", group, "--", {sys.executable!r}, *inside]
silent = {{}}
if (here / "hangs").exists():
    made = [sys.executable, "-c", "import time; time.sleep(60)", options["name"]]
    silent = dict(stdin=subprocess.DEVNULL, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL)
started = subprocess.Popen(made, **silent)
(here / options["name"]).write_text(str(started.pid))
sys.exit(started.wait())
"""
"""Plays Podman: its containers are jails that outlive the command that has started them."""


@pytest.fixture
def engine(tmp_path, monkeypatch):
    """A folder with a Podman of ours in it, first on the path."""
    jail()
    (tmp_path / "podman").write_text(ENGINE)
    (tmp_path / "podman").chmod(0o755)
    monkeypatch.setenv("PATH", f"{tmp_path}:{os.environ['PATH']}")
    return tmp_path


def calls(engine):
    return (engine / "called").read_text().splitlines()


def test_the_command_takes_all_rights_and_bounds_the_sum():
    made = command("/usr/bin/podman", IMAGE, "strop-sandbox-x", 30_000, LIMITS)
    memory, processes = LIMITS.memory_bytes + OWN_MEMORY_BYTES, LIMITS.processes + OWN_PROCESSES
    wanted = {
        *("--rm", "--interactive", "--name=strop-sandbox-x", "--pull=never", "--network=none", "--read-only"),
        *("--cap-drop=all", "--security-opt=no-new-privileges", "--user=30000:30000", f"--pids-limit={processes}"),
        *(f"--memory={memory}", f"--memory-swap={memory}", f"--shm-size={LIMITS.disk_bytes}"),
        *("--read-only-tmpfs=false", f"--tmpfs=/sandbox:rw,nosuid,nodev,mode=1777,size={LIMITS.disk_bytes}"),
    }
    assert wanted <= set(made)
    assert made[:2] == ["/usr/bin/podman", "run"]
    assert made[made.index(IMAGE) + 1 :][:2] == ["-I", "-c"]
    (volume,) = [option for option in made if option.startswith("--volume")]
    assert volume.split("=")[1].split(":")[1:] == ["/strop/rewards/inside", "ro,z"]
    assert "--read-only-tmpfs=false" not in command("/usr/bin/docker", IMAGE, "x", 30_000, LIMITS)


@pytest.mark.parametrize(("there", "taken"), [({"podman", "docker"}, "podman"), ({"docker"}, "docker")])
def test_podman_is_taken_before_docker(monkeypatch, there, taken):
    monkeypatch.setattr(container.shutil, "which", lambda name: f"/bin/{name}" if name in there else None)
    answered = subprocess.CompletedProcess([], 1, "", "no such image\n")
    asked = []
    monkeypatch.setattr(container, "_ask", lambda question: asked.append(question) or answered)
    with pytest.raises(SandboxError, match=rf"'{IMAGE}' is not there \(no such image\); say `{taken} pull {IMAGE}`"):
        Sandbox("container", LIMITS, image=IMAGE)
    assert asked == [[f"/bin/{taken}", "image", "inspect", IMAGE]]


def test_without_an_engine_there_is_none_and_nothing_weaker(monkeypatch):
    monkeypatch.setattr(container.shutil, "which", lambda name: None)
    with pytest.raises(SandboxError, match=r"neither podman nor docker.*apt install podman.*sandbox: bubblewrap"):
        Sandbox("container", LIMITS, image=IMAGE)


@pytest.mark.processes
def test_nothing_is_pulled(engine):
    with pytest.raises(SandboxError, match=r"podman pull python:9\.9"):
        Sandbox("container", LIMITS, image="python:9.9")
    assert calls(engine) == ["image inspect"]


@pytest.mark.processes
def test_the_whole_conversation_goes_through_the_engine(engine):
    sandbox = Sandbox("container", LIMITS, image=IMAGE)
    trials = [
        Trial(source="print(int(input()) * 7)", input="6\n"),
        Trial(source="1 / 0"),
        Trial(source="while True: pass"),
        Trial(source="x = bytearray(1 << 30)"),
        Trial(source="import socket; socket.socket(40, 1)"),
        Trial(source="import os; print(os.getcwd(), os.listdir())"),
    ]
    found = [(one.how, one.output) for one in sandbox.run(trials)]
    how = [("ended", "42\n"), ("raised", ""), ("late", ""), ("raised", ""), ("raised", ""), ("ended", "/sandbox []\n")]
    assert found == how
    assert calls(engine) == ["image inspect", "run --rm", "run --rm"]


@pytest.mark.processes
def test_a_container_that_does_not_end_is_removed_by_its_name_at_the_deadline(engine, monkeypatch):
    sandbox = Sandbox("container", replace(LIMITS, seconds=1.5), image=IMAGE)
    sandbox._grace_s = 0.5
    (engine / "hangs").touch()
    with pytest.raises(SandboxError, match="without a word"):
        sandbox.run([Trial(source="")])
    assert calls(engine)[-1] == "rm --force"
    assert not running_with(container.PREFIX)


@pytest.mark.processes
def test_no_container_goes_on_when_whoever_asked_is_killed(engine):
    mark = f"asked-for-{uuid.uuid4().hex}"
    source = f"import subprocess; subprocess.run(['/bin/sh', '-c', 'sleep 60; : {mark}'])"
    made = f"Sandbox('container', {replace(LIMITS, seconds=30, seconds_a_trial=30)!r}, image={IMAGE!r})"
    script = f"from rewards.sandbox import Limits, Sandbox, Trial\nprint({made}.run([Trial(source=input())]))"
    asker = subprocess.Popen([sys.executable, "-c", script], stdin=subprocess.PIPE, cwd=ROOT)
    asker.stdin.write(source.encode() + b"\n")
    asker.stdin.flush()
    wait_for(lambda: running_with(mark))
    asker.kill()
    asker.wait(5)
    wait_for(lambda: not running_with(mark))


def test_the_recipe_names_the_image_and_the_deadline_has_room_for_containers():
    config = CodeRewardConfig(sandbox="container", sandbox_image="mine:1", seconds=3.0, parallel=2)
    assert config.sandbox_image == "mine:1"
    assert config.longest_s(4) == 2 * (3.0 + 10.0)
    assert CodeRewardConfig(seconds=3.0, parallel=2).longest_s(4) == 2 * (3.0 + 1.0)


@pytest.fixture(scope="module")
def real():
    limits = replace(LIMITS, seconds=6.0, seconds_a_trial=3.0)
    try:
        return Sandbox("container", limits, image=os.environ.get("STROP_TEST_IMAGE", IMAGE))
    except SandboxError as error:
        pytest.skip(f"this machine has no containers: {error}")


@pytest.mark.processes
def test_a_real_container_runs_code_and_confines_it(real):
    assert printed(real, "print(6 * 7)") == "42"
    refused = [
        "import socket; socket.create_connection(('1.1.1.1', 53), timeout=1)",
        "import socket; socket.socket(40, 1)",
        "open('/new', 'w')",
        "open('/usr/new', 'w')",
        "open('/dev/shm/new', 'wb').write(bytes(8 << 20))",
        "open('big', 'wb').write(bytes(8 << 20))",
        "import os; os.setuid(0)",
        f"open({str(Path(__file__))!r})",
    ]
    found = real.run([Trial(source=source) for source in refused])
    assert [one.how for one in found] == ["raised"] * len(refused)
    assert printed(real, "import os; print(os.getuid() >= 20_000)") == "True"
    hold = "import os, time\nfor _ in range(8):\n  if os.fork() == 0: held = b'x' * (100 << 20); time.sleep(60)\n"
    assert outcome(real, hold + "time.sleep(60)").how in ("too much", "lost")
    bomb = "import os\nwhile True:\n  try: os.fork()\n  except OSError: pass"
    assert outcome(real, bomb).how == "late"


@pytest.mark.processes
def test_a_real_container_is_gone_when_whoever_asked_is_killed(real):
    image, engine = real._enclosure._image, real._enclosure._engine
    made = f"Sandbox('container', {replace(LIMITS, seconds=60, seconds_a_trial=60)!r}, image={image!r})"
    source = "import time; time.sleep(60)"
    script = f"from rewards.sandbox import Limits, Sandbox, Trial\nprint({made}.run([Trial(source={source!r})]))"
    asker = subprocess.Popen([sys.executable, "-c", script], cwd=ROOT)

    def containers():
        listing = [engine, "ps", "--all", "--quiet", "--filter", f"name={container.PREFIX}"]
        return subprocess.check_output(listing, text=True).split()

    wait_for(lambda: containers(), 30)
    time.sleep(2)
    asker.kill()
    asker.wait(5)
    wait_for(lambda: not containers(), 30)
