"""A reward that does what the first completion of the group says. Imported by worker processes, by name."""

import asyncio
import math
import os
import signal
import subprocess
import sys
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


DEEDS = {
    "raise": _raise,
    "leave": lambda note: sys.exit("enough"),
    "sleep": lambda note: time.sleep(600),
    "hold the lock": _hold_the_lock,
    "too few": lambda note: [1.0],
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
}


def one_mark_whatever_was_asked(prompts, completions, **columns):
    return [1.0]


def reads_hints(prompts, completions, hint, **columns):
    return [float(len(hint))] * len(completions)


def equals_gold_completion(prompts, completions, gold_completion, **columns):
    return [float(turns[-1]["content"] == gold) for turns, gold in zip(completions, gold_completion, strict=True)]
