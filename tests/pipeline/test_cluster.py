"""Is there a cluster where one is said to be: addresses, and what answers at them."""

import socket
import threading
import time
from collections.abc import Iterator
from contextlib import contextmanager

import pytest

from pipeline import cluster as cluster_module
from pipeline.cluster import PREFACE, Cluster, ClusterError, cluster_of, require_there

SETTINGS_FRAME = bytes([0, 0, 0, 4, 0, 0, 0, 0, 0])


@contextmanager
def listener(answer: bytes | None) -> Iterator[int]:
    """Yield the port of something that answers so; None: it says nothing and does not hang up."""
    with socket.create_server(("127.0.0.1", 0)) as server:
        held: list[socket.socket] = []

        def serve() -> None:
            while True:
                try:
                    connection, _ = server.accept()
                except OSError:
                    return
                held.append(connection)
                if answer is not None:
                    assert connection.recv(len(PREFACE)) == PREFACE
                    connection.sendall(answer)
                    connection.close()

        thread = threading.Thread(target=serve, daemon=True)
        thread.start()
        yield server.getsockname()[1]
        server.shutdown(socket.SHUT_RDWR)
        for connection in held:
            connection.close()


def closed_port() -> int:
    with socket.create_server(("127.0.0.1", 0)) as server:
        port: int = server.getsockname()[1]
        return port


def require(address: str, found: str = "") -> None:
    def find() -> str:
        if not found:
            raise ConnectionError("Could not find any running Ray instance")
        return found

    require_there(Cluster(address=address, source="the variable RAY_ADDRESS"), find, limit_s=0.3)


def test_the_environment_goes_before_the_recipe(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("RAY_ADDRESS", "")
    assert cluster_of(None) is None
    assert str(cluster_of("10.0.0.1:6379")) == "10.0.0.1:6379 (the recipe's ray_address)"
    monkeypatch.setenv("RAY_ADDRESS", "10.0.0.2:6379")
    assert str(cluster_of("10.0.0.1:6379")) == "10.0.0.2:6379 (the variable RAY_ADDRESS)"
    monkeypatch.setenv("RAY_ADDRESS", "local")
    assert cluster_of("10.0.0.1:6379") is None


@pytest.mark.parametrize("form", ["127.0.0.1:{}", "ray://127.0.0.1:{}", "ray://127.0.0.1:{}/", "localhost:{}"])
def test_a_server_of_grpc_is_there(form: str) -> None:
    with listener(SETTINGS_FRAME) as port:
        require(form.format(port))
        require("auto", found=f"127.0.0.1:{port}")


@pytest.mark.parametrize("form", ["127.0.0.1:{}", "ray://127.0.0.1:{}"])
def test_a_cluster_that_is_gone_is_named_with_who_named_it(form: str) -> None:
    address = form.format(closed_port())
    with pytest.raises(ClusterError) as caught:
        require(address)
    said = str(caught.value)
    assert f"there is no Ray cluster at {address} (the variable RAY_ADDRESS): looked for 0 s" in said
    assert "ConnectionRefusedError" in said and said.endswith("or unset it to have Ray start here")


@pytest.mark.parametrize(
    ("answer", "says"),
    [
        (b"HTTP/1.1 400 Bad Request\r\n\r\n", "no Ray: it says b'HTTP/1.1 '"),
        (b"", "it hangs up"),
        (None, "TimeoutError"),
    ],
)
def test_what_listens_and_is_no_ray_is_seen(monkeypatch: pytest.MonkeyPatch, answer: bytes | None, says: str) -> None:
    monkeypatch.setattr(cluster_module, "LOOK_S", 0.2)
    with listener(answer) as port, pytest.raises(ClusterError, match=says):
        require(f"127.0.0.1:{port}")


@pytest.mark.parametrize(
    ("address", "says"),
    [
        ("http://127.0.0.1:8265", "that is the form of a dashboard's address"),
        ("10.0.0.1", "an address is host:port, ray://host:port or auto"),
        ("10.0.0.1:port", "an address is host:port"),
        (":6379", "an address is host:port"),
        ("auto", "Could not find any running Ray instance"),
        ("no-such-host.invalid:6379", "looked for 0 s at port 6379 of no-such-host.invalid"),
    ],
)
def test_what_is_no_address_is_said_at_once(address: str, says: str) -> None:
    with pytest.raises(ClusterError, match=says):
        require(address)


def test_addresses_of_kinds_that_only_ray_knows_are_left_to_it() -> None:
    require("anyscale://my-cluster")


def test_a_cluster_that_comes_up_meanwhile_is_joined() -> None:
    port = closed_port()

    def come_up() -> None:
        time.sleep(0.5)
        with socket.create_server(("127.0.0.1", port)) as server:
            connection, _ = server.accept()
            connection.sendall(SETTINGS_FRAME)
            connection.recv(99)
            connection.close()

    thread = threading.Thread(target=come_up)
    thread.start()
    require_there(Cluster(address=f"127.0.0.1:{port}", source="x"), lambda: "", limit_s=5.0)
    thread.join()
