"""The program that runs inside the sandbox: it tries somebody else's code, in fresh processes, and reports.

One JSON order comes in on standard input, after its length, and then the tests that are judged apart, byte by byte;
its end means that nobody waits any more. A word that it has begun, and a JSON line for each trial, go out on standard
output. The code that is tried never holds these ends: it runs in forked children, which close them, and this process
cannot be traced nor its files be opened by them. A test that is judged apart is read by the process that checks, and by
no other.
"""

import atexit
import contextlib
import io
import json
import os
import select
import shutil
import signal
import socket
import struct
import sys
import threading
import time
import types
from typing import Any, NoReturn

from rewards.inside.bounds import LIBC, PR_SET_DUMPABLE, be_seen, forbid_system_calls, set_limits
from rewards.inside.usage import LOOK_S, Watch

BEGUN = "begun"
CHUNK_BYTES = 1 << 16
PASSED = b"passed"
HIGH = 40
"""Numbers of files that nothing else has yet, below the most that may be open."""


def main() -> None:
    """Read the order, try everything in turn, until the time for all of it is up."""
    (size,) = struct.unpack("!Q", _exactly(0, 8))
    order = json.loads(_exactly(0, size))
    if any(trial["apart"] for trial in order["trials"]):
        import rewards.inside.checking  # noqa: F401 - once, and not in each child
    del sys.path[0]  # where this was found
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
    """Run one trial; say how it ended (`ended`, `raised`, `late`, `too much`) and what it printed.

    Ends this process, and with it a jail, when the caller hangs up.
    """
    limits = order["limits"]
    printed, print_end = os.pipe()
    done, done_end = os.pipe()
    begun, begun_end = os.pipe()
    key, ends, started = os.urandom(len(PASSED)), (done_end,), list[int]()
    if trial["apart"]:
        here, there = socket.socketpair()
        started.append(start_checker(order, trial, caller, here, done_end))
        key, ends = PASSED, (there.detach(),)
        here.close()
        os.close(done_end)
    given = os.memfd_create("input")
    os.write(given, trial["input"].encode(errors="surrogatepass"))
    os.lseek(given, 0, os.SEEK_SET)
    child = os.fork()
    if child == 0:
        be_tried(order, trial, (given, print_end, *ends), key)
    for mine in (given, print_end, begun_end, *ends):
        os.close(mine)
    os.read(begun, 1)  # the child has bounds, and may be looked at, when it has closed what is ours
    os.close(begun)
    seconds = min(limits["seconds_a_trial"], seconds_left)
    watch = Watch(limits["memory_bytes"], hidden=started) if order["is_jailed"] else None
    output, how = listen([*started, child][0], printed, caller, seconds, limits["output_bytes"], watch)
    clear_away([*started, child], everything=order["is_jailed"])
    if how == "hung up":
        sys.exit(1)
    if how == "ended" and os.read(done, len(key)) != key:  # it left by another door than its end
        how = "raised"
    os.close(printed)
    os.close(done)
    return {"how": how, "output": output.decode(errors="replace")}


def start_checker(order: dict[str, Any], trial: dict[str, Any], caller: int, end: socket.socket, done_end: int) -> int:
    """Start the process that checks, and return it once it has read the test from the caller."""
    ready, ready_end = os.pipe()
    checker = os.fork()
    if checker == 0:
        be_checker(order, trial, caller, (end.fileno(), done_end, ready_end))
    os.close(ready_end)
    os.read(ready, 1)
    os.close(ready)
    return checker


def be_checker(order: dict[str, Any], trial: dict[str, Any], caller: int, ends: tuple[int, int, int]) -> NoReturn:
    """Be the child that checks, and say so if the test is passed."""
    try:
        from rewards.inside.checking import check

        end, done_end, ready_end = ends
        text = _exactly(caller, trial["apart"]["bytes"]).decode()
        os.setsid()
        os.write(ready_end, b".")
        set_limits(order)
        _keep(end, done_end)
        if order["is_jailed"]:
            forbid_system_calls()
        if check(socket.socket(fileno=3), trial, text):
            os.write(4, PASSED)
    finally:
        os._exit(0)


def be_tried(order: dict[str, Any], trial: dict[str, Any], ends: tuple[int, int, int], key: bytes) -> NoReturn:
    """Be the child that runs the code; show the key if its end is reached, or do what the checker asks."""
    try:
        given, print_end, end = ends
        os.setsid()
        os.dup2(given, 0)
        os.dup2(print_end, 1)
        set_limits(order)
        if order["is_jailed"]:
            be_seen()
        _keep(end)
        if order["is_jailed"]:
            forbid_system_calls()
        if trial["apart"]:
            from rewards.inside.checking import serve

            serve(socket.socket(fileno=3), trial, lambda copy: run(trial, copy))
        else:
            run(trial)
            os.write(3, key)
    finally:
        os._exit(0)


def _keep(*ends: int) -> None:
    """Close all but standard input, output and these ends, which become 3, 4, ..."""
    high = [os.dup2(end, HIGH + at) for at, end in enumerate(ends)]
    for at, end in enumerate(high, start=3):
        os.dup2(end, at)
    os.closerange(3 + len(ends), 4096)


def run(trial: dict[str, Any], copy: io.StringIO | None = None) -> dict[str, Any]:
    """Compile the source, and unless that is all, execute it and what checks it in one namespace; return that.

    ``copy`` gets what it prints, too.
    """
    code = compile(trial["source"], "answer.py", "exec")
    if not trial["is_run"]:
        return {}
    module = types.ModuleType(trial["name"])  # by which classes that the code defines are found again
    sys.modules[trial["name"]] = module
    sys.stdin = sys.__stdin__ = os.fdopen(0)  # type: ignore[misc]
    sys.stdout = sys.__stdout__ = os.fdopen(1, "w", closefd=False)  # type: ignore[misc]
    if copy is not None:
        write = sys.stdout.write
        sys.stdout.write = lambda text: copy.write(text) and write(text)  # type: ignore[method-assign]
    check = f"{set_up(trial['setup'], module.__dict__)}\n{trial['check']}"
    try:
        exec(code, module.__dict__)
    except SystemExit as left:
        if trial["check"] or trial["apart"] or left.code not in (None, 0):
            raise
    for thread in threading.enumerate():
        if thread is not threading.current_thread() and not thread.daemon:
            thread.join()
    exec(compile(check, "check.py", "exec"), module.__dict__)
    if trial["apart"]:
        return module.__dict__
    atexit._run_exitfuncs()
    for stream in (sys.stdout, sys.__stdout__):
        with contextlib.suppress(ValueError):  # closed
            stream.flush()
    return module.__dict__


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
    """Collect what is printed until the child is gone, late, or it is too much, or nobody waits any more."""
    output, end = b"", time.monotonic() + seconds
    os.set_blocking(printed, False)
    gone = os.pidfd_open(child)
    poll = select.poll()
    poll.register(printed, select.POLLIN)
    poll.register(gone, select.POLLIN)
    poll.register(caller, 0)  # says only that it was hung up
    how, is_open = "", True
    while not how:
        left = end - time.monotonic()
        ready = {end for end, _ in poll.poll(max(0.0, min(left, LOOK_S) if watch else left) * 1000)}
        chunk = read(printed) if is_open else b""
        if chunk == b"" and is_open:  # closed, by everybody
            poll.unregister(printed)
            is_open = False
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


def clear_away(children: list[int], *, everything: bool) -> None:
    """Kill the children and what they have started, and bury them; in a jail that is everybody but this process.

    What they leave in the folder is removed too, so that every trial finds it empty. Where that cannot be done, this
    process ends, and the trials that are left are lost.
    """
    for child in children:
        with contextlib.suppress(ProcessLookupError):
            os.kill(-1 if everything else -child, signal.SIGKILL)
        with contextlib.suppress(ProcessLookupError):  # before it had a group of its own
            os.kill(child, signal.SIGKILL)
    with contextlib.suppress(ChildProcessError):
        while True:
            os.waitpid(-1, 0)
    if not is_emptied("."):
        sys.exit(1)


def is_emptied(folder: str) -> bool:
    """Remove what a folder holds, whatever its rights; say whether nothing is left."""
    with contextlib.suppress(OSError):  # a jail's own is root's
        os.chmod(folder, 0o700)
    with contextlib.suppress(OSError, RecursionError):
        for parent, folders, _ in os.walk(folder):  # from above: each is opened before it is entered
            for path in (os.path.join(parent, name) for name in folders):
                if not os.path.islink(path):
                    os.chmod(path, 0o700)
    for entry in os.listdir(folder):
        path = os.path.join(folder, entry)
        with contextlib.suppress(OSError):
            os.unlink(path)
            continue
        with contextlib.suppress(OSError, RecursionError):
            shutil.rmtree(path)
    return not os.listdir(folder)


def _exactly(source: int, size: int) -> bytes:
    parts, left = [], size
    while left:
        part = os.read(source, min(left, 1 << 20))
        if not part:
            sys.exit(1)
        parts.append(part)
        left -= len(part)
    return b"".join(parts)
