"""Is there a cluster where one is said to be: addresses, and what answers at them."""

import os
import socket
import subprocess
import threading
import time
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import grpc
import pytest

from pipeline import cluster as cluster_module
from pipeline.cluster import (
    CLIENT_SERVER,
    HEAD,
    Cluster,
    ClusterError,
    _own_addresses,
    cluster_of,
    exposed_token,
    own_cluster,
    require_there,
)
from tests.users import NOBODY, as_user, folder_for_all, needs_root

pytestmark = pytest.mark.processes


class FakeRay(grpc.GenericRpcHandler):
    """Answers one method of Ray's."""

    def __init__(self, method: str, *, wants_token: bool) -> None:
        self._method, self._wants_token = method, wants_token

    def service(self, details: Any) -> Any:
        def answer(request: bytes, context: Any) -> bytes:
            if self._wants_token:
                context.abort(grpc.StatusCode.UNAUTHENTICATED, "Authentication token is missing or incorrect")
            return b"an id"

        return grpc.unary_unary_rpc_method_handler(answer) if details.method == self._method else None


@contextmanager
def ray(method: str, *, wants_token: bool = False, port: int = 0) -> Iterator[int]:
    """Yield the port of a server that is like Ray's."""
    server = grpc.server(ThreadPoolExecutor(1), [FakeRay(method, wants_token=wants_token)])
    port = server.add_insecure_port(f"127.0.0.1:{port}")
    server.start()
    try:
        yield port
    finally:
        server.stop(None).wait()


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

    joined = require_there(Cluster(address=address, source="the variable RAY_ADDRESS"), find, limit_s=0.3)
    assert joined == (found or address)


def test_the_environment_goes_before_the_recipe(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("RAY_ADDRESS", "")
    assert cluster_of(None) is None
    assert str(cluster_of("10.0.0.1:6379")) == "10.0.0.1:6379 (the recipe's ray_address)"
    monkeypatch.setenv("RAY_ADDRESS", "10.0.0.2:6379")
    assert str(cluster_of("10.0.0.1:6379")) == "10.0.0.2:6379 (the variable RAY_ADDRESS)"
    monkeypatch.setenv("RAY_ADDRESS", "local")
    assert cluster_of("10.0.0.1:6379") is None


@pytest.mark.parametrize(
    ("form", "method"),
    [
        ("127.0.0.1:{}", HEAD),
        ("localhost:{}", HEAD),
        ("ray://127.0.0.1:{}", CLIENT_SERVER),
        ("ray://127.0.0.1:{}/?x=y", CLIENT_SERVER),
    ],
)
@pytest.mark.parametrize("wants_token", [True, False])
def test_a_cluster_that_is_there_is_found(form: str, method: str, wants_token: bool) -> None:
    with ray(method, wants_token=wants_token) as port:
        require(form.format(port))
        require("auto", found=form.format(port))


def test_a_server_of_another_kind_is_no_cluster() -> None:
    with ray(CLIENT_SERVER) as port:
        with pytest.raises(ClusterError, match=r"is no head of a cluster; a Ray client's server is named ray://"):
            require(f"127.0.0.1:{port}")
        require(f"ray://127.0.0.1:{port}")
    with ray(HEAD) as port, pytest.raises(ClusterError, match="is no head of a cluster; start"):
        require(f"ray://127.0.0.1:{port}")


@pytest.mark.parametrize("form", ["127.0.0.1:{}", "ray://127.0.0.1:{}"])
def test_a_cluster_that_is_gone_is_named_with_who_named_it(form: str) -> None:
    address = form.format(closed_port())
    with pytest.raises(ClusterError) as caught:
        require(address)
    said = str(caught.value)
    assert f"there is no Ray cluster at {address} (the variable RAY_ADDRESS): looked for 0 s" in said
    assert "ConnectionRefusedError" in said and said.endswith("or unset it to have Ray start here")


@pytest.mark.parametrize("answer", [b"HTTP/1.1 400 Bad Request\r\n\r\n", b"", None], ids=["web", "hangs up", "silent"])
def test_what_listens_and_is_no_ray_is_seen(monkeypatch: pytest.MonkeyPatch, answer: bytes | None) -> None:
    monkeypatch.setattr(cluster_module, "LOOK_S", 0.3)
    with (
        listener(answer) as port,
        pytest.raises(ClusterError, match=r"\(ConnectionError: (UNAVAILABLE|DEADLINE_EXCEEDED)"),
    ):
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
        with ray(HEAD, port=port):
            time.sleep(2.0)

    thread = threading.Thread(target=come_up)
    thread.start()
    require_there(Cluster(address=f"127.0.0.1:{port}", source="x"), lambda: "", limit_s=5.0)
    thread.join()


@contextmanager
def named_like_a_node(address: str, **options: Any) -> Iterator[None]:
    """Run a process that calls itself a node of the cluster at an address, until the block ends."""
    command = ["/opt/ray/raylet/raylet", "-c", "echo; read line", "raylet", f"--gcs-address={address}"]
    with subprocess.Popen(
        command, executable="/bin/sh", stdin=subprocess.PIPE, stdout=subprocess.PIPE, **options
    ) as process:
        assert process.stdout is not None
        process.stdout.readline()  # from now on it is called so
        yield


def test_nodes_are_this_user_s_and_known_by_what_they_were_told() -> None:
    with named_like_a_node("10.0.0.1:6379"), named_like_a_node("10.0.0.2:6379"):
        assert {"10.0.0.1:6379", "10.0.0.2:6379"} <= set(_own_addresses())
    assert "10.0.0.1:6379" not in _own_addresses()


@needs_root
def test_no_other_user_can_name_a_cluster_that_is_joined() -> None:
    with named_like_a_node("10.6.6.6:6379", **as_user(NOBODY)), named_like_a_node("10.0.0.1:6379"):
        found = set(_own_addresses())
        assert "10.6.6.6:6379" not in found and "10.0.0.1:6379" in found


def test_auto_is_the_one_cluster_that_has_nodes_here(monkeypatch: pytest.MonkeyPatch) -> None:
    def auto(*addresses: str) -> str:
        monkeypatch.setattr(cluster_module, "_own_addresses", lambda: addresses)
        return own_cluster()

    assert auto("10.0.0.1:6379", "10.0.0.1:6379") == "10.0.0.1:6379"
    with pytest.raises(ConnectionError, match="no node of one that you have started"):
        auto()
    with pytest.raises(ConnectionError, match=r"several on this machine: 10\.0\.0\.1:6379, 10\.0\.0\.2"):
        auto("10.0.0.2:6379", "10.0.0.1:6379")


def test_a_token_that_all_can_read_is_told(monkeypatch: pytest.MonkeyPatch) -> None:
    for name in ("RAY_AUTH_TOKEN", "RAY_AUTH_TOKEN_PATH"):
        monkeypatch.delenv(name, raising=False)
    with folder_for_all(0o755) as home:
        monkeypatch.setenv("HOME", str(home))
        assert not list(exposed_token())
        file: Path = home / ".ray" / "auth_token"
        file.parent.mkdir()
        file.write_text("secret")
        file.chmod(0o644)
        assert list(exposed_token()) == [
            f"any user of this machine can read the token of your cluster; to keep it: chmod 600 {file}"
        ]
        monkeypatch.setenv("RAY_AUTH_TOKEN", "another")
        assert not list(exposed_token())
        monkeypatch.delenv("RAY_AUTH_TOKEN")
        os.chmod(file, 0o600)
        assert not list(exposed_token())
