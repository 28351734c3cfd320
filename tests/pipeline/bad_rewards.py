"""Rewards that `check` must refuse."""

from typing import Any


def never_content(prompts: list[Any], completions: list[Any], **columns: Any) -> list[float]:
    """Give a gold answer half marks."""
    return [0.5] * len(completions)


def raises(prompts: list[Any], completions: list[Any], **columns: Any) -> list[float]:
    """Fail."""
    raise RuntimeError("mends nothing")


def prints(completions, **columns):
    print("look at me")
    return [1.0] * len(completions)


def moody(completions, calls=[], **columns):  # noqa: B006 - it is the point
    calls.append(1)
    return [1.0 + len(calls)] * len(completions)


def fails_on_others(completions, **columns):
    return [float(turns[-1]["content"] in (r"\boxed{7}", r"\boxed{2}") or int("no number")) for turns in completions]


def of_eight_alone(completions, **columns):
    if len(completions) == 1:
        raise ValueError("one is too few")
    return [1.0] * len(completions)


def marks_nothing(completions, **columns):
    return [None] * len(completions)


def by_the_hash_of_the_process(completions, **columns):
    return [1.0 + abs(hash(str(turns))) for turns in completions]


def counts(completions, **columns):
    return [float(len(completions))] * len(completions)


def wants_tests(prompts, completions, tests):
    return [None if one is None else 1.0 for one in tests]
