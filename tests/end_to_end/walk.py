"""What a user of the machine can do to another one's processes and files while these run. By itself, as that user:

    python -I walk.py '{"user": 1000, "skipped": ["/usr"]}'

prints as JSON what it could reach and how, on which ports the other listens, and what command lines it read. What it
can rename it renames back. It imports nothing of ours, and opens nothing that it could wait for.
"""

import json
import os
import socket
import stat
import struct
import sys
from collections.abc import Iterator
from contextlib import suppress
from pathlib import Path

THEIRS = ".theirs"
LISTENS = "0A"
"""State of a socket, see the kernel's `Documentation/networking/proc_net_tcp.rst`."""
KINDS = (socket.SOCK_STREAM, socket.SOCK_DGRAM, socket.SOCK_SEQPACKET)
Finding = tuple[str, str]


def in_files(user: int, skipped: list[str]) -> Iterator[Finding]:
    """Yield what can be done to the user's files, wherever they lie."""
    folders = ["/"]
    while folders:
        folder = folders.pop()
        with suppress(OSError), os.scandir(folder) as entries:
            for entry in entries:
                found = entry.stat(follow_symlinks=False)
                if stat.S_ISDIR(found.st_mode) and entry.path not in skipped:
                    folders.append(entry.path)
                if found.st_uid == user:
                    yield from ((entry.path, act) for act in done_to(entry.path, found.st_mode))


def done_to(path: str, mode: int) -> Iterator[str]:
    """Yield what can be done to one file."""
    if stat.S_ISDIR(mode):
        yield from done_to_folder(path)
    elif stat.S_ISSOCK(mode):
        yield from ("connected to" for kind in KINDS if peer(path, kind) is not None)
    elif not stat.S_ISLNK(mode):
        for act, flag in (("read", os.O_RDONLY), ("written", os.O_WRONLY)):
            with suppress(OSError):
                os.close(os.open(path, flag | os.O_NONBLOCK | os.O_NOFOLLOW))
                yield act
    with suppress(OSError):
        os.rename(path, path + THEIRS)
        os.rename(path + THEIRS, path)
        yield "renamed"


def done_to_folder(path: str) -> Iterator[str]:
    with suppress(OSError):
        os.listdir(path)
        yield "listed"
    with suppress(OSError):
        os.stat(path + "/.")
        yield "entered"
    with suppress(OSError):
        os.close(os.open(path + "/" + THEIRS, os.O_CREAT | os.O_EXCL | os.O_WRONLY))
        os.unlink(path + "/" + THEIRS)
        yield "created in"


def peer(address: str, kind: int) -> int | None:
    """Connect to a Unix socket and return whose it is; None where that cannot be."""
    with suppress(OSError), socket.socket(socket.AF_UNIX, kind) as client:
        client.settimeout(2)
        client.connect(address)
        _, user, _ = struct.unpack("3i", client.getsockopt(socket.SOL_SOCKET, socket.SO_PEERCRED, 12))
        return int(user)
    return None


def in_sockets(user: int) -> Iterator[Finding]:
    """Yield the user's Unix sockets, also those without a file, that can be connected to."""
    for line in Path("/proc/net/unix").read_text().splitlines()[1:]:
        name = line.split(maxsplit=7)[7:]
        address = name[0] if name else ""
        for kind in KINDS if address else ():
            if peer("\0" + address[1:] if address.startswith("@") else address, kind) == user:
                yield address, "connected to"


def listeners(user: int) -> Iterator[tuple[str, int]]:
    """Yield the addresses and ports at which the user's processes listen."""
    for family, file in ((socket.AF_INET, "tcp"), (socket.AF_INET6, "tcp6")):
        for line in Path(f"/proc/net/{file}").read_text().splitlines()[1:]:
            _, place, _, state, _, _, _, owner, *_ = line.split()
            if state == LISTENS and int(owner) == user:
                address, port = place.split(":")
                words = [int(address[at : at + 8], 16) for at in range(0, len(address), 8)]
                yield socket.inet_ntop(family, struct.pack(f"={len(words)}I", *words)), int(port, 16)


def in_shared_memory(user: int) -> Iterator[Finding]:
    """Yield the user's System V memory, semaphores and queues that are open to all."""
    for kind in ("shm", "sem", "msg"):
        names, *rows = [line.split() for line in Path(f"/proc/sysvipc/{kind}").read_text().splitlines()]
        for row in rows:
            found = dict(zip(names, row, strict=False))
            if int(found["uid"]) == user and int(found["perms"], 8) & 0o006:
                yield f"{kind} {row[1]}", "opened"


def in_processes(user: int) -> Iterator[Finding]:
    """Yield what of the user's processes can be looked into."""
    for process in of(user):
        for name in ("environ", "mem", "maps"):
            with suppress(OSError):
                (process / name).open("rb").read(1)
                yield str(process / name), "read"
        for name in ("fd", "map_files"):
            with suppress(OSError):
                os.listdir(process / name)
                yield str(process / name), "listed"
        for name in ("cwd", "root", "exe"):
            with suppress(OSError):
                os.readlink(process / name)
                yield str(process / name), "read"


def commands(user: int) -> Iterator[str]:
    """Yield the command lines of the user's processes, which everybody can read."""
    for process in of(user):
        with suppress(OSError):
            yield (process / "cmdline").read_bytes().decode(errors="replace").replace("\0", " ").strip()


def of(user: int) -> Iterator[Path]:
    for process in Path("/proc").iterdir():
        with suppress(OSError):
            if process.name.isdigit() and process.stat().st_uid == user:
                yield process


def main() -> None:
    asked = json.loads(sys.argv[1])
    user = asked["user"]
    reached = [*in_files(user, asked["skipped"]), *in_sockets(user), *in_shared_memory(user), *in_processes(user)]
    told = {"reached": reached, "listens": list(listeners(user)), "commands": list(commands(user))}
    print(json.dumps(told))


if __name__ == "__main__":
    main()
