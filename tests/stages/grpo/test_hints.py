"""Hints: which steps of a solution are given, and what is learned from them."""

import math
import statistics
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
import torch
from pydantic import ValidationError

from examples.arithmetic.base_model import make_tokenizer
from rollout.collector import Collector
from rollout.config import SamplingConfig
from rollout.episodes import OneTurn
from rollout.prompts import PromptSource
from rollout.records import read_groups, write_groups
from rollout.stream import GroupStream
from rollout.types import Prompt
from stages.base import RunFacts, StageError
from stages.grpo.batch import hint_batch, make_batch
from stages.grpo.config import HintConfig
from stages.grpo.hints import Hints, hinting, share, steps_of
from stages.grpo.learner import Learner
from stages.logprobs import sequence_logprobs
from stages.models import Policy
from tests.fakes import FakePool, FakeScorer, completion
from tests.models import TEXTS, tiny_model
from tests.stages.grpo.groups import group, stage

CONFIG = HintConfig(num_steps=10, column="solution")
WORK = "3+4=7\n5+5=0\n1+0=1\n\\boxed{107}"


def prompt(solution: Any = WORK, column: str = "solution", id: str = "a") -> Prompt:
    return Prompt(id=id, messages=[{"role": "user", "content": "?"}], token_ids=(1, 2), columns={column: solution})


def test_the_share_falls_along_half_a_cosine_to_nothing() -> None:
    shares = [share(CONFIG, step) for step in range(12)]
    assert shares[0] == pytest.approx(0.05 + 0.9 * (1 + math.cos(math.pi / 10)) / 2)
    assert shares[4] == pytest.approx(0.5) and shares[9] == pytest.approx(0.05)
    assert shares[10:] == [0.0, 0.0] and shares == sorted(shares, reverse=True)


def test_a_solution_is_split_into_steps_that_make_it_up() -> None:
    parts = ["3+4=7\n", "5+5=0\n", "1+0=1\n", "\\boxed{107}"]
    assert steps_of(prompt(), CONFIG) == parts
    assert steps_of(prompt("one\ntwo\n"), CONFIG) == ["one\n", "two\n"]
    turns = [{"role": "assistant", "content": WORK}]
    assert steps_of(prompt(turns, "gold_completion"), HintConfig(num_steps=1)) == parts
    for nothing in (None, "", [], 3, [1]):
        with pytest.raises(StageError, match="'a' has no solution in column 'solution'"):
            steps_of(prompt(nothing), CONFIG)


def test_how_many_steps_are_given_is_binomial_and_follows_from_seed_number_and_step() -> None:
    tokenizer = make_tokenizer(TEXTS)
    hints = Hints(CONFIG, tokenizer, room=100, seed=3)
    given = [tokenizer.decode(hints(prompt(), number, 5).hint_ids) for number in range(2000)]
    assert {*given} == {"", "3+4=7\n", "3+4=7\n5+5=0\n", "3+4=7\n5+5=0\n1+0=1\n", WORK}
    counts = [text.count("=") + text.count("boxed") for text in given]
    assert statistics.fmean(counts) == pytest.approx(4 * 0.5, abs=0.1)  # four steps, each by half
    assert statistics.pvariance(counts) == pytest.approx(4 * 0.5 * 0.5, abs=0.1)
    again = Hints(CONFIG, tokenizer, room=100, seed=3)
    assert [tokenizer.decode(again(prompt(), number, 5).hint_ids) for number in range(2000)] == given
    other = Hints(CONFIG, tokenizer, room=100, seed=4)
    assert [tokenizer.decode(other(prompt(), number, 5).hint_ids) for number in range(2000)] != given
    assert hints(prompt(), 0, 11).hint_ids == ()


def test_a_hint_leaves_room_for_the_answer() -> None:
    tokenizer = make_tokenizer(TEXTS)
    always = HintConfig(num_steps=10, column="solution", most=1.0, least=1.0)
    lengths = [len(Hints(always, tokenizer, room=room, seed=0)(prompt(), 0, 1).hint_ids) for room in (40, 20, 9, 3)]
    whole = len(tokenizer.encode(WORK))
    assert lengths[0] == whole > lengths[1] > lengths[2] > lengths[3] == 0
    assert all(2 + length <= room for room, length in zip((40, 20, 9, 3), lengths, strict=True))


def test_answers_begin_with_the_hint_and_rewards_see_it(tmp_path: Path) -> None:
    pool = FakePool({(1, 2, 7, 8): [completion(5, 9)]})
    scorer = FakeScorer({"7-8-5-9": 1.0})
    turns = OneTurn(pool, lambda ids: "-".join(map(str, ids)))
    source = PromptSource([prompt()], seed=0)
    seen: list[tuple[int, int]] = []

    def begun(asked: Prompt, number: int, step: int) -> Prompt:
        seen.append((number, step))
        return replace(asked, hint_ids=(7, 8))

    collector = Collector(pool, scorer, turns, SamplingConfig(), (9,))
    stream = GroupStream(collector, source, group_size=2, seed=1, prepared=begun)
    stream.request(2, step=4)
    found = stream.take(2)
    assert seen == [(0, 4), (1, 4)]
    assert found[0].rollouts[0].completion.token_ids == (5, 9) and found[0].rollouts[0].response == "7-8-5-9"
    write_groups(tmp_path / "x.parquet", found)
    assert read_groups(tmp_path / "x.parquet") == found
    assert hinting(None, None, room=1, seed=0)(prompt(), 0, 1) == prompt()


def hinted(*hints: tuple[int, ...]) -> list[Any]:
    groups = [group([1, 2, at + 3], [([4, 5], 1.0), ([6, 7, 8], 0.0)]) for at in range(len(hints))]
    return [replace(g, prompt=replace(g.prompt, hint_ids=h)) for g, h in zip(groups, hints, strict=True)]


def learner_of(model: Any, coef: float = 1e-3, **changes: Any) -> Learner:
    policy = Policy(model=model, tokenizer=None, folder=Path(), eos_ids=(0,), weights_sha256="")
    config = stage(hint={"num_steps": 10, "coef": coef}, micro_batch_tokens=30, max_grad_norm=1e9, **changes)
    return Learner(policy, config, RunFacts(model="none"))


def test_the_likelihood_of_hints_is_learned_as_by_hand() -> None:
    groups, hints = hinted((20, 21, 22), (), (23,)), [(1, 2, 3, 20, 21, 22), (1, 2, 5, 23)]
    learner = learner_of(tiny_model("qwen3", vocab_size=50), coef=0.5)
    batch = hint_batch(groups)
    assert batch is not None
    nll = learner._learn_hints(batch, 0.5)
    model = tiny_model("qwen3", vocab_size=50)
    scored = sequence_logprobs(model, hints)
    assert nll == pytest.approx(-(sum(scored[0][2:]) + scored[1][2]) / 3, abs=1e-5)
    total = torch.zeros(())
    for sequence in hints:
        logprobs = model(torch.tensor([sequence])).logits[0].log_softmax(-1)
        total = total - sum(logprobs[at - 1, sequence[at]] for at in range(3, len(sequence)))
    (0.5 * total / 3).backward()
    for own, by_hand in zip(learner.policy().model.parameters(), model.parameters(), strict=True):
        torch.testing.assert_close(own.grad, by_hand.grad, atol=1e-6, rtol=1e-4)


def test_hints_are_likely_at_temperature_one_whatever_answers_are_sampled_at() -> None:
    batch = hint_batch(hinted((20, 21)))
    assert batch is not None
    nll = [
        learner_of(tiny_model("qwen3", vocab_size=50), sampling={"temperature": t})._learn_hints(batch, 1.0)
        for t in (1.0, 0.5)
    ]
    assert nll[0] == nll[1]


def test_answers_are_learned_as_going_on_from_the_hint() -> None:
    groups = hinted((20, 21))
    batch = make_batch(groups, stage())
    assert batch is not None and {answer.prompt for answer in batch.answers} == {(1, 2, 3, 20, 21)}
    assert hint_batch(hinted((), ())) is None


def test_an_update_with_hints_makes_them_likelier_and_tells_how_likely() -> None:
    learner = learner_of(tiny_model("qwen3", vocab_size=50), coef=1.0)
    batch = make_batch(hinted((20, 21)), stage())
    assert batch is not None
    nll = [learner.update(batch, 1.0, hint_batch(hinted((20, 21))))["train/hint_nll_nats"] for _ in range(5)]
    assert nll == sorted(nll, reverse=True) and nll[-1] < 0.9 * nll[0]
    assert "train/hint_nll_nats" not in learner.update(batch)


def test_hints_need_one_turn_and_their_column() -> None:
    with pytest.raises(ValidationError, match="hints are for answers of one turn"):
        stage(hint={"num_steps": 1}, environment={"import_path": "a:B"})
    config = stage(hint={"num_steps": 1, "column": "solution"})
    assert "solution" in config.columns()
    config.check_rows([{"prompt": [], "solution": "1\n2"}])
    with pytest.raises(ValueError, match="row 2 has no worked solution in column 'solution': 42"):
        config.check_rows([{"prompt": [], "solution": "1"}, {"prompt": [], "solution": 42}])
