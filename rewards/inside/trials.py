"""The program that runs inside the sandbox: it tries somebody else's code, one fresh process a trial, and reports.

One JSON order comes in on standard input, whose end means that nobody waits any more; a word that it has begun, and one
JSON line a trial, go out on standard output. The code that is tried never holds that end: it runs in forked children,
which close it, and this process cannot be traced nor its files be opened by them.
"""

import atexit
import contextlib
import json
import os
import selectors
import shutil
import signal
import sys
import threading
import time
import types
from typing import Any

from rewards.inside.bounds import LIBC, PR_SET_DUMPABLE, forbid_system_calls, set_limits
from rewards.inside.usage import LOOK_S, Watch

BEGUN = "begun"
CHUNK_BYTES = 1 << 16


def main() -> None:
    """Read the order, try everything in turn, until the time for all of it is up."""
    order = json.loads(sys.stdin.readline())
    report, caller = os.fdopen(os.dup(1), "w"), os.dup(0)
    silence = os.open(os.devnull, os.O_RDWR)
    for stream in (0, 1, 2):
        os.dup2(silence, stream)
    if order["user"] is not None:  # no longer root, and no longer anybody who runs anything else
        os.setgroups([])
        os.setgid(order["user"])
        os.setuid(order["user"])
    LIBC.prctl(PR_SET_DUMPABLE, 0)
    print(BEGUN, file=report, flush=True)
    end = time.monotonic() + order["limits"]["seconds"]
    for trial in order["trials"]:
        left = end - time.monotonic()
        outcome = attempt(order, trial, left, caller) if left > 0 else {"how": "late", "output": ""}
        print(json.dumps(outcome), file=report, flush=True)


def attempt(order: dict[str, Any], trial: dict[str, Any], seconds_left: float, caller: int) -> dict[str, str]:
    """Run one trial in a child; say how it ended (`ended`, `raised`, `late`, `too much`) and what it printed.

    Ends this process, and with it a jail, when the caller hangs up.
    """
    limits = order["limits"]
    printed, print_end = os.pipe()
    done, done_end = os.pipe()
    begun, begun_end = os.pipe()
    key = os.urandom(16)
    given = os.memfd_create("input")
    os.write(given, trial["input"].encode(errors="surrogatepass"))
    os.lseek(given, 0, os.SEEK_SET)
    child = os.fork()
    if child == 0:
        be_tried(order, trial, (given, print_end, done_end), key)
    for mine in (given, print_end, done_end, begun_end):
        os.close(mine)
    os.read(begun, 1)  # the child has bounds, and may be looked at, when it has closed what is ours
    os.close(begun)
    seconds = min(limits["seconds_a_trial"], seconds_left)
    watch = Watch(limits["memory_bytes"]) if order["is_jailed"] else None
    output, how = listen(child, printed, caller, seconds, limits["output_bytes"], watch)
    clear_away(child, everything=order["is_jailed"])
    if how == "hung up":
        sys.exit(1)
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
        set_limits(order)
        os.closerange(4, 4096)
        if order["is_jailed"]:
            forbid_system_calls()
        run(trial)
        os.write(3, key)
    finally:
        os._exit(0)


def run(trial: dict[str, Any]) -> None:
    """Compile the source, and unless that is all, execute it and what checks it in one namespace."""
    code = compile(trial["source"], "answer.py", "exec")
    if not trial["is_run"]:
        return
    module = types.ModuleType(trial["name"])  # by which classes that the code defines are found again
    sys.modules[trial["name"]] = module
    sys.stdin = sys.__stdin__ = os.fdopen(0)  # type: ignore[misc]
    sys.stdout = sys.__stdout__ = os.fdopen(1, "w", closefd=False)  # type: ignore[misc]
    check = f"{set_up(trial['setup'], module.__dict__)}\n{trial['check']}"
    try:
        exec(code, module.__dict__)
    except SystemExit as left:
        if trial["check"] or left.code not in (None, 0):
            raise
    for thread in threading.enumerate():
        if thread is not threading.current_thread() and not thread.daemon:
            thread.join()
    exec(compile(check, "check.py", "exec"), module.__dict__)
    atexit._run_exitfuncs()
    for stream in (sys.stdout, sys.__stdout__):
        with contextlib.suppress(ValueError):  # closed
            stream.flush()


def set_up(text: str, namespace: dict[str, Any]) -> str:
    """Execute what is to be there before the code; return it where that fails, for then it needs what the code defines.

    So the `List` of an annotation is there, and a test's own objects of the program's classes can be made, too.
    """
    try:
        exec(compile(text, "setup.py", "exec"), namespace)
    except Exception:
        return text
    return ""


def listen(child: int, printed: int, caller: int, seconds: float, most: int, watch: Watch | None) -> tuple[bytes, str]:
    """Collect what the child prints until it is gone, late, prints or takes too much, or nobody waits any more."""
    output, end = b"", time.monotonic() + seconds
    os.set_blocking(printed, False)
    gone = os.pidfd_open(child)
    with selectors.DefaultSelector() as selector:
        selector.register(printed, selectors.EVENT_READ)
        selector.register(gone, selectors.EVENT_READ)
        selector.register(caller, selectors.EVENT_READ)
        how = ""
        while not how:
            left = end - time.monotonic()
            ready = {key.fd for key, _ in selector.select(max(0.0, min(left, LOOK_S) if watch else left))}
            chunk = read(printed)
            if chunk == b"" and printed in selector.get_map():  # closed, by everybody
                selector.unregister(printed)
            output += chunk or b""
            if caller in ready:
                how = "hung up"
            elif len(output) > most or (watch and watch.finds_too_much()):
                how = "too much"
            elif gone in ready and not chunk:
                how = "ended"
            elif time.monotonic() >= end:
                how = "late"
    os.close(gone)
    return output[:most], how


def read(printed: int) -> bytes | None:
    """Return what there is to read, without waiting: nothing at the end, None where there is nothing yet."""
    try:
        return os.read(printed, CHUNK_BYTES)
    except BlockingIOError:
        return None


def clear_away(child: int, *, everything: bool) -> None:
    """Kill the child and what it has started, and bury them; in a jail that is everybody but this process.

    What they leave in the folder is removed too, so that every trial finds it empty.
    """
    with contextlib.suppress(ProcessLookupError):
        os.kill(-1 if everything else -child, signal.SIGKILL)
    with contextlib.suppress(ProcessLookupError):  # before it had a group of its own
        os.kill(child, signal.SIGKILL)
    with contextlib.suppress(ChildProcessError):
        while True:
            os.waitpid(-1, 0)
    for left in os.listdir():
        shutil.rmtree(left, ignore_errors=True)
        with contextlib.suppress(OSError):
            os.unlink(left)
