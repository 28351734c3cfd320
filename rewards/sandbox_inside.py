"""The program that runs inside the sandbox: it tries somebody else's code, one fresh process a trial, and reports.

It is given to Python as text, so it imports the standard library only. One JSON order comes in on standard input; a
word that it has begun, and one JSON line a trial, go out on standard output. The code that is tried never holds that
end: it runs in forked children, which close it, and this process cannot be traced nor its files be opened by them.
"""

import contextlib
import ctypes
import json
import math
import os
import resource
import selectors
import signal
import sys
import threading
import time
from typing import Any

BEGUN = "begun"
PR_SET_DUMPABLE = 4
CHUNK_BYTES = 1 << 16
MAX_OPEN_FILES = 64


def main() -> None:
    """Read the order, try everything in turn, until the time for all of it is up."""
    order = json.load(sys.stdin)
    report = os.fdopen(os.dup(1), "w")
    silence = os.open(os.devnull, os.O_RDWR)
    for stream in (0, 1, 2):
        os.dup2(silence, stream)
    if order["user"] is not None:  # no longer root, and no longer anybody who runs anything else
        os.setgroups([])
        os.setgid(order["user"])
        os.setuid(order["user"])
    ctypes.CDLL(None).prctl(PR_SET_DUMPABLE, 0)
    print(BEGUN, file=report, flush=True)
    end = time.monotonic() + order["limits"]["seconds"]
    for trial in order["trials"]:
        left = end - time.monotonic()
        outcome = attempt(order, trial, left) if left > 0 else {"how": "late", "output": ""}
        print(json.dumps(outcome), file=report, flush=True)


def attempt(order: dict[str, Any], trial: dict[str, Any], seconds_left: float) -> dict[str, str]:
    """Run one trial in a child; say how it ended (`ended`, `raised`, `late`, `too much`) and what it printed."""
    limits = order["limits"]
    printed, print_end = os.pipe()
    done, done_end = os.pipe()
    key = os.urandom(16)
    given = os.memfd_create("input")
    os.write(given, trial["input"].encode(errors="surrogatepass"))
    os.lseek(given, 0, os.SEEK_SET)
    child = os.fork()
    if child == 0:
        be_tried(order, trial, (given, print_end, done_end), key)
    for mine in (given, print_end, done_end):
        os.close(mine)
    output, how = listen(child, printed, min(limits["seconds_a_trial"], seconds_left), limits["output_bytes"])
    clear_away(child, everything=order["is_jailed"])
    if how == "ended" and os.read(done, len(key)) != key:  # it left by another door than its end
        how = "raised"
    os.close(printed)
    os.close(done)
    return {"how": how, "output": output.decode(errors="replace")}


def be_tried(order: dict[str, Any], trial: dict[str, Any], ends: tuple[int, int, int], key: bytes) -> None:
    """Be the child: run the code, and show the key if its end is reached. Never returns."""
    try:
        given, print_end, done_end = ends
        os.setsid()
        os.dup2(given, 0)
        os.dup2(print_end, 1)
        os.dup2(done_end, 3)
        os.closerange(4, 4096)
        set_limits(order)
        run(trial)
        sys.stdout.flush()
        os.write(3, key)
    finally:
        os._exit(0)


def run(trial: dict[str, Any]) -> None:
    """Compile the source, and unless that is all, execute it and what checks it in one namespace."""
    code = compile(trial["source"], "answer.py", "exec")
    if not trial["is_run"]:
        return
    names: dict[str, Any] = {"__name__": trial["name"]}
    sys.stdin, sys.stdout = os.fdopen(0), os.fdopen(1, "w", closefd=False)
    try:
        exec(code, names)
    except SystemExit as left:
        if trial["check"] or left.code not in (None, 0):
            raise
    for thread in threading.enumerate():
        if thread is not threading.current_thread() and not thread.daemon:
            thread.join()
    exec(compile(trial["check"], "check.py", "exec"), names)


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


def listen(child: int, printed: int, seconds: float, most: int) -> tuple[bytes, str]:
    """Collect what the child prints until it is gone, late, or prints too much."""
    output, end = b"", time.monotonic() + seconds
    os.set_blocking(printed, False)
    gone = os.pidfd_open(child)
    with selectors.DefaultSelector() as selector:
        selector.register(printed, selectors.EVENT_READ)
        selector.register(gone, selectors.EVENT_READ)
        how = ""
        while not how:
            ready = {key.fd for key, _ in selector.select(max(0.0, end - time.monotonic()))}
            chunk = read(printed)
            output += chunk
            if len(output) > most:
                how = "too much"
            elif gone in ready and not chunk:
                how = "ended"
            elif time.monotonic() >= end:
                how = "late"
    os.close(gone)
    return output[:most], how


def read(printed: int) -> bytes:
    """Return what there is to read, without waiting."""
    try:
        return os.read(printed, CHUNK_BYTES)
    except BlockingIOError:
        return b""


def clear_away(child: int, *, everything: bool) -> None:
    """Kill the child and what it has started, and bury them; in a jail that is everybody but this process."""
    with contextlib.suppress(ProcessLookupError):
        os.kill(-1 if everything else -child, signal.SIGKILL)
    with contextlib.suppress(ProcessLookupError):  # before it had a group of its own
        os.kill(child, signal.SIGKILL)
    with contextlib.suppress(ChildProcessError):
        while True:
            os.waitpid(-1, 0)


if __name__ == "__main__":
    main()
