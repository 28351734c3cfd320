"""The processes that hold one learner together. The first runs the stage; the others do what its learner is asked to.

    driver -> learner.update(batch) -> told to the other ranks -> each: gradients of its share -> FSDP2 adds them up

A rank that dies takes the others with it, and the stage goes on from its last checkpoint in a new attempt.
"""

import math
from collections.abc import Callable
from datetime import timedelta
from functools import wraps
from pathlib import Path
from typing import Any, Protocol, TypeVar, cast

import torch
import torch.distributed as dist
from torch.distributed.device_mesh import init_device_mesh
from torch.distributed.fsdp import FSDPModule, fully_shard

from rewards.waits import Wait
from rollout.nodes import talk_over_own_address
from rollout.peers import own_sockets, require_own_peers
from stages.base import ALONE, Rank

F = TypeVar("F", bound=Callable[..., Any])
T = TypeVar("T")

MEETING_POINT = "ranks"
"""File by which they find each other."""
PATIENCE = timedelta(days=30)
"""How long a rank may wait for the others, as torch knows it: the first may wait for rollouts. What ends it is the
recipe's `stall_timeout_s`, by which the driver watches the first rank, and which names the one that was stopped."""


class Ranks:
    """One rank's view of all of them. Alone, everything here is nothing."""

    def __init__(self, rank: Rank = ALONE, folder: Path = Path()) -> None:
        """Join the others, who come at the same time to the same folder, new to all of them and seen by all."""
        self.index = rank.index
        self.num = rank.num
        self._is_told = False
        if self.num > 1:
            talk_over_own_address()
            meeting_point = f"file://{(folder / MEETING_POINT).resolve()}"
            device = torch.device("cuda" if torch.cuda.is_available() else "cpu")
            backend = "cpu:gloo,cuda:nccl" if device.type == "cuda" else "gloo"
            before = own_sockets()
            with _others("all ranks to meet"):
                dist.init_process_group(
                    backend, init_method=meeting_point, rank=self.index, world_size=self.num, timeout=PATIENCE
                )
                self._orders = dist.new_group(backend="gloo", timeout=PATIENCE)
                self._mesh = init_device_mesh(device.type, (self.num,))
            require_own_peers(before)  # what they tell each other is pickled

    def shard(self, model: Any) -> Any:
        """Spread a model's weights over the ranks, layer by layer, in place (FSDP2, Zhao et al. 2023 and after)."""
        if self.num > 1:
            kinds = _layer_kinds(model)
            for module in model.modules():
                if type(module).__name__ in kinds:
                    fully_shard(module, mesh=self._mesh)
            fully_shard(model, mesh=self._mesh)
        return model

    def settle(self, model: Any) -> None:
        """Spread what the last forward pass has brought together."""
        for module in model.modules():
            if isinstance(module, FSDPModule):
                module.reshard()

    def gathered(self, value: T) -> list[T]:
        """Return the values of all ranks, in their order, to each."""
        if self.num == 1:
            return [value]
        values: list[Any] = [None] * self.num
        with _others("what all ranks have to say"):
            dist.all_gather_object(values, value, group=self._orders)
        return values

    def tell(self, order: Any) -> None:
        """Tell the others; the first rank does."""
        with _others("all ranks to hear what they are told"):
            dist.broadcast_object_list([order], src=0, group=self._orders)

    def hear(self) -> Any:
        """Wait for what the first rank tells."""
        box = [None]
        with _others("what the first rank tells"):
            dist.broadcast_object_list(box, src=0, group=self._orders)
        return box[0]

    def asked(self, name: str, arguments: Any, act: Callable[[], T]) -> T:
        """Act, after the first rank has told the others to do the same; what is asked inside of it they do anyway."""
        if self.num == 1 or self.index > 0 or self._is_told:
            return act()
        self.tell((name, arguments))
        self._is_told = True
        try:
            return act()
        finally:
            self._is_told = False

    def close(self) -> None:
        """Let the others go."""
        if self.num > 1:
            if self.index == 0:
                self.tell(None)
            dist.destroy_process_group()


class Ranked(Protocol):
    """What is held by several ranks."""

    ranks: Ranks


def together(method: F) -> F:
    """Have all ranks do what the first one is asked to. Arguments travel by pickle."""

    @wraps(method)
    def asked(self: Ranked, *arguments: Any, **named: Any) -> Any:
        return self.ranks.asked(method.__name__, (arguments, named), lambda: method(self, *arguments, **named))

    return cast(F, asked)


def follow(held: Ranked) -> None:
    """Do what the first rank is asked to, until it lets go."""
    while (order := held.ranks.hear()) is not None:
        name, (arguments, named) = order
        getattr(held, name)(*arguments, **named)
    held.ranks.close()


def _others(what: str) -> Wait:
    return Wait(what, math.inf)


def _layer_kinds(model: Any) -> set[str]:
    """Return the names of the classes that transformers would not split: a decoder's layers."""
    return {kind for module in model.modules() for kind in getattr(module, "_no_split_modules", None) or ()}
