"""Rollouts to read: some groups of a stage's steps, with scores, advantages, and what each token's probability was."""

import math
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from rewards.chat_template import spoken
from rollout.records import read_groups
from rollout.types import Rollout, RolloutGroup
from stages.config import AnyStage
from stages.grpo.advantages import advantages_of
from stages.grpo.config import GRPOStage

MOST_FILES, MOST_GROUPS = 24, 8
"""Of a stage: files that are read, evenly spread, and groups of each that are shown."""

Decode = Callable[[Sequence[int]], Sequence[str]]
"""Makes a text of each token of an answer; together they are the answer's."""


@dataclass(slots=True, kw_only=True)
class Sample:
    """What is shown of a stage's rollouts, and what its distributions are made of."""

    num_files: int
    """How many the stage wrote."""
    num_read: int = 0
    groups: list[dict[str, Any]] = field(default_factory=list)
    """As the page reads them."""
    lengths: dict[str, list[int]] = field(default_factory=dict)
    """Sampled tokens of each answer in the files that were read: of the stage, or in an exam of each model."""
    ages: list[int] = field(default_factory=list)
    """By how many versions each answer's oldest token was behind the policy that learned from it; of GRPO alone."""
    notes: list[str] = field(default_factory=list)
    """What could not be read."""


def sample(config: AnyStage, folder: Path, decode: Decode, most_tokens: int) -> Sample:
    """Read some of the files of groups in a stage's folder; none where it wrote none.

    Each file read has its share of ``most_tokens``, and the first its first group however long it is.
    """
    files = sorted((folder / "rollouts").rglob("*.parquet"))
    chosen = spread(files, MOST_FILES)
    found, num_tokens = Sample(num_files=len(files)), 0
    for number, file in enumerate(chosen, start=1):
        try:
            groups = read_groups(file)
        except (
            OSError,
            ValueError,
        ) as error:  # removed meanwhile, damaged, or of another version's making
            found.notes.append(f"{folder.name}: {file.name} cannot be read ({error})")
            continue
        found.num_read += 1
        _count(found, config, folder, file, groups)
        values = advantages_of(groups, config) if isinstance(config, GRPOStage) else [None] * len(groups)
        for group, advantages in list(zip(groups, values, strict=True))[:MOST_GROUPS]:
            if num_tokens >= most_tokens * number / len(chosen):
                break
            num_tokens += sum(len(rollout.completion.token_ids) for rollout in _answers(group))
            found.groups.append(
                _shown(group, file, folder, decode, advantages, is_learned=isinstance(config, GRPOStage))
            )
    return found


def spread(files: Sequence[Path], num: int) -> list[Path]:
    """Return so many of the files, evenly spread, the first and the last among them."""
    if len(files) <= num:
        return list(files)
    return [files[round(at * (len(files) - 1) / (num - 1))] for at in range(num)]


def _count(found: Sample, config: AnyStage, folder: Path, file: Path, groups: Sequence[RolloutGroup]) -> None:
    completions = [rollout.completion for group in groups for rollout in group.rollouts]
    model, *is_exam = file.relative_to(folder / "rollouts").parts
    source = f"{folder.name}: {model}" if is_exam else folder.name
    found.lengths.setdefault(source, []).extend(len(completion.sampled) for completion in completions)
    if isinstance(config, GRPOStage):
        learner = int(file.stem.removeprefix("step_")) - 1  # groups of step N improve version N - 1
        found.ages += [learner - min(completion.versions, default=learner) for completion in completions]


def _answers(group: RolloutGroup) -> list[Rollout]:
    return [*group.rollouts, *([group.greedy] if group.greedy else [])]


def _shown(
    group: RolloutGroup,
    file: Path,
    folder: Path,
    decode: Decode,
    advantages: Sequence[float | None] | None,
    *,
    is_learned: bool,
) -> dict[str, Any]:
    values = list(advantages or [None] * len(group.rollouts))
    return {
        "stage": folder.name,
        "from": _place(file, folder),
        "id": group.prompt.id,
        "prompt": [{"role": turn["role"], "content": spoken(turn)} for turn in group.prompt.messages],
        "has_signal": None if not is_learned else advantages is not None,
        "columns": {name: str(value)[:200] for name, value in group.prompt.columns.items()},
        "answers": [
            _answer(rollout, decode, advantage, is_greedy=rollout is group.greedy)
            for rollout, advantage in zip(_answers(group), [*values, None], strict=False)
        ],
    }


def _place(file: Path, folder: Path) -> str:
    """Return where in the stage a file is from: `step 40`, `prompts from 256`, of an exam `model/task/accuracy`."""
    name = file.relative_to(folder / "rollouts").with_suffix("").as_posix()
    words, _, number = name.replace("prompt_", "prompts_from_").rpartition("_")
    return f"{words.replace('_', ' ')} {int(number)}" if number.isdecimal() and "/" not in name else name


def _answer(rollout: Rollout, decode: Decode, advantage: float | None, *, is_greedy: bool) -> dict[str, Any]:
    completion, score = rollout.completion, rollout.score
    return {
        "tokens": list(_tokens(rollout, decode)),
        "value": score.value,
        "parts": dict(score.parts),
        "reads": dict(score.reads),
        "cause": score.cause,
        "detail": score.detail,
        "finish": completion.finish_reason,
        "versions": sorted(set(completion.versions)),
        "advantage": advantage,
        "sampled": len(completion.sampled),
        "greedy": is_greedy,
    }


def _tokens(rollout: Rollout, decode: Decode) -> Iterator[list[Any]]:
    """Yield each token's text with its log-probability in nats; None for what an environment said."""
    completion = rollout.completion
    sampled, texts = set(completion.sampled), decode(completion.token_ids)
    for place, (text, logprob) in enumerate(zip(texts, completion.logprobs, strict=True)):
        told = round(logprob, 2) if math.isfinite(logprob) else str(logprob)
        yield [text, told if place in sampled else None]
