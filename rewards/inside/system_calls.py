"""Which system calls of Linux a program in the sandbox may make: those that ordinary programs make, and no others.

Not named, and so refused: namespaces, mounts, tracing, keys, BPF, io_uring, other processes' memory and limits, and all
that keeps kernel memory which belongs to no process or file (System V and POSIX queues and semaphores, memfd, inotify).
Numbers are those of Linux's headers, asm/unistd_64.h and asm-generic/unistd.h.
"""

import errno
from typing import NamedTuple

ARCHITECTURES = {"x86_64": 0xC000003E, "aarch64": 0xC00000B7}
"""What the kernel calls them when it asks a filter."""
NEWER_CALLS = 424
"""From here on a call has one number everywhere. Programs try these, and do without where Linux says ENOSYS."""

_CALLS = {
    "memory": "mmap 9 222, mprotect 10 226, munmap 11 215, brk 12 214, mremap 25 216, msync 26 227, mincore 27 232, "
    "madvise 28 233, membarrier 324 283, get_mempolicy 239 236",
    "files by name": "open 2 -, openat 257 56, creat 85 -, access 21 -, faccessat 269 48, faccessat2 439 439, "
    "stat 4 -, lstat 6 -, newfstatat 262 79, statx 332 291, statfs 137 43, readlink 89 -, readlinkat 267 78, "
    "mkdir 83 -, mkdirat 258 34, mknod 133 -, mknodat 259 33, rmdir 84 -, unlink 87 -, unlinkat 263 35, rename 82 -, "
    "renameat 264 38, renameat2 316 276, link 86 -, linkat 265 37, symlink 88 -, symlinkat 266 36, chmod 90 -, "
    "fchmodat 268 53, chown 92 -, lchown 94 -, fchownat 260 54, truncate 76 45, utime 132 -, utimes 235 -, "
    "futimesat 261 -, utimensat 280 88, getxattr 191 8, lgetxattr 192 9, listxattr 194 11, llistxattr 195 12, "
    "getcwd 79 17, chdir 80 49, umask 95 166",
    "open files": "read 0 63, write 1 64, readv 19 65, writev 20 66, pread64 17 67, pwrite64 18 68, preadv 295 69, "
    "pwritev 296 70, preadv2 327 286, pwritev2 328 287, lseek 8 62, close 3 57, close_range 436 436, dup 32 23, "
    "dup2 33 -, dup3 292 24, fcntl 72 25, ioctl 16 29, flock 73 32, fstat 5 80, fstatfs 138 44, fsync 74 82, "
    "fdatasync 75 83, fchdir 81 50, fchmod 91 52, fchown 93 55, ftruncate 77 46, fallocate 285 47, fadvise64 221 223, "
    "fgetxattr 193 10, flistxattr 196 13, getdents 78 -, getdents64 217 61, sendfile 40 71, copy_file_range 326 285, "
    "pipe 22 -, pipe2 293 59",
    "waiting": "poll 7 -, ppoll 271 73, select 23 -, pselect6 270 72, epoll_create 213 -, epoll_create1 291 20, "
    "epoll_ctl 233 21, epoll_wait 232 -, epoll_pwait 281 22, epoll_pwait2 441 441, eventfd 284 -, eventfd2 290 19, "
    "signalfd 282 -, signalfd4 289 74, pause 34 -",
    "time": "time 201 -, gettimeofday 96 169, clock_gettime 228 113, clock_getres 229 114, nanosleep 35 101, "
    "clock_nanosleep 230 115, times 100 153, alarm 37 -, getitimer 36 102, setitimer 38 103, timer_create 222 107, "
    "timer_settime 223 110, timer_gettime 224 108, timer_getoverrun 225 109, timer_delete 226 111, "
    "timerfd_create 283 85, timerfd_settime 286 86, timerfd_gettime 287 87",
    "signals": "rt_sigaction 13 134, rt_sigprocmask 14 135, rt_sigreturn 15 139, rt_sigpending 127 136, "
    "rt_sigtimedwait 128 137, rt_sigqueueinfo 129 138, rt_tgsigqueueinfo 297 240, rt_sigsuspend 130 133, "
    "sigaltstack 131 132, restart_syscall 219 128, kill 62 129, tkill 200 130, tgkill 234 131, pidfd_open 434 434, "
    "pidfd_send_signal 424 424",
    "processes and threads": "clone 56 220, fork 57 -, vfork 58 -, execve 59 221, execveat 322 281, exit 60 93, "
    "exit_group 231 94, wait4 61 260, waitid 247 95, futex 202 98, set_robust_list 273 99, rseq 334 293, "
    "set_tid_address 218 96, arch_prctl 158 -, prctl 157 167, getpid 39 172, getppid 110 173, gettid 186 178, "
    "getpgrp 111 -, getpgid 121 155, setpgid 109 154, getsid 124 156, setsid 112 157",
    "the processor": "sched_yield 24 124, sched_getaffinity 204 123, sched_getscheduler 145 120, "
    "sched_getparam 143 121, sched_getattr 315 275, sched_get_priority_max 146 125, sched_get_priority_min 147 126, "
    "sched_rr_get_interval 148 127, getpriority 140 141, setpriority 141 140, getcpu 309 168",
    "facts and limits": "getuid 102 174, geteuid 107 175, getgid 104 176, getegid 108 177, getgroups 115 158, "
    "getresuid 118 148, getresgid 120 150, capget 125 90, uname 63 160, sysinfo 99 179, getrusage 98 165, "
    "getrlimit 97 163, setrlimit 160 164, prlimit64 302 261, getrandom 318 278",
    "sockets": "socket 41 198, socketpair 53 199, connect 42 203, accept 43 202, accept4 288 242, bind 49 200, "
    "listen 50 201, getsockname 51 204, getpeername 52 205, sendto 44 206, recvfrom 45 207, sendmsg 46 211, "
    "recvmsg 47 212, sendmmsg 307 269, recvmmsg 299 243, shutdown 48 210, setsockopt 54 208, getsockopt 55 209",
}
"""By what they are for: name, number on x86_64, number on aarch64, or - where it has none there."""


def allowed(machine: str) -> dict[str, int]:
    """Return the calls that may be made on a machine of this architecture: name -> number."""
    column = 1 + list(ARCHITECTURES).index(machine)
    calls = [call.split() for group in _CALLS.values() for call in group.split(", ")]
    return {call[0]: int(call[column]) for call in calls if call[column] != "-"}


class Rule(NamedTuple):
    """What an argument of an allowed call must be. The lower 32 bits are looked at, which are all of an int."""

    argument: int
    error: int
    """What else is answered: what a kernel says that does not know such a thing."""
    only: tuple[int, ...] = ()
    """The values that it may have; none: any."""
    without: int = 0
    """Bits that must not be set."""


AF_UNIX, AF_INET, AF_INET6 = 1, 2, 10
IPPROTO_IP, IPPROTO_TCP, IPPROTO_UDP = 0, 6, 17
MAP_LOCKED, MAP_POPULATE, MAP_HUGETLB = 0x2000, 0x8000, 0x40000
"""Memory that is taken at once and not as it is touched, so that nothing but death stops it; and huge pages."""
MADVICE = (*range(5), 8, 9, 10, 11, *range(14, 22))
"""All but to take it at once, to merge pages with others' and to test the machine."""
NEW_NAMESPACES = 0x7E020080
"""Flags of clone for every kind of namespace."""
_FAMILY = Rule(0, errno.EAFNOSUPPORT, only=(AF_UNIX, AF_INET, AF_INET6))
"""A namespace of networks confines these; AF_VSOCK, for one, reaches the host of a virtual machine from any of them."""
_PRCTL = {
    "PDEATHSIG, set and get": (1, 2),
    "DUMPABLE, get: who hides his memory cannot be counted": (3,),
    "NAME, set and get": (15, 16),
    "SECCOMP, get; CAPBSET, read": (21, 23),
    "TIMERSLACK, CHILD_SUBREAPER, NO_NEW_PRIVS, set and get": (29, 30, 36, 37, 38, 39),
    "TID_ADDRESS, THP_DISABLE and SVE_VL, get; VMA, set": (40, 42, 51, 0x53564D41),
}
_IOCTL = {
    "TCGETS, TIOCGPGRP, TIOCGWINSZ: is it a terminal": (0x5401, 0x540F, 0x5413),
    "FIONREAD, FIONBIO, FIONCLEX, FIOCLEX: of any file": (0x541B, 0x5421, 0x5450, 0x5451),
    "SIOCGIFNAME, SIOCGIFCONF, SIOCGIFFLAGS, SIOCGIFADDR, SIOCGIFINDEX: of a network": (
        *(0x8910, 0x8912, 0x8913, 0x8915, 0x8933),
    ),
}
_OWN = (0,)
"""A process may change itself; another one, such as who reports on it, has another number."""
RULES: dict[str, list[Rule]] = {
    "clone": [Rule(0, errno.EPERM, without=NEW_NAMESPACES)],
    "socket": [_FAMILY, Rule(2, errno.EPROTONOSUPPORT, only=(IPPROTO_IP, IPPROTO_TCP, IPPROTO_UDP))],
    "socketpair": [_FAMILY],
    "prctl": [Rule(0, errno.EINVAL, only=tuple(value for values in _PRCTL.values() for value in values))],
    "ioctl": [Rule(1, errno.ENOTTY, only=tuple(value for values in _IOCTL.values() for value in values))],
    "prlimit64": [Rule(0, errno.EPERM, only=_OWN)],
    "setpriority": [Rule(0, errno.EPERM, only=(0,)), Rule(1, errno.EPERM, only=_OWN)],
    "mmap": [Rule(3, errno.ENOMEM, without=MAP_LOCKED | MAP_POPULATE | MAP_HUGETLB)],
    "madvise": [Rule(2, errno.EINVAL, only=MADVICE)],
}
"""Of the calls that can do more than a program in the sandbox may: all rules must hold."""
