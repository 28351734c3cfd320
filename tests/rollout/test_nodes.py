"""Where engines are, as far as it can be said without a cluster."""

from types import SimpleNamespace

import pytest

from rollout import nodes
from rollout.nodes import Place


@pytest.mark.parametrize(
    ("node", "gpus", "expected"),
    [
        ("here", 0, "same_machine"),
        ("here", 0.5, "same_gpu"),
        ("here", 2, "own_gpu"),
        ("there", 0, "other_machine"),
        ("there", 2, "other_machine"),
    ],
)
def test_how_far_an_engine_is_follows_from_its_node_and_its_gpus(node: str, gpus: float, expected: str) -> None:
    bundles = [{"CPU": 1.0}, {"CPU": 1.0, **({"GPU": gpus} if gpus else {})}]
    assert Place(group=SimpleNamespace(bundle_specs=bundles), gpus=0, home="here").reach(node) == expected


def test_gloo_and_nccl_use_the_interface_of_the_node_s_address_unless_told(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("GLOO_SOCKET_IFNAME", "another")
    monkeypatch.delenv("GLOO_SOCKET_IFNAME")
    monkeypatch.setenv("NCCL_SOCKET_IFNAME", "eth7")
    nodes.talk_over_own_address()  # there is no Ray here: loopback
    assert (nodes.os.environ["GLOO_SOCKET_IFNAME"], nodes.os.environ["NCCL_SOCKET_IFNAME"]) == ("lo", "eth7")
    assert nodes._interface_of("192.0.2.7") is None
