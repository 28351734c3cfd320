"""A Hub on the loopback, for the real client: repositories with branches that move, and commits that do not.

Speaks what `huggingface_hub` and `datasets` ask: which commit a revision is, what files a commit has, and the files.
"""

import hashlib
import json
import threading
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass, field
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from urllib.parse import unquote, urlsplit

import pytest

Files = Mapping[str, bytes]


def files_of(folder: Path) -> dict[str, bytes]:
    return {path.relative_to(folder).as_posix(): path.read_bytes() for path in folder.rglob("*") if path.is_file()}


@dataclass
class Repository:
    revisions: dict[str, str] = field(default_factory=dict)
    """Commit by branch or tag."""
    commits: dict[str, Files] = field(default_factory=dict)


class FakeHub:
    """What is pushed to it, and what was asked of it."""

    def __init__(self) -> None:
        self.repositories: dict[str, Repository] = {}
        """By path, `models/org/name` or `datasets/org/name`."""
        self.asked: list[str] = []
        """Paths of all requests."""
        hub = self

        class Handler(BaseHTTPRequestHandler):
            def do_GET(self) -> None:
                path = unquote(urlsplit(self.path).path)
                hub.asked.append(path)
                status, headers, body = hub.answer(path)
                self.send_response(status)
                for name, value in {"Content-Length": str(len(body)), **headers}.items():
                    self.send_header(name, value)
                self.end_headers()
                if self.command != "HEAD":
                    self.wfile.write(body)

            do_HEAD = do_GET

            def do_POST(self) -> None:
                self.rfile.read(int(self.headers.get("Content-Length") or 0))
                self.do_GET()

            def log_message(self, *_: object) -> None:
                pass

        self._server = ThreadingHTTPServer(("127.0.0.1", 0), Handler)
        self._server.daemon_threads = True
        threading.Thread(target=self._server.serve_forever, kwargs={"poll_interval": 0.02}, daemon=True).start()
        self.url = f"http://127.0.0.1:{self._server.server_port}"

    def close(self) -> None:
        """Be gone: connections are refused from here on."""
        self._server.shutdown()
        self._server.server_close()

    def push(self, path: str, files: Files, branch: str = "main") -> str:
        """Add a commit to a repository, move the branch there, and return it."""
        repository = self.repositories.setdefault(path, Repository())
        content = [(name, hashlib.sha1(data).hexdigest()) for name, data in sorted(files.items())]
        commit = hashlib.sha1(repr((path, content)).encode()).hexdigest()
        repository.commits[commit] = dict(files)
        repository.revisions[branch] = commit
        return commit

    def answer(self, path: str) -> tuple[int, dict[str, str], bytes]:
        """Return status, headers and body of an answer."""
        parts = path.strip("/").split("/")
        if parts[0] == "api":
            kind, name, rest = parts[1], "/".join(parts[2:4]), parts[4:]
        elif parts[0] == "datasets":
            kind, name, rest = "datasets", "/".join(parts[1:3]), parts[3:]
        else:
            kind, name, rest = "models", "/".join(parts[:2]), parts[2:]
        repository = self.repositories.get(f"{kind}/{name}")
        if repository is None:
            return 404, {"X-Error-Code": "RepoNotFound"}, b""
        asked = rest[1] if len(rest) > 1 else "main"
        commit = asked if asked in repository.commits else repository.revisions.get(asked)
        if commit is None:
            return 404, {"X-Error-Code": "RevisionNotFound"}, b""
        files = repository.commits[commit]
        if rest[:1] == ["resolve"]:
            return _file(commit, files, "/".join(rest[2:]))
        if rest[:1] == ["tree"]:
            under = "/".join(rest[2:])
            tree = [_entry(name, data) for name, data in files.items() if name.startswith(under)]
            return 200, {"Content-Type": "application/json"}, json.dumps(tree).encode()
        siblings = [{"rfilename": each} for each in files]
        info = {"id": name, "sha": commit, "siblings": siblings, "private": False, "tags": [], "downloads": 0}
        return 200, {"Content-Type": "application/json"}, json.dumps(info).encode()


def _entry(name: str, data: bytes) -> dict[str, object]:
    return {"type": "file", "path": name, "size": len(data), "oid": hashlib.sha1(data).hexdigest()}


def _file(commit: str, files: Files, name: str) -> tuple[int, dict[str, str], bytes]:
    if name not in files:
        return 404, {"X-Error-Code": "EntryNotFound", "X-Repo-Commit": commit}, b""
    etag = hashlib.sha1(files[name]).hexdigest()
    return 200, {"ETag": f'"{etag}"', "X-Repo-Commit": commit}, files[name]


@contextmanager
def serving(monkeypatch: pytest.MonkeyPatch, home: Path) -> Iterator[FakeHub]:
    """Have the client of this process and of those that it starts take this Hub for theirs, with a cache of its own."""
    from huggingface_hub import constants

    hub = FakeHub()
    monkeypatch.setattr(constants, "ENDPOINT", hub.url)
    template = hub.url + "/{repo_id}/resolve/{revision}/{filename}"
    monkeypatch.setattr(constants, "HUGGINGFACE_CO_URL_TEMPLATE", template)
    monkeypatch.setattr(constants, "HF_HUB_CACHE", str(home / "hub"))
    monkeypatch.setattr(constants, "HF_HUB_OFFLINE", False)
    for name, value in {"HF_ENDPOINT": hub.url, "HF_HOME": str(home), "HF_HUB_OFFLINE": "0"}.items():
        monkeypatch.setenv(name, value)
    for name in ("HF_HUB_CACHE", "HF_DATASETS_CACHE", "HF_MODULES_CACHE", "TRANSFORMERS_OFFLINE"):
        monkeypatch.delenv(name, raising=False)
    try:
        yield hub
    finally:
        hub.close()
