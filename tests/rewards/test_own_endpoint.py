"""A server of our own listens where no other user gets: at a socket in a private folder, and at no port."""

import asyncio
import socketserver
import threading
from collections.abc import Iterator
from http.server import BaseHTTPRequestHandler
from pathlib import Path

import httpx2
import pytest

from rewards.serving import HOST, _answers
from rewards.transport import BoundedTransport


class Echoes(BaseHTTPRequestHandler):
    def do_GET(self) -> None:
        body = f"{self.headers['host']} {self.path}".encode()
        self.send_response(200)
        self.send_header("content-length", str(len(body)))
        self.end_headers()
        self.wfile.write(body)

    def address_string(self) -> str:
        return "a socket"

    def log_message(self, format: str, *args: object) -> None:
        pass


@pytest.fixture
def place(tmp_path: Path) -> Iterator[Path]:
    with socketserver.ThreadingUnixStreamServer(str(tmp_path / "s"), Echoes) as server:
        thread = threading.Thread(target=server.serve_forever, daemon=True)
        thread.start()
        yield tmp_path / "s"
        server.shutdown()
        thread.join()


def test_the_server_is_asked_at_its_socket(place: Path) -> None:
    async def asked() -> str:
        transport = BoundedTransport(proxy=None, num_connections=1, place=place)
        async with httpx2.AsyncClient(transport=transport) as client:
            return (await client.get(f"http://{HOST}/v1/models")).text

    assert asyncio.run(asked()) == f"{HOST} /v1/models"


def test_a_server_answers_once_it_listens(place: Path, tmp_path: Path) -> None:
    assert _answers(place) and not _answers(tmp_path / "none")
