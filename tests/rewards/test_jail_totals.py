"""All that is in a jail takes no more memory than one bound, however it is taken. Attacks, in real jails."""

import time

import pytest

from rewards.sandbox import Trial
from tests.rewards.sandboxes import jail, outcome

pytestmark = pytest.mark.processes

BOUND = 256 << 20
MACHINE = """
import ctypes, mmap, os, resource, socket, subprocess, sys, time
libc = ctypes.CDLL(None, use_errno=True)
libc.mmap.restype, libc.mmap.argtypes = ctypes.c_void_p, [ctypes.c_size_t] * 2 + [ctypes.c_int] * 3 + [ctypes.c_size_t]
libc.memset.argtypes = [ctypes.c_void_p, ctypes.c_int, ctypes.c_size_t]
libc.munmap.argtypes = [ctypes.c_void_p, ctypes.c_size_t]
def own(size):
    held = libc.mmap(0, size, 3, 0x22, -1, 0)
    libc.memset(held, 1, size)
"""
"""What the attacks begin with."""
TAKE_TOO_MUCH = {
    "children of which each takes less than the bound": """
for _ in range(8):
    if os.fork() == 0:
        own(100 << 20)
        time.sleep(60)
time.sleep(60)
""",
    "what children took from their parent and changed": """
held = bytearray(b"x") * (60 << 20)
for _ in range(8):
    if os.fork() == 0:
        for at in range(0, len(held), 4096):
            held[at] = 1
        time.sleep(60)
time.sleep(60)
""",
    "other programs": """
hold = "held = bytearray(b'x') * (100 << 20); import time; time.sleep(60)"
for _ in range(8):
    subprocess.Popen([sys.executable, "-c", hold])
time.sleep(60)
""",
    "shared memory of which nearly all is unmapped": """
while True:
    held = libc.mmap(0, 1 << 20, 3, 0x21, -1, 0)
    assert held != 2**64 - 1, "no more"
    libc.memset(held, 1, 1 << 20)
    libc.munmap(held + 4096, (1 << 20) - 4096)
""",
    "shared memory that a child has filled and left": """
for _ in range(2):
    if os.fork() == 0:
        pieces = [libc.mmap(0, 1 << 20, 3, 0x21, -1, 0) for _ in range(150)]
        if os.fork() == 0:
            for held in pieces:
                libc.memset(held, 1, 1 << 20)
            os._exit(0)
        time.sleep(60)
time.sleep(60)
""",
    "empty files": """
for n in range(10_000_000):
    os.close(os.open(str(n), os.O_CREAT | os.O_WRONLY))
""",
    "links to one file": """
open("file", "w")
for n in range(10_000_000):
    os.link("file", f"{n:0200d}")
""",
    "what waits in sockets": """
for _ in range(13):
    if os.fork() == 0:
        pairs = [socket.socketpair() for _ in range(28)]
        for one, other in pairs:
            one.setblocking(False)
            try:
                while True:
                    one.send(bytes(1 << 16))
            except BlockingIOError:
                pass
        time.sleep(60)
time.sleep(60)
""",
    "what waits in connections": """
server = socket.create_server(("127.0.0.1", 0), backlog=1000)
for _ in range(6):
    if os.fork() == 0:
        held = []
        for _ in range(50):
            one = socket.create_connection(server.getsockname())
            one.setblocking(False)
            held.append(one)
            try:
                while True:
                    one.send(bytes(1 << 20))
            except BlockingIOError:
                pass
        time.sleep(60)
time.sleep(60)
""",
    "a program that may be executed and not be read": """
import shutil
shutil.copy("/bin/sleep", "hidden")
os.chmod("hidden", 0o111)
subprocess.Popen(["./hidden", "60"])
time.sleep(60)
""",
    "mappings of a page": """
held = libc.mmap(0, 200 << 20, 1, 0x22, -1, 0)
for at in range(0, 200 << 20, 8192):
    libc.mprotect(ctypes.c_void_p(held + at), 4096, 3)
time.sleep(60)
""",
}


@pytest.fixture(scope="module")
def jailed():
    return jail(memory_bytes=BOUND, disk_bytes=64 << 20, seconds=8.0, seconds_a_trial=4.0)


ALWAYS = {
    "children of which each takes less than the bound",
    "shared memory of which nearly all is unmapped",
    "empty files",
    "what waits in connections",
}
CASES = [pytest.param(how, marks=[] if how in ALWAYS else pytest.mark.exhaustive) for how in TAKE_TOO_MUCH]


@pytest.mark.parametrize("how", CASES)
def test_too_much_taken_together_ends_a_trial(jailed, how):
    start = time.monotonic()
    found = jailed.run([Trial(source=MACHINE + TAKE_TOO_MUCH[how]), Trial(source="print('next')")])
    assert [one.how for one in found] == ["too much", "ended"], how
    assert time.monotonic() - start < 8.0


def test_large_pieces_of_shared_memory_are_refused(jailed):
    for take in ("mmap.mmap(-1, 2 << 20)", "open('/dev/zero')"):
        assert outcome(jailed, MACHINE + take).how == "raised", take
    assert outcome(jailed, MACHINE + "mmap.mmap(-1, 1 << 20)").how == "ended"


def test_files_count_as_memory(jailed):
    full = "file = open('file', 'wb')\nfor _ in range(60): file.write(bytes(1 << 20))\nfile.flush()\n"
    assert outcome(jailed, MACHINE + full + "time.sleep(0.1)").how == "ended"
    assert outcome(jailed, MACHINE + full + "own(210 << 20)\ntime.sleep(60)").how == "too much"


def test_what_a_fork_shares_counts_once(jailed):
    waiting = """
held = bytearray(b"x") * (150 << 20)
children = [os.fork() for _ in range(3)]
if 0 in children:
    time.sleep(0.3)
    os._exit(0)
for _ in children:
    os.wait()
"""
    assert outcome(jailed, MACHINE + waiting).how == "ended"


def test_starting_a_program_does_not_count_its_parent_twice(jailed):
    starting = """
held = bytearray(b"x") * (180 << 20)
for _ in range(100):
    subprocess.run(["/bin/true"])
"""
    assert outcome(jailed, MACHINE + starting).how == "ended"
