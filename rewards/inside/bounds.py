"""What bounds the code that is tried: limits of the process, and a filter of its system calls.

Imports the standard library only: it runs inside the sandbox.
"""

import ctypes
import errno
import math
import os
import resource
import struct
from collections.abc import Iterator, Sequence
from typing import Any

from rewards.inside.system_calls import ARCHITECTURES, NEWER_CALLS, RULES, Rule, allowed

LIBC = ctypes.CDLL(None, use_errno=True)
PR_SET_DUMPABLE, PR_SET_SECCOMP, PR_SET_NO_NEW_PRIVS, PR_SET_THP_DISABLE = 4, 22, 38, 41
MAX_OPEN_FILES = 64
MAX_SIGNALS = 256
"""Timers and signals that wait, each a piece of kernel memory."""
SHARED_BYTES = 1 << 20
"""Largest piece of memory that processes share without a file; see FURTHER."""

Step = tuple[int, int, int, int]
"""Of a filter: operation, steps to skip if true, if false, operand."""
LOAD, EQUAL, GREATER, AT_LEAST, ANY_BIT, AND, END = 0x20, 0x15, 0x25, 0x35, 0x45, 0x54, 0x06
ALLOW, REFUSE = 0x7FFF0000, 0x00050000
NUMBER_AT, ARCHITECTURE_AT = 0, 4
OTHER_NUMBERS = 0x40000000
"""Where the numbers of x86's second set begin, x32's."""
MAP_SHARED, MAP_ANONYMOUS = 0x01, 0x20
CLONE_VM, CLONE_VFORK = 0x0100, 0x4000
SOL_SOCKET, SIZES_OF_BUFFERS = 1, (7, 8, 32, 33)
"""SO_SNDBUF, SO_RCVBUF, and the same with force."""


def _end(answer: int) -> list[Step]:
    return [(END, 0, 0, answer)]


def _argument_at(number: int, *, upper: bool = False) -> int:
    return 16 + 8 * number + 4 * upper


FURTHER: dict[str, list[Step]] = {
    "mmap": [
        (LOAD, 0, 0, _argument_at(3)),
        (AND, 0, 0, MAP_SHARED | MAP_ANONYMOUS),
        (EQUAL, 0, 5, MAP_SHARED | MAP_ANONYMOUS),
        (LOAD, 0, 0, _argument_at(1, upper=True)),
        (EQUAL, 0, 2, 0),
        (LOAD, 0, 0, _argument_at(1)),
        (GREATER, 0, 1, SHARED_BYTES),
        *_end(REFUSE | errno.ENOMEM),
    ],
    "clone": [
        (LOAD, 0, 0, _argument_at(0)),
        (AND, 0, 0, CLONE_VM | CLONE_VFORK),
        (EQUAL, 0, 1, CLONE_VFORK),
        *_end(REFUSE | errno.EPERM),
    ],
    "setsockopt": [
        (LOAD, 0, 0, _argument_at(1)),
        (EQUAL, 0, 1 + len(SIZES_OF_BUFFERS), SOL_SOCKET),
        (LOAD, 0, 0, _argument_at(2)),
        *[(EQUAL, len(SIZES_OF_BUFFERS) - at, 0, option) for at, option in enumerate(SIZES_OF_BUFFERS)],
        *_end(ALLOW),
        *_end(REFUSE | 0),
    ],
}
"""What is refused of calls besides, for the sake of what `usage` counts.

mmap: large memory that is shared without a file. It stays for as long as a part of it is mapped somewhere and is no
process's own, so that pieces can be counted, and not their sizes. clone: to wait, as vfork does, for a child that has
not this process's own memory. setsockopt: larger buffers; the answer is that of a kernel that has no larger ones.
"""


def set_limits(order: dict[str, Any]) -> None:
    """Bound what the child and what it starts may use; the number of processes only where they are alone in it.

    All run on one core, and without huge pages, so that what they can take between two looks of `usage` is bounded.
    """
    limits = order["limits"]
    processor_s = math.ceil(limits["seconds_a_trial"]) + 1
    bounds = {
        resource.RLIMIT_AS: limits["memory_bytes"],
        resource.RLIMIT_CPU: processor_s,
        resource.RLIMIT_FSIZE: limits["disk_bytes"],
        resource.RLIMIT_NOFILE: MAX_OPEN_FILES,
        resource.RLIMIT_CORE: 0,
        resource.RLIMIT_MSGQUEUE: 0,
        resource.RLIMIT_SIGPENDING: MAX_SIGNALS,
    }
    if order["is_jailed"]:
        bounds[resource.RLIMIT_NPROC] = limits["processes"]
        cores = os.sched_getaffinity(0)
        os.sched_setaffinity(0, {order["core"]} & cores or {min(cores)})
        LIBC.prctl(PR_SET_THP_DISABLE, 1, 0, 0, 0)
    for kind, bound in bounds.items():
        resource.setrlimit(kind, (bound, bound))


def be_seen() -> None:
    """Let this user's processes look into this one, which a child of who reports is hidden from by itself.

    The program that is tried must be counted; who checks it must not be seen by it.
    """
    LIBC.prctl(PR_SET_DUMPABLE, 1, 0, 0, 0)


def forbid_system_calls() -> None:
    """Have Linux refuse, here and in all that is started from here, what `system_calls` does not name.

    What is newer than NEWER_CALLS, and clone3 with it, whose flags lie in memory unseen from here, is answered as by a
    kernel that does not have it, so that the C library does without; what every kernel has is not permitted. Another
    architecture's calls are neither. The filter is a program for Linux's packet filter.
    """
    code = b"".join(struct.pack("HBBI", *step) for step in filter_program(os.uname().machine))
    held = ctypes.create_string_buffer(code, len(code))
    whole = struct.pack("HxxxxxxP", len(code) // 8, ctypes.addressof(held))
    LIBC.prctl(PR_SET_NO_NEW_PRIVS, 1, 0, 0, 0)
    if LIBC.prctl(PR_SET_SECCOMP, 2, ctypes.create_string_buffer(whole, len(whole)), 0, 0) != 0:
        raise OSError(ctypes.get_errno(), "system calls cannot be filtered")


def filter_program(machine: str) -> list[Step]:
    """Return the filter: the architecture, then the number, of some calls their arguments too."""
    numbers = allowed(machine)
    ruled = {
        numbers[name]: [*_rule_steps(RULES.get(name, [])), *FURTHER.get(name, []), *_end(ALLOW)]
        for name in dict.fromkeys([*RULES, *FURTHER])
    }
    return [
        (LOAD, 0, 0, ARCHITECTURE_AT),
        (EQUAL, 1, 0, ARCHITECTURES[machine]),
        *_end(REFUSE | errno.EPERM),
        (LOAD, 0, 0, NUMBER_AT),
        (AT_LEAST, 0, 1, OTHER_NUMBERS),
        *_end(REFUSE | errno.EPERM),
        *[step for number, steps in ruled.items() for step in ((EQUAL, 0, len(steps), number), *steps)],
        *[
            step
            for first, last in _ranges(sorted(set(numbers.values()) - ruled.keys()))
            for step in ((AT_LEAST, 0, 2, first), (GREATER, 1, 0, last), *_end(ALLOW))
        ],
        (AT_LEAST, 0, 1, NEWER_CALLS),
        *_end(REFUSE | errno.ENOSYS),
        *_end(REFUSE | errno.EPERM),
    ]


def _rule_steps(rules: Sequence[Rule]) -> Iterator[Step]:
    for rule in rules:
        yield (LOAD, 0, 0, _argument_at(rule.argument))
        for at, value in enumerate(rule.only):
            yield (EQUAL, len(rule.only) - at, 0, value)
        if not rule.only:
            yield (ANY_BIT, 0, 1, rule.without)
        yield from _end(REFUSE | rule.error)


def _ranges(numbers: Sequence[int]) -> Iterator[tuple[int, int]]:
    """Yield the first and the last of each run of numbers that follow each other."""
    first = last = numbers[0]
    for number in numbers[1:]:
        if number != last + 1:
            yield first, last
            first = number
        last = number
    yield first, last
