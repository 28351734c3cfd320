"""Groups in the order of their prompts, asked for ahead of who learns from them. Owns what is in flight.

prompts -> request -> collector (any number at once) -> take, oldest first
"""

from collections import deque
from collections.abc import Callable, Sequence
from concurrent.futures import Future

from rollout.collector import Collector
from rollout.prompts import PromptSource
from rollout.types import Prompt, RolloutGroup, request_seed


class GroupStream:
    """Takes prompts from a source and gives their groups back in the same order, whenever they are done.

    So what a step learns from depends on the order of the prompts alone, and short answers gain nothing by being
    early. Prompt n of a run has the seed n, whoever asks and whenever.
    """

    def __init__(
        self,
        collector: Collector,
        prompts: PromptSource,
        *,
        group_size: int,
        seed: int,
        with_greedy: bool = False,
        prepared: Callable[[Prompt, int, int], Prompt] = lambda prompt, number, step: prompt,
    ) -> None:
        """``prepared`` may change a prompt before it is asked, by its number and the version that it may lead to."""
        self._collector = collector
        self._prompts = prompts
        self._group_size = group_size
        self._seed = seed
        self._with_greedy = with_greedy
        self._prepared = prepared
        self._ahead: deque[Future[RolloutGroup]] = deque()

    @property
    def num_ahead(self) -> int:
        """Groups asked for and not taken yet."""
        return len(self._ahead)

    def request(self, num: int, step: int) -> None:
        """Ask for the groups of the next prompts; ``step``, for rewards that ask, is the version they may lead to."""
        first = self._prompts.num_taken
        for number, prompt in enumerate(self._prompts.take(num), start=first):
            seed = request_seed(self._seed, number)
            asked = self._prepared(prompt, number, step)
            group = self._collector.submit(asked, self._group_size, seed, step, with_greedy=self._with_greedy)
            self._ahead.append(group)

    def take(self, num: int) -> list[RolloutGroup]:
        """Wait for the oldest groups and return them; raises what the collector's `wait` does."""
        groups = self._collector.wait([self._ahead[at] for at in range(num)])
        for _ in range(num):
            self._ahead.popleft()
        return groups

    def settled(self) -> list[RolloutGroup]:
        """Wait until nothing is in flight; return the groups that wait to be taken, for a checkpoint."""
        return self._collector.wait(list(self._ahead))

    def restore(self, groups: Sequence[RolloutGroup]) -> None:
        """Put back what another stream had ``settled``; the source stands where that one's did."""
        for group in groups:
            done = Future[RolloutGroup]()
            done.set_result(group)
            self._ahead.append(done)


def staleness(group: RolloutGroup, version: int) -> int:
    """Return by how many versions the oldest token of a group is behind."""
    oldest = [min(rollout.completion.versions, default=version) for rollout in group.rollouts]
    return version - min(oldest, default=version)
