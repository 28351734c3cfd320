"""The verifier reward: does a verifying policy, reasoning first, find the answer right?

A verifier is itself a policy, and can be trained by what became known of the answers that it has verified, in turn with
the generator (RL Tango, Zha et al. 2025, arXiv 2505.15034). Serving it is here; `training_row` is where the training
begins: its rows, the `exact` reward and a `grpo` stage make a better verifier, whose folder `model` then names.
"""

import hashlib
import statistics
from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING, Any

from rewards.chat import CODE_DIGITS, Chat, Meter, gathered
from rewards.final_answer import plain
from rewards.questions import Question, transcript
from rewards.replies import closing_verdict, line_pattern, unreadable
from rewards.types import LogMetric, Mark, RewardFunction

if TYPE_CHECKING:
    from rewards.config import VerifierRewardConfig

QUESTION = r"""Here is a question and somebody's answer.

{note}

{question}
{answer}

Check the answer step by step. Then end with \boxed{correct} or \boxed{incorrect}, on a line of its own with nothing
else on it."""
VERDICTS = {"correct": 1.0, "incorrect": 0.0}
_LINE = line_pattern(r"\\?[\[(]?\s*\\boxed\s*\{(.*)\}\s*\\?[\])]?")


def load(config: "VerifierRewardConfig") -> RewardFunction:
    """Serve the verifier and return a reward: the share, 0.0 to 1.0, of its verdicts that find the answer right.

    What it has not said in time, or so that it can be read, fails its answer. Needs no gold answer.
    """
    chat = Chat(config)

    async def verifier(
        prompts: list[Any], completions: list[Any], log_metric: LogMetric, **columns: list[Any]
    ) -> list[float | Mark | None]:
        meter = Meter()
        asked = [
            chat.ask(question(prompt, turns[-1]["content"]), meter, sample)
            for prompt, turns in zip(prompts, completions, strict=True)
            for sample in range(config.num_samples)
        ]
        replies = await gathered(asked, config.seconds)
        for name, count in meter.counts.items():
            log_metric(name, count)
        size = config.num_samples
        return [_share(replies[at : at + size]) for at in range(0, len(replies), size)]

    return verifier


def question(prompt: Sequence[dict[str, str]], answer: str) -> Question:
    """Return what the verifier is asked about an answer, at work and in its training alike but for the code."""
    return Question(template=QUESTION, material={"question": transcript(prompt), "answer": answer})


def training_row(prompt: Sequence[dict[str, str]], answer: str, *, is_right: bool) -> Mapping[str, Any]:
    """Return a row to train the verifier on: `prompt`, and as `answer` the verdict that it should come to.

    Its code follows from the texts, so that it is another in every row, and the same whenever the row is made.
    """
    word = "correct" if is_right else "incorrect"
    asked = question(prompt, answer)
    code = hashlib.sha256(asked.text("").encode(errors="replace")).hexdigest()[:CODE_DIGITS]
    return {"prompt": [{"role": "user", "content": asked.text(code)}], "answer": word}


def _share(replies: Sequence[str | Mark]) -> float | Mark:
    """Return the share of verdicts that say correct; where there are none, why."""
    read = [reply if isinstance(reply, Mark) else verdict(reply) for reply in replies]
    marks = [one for one in read if isinstance(one, float)]
    return statistics.fmean(marks) if marks else next(one for one in read if isinstance(one, Mark))


def verdict(reply: str) -> float | Mark:
    """Return 1.0 or 0.0 for the word in the box on the last line."""

    def of_line(line: str) -> float | None:
        found = _LINE.fullmatch(line)
        return VERDICTS.get(plain(found[1]).strip(" !").casefold()) if found else None

    found = closing_verdict(reply, of_line)
    return unreadable(reply) if found is None else found
