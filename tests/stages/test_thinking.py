"""A template that opens `<think>` for the assistant: what is trained is what is sampled, in SFT, DPO and GRPO."""

import json
from pathlib import Path
from typing import Any

import pytest

from rollout.records import read_groups
from stages.grpo.train import run as run_grpo
from stages.models import Policy, load_policy
from stages.preference.train import run as run_preference
from stages.sft.train import run as run_sft
from tests.chats import TEMPLATES
from tests.models import write_tiny_model
from tests.stages.contexts import make_context
from tests.stages.grpo.groups import stage as grpo_stage
from tests.stages.test_supervised import losses, metrics, preference_stage, sft_stage

pytestmark = pytest.mark.training

OPENED = "<|im_start|>assistant\n<think>\n"
QUESTION = "What is 3 plus 1?"
RIGHT = "<think>\n3 4\n</think>\n\n\\boxed{4}"


@pytest.fixture
def model(tmp_path: Path) -> Path:
    folder = write_tiny_model(tmp_path / "base")
    (folder / "chat_template.jinja").write_text((TEMPLATES / "thinking_opened.jinja").read_text())
    return folder


def rows(tmp_path: Path, **columns: Any) -> str:
    (tmp_path / "rows.jsonl").write_text("".join(json.dumps({"prompt": QUESTION, **columns}) + "\n" for _ in range(4)))
    return str(tmp_path / "rows.jsonl")


def asked(policy: Policy) -> Any:
    return policy.tokenizer.apply_chat_template(
        [{"role": "user", "content": QUESTION}], add_generation_prompt=True, return_tensors="pt", return_dict=False
    )


@pytest.mark.training
def test_sft_teaches_what_is_thought_after_the_tag_that_the_prompt_opened(tmp_path: Path, model: Path) -> None:
    context = make_context(tmp_path, model)
    run_sft(sft_stage(tmp_path, data=rows(tmp_path, completion=RIGHT), num_steps=40, max_tokens=96), context)
    policy = load_policy(make_context(tmp_path, model, name="next", inputs={"policy": context.output}))
    prompt = asked(policy)
    assert policy.tokenizer.decode(prompt[0]).endswith(OPENED)
    answer = policy.model.generate(prompt, max_new_tokens=40, do_sample=False)[0, prompt.shape[1] :]
    assert policy.tokenizer.decode(answer) == RIGHT.removeprefix("<think>\n") + "<|im_end|>"


@pytest.mark.training
def test_dpo_prefers_what_is_thought_in_the_context_that_is_sampled_in(tmp_path: Path, model: Path) -> None:
    context = make_context(tmp_path, model)
    wrong = "<think>\n3 3\n</think>\n\n\\boxed{3}"
    pairs = rows(tmp_path, chosen=RIGHT, rejected=wrong)
    run_preference(preference_stage(tmp_path, data=pairs, num_steps=8, max_tokens=96, learning_rate=1e-2), context)
    told = losses(context)
    assert told[0] == pytest.approx(0.6931, abs=1e-3) and told[-1] < told[0] / 2
    load_policy(make_context(tmp_path, model, name="next", inputs={"policy": context.output}))


@pytest.mark.processes
def test_grpo_samples_after_the_tag_that_the_prompt_opened_and_learns(tmp_path: Path, model: Path) -> None:
    context = make_context(tmp_path, model)
    reward = {"import_path": "tests.end_to_end.rewards:share_of_digits", "gold_value": None}
    config = grpo_stage(
        prompts=rows(tmp_path), rewards=[reward], num_steps=2, prompts_per_step=2, group_size=4, micro_batch_tokens=512,
        sampling={"max_tokens": 12}, sync={"num_probes": 1}, replace_up_to=4,
    )  # fmt: skip
    run_grpo(config, context)
    policy = load_policy(make_context(tmp_path, model, name="next", inputs={"policy": context.output}))
    [file, *_] = sorted(context.rollouts.glob("step_*.parquet"))
    groups = read_groups(file)
    assert all(group.prompt.token_ids == tuple(asked(policy)[0].tolist()) for group in groups)
    assert policy.tokenizer.decode(groups[0].prompt.token_ids).endswith(OPENED)
    steps = [row for row in metrics(context) if "train/grad_norm" in row]
    assert len(steps) == 2 and steps[0]["train/grad_norm"] > 0
