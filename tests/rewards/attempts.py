"""Attempts for the tests of rewards."""

from rewards.types import Attempt


def attempt(text, **columns):
    """One answer to a prompt that nobody reads."""
    return Attempt(
        prompt=[{"role": "user", "content": "?"}],
        completion=[{"role": "assistant", "content": text}],
        columns=columns,
    )


def group(*texts, **columns):
    """Several answers to one prompt."""
    return [attempt(text, **columns) for text in texts]
