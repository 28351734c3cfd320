"""A reward that does what the first completion of the group says. Imported by worker processes, by name."""

import asyncio
import hashlib
import math
import os
import signal
import subprocess
import sys
import threading
import time
from pathlib import Path


def obey(completions, note=None, **columns):
    """Do the deed, or score each completion by the number that it is."""
    if note:
        with Path(note).open("a") as file:
            file.write(f"{os.getpid()}\n")
    texts = [turns[-1]["content"] for turns in completions]
    deed = DEEDS.get(texts[0])
    return deed(note) if deed else [float(text) for text in texts]


async def obey_later(completions, **columns):
    """The same as a coroutine."""
    await asyncio.sleep(0.01)
    return obey(completions)


async def rests_then_obeys(completions, **columns):
    """Half a second on the loop, for ever, or whatever `obey` does to it."""
    await asyncio.sleep(600 if completions[0][-1]["content"] == "rest long" else 0.5)
    return obey(completions)


async def cancels_itself(completions, **columns):
    """By its own task, by the error alone, or not."""
    text = completions[0][-1]["content"]
    if text == "by task":
        asyncio.current_task().cancel()
        await asyncio.sleep(1)
    if text == "by error":
        raise asyncio.CancelledError
    return obey(completions)


def sees_the_run(completions, completion_logprobs, step, group_id):
    """Read what is passed on request alone."""
    assert group_id == "p7"
    return [step + sum(logprobs) for logprobs in completion_logprobs]


def strict(completions, answer):
    """Name two arguments and take no others."""
    return [1.0 if turns[-1]["content"] == gold else 0.0 for turns, gold in zip(completions, answer, strict=True)]


def cannot_apply(completions, **columns):
    """Apply to completions that are numbers."""
    return [float(turns[-1]["content"]) if turns[-1]["content"].isdigit() else None for turns in completions]


def _raise(note):
    raise KeyError("no such mark")


def _hold_the_lock(note):
    return sum(range(10**13))  # one call of C, deaf to signals


def _die_once(note):
    if len(Path(note).read_text().split()) == 1:
        os.kill(os.getpid(), signal.SIGKILL)
    return [1.0, 2.0]


def _start_a_child(note):
    child = subprocess.Popen([sys.executable, "-c", "import time; time.sleep(600)"])
    return [float(os.getpid()), float(child.pid)]


def _escape(note):
    child = subprocess.Popen([sys.executable, "-c", "import time; time.sleep(600)"], start_new_session=True)
    return [float(os.getpid()), float(child.pid)]


def _flee(note):
    """Leave a process behind that nothing ties to this one: neither parents, session, environment nor files."""
    told = Path(f"{note}.fled")
    if os.fork() == 0:
        os.setsid()
        if os.fork() == 0:
            told.write_text(str(os.getpid()))
            os.closerange(0, 4096)
            os.execve(sys.executable, [sys.executable, "-c", "import time; time.sleep(600)"], {})
        os._exit(0)
    os.wait()
    while not (told.exists() and told.read_text()):
        time.sleep(0.01)
    return [float(os.getpid()), float(told.read_text())]


def _print_escapes(note):
    print("\x1b[31mred\x1b[0m \x1b]0;title\x07\x1b[2J\x9b31m \u202egnp.exe\u2066 50%\r60%\tdone", flush=True)
    os.write(2, b"\x1b[8mhidden\x9b\xff\x1b7 \xc2\x9b5n\n")
    sys.stdout.buffer.write(b"half a " + "é".encode()[:1])
    sys.stdout.buffer.flush()
    time.sleep(0.2)
    sys.stdout.buffer.write("é".encode()[1:] + b"\n")
    sys.stdout.buffer.flush()
    return [1.0, 2.0]


def _raise_escapes(note):
    raise ValueError("\x1b[2J\x1b]0;title\x07 \x9b5n \u202e")


def _print(note):
    for _ in range(100):
        print("x" * 10**6)
    return [1.0, 2.0]


def _use_memory(note):
    return [float(len(bytearray(2**33))), 2.0]


def _use_memory_in_a_child(note):
    said = subprocess.run([sys.executable, "-c", "bytearray(2**33)"], capture_output=True, text=True, check=False)
    raise RuntimeError(said.stderr.splitlines()[-1])


def _burn(note):
    """Use more processor time than wall time, as C libraries with threads do."""
    data = bytes(1 << 28)
    threads = [threading.Thread(target=lambda: [hashlib.sha256(data) for _ in range(100)]) for _ in range(2)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()


def _close_files(note):
    os.closerange(0, 1000)
    return [1.0, 2.0]


def _change_directory(note):
    os.chdir("/")
    return [1.0, 2.0]


def _leave_threads(note):
    for _ in range(20):
        threading.Thread(target=time.sleep, args=(600,)).start()
    return [1.0, 2.0]


def _fork(note):
    os.fork()
    return [1.0, 2.0]


HOME = os.getcwd()
DEEDS = {
    "raise": _raise,
    "leave": lambda note: sys.exit("enough"),
    "sleep": lambda note: time.sleep(600),
    "hold the lock": _hold_the_lock,
    "too few": lambda note: [1.0],
    "too many": lambda note: [1.0] * 3,
    "nothing": lambda note: None,
    "one number": lambda note: 1.0,
    "nan": lambda note: [math.nan, 2.0],
    "inf": lambda note: [math.inf, 2.0],
    "text": lambda note: ["1.0", 2.0],
    "only text": lambda note: "ab",
    "exit": lambda note: os._exit(3),
    "kill": lambda note: os.kill(os.getpid(), signal.SIGKILL),
    "crash": lambda note: os.abort(),
    "kill once": _die_once,
    "pid": lambda note: [float(os.getpid())] * 2,
    "child": _start_a_child,
    "escaped child": _escape,
    "flee": _flee,
    "print escapes": _print_escapes,
    "raise escapes": _raise_escapes,
    "print 100 MB": _print,
    "8 GiB": _use_memory,
    "8 GiB by a child": _use_memory_in_a_child,
    "many threads": _burn,
    "close files": _close_files,
    "change directory": _change_directory,
    "leave threads": _leave_threads,
    "fork": _fork,
    "none": lambda note: [None, None],
    "at home?": lambda note: [float(os.getcwd() == HOME)] * 2,
}


def one_mark_whatever_was_asked(prompts, completions, **columns):
    return [1.0]


def reads_hints(prompts, completions, hint, **columns):
    return [float(len(hint))] * len(completions)


def equals_gold_completion(prompts, completions, gold_completion, **columns):
    return [float(turns[-1]["content"] == gold) for turns, gold in zip(completions, gold_completion, strict=True)]
