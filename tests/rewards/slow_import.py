"""A reward whose import takes long, as one that loads a model does."""

import time

time.sleep(1.0)


def one(prompts, completions, **columns):
    return [1.0] * len(completions)
