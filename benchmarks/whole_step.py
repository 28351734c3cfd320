"""Whole steps of GRPO with generation, ours and TRL's, on the same model, prompts and lengths.

    python -m benchmarks.whole_step TRL_SIZE [--rounds N]     # as JSON

A model of 5 M parameters answers 4 prompts of 256 tokens 8 times each, and ends its turn with odds of 1 to 60 at each
token, 256 at most, which makes lengths with a heavy tail. Ours is a recipe, run as any other: answers by vLLM, weights
to it after each step, rewards in a process of their own. TRL generates by transformers; its vLLM wants a GPU.

A round is a run of each, with a median of its steps: both sides start all that takes part again for it.
"""

import argparse
import json
import math
import random
import statistics
import subprocess
import sys
import tempfile
import time
import warnings
from pathlib import Path
from typing import Any

import torch
import yaml

from benchmarks.conditions import conditions
from benchmarks.turns import Paired, Side, in_turn, rounds_from
from benchmarks.updates import CPU, GROUP, GROUPS, VOCAB
from examples.arithmetic.base_model import make_tokenizer

PROMPT_TOKENS, MOST_TOKENS, MEAN_TOKENS = 256, 256, 60
WARM_UP, STEPS = 2, 3
"""Of each run: steps that are not timed, and those that are."""
LEARNING_RATE = 1e-6


def is_even(completion_ids: list[list[int]], **columns: Any) -> list[float]:
    """Reward answers of an even number of tokens: some of a group, hardly ever all."""
    return [float(len(ids) % 2 == 0) for ids in completion_ids]


def write_model(folder: Path) -> None:
    """Write a model whose next token is any, and the end of the turn with odds of its own.

    One dimension of the embeddings is large and the same for all tokens, so it is after the last norm, too; there the
    head looks for the end of the turn alone.
    """
    tokenizer = make_tokenizer(["0 1 2 3 4 5 6 7 8 9"])
    model = CPU.make_model(tie_word_embeddings=False)
    with torch.no_grad():
        model.model.embed_tokens.weight[:, 0] = 1.0
        model.lm_head.weight[:, 0] = 0.0
        model.lm_head.weight[tokenizer.eos_token_id] = 0.0
        state = model.model(torch.arange(3, 67)[None]).last_hidden_state[0, :, 0].mean()
        model.lm_head.weight[tokenizer.eos_token_id, 0] = (math.log(VOCAB) - math.log(MEAN_TOKENS - 1)) / state
    model.config.eos_token_id = model.generation_config.eos_token_id = tokenizer.eos_token_id
    model.config.pad_token_id = model.generation_config.pad_token_id = tokenizer.pad_token_id
    model.save_pretrained(folder)
    tokenizer.save_pretrained(folder)


def prompts(folder: Path, num: int) -> list[list[dict[str, str]]]:
    """Return prompts of digits, each a token."""
    import transformers

    tokenizer = transformers.AutoTokenizer.from_pretrained(folder)
    draw = random.Random(0)

    def asked(num_digits: int) -> list[dict[str, str]]:
        return [{"role": "user", "content": "".join(draw.choices("0123456789", k=num_digits))}]

    around = len(tokenizer.apply_chat_template(asked(1), add_generation_prompt=True, return_dict=False)) - 1
    return [asked(PROMPT_TOKENS - around) for _ in range(num)]


def our_steps(folder: Path, name: str) -> tuple[list[float], float]:
    """Return the seconds of our steps in a run of that name, and the mean length of an answer."""
    rows = [{"prompt": prompt, "answer": ""} for prompt in prompts(folder, GROUPS * (WARM_UP + STEPS))]
    (folder / "rows.jsonl").write_text("".join(json.dumps(row) + "\n" for row in rows))
    stage = {
        "kind": "grpo",
        "prompts": str(folder / "rows.jsonl"),
        "rewards": [{"import_path": "benchmarks.whole_step:is_even", "gold_value": None}],
        "sampling": {"max_tokens": MOST_TOKENS},
        "num_steps": WARM_UP + STEPS,
        "prompts_per_step": GROUPS,
        "group_size": GROUP,
        "micro_batch_tokens": 2048,
        "learning_rate": LEARNING_RATE,
        "schedule": "constant",
        "checkpoint": {"every_steps": 0},
    }
    engine = {"type": "vllm", "max_model_tokens": PROMPT_TOKENS + MOST_TOKENS}
    recipe = {"name": name, "model": str(folder), "engine": engine, "stages": {"grpo": stage}}
    (folder / "recipe.yaml").write_text(yaml.safe_dump(recipe))
    command = [sys.executable, "-m", "pipeline.cli", "run", str(folder / "recipe.yaml"), "--runs", str(folder / "runs")]
    subprocess.run(command, check=True, stdout=sys.stderr)
    lines = (folder / "runs" / name / "grpo/latest/metrics.jsonl").read_text().splitlines()[WARM_UP:]
    found = [json.loads(line) for line in lines]
    seconds = [sum(value for name, value in row.items() if name.startswith("time/")) for row in found]
    return seconds, statistics.fmean(row["rollout/length/mean_tokens"] for row in found)


def trl_steps(folder: Path, size: int) -> tuple[list[float], float]:
    """Return the seconds of TRL's steps in micro-batches of so many completions, and the mean length of an answer."""
    import transformers
    import trl
    from datasets import Dataset

    begun: list[float] = []
    seconds: list[float] = []

    class Clock(transformers.TrainerCallback):  # type: ignore[misc]
        def on_step_begin(self, *_: Any, **__: Any) -> None:
            begun.append(time.perf_counter())

        def on_step_end(self, *_: Any, **__: Any) -> None:
            seconds.append(time.perf_counter() - begun[-1])

    arguments = trl.GRPOConfig(
        output_dir=str(folder / "trl"),
        per_device_train_batch_size=size,
        gradient_accumulation_steps=GROUPS * GROUP // size,
        num_generations=GROUP,
        max_completion_length=MOST_TOKENS,
        max_steps=WARM_UP + STEPS,
        learning_rate=LEARNING_RATE,
        lr_scheduler_type="constant",
        beta=0.0,
        bf16=False,
        use_cpu=True,
        gradient_checkpointing=False,
        report_to="none",
        logging_steps=1,
        save_strategy="no",
        disable_tqdm=True,
        loss_type="dapo",
        temperature=1.0,
    )
    trainer = trl.GRPOTrainer(
        model=transformers.AutoModelForCausalLM.from_pretrained(folder, dtype=torch.float32),
        reward_funcs=[is_even],
        args=arguments,
        train_dataset=Dataset.from_list([{"prompt": prompt} for prompt in prompts(folder, GROUPS * (WARM_UP + STEPS))]),
        processing_class=transformers.AutoTokenizer.from_pretrained(folder),
        callbacks=[Clock()],
    )
    trainer.train()
    lengths = [row["completions/mean_length"] for row in trainer.state.log_history if "completions/mean_length" in row]
    return seconds[WARM_UP:], statistics.fmean(lengths[WARM_UP:])


def compare(size: int, num_rounds: int) -> dict[str, Any]:
    """Time runs of both in turn."""
    lengths: dict[str, list[float]] = {"ours": [], "trl": []}
    with tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        write_model(folder)

        def ours(number: int) -> float:
            seconds, tokens = our_steps(folder, f"whole-step-{number}")
            lengths["ours"].append(tokens)
            return statistics.median(seconds)

        def trl(number: int) -> float:
            seconds, tokens = trl_steps(folder, size)
            lengths["trl"].append(tokens)
            return statistics.median(seconds)

        sides = [Side(name="ours", measure=ours), Side(name="trl", measure=trl)]
        values = in_turn(sides, num_rounds=num_rounds, num_warm_up=0)  # each run has its own
    return {
        **Paired(values=values, unit="s a step", ratio_of=("trl", "ours")).to_json(),
        "steps_timed": STEPS,
        "mean_answer_tokens": {side: statistics.fmean(tokens) for side, tokens in lengths.items()},
        "trl_micro_batch_size": size,
        "conditions": conditions(),
    }


def main() -> None:
    """Compare, and print JSON."""
    warnings.simplefilter("ignore")
    parser = argparse.ArgumentParser(prog="python -m benchmarks.whole_step")
    parser.add_argument("trl_size", metavar="TRL_SIZE", type=int, help="completions in a micro-batch of TRL's")
    rounds_from(parser, default=5)
    arguments = parser.parse_args()
    print(json.dumps(compare(arguments.trl_size, arguments.num_rounds)))


if __name__ == "__main__":
    main()
