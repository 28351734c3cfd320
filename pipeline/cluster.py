"""Is there a Ray cluster where one is said to be? Asked before Ray is, which waits minutes for one that is gone."""

import os
import socket
import time
from collections.abc import Callable
from dataclasses import dataclass

VARIABLE = "RAY_ADDRESS"
FIRST_LIMIT_S = 10.0
"""How long a cluster may take to answer before the run's first stage, when it is thought to be there."""
LOOK_S = 3.0
"""How long one attempt to connect may take."""
CLIENT_PORT = 10001
"""Ray's default for `ray://` addresses."""
PREFACE = b"PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n" + bytes([0, 0, 0, 4, 0, 0, 0, 0, 0])
"""With what a client of gRPC begins: HTTP/2's first words, and settings of which there are none."""
SETTINGS = 4
"""The kind of frame with which a server of gRPC answers."""


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


def require_there(cluster: Cluster, find: Callable[[], str], *, limit_s: float) -> None:
    """Return once a server of gRPC answers at the address. Raises ClusterError where none does in time, or none can.

    ``find`` returns what `auto` stands for; it raises ConnectionError where there is none.
    """
    try:
        place = _place(find() if cluster.address == "auto" else cluster.address)
    except (ValueError, ConnectionError) as error:
        raise ClusterError(f"there is no Ray cluster at {cluster}: {error}; {_way_out(cluster)}") from error
    if place is None:
        return
    end, why = time.monotonic() + limit_s, ""
    while True:
        try:
            return _shake_hands(*place)
        except OSError as error:
            why = f"{type(error).__name__}: {error}"
        if time.monotonic() >= end:
            raise ClusterError(
                f"there is no Ray cluster at {cluster}: looked for {limit_s:.0f} s at port {place[1]} of {place[0]} "
                f"({why}); {_way_out(cluster)}"
            )
        time.sleep(min(1.0, limit_s / 10))


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


def _shake_hands(host: str, port: int) -> None:
    """Connect and begin to speak gRPC. Raises OSError where nobody answers so."""
    with socket.create_connection((host, port), timeout=LOOK_S) as connection:
        if os.environ.get("RAY_USE_TLS", "0").lower() in ("1", "true"):
            return  # what is said first is encrypted
        connection.sendall(PREFACE)
        answer = b""
        while len(answer) < 4 and (more := connection.recv(9 - len(answer))):
            answer += more
    if answer[3:4] != bytes([SETTINGS]):
        said = f"it says {answer[:9]!r}" if answer else "it hangs up"
        raise ConnectionError(f"something listens there that is no Ray: {said}")


def _way_out(cluster: Cluster) -> str:
    other = "unset it" if VARIABLE in cluster.source else "leave it out"
    return f"start the cluster, name the right address, or {other} to have Ray start here"
