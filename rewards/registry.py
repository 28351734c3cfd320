"""From what a recipe says to a function that can be called. Worker processes call it."""

import functools
import inspect
from collections.abc import Callable, Sequence
from typing import TYPE_CHECKING, Any, cast

from rewards import choice, code, confidence, exact, judge, length, math_answer, model, repetition, verifier, vote
from rewards import format as format_reward
from rewards.importing import imported
from rewards.types import RewardError, RewardFunction

if TYPE_CHECKING:  # the worker's start is on the clock of `strop check`
    from rewards.config import FunctionRewardConfig, RewardConfigBase


def import_function(config: "FunctionRewardConfig") -> RewardFunction:
    """Import the user's function and bind its ``kwargs``; RewardError says what to mend where that fails."""
    function = imported(config.import_path, "reward")
    if config.factory:
        try:
            function = function(**config.kwargs)
        except Exception as error:
            raise RewardError(
                f"reward {config.import_path!r}, as a factory, was called with kwargs {sorted(config.kwargs)}: "
                f"{type(error).__name__}: {error}"
            ) from error
    if not callable(function) or inspect.isclass(function):
        raise RewardError(
            f"reward {config.import_path!r} is {function!r}, which is no reward; it must be a "
            "function f(prompts, completions, **columns)"
        )
    if config.factory:
        return cast(RewardFunction, function)
    try:
        signature = inspect.signature(function)
    except (TypeError, ValueError) as error:  # some functions of C have none
        raise RewardError(f"reward {config.import_path!r} has no signature, so nobody knows what to give it") from error
    try:
        signature.bind_partial(**config.kwargs)
    except TypeError as error:
        raise RewardError(
            f"reward {config.import_path!r} is given kwargs {sorted(config.kwargs)}, and its signature is "
            f"{signature}: {error}. Mend `kwargs` or the function, or say factory: true if it makes the reward"
        ) from error
    return cast(RewardFunction, functools.partial(function, **config.kwargs))


LOADERS: dict[str, Callable[[Any], RewardFunction]] = {
    "math": math_answer.load,
    "exact": exact.load,
    "choice": choice.load,
    "format": format_reward.load,
    "length": length.load,
    "repetition": repetition.load,
    "vote": vote.load,
    "confidence": confidence.load,
    "code": code.load,
    "model": model.load,
    "judge": judge.load,
    "verifier": verifier.load,
    "function": import_function,
}
"""Every reward type, and what turns its config into a function."""


def build(config: "RewardConfigBase") -> RewardFunction:
    """Import what the reward needs, heavy libraries included, and return it ready to be called."""
    return LOADERS[getattr(config, "type")](config)  # noqa: B009 - each member of the union has it


def check_labels(rewards: Sequence["RewardConfigBase"]) -> None:
    """Raise RewardError when there is no reward, or when two would write their values under one name."""
    labels = [reward.label for reward in rewards]
    if not labels:
        raise RewardError("there is no reward to score with; name at least one under `rewards`")
    for label in labels:
        if labels.count(label) > 1:
            raise RewardError(f"{labels.count(label)} rewards are called {label!r}; give each its own `name`")
