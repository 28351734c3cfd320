"""What code can do inside the sandbox, and what it cannot; real jails."""

import contextlib
import os
import shutil
import socket
import subprocess
import sys
import time
import uuid
from concurrent.futures import ThreadPoolExecutor
from dataclasses import replace
from pathlib import Path

import psutil
import pytest

from rewards.enclosure import SandboxError
from rewards.sandbox import Apart, Sandbox, Trial
from tests.rewards.sandboxes import LIMITS, jail, outcome, printed, running_with, wait_for

pytestmark = pytest.mark.processes


@pytest.fixture(scope="module")
def jailed():
    return jail()


@pytest.fixture(scope="module", params=["bubblewrap", "none"])
def either(request):
    return jail() if request.param == "bubblewrap" else Sandbox("none", LIMITS)


@pytest.mark.parametrize(
    ("source", "how"),
    [
        ("print(6 * 7)", "ended"),
        ("import sys; print(42); sys.exit()", "ended"),
        ("import sys; sys.exit(1)", "raised"),
        ("1 / 0", "raised"),
        ("def f(:", "raised"),
        ("x = " + "(" * 100_000, "raised"),
        ("x = '\ud800'", "raised"),
        ("import os; os._exit(0)", "raised"),
        ("import os, signal; os.kill(os.getpid(), signal.SIGKILL)", "raised"),
        ("import ctypes; ctypes.string_at(0)", "raised"),
        (
            "import sys; sys.setrecursionlimit(10**9)\nclass A:\n  def __repr__(self): return repr(self)\nrepr(A())",
            "raised",
        ),
        ("def f(): f()\nf()", "raised"),
        ("x = bytearray(1 << 30)", "raised"),
        ("import mmap; mmap.mmap(-1, 1 << 30)", "raised"),
        ("while True: pass", "late"),
        ("import time; time.sleep(60)", "late"),
        ("input(); input()", "raised"),
        ("import os\nwhile True: os.write(1, b'x' * 65536)", "too much"),
        ("import os\nfor fd in range(64):\n  try: os.close(fd)\n  except OSError: pass", "raised"),
    ],
)
def test_every_way_to_end_is_told_and_the_next_program_runs(either, source, how):
    found = either.run([Trial(source=source), Trial(source="print('next')")])
    assert [found[0].how, found[1].how, found[1].output] == [how, "ended", "next\n"]


def test_a_program_reads_its_input_and_its_threads_are_waited_for(either):
    source = (
        "import threading, time\ndef late(): time.sleep(0.2); print(input())\nthreading.Thread(target=late).start()"
    )
    assert outcome(either, source, input="from outside\n").output == "from outside\n"


def test_checks_see_what_the_source_has_defined_and_leaving_early_passes_none(either):
    trials = [
        Trial(source="def f(x): return x + 1", check="assert f(1) == 2"),
        Trial(source="def f(x): return x", check="assert f(1) == 2"),
        Trial(source="raise SystemExit(0)", check="assert False"),
        Trial(source="import os; os._exit(0)", check="assert False"),
        Trial(source="def f(x): raise SystemExit(0)", check="assert f(1) == 2"),
        Trial(source="import os\nfor fd in (3, 1):\n  os.write(fd, b'x' * 16)\nos._exit(0)"),
    ]
    assert [found.how for found in either.run(trials)] == ["ended", *["raised"] * 5]


def test_a_gigabyte_of_output_is_neither_kept_nor_waited_for(either):
    start = time.monotonic()
    found = outcome(either, "import sys\nfor _ in range(1024): sys.stdout.write('x' * (1 << 20))")
    assert (found.how, len(found.output)) == ("too much", LIMITS.output_bytes)
    assert time.monotonic() - start < LIMITS.seconds


def test_time_is_short_for_all_trials_together(either):
    start = time.monotonic()
    found = either.run([Trial(source="while True: pass")] * 8)
    assert [one.how for one in found] == ["late"] * 8
    assert time.monotonic() - start < LIMITS.seconds + 2


def test_a_background_process_is_gone_when_its_trial_is(either):
    mark = f"left-behind-{uuid.uuid4().hex}"
    source = (
        "import subprocess, sys\n"
        f"subprocess.Popen([sys.executable, '-c', 'import time; time.sleep(600)', '{mark}'], start_new_session=True)\n"
        "print('left')"
    )
    assert outcome(either, source).how == "ended"
    wait_for(lambda: not running_with(mark))


def test_it_sees_no_file_of_ours(jailed, tmp_path):
    secret = tmp_path / "secret.txt"
    secret.write_text("gold")
    for path in (
        secret,
        Path(__file__),
        Path.home() / ".bashrc",
        "/etc/passwd",
        "/etc/hostname",
        Path("/proc/1", "root", "etc/passwd"),
    ):
        assert outcome(jailed, f"open({str(path)!r}).read()").how == "raised", path


def test_it_writes_only_in_memory_and_not_much(jailed, tmp_path):
    tmp_path.chmod(0o777)
    places = [tmp_path / "new", "/usr/new", "/new", "/dev/new", "/proc/self/comm/new", Path(os.__file__).parent / "new"]
    for path in places:
        assert outcome(jailed, f"open({str(path)!r}, 'w').write('x')").how == "raised", path
    assert (
        printed(jailed, "open('own.txt', 'w').write('x' * 1000); print(len(open('/sandbox/own.txt').read()))") == "1000"
    )
    assert not Path("/sandbox/own.txt").exists()
    below = "import tempfile; print(tempfile.mkdtemp().startswith('/sandbox/'))"
    assert printed(jailed, below) == "True"
    assert outcome(jailed, "open('big', 'wb').write(bytes(8 << 20))").how == "raised"
    many = "for n in range(100): open(f'{n}', 'wb').write(bytes(1 << 20))"
    assert outcome(jailed, many).how == "raised"


def test_it_has_no_network(jailed):
    with socket.create_server(("127.0.0.1", 0)) as server:
        port = server.getsockname()[1]
        connect = f"import socket; socket.create_connection(('127.0.0.1', {port}), timeout=1)"
        assert outcome(Sandbox("none", LIMITS), connect).how == "ended"
        assert outcome(jailed, connect).how == "raised"
    devices = "print([line.split(':')[0].strip() for line in open('/proc/net/dev').readlines()[2:]])"
    assert printed(jailed, devices) == "['lo']"


def test_it_sees_and_harms_no_process_of_ours(jailed):
    source = "import os; print([int(name) for name in os.listdir('/proc') if name.isdigit()])"
    assert str(os.getpid()) not in printed(jailed, source)
    assert max(eval(printed(jailed, source))) < 16
    trace = "import ctypes; print([ctypes.CDLL(None).ptrace(16, pid, 0, 0) for pid in ({}, {}, 1)])"
    assert printed(jailed, trace.format(os.getpid(), os.getppid())) == "[-1, -1, -1]"
    kill = "import os\ntry: os.kill({0}, 9)\nexcept OSError: print('cannot')"
    assert printed(jailed, kill.format(os.getpid())) == "cannot"


def test_the_reporter_can_neither_be_traced_nor_read_nor_killed(jailed):
    trace = "import ctypes, os; print(ctypes.CDLL(None).ptrace(16, os.getppid(), 0, 0))"
    assert printed(jailed, trace) == "-1"
    steal = "import os; print(os.listdir(f'/proc/{os.getppid()}/fd'))"
    assert outcome(jailed, steal).how == "raised"
    kill = [Trial(source="import os; os.kill(os.getppid(), 9)", check="assert False"), Trial(source="print(1)")]
    assert [one.how for one in jailed.run(kill)] == ["raised", "ended"]
    assert [one.how for one in Sandbox("none", LIMITS).run(kill)] == ["lost", "lost"]


LOOK_AROUND = """
import os
def f(x): return x
seen = []
for name in os.listdir("/proc"):
    if name.isdigit() and int(name) != os.getpid():
        for file in ("mem", "maps", "environ", "auxv", "fd/3", "root/x", "cwd/x", "syscall", "stack", "oom_score_adj"):
            try:
                open(f"/proc/{name}/{file}", "r+b" if file in ("mem", "oom_score_adj") else "rb").close()
            except FileNotFoundError:
                seen.append((name, file, "entered"))
            except OSError:
                continue
            else:
                seen.append((name, file))
others = [name for name in os.listdir("/proc") if name.isdigit() and int(name) != os.getpid()]
print(len(others), seen, flush=True)
"""


def test_nothing_of_who_reports_and_who_checks_is_to_be_seen(jailed):
    apart = outcome(jailed, LOOK_AROUND, check="assert f(1) == 1", apart=Apart(asked=("f",)))
    assert (apart.how, apart.output) == ("ended", "2 []\n")
    assert printed(jailed, LOOK_AROUND) == "1 []"


def test_it_is_not_root_and_cannot_become_it(jailed):
    assert printed(jailed, "import os; print(os.getuid() != 0 and os.geteuid() != 0)") == "True"
    assert outcome(jailed, "import os; os.setuid(0)").how == "raised"
    mount = "import ctypes; print(ctypes.CDLL(None).mount(b'none', b'/tmp', b'tmpfs', 0, 0))"
    assert printed(jailed, mount) == "-1"


def test_a_killed_jail_takes_its_inside_along(jailed, tmp_path):
    mark = f"in-the-jail-{uuid.uuid4().hex}"
    source = f"import subprocess, sys; subprocess.run([sys.executable, '-c', 'import time; time.sleep(60)', '{mark}'])"
    with ThreadPoolExecutor(1) as pool:
        under_way = pool.submit(
            Sandbox("bubblewrap", replace(LIMITS, seconds=30, seconds_a_trial=30)).run, [Trial(source=source)]
        )
        wait_for(lambda: running_with(mark))
        (outer,) = [child for child in psutil.Process().children() if child.name() == "bwrap"]
        outer.kill()
        wait_for(lambda: not running_with(mark))
        with contextlib.suppress(SandboxError):
            under_way.result(10)


@pytest.mark.parametrize("kind", ["bubblewrap", "none"])
def test_nothing_goes_on_when_whoever_asked_is_killed(kind, tmp_path):
    if kind == "bubblewrap":
        jail()
    mark = f"asked-for-{uuid.uuid4().hex}"
    source = f"import subprocess, sys; subprocess.run([sys.executable, '-c', 'import time; time.sleep(60)', '{mark}'])"
    limits = replace(LIMITS, seconds=30, seconds_a_trial=30)
    made = f"Sandbox({kind!r}, {limits!r})"
    script = f"from rewards.sandbox import Limits, Sandbox, Trial\nprint({made}.run([Trial(source=input())]))"
    asker = subprocess.Popen([sys.executable, "-c", script], stdin=subprocess.PIPE, cwd=Path(__file__).parents[2])
    asker.stdin.write(source.encode() + b"\n")
    asker.stdin.flush()
    wait_for(lambda: running_with(mark))
    asker.kill()
    asker.wait()
    wait_for(lambda: not running_with(mark))


def test_closing_standard_output_costs_no_processor_time(either):
    before = os.times()
    assert outcome(either, "import os, time; os.close(1); os.close(2); time.sleep(0.8)").how == "ended"
    after = os.times()
    assert (after.children_user + after.children_system) - (before.children_user + before.children_system) < 0.5


def test_a_fork_bomb_is_bounded_and_gone_and_others_fork_meanwhile(jailed):
    before = len(os.listdir("/proc"))
    bomb = "import os\nwhile True:\n  try: os.fork()\n  except OSError: pass"
    count = "import os, time\nn = 0\ntry:\n  while os.fork(): n += 1\nexcept OSError: print(n)\nelse: time.sleep(60)"
    found = jailed.run([Trial(source=bomb), Trial(source=count)])
    assert [one.how for one in found] == ["late", "ended"]
    assert 1 <= int(found[1].output.split()[0]) < LIMITS.processes
    assert len(os.listdir("/proc")) < before + LIMITS.processes


def test_a_sandbox_that_cannot_be_had_is_refused_and_not_weakened(monkeypatch, tmp_path):
    monkeypatch.setattr(shutil, "which", lambda name: None)
    with pytest.raises(SandboxError, match=r"there is no bwrap.*apt install bubblewrap.*sandbox: none"):
        Sandbox("bubblewrap", LIMITS)
    broken = tmp_path / "bwrap"
    broken.write_text("#!/bin/sh\necho 'No permissions to create new namespace' >&2; exit 1\n")
    broken.chmod(0o755)
    monkeypatch.setattr(shutil, "which", lambda name: str(broken))
    with pytest.raises(SandboxError, match="No permissions to create new namespace"):
        Sandbox("bubblewrap", LIMITS)


@pytest.mark.parametrize(
    "leaves",
    [
        "os.makedirs('a/b'); open('a/b/text', 'w').write('left'); os.chmod('a/b', 0); os.chmod('a', 0)",
        "os.mkdir('a'); os.symlink('/usr', 'a/usr'); os.mkfifo('a/pipe'); os.chmod('a/pipe', 0); os.chmod('a', 0o111)",
        "[(os.mkdir('d'), os.chdir('d')) for _ in range(200)]; open('text', 'w').close(); os.chmod('.', 0)",
        "open('a\\nb\\udc80', 'w').close(); os.mkdir('-rf'); os.mkdir('.hidden'); os.chmod('.hidden', 0o500)",
        "os.mkdir('a'); os.mkdir('a/b'); os.chmod('a', 0o500); os.chmod('.', 0)",
    ],
)
def test_each_trial_finds_an_empty_folder_whatever_the_one_before_has_left(jailed, leaves):
    lists = "import os; print([each for _, *found in os.walk('.') for each in sum(found, [])])"
    first, second = jailed.run([Trial(source=f"import os; {leaves}"), Trial(source=lists)])
    assert (second.how, second.output.strip()) == ("ended", "[]"), first
