"""Is there a Ray cluster where one is said to be? Asked before Ray is, which waits minutes for one that is gone."""

import os
import socket
from collections.abc import Callable, Iterator
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path

from rewards.private import all_can_read
from rewards.waits import Wait

VARIABLE = "RAY_ADDRESS"
FIRST_LIMIT_S = 10.0
"""How long a cluster may take to answer before the run's first stage, when it is thought to be there."""
LOOK_S = 3.0
"""How long one attempt to connect may take."""
CLIENT_PORT = 10001
"""Ray's default for `ray://` addresses."""
GCS = "--gcs-address="
"""By which a node is told the address of its cluster."""
HEAD, CLIENT_SERVER = "/ray.rpc.NodeInfoGcsService/GetClusterId", "/ray.rpc.RayletDriver/ClusterInfo"
"""What the head of a cluster answers, and what the server of Ray's client does, if only that a token is missing."""


class ClusterError(ValueError):
    """A cluster that is not where it is said to be."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Cluster:
    """The address of a cluster to join, and who says so."""

    address: str
    """`host:port` of the head, `ray://host:port` of a Ray client's server, or `auto`."""
    source: str
    """The variable of the environment, or the recipe's key."""

    def __str__(self) -> str:
        return f"{self.address} ({self.source})"


def cluster_of(ray_address: str | None) -> Cluster | None:
    """Return the cluster that the environment names or else the recipe; None where Ray is to start here."""
    said = os.environ.get(VARIABLE)
    address, source = (said, f"the variable {VARIABLE}") if said else (ray_address, "the recipe's ray_address")
    return Cluster(address=address, source=source) if address and address != "local" else None


def own_cluster() -> str:
    """Return the address of the cluster that this user has started on this machine, which is what `auto` stands for.

    Ray would take what any process calls itself, or a file in /tmp says: another user's cluster, which would be given
    our token. Raises ConnectionError where there is none, or several.
    """
    found = sorted(set(_own_addresses()))
    if not found:
        raise ConnectionError("no node of one that you have started runs on this machine")
    if len(found) > 1:
        raise ConnectionError(f"you have nodes of several on this machine: {', '.join(found)}")
    return found[0]


def exposed_token() -> Iterator[str]:
    """Say so where the file from which Ray takes a cluster's token is open to all users of this machine."""
    file = Path(os.environ.get("RAY_AUTH_TOKEN_PATH") or Path(os.path.expanduser("~")) / ".ray" / "auth_token")
    if not os.environ.get("RAY_AUTH_TOKEN") and all_can_read(file):
        yield f"any user of this machine can read the token of your cluster; to keep it: chmod 600 {file}"


def require_there(cluster: Cluster, find: Callable[[], str], *, limit_s: float) -> str:
    """Return the address once Ray answers there. Raises ClusterError where it does not in time, or something else does.

    ``find`` returns what `auto` stands for; it raises ConnectionError where there is none.
    """
    try:
        address = find() if cluster.address == "auto" else cluster.address
        place = _place(address)
        if place is not None:
            _wait_for(*place, CLIENT_SERVER if address.startswith("ray://") else HEAD, limit_s)
        return address
    except (ValueError, ConnectionError) as error:
        other = "unset it" if VARIABLE in cluster.source else "leave it out"
        raise ClusterError(
            f"there is no Ray cluster at {cluster}: {error}; start the cluster, name the right address, or {other} to "
            "have Ray start here"
        ) from error


def _own_addresses() -> Iterator[str]:
    """Yield the address that each raylet of this user's was told. Other users' processes are not even looked into."""
    for process in Path("/proc").iterdir():
        with suppress(OSError):  # it has ended
            if process.name.isdigit() and process.stat().st_uid == os.geteuid():
                program, *arguments = (process / "cmdline").read_bytes().decode(errors="replace").split("\0")
                if Path(program).name == "raylet":
                    yield from (said.removeprefix(GCS) for said in arguments if said.startswith(GCS))


def _wait_for(host: str, port: int, method: str, limit_s: float) -> None:
    """Return once Ray answers. Raises ValueError where nobody does in time, or something else does."""
    said = ""

    def is_there() -> bool:
        nonlocal said
        try:
            _ask(host, port, method)
        except OSError as error:
            said = f"{type(error).__name__}: {error}"
            return False
        return True

    def late(_: str) -> ValueError:
        return ValueError(f"looked for {limit_s:.0f} s at port {port} of {host} ({said})")

    with Wait(f"Ray at port {port} of {host}", limit_s, fails=late) as wait:
        wait.until(is_there)


def _place(address: str) -> tuple[str, int] | None:
    """Return host and port; None for an address of a kind that only Ray knows. Raises ValueError for what is none."""
    scheme, separator, rest = address.rpartition("://")
    if scheme.startswith("http"):
        raise ValueError("that is the form of a dashboard's address, to which jobs are submitted")
    if separator and scheme != "ray":
        return None
    host, colon, port = rest.partition("?")[0].rstrip("/").rpartition(":")
    if not colon and scheme == "ray":
        return port, CLIENT_PORT
    if not colon or not host or not port.isdecimal() or not 0 < int(port) < 1 << 16:
        raise ValueError("an address is host:port, ray://host:port or auto")
    return host.strip("[]"), int(port)


def _ask(host: str, port: int, method: str) -> None:
    """Return where Ray answers. Raises OSError where nobody does, ValueError where something else does."""
    with socket.create_connection((host, port), timeout=LOOK_S):  # what is wrong with it, it says better than gRPC
        pass
    if os.environ.get("RAY_USE_TLS", "0").lower() in ("1", "true"):
        return  # with certificates that are Ray's to find
    import grpc

    target = f"[{host}]:{port}" if ":" in host else f"{host}:{port}"
    with grpc.insecure_channel(target, options=[("grpc.enable_http_proxy", 0)]) as channel:
        try:
            channel.unary_unary(method)(b"", timeout=LOOK_S)
        except grpc.RpcError as error:
            if error.code() == grpc.StatusCode.UNIMPLEMENTED:
                way_out = "; a Ray client's server is named ray://host:port" if method == HEAD else ""
                raise ValueError(f"what answers at port {port} of {host} is no head of a cluster{way_out}") from error
            if error.code() != grpc.StatusCode.UNAUTHENTICATED:
                raise ConnectionError(f"{error.code().name}, {error.details()}") from error
