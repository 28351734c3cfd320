"""What bounds the code that is tried: limits of the process, and which system calls Linux refuses it.

Imports the standard library only: it runs inside the sandbox.
"""

import ctypes
import errno
import math
import platform
import resource
import struct
from typing import Any

LIBC = ctypes.CDLL(None, use_errno=True)
PR_SET_SECCOMP, PR_SET_NO_NEW_PRIVS = 22, 38
MAX_OPEN_FILES = 64
ARCHITECTURES = {"x86_64": 0xC000003E, "aarch64": 0xC00000B7}
CLONE3, OTHER_NUMBERS = 435, 0x40000000
"""System calls that have one number everywhere; and where the numbers of x86's second set begin."""
NEW_NAMESPACES = 0x7E020080
"""Flags of clone for every kind of namespace."""
FORBIDDEN: dict[str, dict[str, Any]] = {
    "x86_64": {
        "clone": 56,
        "refused": {
            *(272, 308, 165, 166, 155, 428, 429, 430, 442),
            *(101, 310, 311, 438),
            *(319, 447, 29, 68),
            *(248, 249, 250, 321, 298, 323, 425),
        },
    },
    "aarch64": {
        "clone": 220,
        "refused": {
            *(97, 268, 40, 39, 41, 428, 429, 430, 442),
            *(117, 270, 271, 438),
            *(279, 447, 194, 186),
            *(219, 217, 218, 280, 241, 282, 425),
        },
    },
}
"""By architecture. unshare setns mount umount2 pivot_root open_tree move_mount fsopen mount_setattr; ptrace
process_vm_readv process_vm_writev pidfd_getfd; memfd_create memfd_secret shmget msgget; add_key request_key keyctl bpf
perf_event_open userfaultfd io_uring_setup."""


def set_limits(order: dict[str, Any]) -> None:
    """Bound what the child and what it starts may use; the number of processes only where they are alone in it."""
    limits = order["limits"]
    processor_s = math.ceil(limits["seconds_a_trial"]) + 1
    bounds = {
        resource.RLIMIT_AS: limits["memory_bytes"],
        resource.RLIMIT_CPU: processor_s,
        resource.RLIMIT_FSIZE: limits["disk_bytes"],
        resource.RLIMIT_NOFILE: MAX_OPEN_FILES,
        resource.RLIMIT_CORE: 0,
    }
    if order["is_jailed"]:
        bounds[resource.RLIMIT_NPROC] = limits["processes"]
    for kind, bound in bounds.items():
        resource.setrlimit(kind, (bound, bound))


def forbid_system_calls() -> None:
    """Have Linux refuse, here and in all that is started from here, what a jailed program has no business with.

    New namespaces, in which it would be root and meet less tried parts of the kernel; mounts; tracing; memory that no
    limit counts. The filter is a program for Linux's packet filter: load the number of the call, compare, decide.
    """
    calls = FORBIDDEN[platform.machine()]
    allow, refuse, unknown = 0x7FFF0000, 0x00050000 | errno.EPERM, 0x00050000 | errno.ENOSYS
    load, equal, at_least, any_bit, end = 0x20, 0x15, 0x35, 0x45, 0x06
    program = [
        (load, 0, 0, 4),  # the architecture: a call by another one's numbers is refused
        (equal, 1, 0, ARCHITECTURES[platform.machine()]),
        (end, 0, 0, refuse),
        (load, 0, 0, 0),  # the number
        (at_least, 0, 1, OTHER_NUMBERS),
        (end, 0, 0, refuse),
        (equal, 0, 1, CLONE3),  # its flags lie in memory, unseen from here; the C library then takes clone
        (end, 0, 0, unknown),
        *[step for call in sorted(calls["refused"]) for step in ((equal, 0, 1, call), (end, 0, 0, refuse))],
        (equal, 0, 3, calls["clone"]),
        (load, 0, 0, 16),  # the first argument, flags
        (any_bit, 0, 1, NEW_NAMESPACES),
        (end, 0, 0, refuse),
        (end, 0, 0, allow),
    ]
    code = b"".join(struct.pack("HBBI", *step) for step in program)
    held = ctypes.create_string_buffer(code, len(code))
    whole = struct.pack("HxxxxxxP", len(program), ctypes.addressof(held))
    LIBC.prctl(PR_SET_NO_NEW_PRIVS, 1, 0, 0, 0)
    if LIBC.prctl(PR_SET_SECCOMP, 2, ctypes.create_string_buffer(whole, len(whole)), 0, 0) != 0:
        raise OSError(ctypes.get_errno(), "system calls cannot be filtered")
