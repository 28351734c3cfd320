"""What is looked at while a preference is learned, on a tiny model and by hand."""

import json
import logging
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
import torch
from pydantic import ValidationError

from stages.base import StageContext, StageError
from stages.data.examples import Example
from stages.logprobs import sequence_logprobs
from stages.models import load_policy
from stages.preference.config import Monitor
from stages.preference.monitor import MonitorCallback, Watched, greedy_answers, sampled
from stages.preference.train import run
from tests.models import write_tiny_model
from tests.stages.contexts import make_context
from tests.stages.test_supervised import Killed, KillsAt, kto_stage, metrics, preference_stage, same, tensors

pytestmark = pytest.mark.training

LOOKED_AT = {"good_nats_a_token", "bad_nats_a_token", "greedy_nats_a_token", "margin", "kl_nats", "greedy_tokens"}


@pytest.fixture
def model(tmp_path: Path) -> Path:
    return write_tiny_model(tmp_path / "base")


def looks(context: StageContext) -> dict[int, dict[str, float]]:
    """What was seen, by step."""
    found = {}
    for row in metrics(context):
        seen = {name.removeprefix("monitor/"): value for name, value in row.items() if name.startswith("monitor/")}
        if seen:
            found[int(row["step"])] = seen
    return found


def test_it_looks_before_the_first_step_in_its_period_and_after_the_last(tmp_path: Path, model: Path) -> None:
    context = make_context(tmp_path, model)
    run(preference_stage(tmp_path, num_steps=5, monitor={"every_steps": 2, "num_prompts": 4, "max_tokens": 9}), context)
    seen = looks(context)
    assert sorted(seen) == [0, 2, 4, 5]
    assert all(row.keys() == LOOKED_AT | {"accuracy", "squeezing"} for row in seen.values())
    assert (seen[0]["margin"], seen[0]["kl_nats"], seen[0]["squeezing"]) == (0.0, 0.0, 0.0)
    assert seen[5]["margin"] > 0 and seen[5]["accuracy"] > 0.5 and seen[5]["kl_nats"] != 0.0
    assert all(1 <= row["greedy_tokens"] <= 9 for row in seen.values())


def test_answers_one_by_one_are_watched_too(tmp_path: Path, model: Path) -> None:
    context = make_context(tmp_path, model)
    run(kto_stage(tmp_path, monitor={"every_steps": 4, "max_tokens": 5}), context)
    assert all(row.keys() == LOOKED_AT | {"squeezing"} for row in looks(context).values())


def test_looking_changes_nothing(tmp_path: Path, model: Path) -> None:
    watched, blind = (make_context(tmp_path / name, model) for name in ("watched", "blind"))
    stage = preference_stage(tmp_path, params={"type": "lora", "r": 4})
    run(stage, watched)
    run(stage.model_copy(update={"monitor": None}), blind)
    assert same(tensors(watched), tensors(blind)) and looks(watched) and not looks(blind)


def test_prompts_that_are_kept_apart_are_not_learned_from(tmp_path: Path, model: Path) -> None:
    told = run(preference_stage(tmp_path, monitor={"held_out": 0.25}), make_context(tmp_path, model)).metrics
    assert told["data/pairs"] == 6
    stages = [preference_stage(tmp_path, monitor=monitor) for monitor in ({}, {"every_steps": 3}, {"held_out": 0.25})]
    assert stages[0].identity() == stages[1].identity() != stages[2].identity()
    with pytest.raises(ValidationError, match="held_out"):
        preference_stage(tmp_path, monitor={"held_out": 1.0})


def test_a_stage_that_is_resumed_compares_with_its_first_start(tmp_path: Path, model: Path) -> None:
    stage = preference_stage(tmp_path, monitor={"every_steps": 1, "max_tokens": 9})
    whole, killed = (make_context(tmp_path / name, model) for name in ("whole", "killed"))
    run(stage, whole)
    with pytest.raises(Killed):
        run(stage, replace(killed, metrics=KillsAt(killed.folder / "metrics.jsonl", 3)))
    run(stage, killed)
    after = looks(killed)
    assert sorted(after) == [3, 4] and after[4] == looks(whole)[4]


def test_what_is_squeezed_is_said_once(tmp_path: Path, model: Path, caplog: pytest.LogCaptureFixture) -> None:
    context = make_context(tmp_path, model)
    policy = load_policy(context)
    answers = [Example(prompt_ids=(5, 6), token_ids=(7, 8)), Example(prompt_ids=(5,), token_ids=(9,))]
    watched = Watched(good=answers, bad=answers[::-1], are_pairs=True)
    callback = MonitorCallback(watched, policy, Monitor(every_steps=1, max_tokens=4), 0.1, context)
    state = type("State", (), {"global_step": 0, "max_steps": 9})
    callback.on_train_begin(None, state, None)
    with torch.no_grad():  # the likeliest tokens take what others lose
        policy.model.lm_head.weight *= 8
    with caplog.at_level(logging.WARNING):
        for step in (1, 2):
            state.global_step = step
            callback.on_step_end(None, state, None)
            logs: dict[str, Any] = {"loss": 0.1}
            callback.on_log(None, state, None, logs)
            assert logs["monitor/squeezing"] == 1.0
    assert caplog.text.count("squeezes them out") == 1
    json.dumps(logs)


def test_greedy_answers_are_the_likeliest_tokens_and_prompts_of_any_length_go_together(
    tmp_path: Path, model: Path
) -> None:
    policy = load_policy(make_context(tmp_path, model))
    prompts = [[5, 6, 7, 8], [9], [10, 11]]
    found = greedy_answers(policy, prompts, 6)
    for prompt, (same_prompt, answer) in zip(prompts, found, strict=True):
        assert same_prompt == prompt and 1 <= len(answer) <= 6
        assert (len(answer) == 6 or answer[-1] in policy.eos_ids) and not set(answer[:-1]) & set(policy.eos_ids)
        tokens = list(prompt)
        for token in answer:
            with torch.no_grad():
                logits = policy.model(input_ids=torch.tensor([tokens])).logits[0, -1]
            assert logits[token].item() == pytest.approx(logits.max().item(), abs=1e-5)
            tokens.append(token)


def test_samples_follow_from_the_seed_and_leave_the_random_state(tmp_path: Path, model: Path) -> None:
    policy = load_policy(make_context(tmp_path, model))
    prompts = [[5, 6, 7]] * 3
    before = torch.get_rng_state()
    one = sampled(policy, prompts, 5, seed=1)
    assert torch.equal(torch.get_rng_state(), before)
    assert one == sampled(policy, prompts, 5, seed=1) != sampled(policy, prompts, 5, seed=2)
    assert len({tuple(answer) for _, answer in one}) > 1
    assert sequence_logprobs(policy.model, [prompt + answer for prompt, answer in one])


def test_a_monitor_that_was_changed_or_is_new_at_a_resume_compares_with_nothing(
    tmp_path: Path, model: Path, caplog: pytest.LogCaptureFixture
) -> None:
    for name, before in (("changed", {"every_steps": 1, "num_prompts": 2}), ("new", None)):
        context = make_context(tmp_path / name, model)
        with pytest.raises(Killed):
            run(
                preference_stage(tmp_path, monitor=before),
                replace(context, metrics=KillsAt(context.folder / "metrics.jsonl", 3)),
            )
        with caplog.at_level(logging.WARNING):
            run(preference_stage(tmp_path, monitor={"every_steps": 1, "num_prompts": 4}), context)
        assert "nothing is compared with it" in caplog.text and not looks(context)
        caplog.clear()


def test_what_the_models_own_configuration_says_of_sampling_does_not_count(tmp_path: Path, model: Path) -> None:
    policy = load_policy(make_context(tmp_path, model))
    expected = greedy_answers(policy, [[5, 6]], 8)
    policy.model.generation_config.repetition_penalty = 50.0
    policy.model.generation_config.no_repeat_ngram_size = 1
    assert greedy_answers(policy, [[5, 6]], 8) == expected


def test_long_answers_are_cut_where_training_cuts_them(tmp_path: Path, model: Path) -> None:
    context = make_context(tmp_path, model)
    run(preference_stage(tmp_path, num_steps=1, max_tokens=24, monitor={"max_tokens": 4}), context)
    assert looks(context)[1]["good_nats_a_token"] < 0


def test_answers_of_one_class_among_those_kept_apart_are_refused(tmp_path: Path, model: Path) -> None:
    stage = kto_stage(tmp_path, [True], monitor={"held_out": 0.2})
    path = tmp_path / "answers.jsonl"
    lines = path.read_text().splitlines()
    path.write_text("\n".join([*lines, json.dumps({"prompt": "?", "completion": "no", "label": False})]) + "\n")
    with pytest.raises(StageError, match="answers are good"):
        run(stage, make_context(tmp_path, model))
