"""Which system calls a program in the jail may make: the list against Linux's headers, its filter, and real calls."""

import errno
import json
import platform
import re
from pathlib import Path

import pytest

from rewards.inside.bounds import FURTHER, SHARED_BYTES, filter_program
from rewards.inside.system_calls import ARCHITECTURES, NEWER_CALLS, RULES, allowed
from tests.rewards.sandboxes import jail, outcome, printed

HEADERS = {
    "x86_64": Path("/usr/include/x86_64-linux-gnu/asm/unistd_64.h"),
    "aarch64": Path("/usr/include/asm-generic/unistd.h"),
}
GENERIC_NAMES = {"newfstatat": "fstatat"}
ALLOWED, MACHINE_32 = "allowed", 0x40000003
RULED = RULES.keys() | FURTHER.keys()
NUMBERS = range(601)
UNASKED = {335, 336}
"""uretprobe and uprobe of x86_64: Linux asks no filter about them, and ends a process that makes them itself."""


def answer(machine, number, arguments=(), architecture=None):
    """What the filter of a machine says to a call: the name of an error, or that it is allowed. Runs its steps."""
    arguments = [*arguments, *[0] * (6 - len(arguments))]
    words = [number, architecture or ARCHITECTURES[machine], 0, 0]
    words += [word for one in arguments for word in (one & 0xFFFFFFFF, one >> 32)]
    steps, at, held = filter_program(machine), 0, 0
    while True:
        operation, if_true, if_false, operand = steps[at]
        at += 1
        if operation == 0x06:
            return ALLOWED if operand == 0x7FFF0000 else errno.errorcode.get(operand & 0xFFFF, "done")
        if operation == 0x20:
            held = words[operand // 4]
        elif operation == 0x54:
            held &= operand
        else:
            holds = {0x15: held == operand, 0x25: held > operand, 0x35: held >= operand, 0x45: bool(held & operand)}
            at += if_true if holds[operation] else if_false


@pytest.mark.parametrize("machine", ARCHITECTURES)
def test_numbers_are_those_of_linuxs_headers(machine):
    if not HEADERS[machine].exists():
        pytest.skip(f"no {HEADERS[machine]}")
    found = re.findall(r"#define __NR(?:3264)?_(\w+)\s+(\d+)", HEADERS[machine].read_text())
    said = {name: int(number) for name, number in found}
    for name, number in allowed(machine).items():
        assert said.get(name, said.get(GENERIC_NAMES.get(name))) == number, name


def test_numbers_stand_once():
    for machine in ARCHITECTURES:
        assert len(set(allowed(machine).values())) == len(allowed(machine)) > 150


@pytest.mark.parametrize("machine", ARCHITECTURES)
def test_the_filter_allows_what_is_named_and_nothing_else(machine):
    named = allowed(machine)
    free = {number for name, number in named.items() if name not in RULED}
    ruled = {named[name] for name in RULED}
    for number in set(NUMBERS) - ruled:
        unknown = "EPERM" if number < NEWER_CALLS else "ENOSYS"
        assert answer(machine, number) == (ALLOWED if number in free else unknown), number
    assert answer(machine, named["read"], architecture=MACHINE_32) == "EPERM"
    assert answer(machine, named["read"] + 0x40000000) == "EPERM"


@pytest.mark.parametrize("machine", ARCHITECTURES)
@pytest.mark.parametrize(
    ("call", "arguments", "said"),
    [
        ("clone", [0x01200011], ALLOWED),  # as fork does it
        ("clone", [0x003D0F00], ALLOWED),  # as a thread is made
        ("clone", [0x4111], ALLOWED),  # as vfork does it
        ("clone", [0x4011], "EPERM"),
        *[("clone", [flag | 17], "EPERM") for flag in (0x80, 1 << 17, *(1 << bit for bit in range(25, 31)))],
        *[("socket", [family, 1 | 0x80000], ALLOWED) for family in (1, 2, 10)],
        *[("socket", [family, 3], "EAFNOSUPPORT") for family in (0, 16, 17, 31, 38, 40, 44, 45, 40 + (1 << 32))],
        ("socket", [2, 1, 6], ALLOWED),
        ("socket", [2, 1, 132], "EPROTONOSUPPORT"),
        ("socketpair", [1, 1], ALLOWED),
        ("socketpair", [40, 1], "EAFNOSUPPORT"),
        ("prctl", [15], ALLOWED),
        *[("prctl", [option], "EINVAL") for option in (4, 22, 35, 41, 59, 62, 0x59616D61)],
        ("ioctl", [0, 0x5401], ALLOWED),
        *[("ioctl", [0, request], "ENOTTY") for request in (0x5412, 0x541C, 0x40049409, 0xAE01)],
        ("prlimit64", [0, 7], ALLOWED),
        ("prlimit64", [1, 7], "EPERM"),
        ("setpriority", [0, 0, 5], ALLOWED),
        ("setpriority", [0, 1, 5], "EPERM"),
        ("setpriority", [2, 0, 5], "EPERM"),
        *[("setsockopt", [3, 1, option], ALLOWED) for option in (2, 9, 20, 21)],
        *[("setsockopt", [3, 1, option], "done") for option in (7, 8, 32, 33)],
        ("setsockopt", [3, 6, 7], ALLOWED),
        ("mmap", [0, 1 << 40, 3, 0x22], ALLOWED),  # private, without a file
        ("mmap", [0, 1 << 40, 3, 0x01, 5], ALLOWED),  # shared, of a file
        ("mmap", [0, SHARED_BYTES, 3, 0x21], ALLOWED),
        ("mmap", [0, SHARED_BYTES + 1, 3, 0x21], "ENOMEM"),
        ("mmap", [0, 1 << 32, 3, 0x21], "ENOMEM"),
        ("mmap", [0, SHARED_BYTES + 1, 3, 0x23], "ENOMEM"),
        *[("mmap", [0, 1 << 21, 3, flag | 0x22], "ENOMEM") for flag in (0x2000, 0x8000, 0x40000)],
        *[("madvise", [0, 0, advice], ALLOWED) for advice in (4, 8, 10, 14, 16)],
        *[("madvise", [0, 0, advice], "EINVAL") for advice in (12, 22, 23, 25, 100)],
    ],
)
def test_the_filter_looks_at_arguments(machine, call, arguments, said):
    assert answer(machine, allowed(machine)[call], arguments) == said


PROBE = """
import ctypes, json, os, signal
libc = ctypes.CDLL(None, use_errno=True)
def answer(number):
    reading, writing = os.pipe()
    child = os.fork()
    if child == 0:
        signal.setitimer(signal.ITIMER_REAL, 0.05)  # some wait
        wrong = 0 if number == FUTEX else -1
        result = libc.syscall(number, *[ctypes.c_long(wrong)] * 6)
        os.write(writing, b"%d" % (ctypes.get_errno() if result == -1 else 0))
        os._exit(0)
    os.close(writing)
    os.waitpid(child, 0)
    said = os.read(reading, 16).split(b"\\n")[0]
    os.close(reading)
    return said.decode()
print(json.dumps({number: answer(number) for number in NUMBERS}))
"""


@pytest.fixture(scope="module")
def jailed():
    return jail(seconds=20.0, seconds_a_trial=20.0)


@pytest.mark.processes
def test_of_all_numbers_those_that_are_not_named_are_refused(jailed):
    named = allowed(platform.machine())
    probe = PROBE.replace("FUTEX", str(named["futex"])).replace("NUMBERS", repr(NUMBERS))
    said = {int(number): text for number, text in json.loads(printed(jailed, probe)).items()}
    refused = {number for number, text in said.items() if text in (str(errno.EPERM), str(errno.ENOSYS))}
    by_argument = {named[name] for name in RULED}
    assert set(NUMBERS) - refused - by_argument - UNASKED == set(named.values()) - by_argument


NOT_NAMED = [
    "unshare(0x10000000)",
    "unshare(0x00020000)",
    "syscall(CLONE, 0x10000000 | 17, 0, 0, 0, 0)",
    "syscall(435, 0, 0)",
    "memfd_create(b'x', 0)",
    "shmget(0, 4096, 0o1600)",
    "semget(0, 32000, 0o1600)",
    "msgget(0, 0o1600)",
    "mq_open(b'/q', 0o102, 0o600, None)",
    "inotify_init()",
    "ptrace(0, 0, 0, 0)",
    "setns(3, 0)",
    "sched_setaffinity(0, 128, (ctypes.c_ulong * 16)(*[-1] * 16))",
    "syscall(0x40000000 | 39)",
]


@pytest.mark.processes
def test_what_is_not_named_is_refused_even_to_a_fresh_process(jailed):
    clone = str(allowed(platform.machine())["clone"])
    asked = "\n".join(f"print(libc.{call.replace('CLONE', clone)}, ctypes.get_errno())" for call in NOT_NAMED)
    probe = f"import ctypes; libc = ctypes.CDLL(None, use_errno=True)\n{asked}"
    started = f"import subprocess, sys; print(subprocess.check_output([sys.executable, '-c', {probe!r}]).decode())"
    for source in (probe, started):
        said = dict(zip(NOT_NAMED, printed(jailed, source).splitlines(), strict=True))
        assert {call: text for call, text in said.items() if text not in ("-1 1", "-1 38")} == {}


@pytest.mark.processes
def test_four_hundred_sets_of_semaphores_are_none(jailed):
    ask = "import ctypes; print({ctypes.CDLL(None).semget(0, 32000, 0o1600) for _ in range(400)})"
    assert printed(jailed, ask) == "{-1}"


@pytest.mark.processes
def test_only_sockets_that_a_namespace_confines_can_be_had(jailed):
    ask = """
import socket
def can_be_had(family, kind, make):
    try:
        made = make(family, kind)
    except OSError:
        return False
    for one in made if isinstance(made, tuple) else (made,):
        one.close()
    return True
for make in (socket.socket, socket.socketpair):
    print([family for family in range(64) if any(can_be_had(family, kind, make) for kind in (1, 2, 3, 5))])
"""
    families, pairs = map(json.loads, printed(jailed, ask).splitlines())
    assert families in ([1, 2, 10], [1, 2])
    assert pairs == [1]


@pytest.mark.processes
def test_buffers_of_sockets_are_not_made_larger_and_programs_do_not_mind(jailed):
    ask = """
import socket
one, _ = socket.socketpair()
before = one.getsockopt(1, socket.SO_SNDBUF), one.getsockopt(1, socket.SO_RCVBUF)
one.setsockopt(1, socket.SO_SNDBUF, 1 << 24)
one.setsockopt(1, socket.SO_RCVBUF, 1 << 24)
print((one.getsockopt(1, socket.SO_SNDBUF), one.getsockopt(1, socket.SO_RCVBUF)) == before)
"""
    assert printed(jailed, ask) == "True"


@pytest.mark.processes
def test_calls_by_another_architectures_numbers_are_refused(jailed):
    if platform.machine() != "x86_64":
        pytest.skip("int 0x80 is x86's")
    ask = """
import ctypes, mmap
code = mmap.mmap(-1, 4096, flags=mmap.MAP_PRIVATE | mmap.MAP_ANONYMOUS, prot=7)
code.write(b"\\xb8\\x14\\x00\\x00\\x00\\xcd\\x80\\xc3")  # mov eax, 20 (getpid of i386); int 0x80; ret
print(ctypes.CFUNCTYPE(ctypes.c_int)(ctypes.addressof(ctypes.c_char.from_buffer(code)))())
"""
    found = outcome(jailed, ask)
    assert (found.how, found.output.strip()) in [("ended", "-1"), ("raised", "")]  # refused; or this kernel has none


@pytest.mark.processes
def test_a_program_cannot_change_who_reports_on_it_nor_hide(jailed):
    ask = """
import ctypes, errno, os, resource
libc = ctypes.CDLL(None, use_errno=True)
above = os.getppid()
def said(result):
    return "done" if result != -1 else errno.errorcode[ctypes.get_errno()]
print(said(libc.prlimit(above, 7, (ctypes.c_ulong * 2)(0, 0), None)))
print(said(libc.setpriority(0, above, 19)))
print(said(libc.prctl(4, 0, 0, 0, 0)))
print(said(libc.prctl(41, 0, 0, 0, 0)), libc.prctl(42, 0, 0, 0, 0))
os.nice(1)
resource.setrlimit(resource.RLIMIT_NOFILE, (32, 32))
"""
    assert printed(jailed, ask).split() == ["EPERM", "EPERM", "EINVAL", "EINVAL", "1"]
