"""The learner against TRL's GRPOTrainer, against itself, and against plain arithmetic."""

import pickle
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
import torch
import transformers
import trl
from accelerate.state import AcceleratorState
from datasets import Dataset
from pydantic import ValidationError

from stages.base import RunFacts, StageError
from stages.grpo.advantages import advantages
from stages.grpo.batch import batches_by_reward, make_batch
from stages.grpo.config import GRPOStage
from stages.grpo.learner import Learner
from stages.grpo.loss_config import ClippedRatio, ClippedWeight, LossConfig, SequenceRatio, SoftGate
from stages.logprobs import sequence_logprobs
from stages.models import Policy
from tests.models import tiny_model, write_tiny_model
from tests.stages.grpo.groups import group, stage

VOCAB = 50
ARCHITECTURES = ["qwen3", "llama", "gpt_neox"]


def policy_of(model: Any, folder: Path = Path()) -> Policy:
    return Policy(model=model, tokenizer=None, folder=folder, eos_ids=(0,), weights_sha256="")


def learner_of(model: Any, config: GRPOStage) -> Learner:
    return Learner(policy_of(model), config, RunFacts(model="none"))


def random_groups(num_prompts: int = 3, group_size: int = 4, shift: float = 0.3) -> list[Any]:
    """Return groups with answers of many lengths, whose engine log-probabilities are off so that the clip works."""
    generator = torch.Generator().manual_seed(1)

    def tokens(low: int, high: int) -> list[int]:
        length = int(torch.randint(low, high, (1,), generator=generator))
        return torch.randint(1, VOCAB, (length,), generator=generator).tolist()

    groups = []
    for _ in range(num_prompts):
        prompt, answers = tokens(2, 6), [tokens(1, 9) for _ in range(group_size)]
        sequences = sequence_logprobs(tiny_model("qwen3", vocab_size=VOCAB), [prompt + answer for answer in answers])
        sampled = [row[len(prompt) - 1 :] for row in sequences]
        noise = [[value + shift * float(torch.randn((), generator=generator)) for value in row] for row in sampled]
        groups.append(group(prompt, [(answer, float(at % 2) + 0.1 * at) for at, answer in enumerate(answers)], noise))
    return groups


def gradients(model: Any) -> dict[str, torch.Tensor]:
    return {name: parameter.grad.clone() for name, parameter in model.named_parameters() if parameter.grad is not None}


def our_loss_and_gradients(model: Any, config: GRPOStage, groups: list[Any]) -> tuple[float, dict[str, torch.Tensor]]:
    learner, batch = learner_of(model, config), make_batch(groups, config)
    assert batch is not None
    total = 0.0
    for part in learner._parts(batch):
        loss, _ = learner._loss(part)
        loss.backward()
        total += loss.item()
    return total, gradients(model)


def trl_s_words_for(loss: LossConfig) -> dict[str, Any]:
    of_aggregate = {"token": "dapo", "sequence": "grpo", "constant": "dr_grpo"}[loss.aggregate]
    if isinstance(loss, ClippedRatio | SequenceRatio):
        level = "sequence" if isinstance(loss, SequenceRatio) else "token"
        bounds = {"epsilon": loss.clip_low, "epsilon_high": loss.clip_high, "delta": loss.most}
        return {"loss_type": of_aggregate, "importance_sampling_level": level, **bounds}
    if isinstance(loss, ClippedWeight):
        return {"loss_type": "cispo", "epsilon_high": 1 + loss.clip_high}
    assert isinstance(loss, SoftGate)
    sharpness = {"sapo_temperature_pos": loss.sharpness_good, "sapo_temperature_neg": loss.sharpness_bad}
    return {"loss_type": "sapo", **sharpness}


def trl_loss_and_gradients(
    model: Any, config: GRPOStage, groups: list[Any], tmp_path: Path, reference: Any
) -> tuple[float, dict[str, torch.Tensor]]:
    """Give TRL's own loss the same batch: prompts padded on the left, completions on the right."""
    folder = write_tiny_model(tmp_path / "tokenizer")
    arguments = trl.GRPOConfig(
        output_dir=str(tmp_path / "trl"), **trl_s_words_for(config.loss), beta=0.0, report_to="none",
        max_completion_length=config.sampling.max_tokens, entropy_coef=config.entropy_coef,
        num_generations=2, per_device_train_batch_size=2, bf16=False, use_cpu=True, gradient_checkpointing=False,
        temperature=config.sampling.temperature, disable_dropout=True, use_bias_correction_kl=False,
    )  # fmt: skip
    trainer = trl.GRPOTrainer(
        model=model,
        reward_funcs=[lambda completions, **_: [0.0] * len(completions)],
        args=arguments,
        train_dataset=Dataset.from_list([{"prompt": "a"}] * 4),
        processing_class=transformers.AutoTokenizer.from_pretrained(folder),
    )
    trainer.current_gradient_accumulation_steps = 1
    trainer.beta = config.kl.coef  # set late: at construction TRL would look for the model's own name on the Hub
    inputs = trl_inputs(groups, config, reference)
    model.train()
    model.zero_grad()
    loss = trainer._compute_loss(model, inputs)
    loss.backward()
    return loss.item(), gradients(model)


def trl_inputs(groups: list[Any], config: GRPOStage, reference: Any) -> dict[str, torch.Tensor]:
    rows = [(g.prompt.token_ids, r.completion) for g in groups for r in g.rollouts]
    values = [[r.score.value for r in g.rollouts] for g in groups]
    given = [a for row in advantages(values, config.advantage) for a in row or []]
    longest_prompt = max(len(prompt) for prompt, _ in rows)
    longest_answer = max(len(completion.token_ids) for _, completion in rows)

    def left(values: Any) -> list[float]:
        return [0] * (longest_prompt - len(values)) + list(values)

    def right(values: Any) -> list[float]:
        return list(values) + [0] * (longest_answer - len(values))

    inputs = {
        "prompt_ids": torch.tensor([left(prompt) for prompt, _ in rows]),
        "prompt_mask": torch.tensor([left([1] * len(prompt)) for prompt, _ in rows]),
        "completion_ids": torch.tensor([right(c.token_ids) for _, c in rows]),
        "completion_mask": torch.tensor([right([1] * len(c.token_ids)) for _, c in rows]),
        "tool_mask": torch.tensor([right([int(at in c.sampled) for at in range(len(c.token_ids))]) for _, c in rows]),
        "old_per_token_logps": torch.tensor([right(c.logprobs) for _, c in rows]),
        "advantages": torch.tensor(given),
        "num_items_in_batch": torch.tensor(float(sum(len(c.sampled) for _, c in rows))),
    }
    if reference is not None:
        scored = sequence_logprobs(reference, [list(prompt) + list(c.token_ids) for prompt, c in rows])
        answers = [row[len(prompt) - 1 :] for row, (prompt, _) in zip(scored, rows, strict=True)]
        inputs["ref_per_token_logps"] = torch.tensor([right(row) for row in answers])
    return inputs


def assert_equals_trl(architecture: str, config: GRPOStage, groups: list[Any], tmp_path: Path) -> None:
    """Give both the same batch; compare loss and gradients."""
    ours, our_gradients = our_loss_and_gradients(tiny_model(architecture, vocab_size=VOCAB), config, groups)
    theirs, trl_gradients = trl_loss_and_gradients(
        tiny_model(architecture, vocab_size=VOCAB), config, groups, tmp_path, None
    )
    assert ours == pytest.approx(theirs, abs=1e-5)
    for name, gradient in our_gradients.items():
        torch.testing.assert_close(gradient, trl_gradients[name], atol=1e-5, rtol=1e-4)


@pytest.mark.parametrize("architecture", ARCHITECTURES)
@pytest.mark.parametrize(
    "loss",
    [
        {"type": "clipped_ratio", "aggregate": "token"},
        {"type": "clipped_ratio", "aggregate": "sequence", "clip_high": 0.28, "most": 1.4},
        {"type": "clipped_ratio", "aggregate": "constant"},
        {"type": "sequence_ratio", "clip_low": 0.05, "clip_high": 0.1},
        {"type": "clipped_weight", "clip_high": 0.1},
        {"type": "soft_gate", "sharpness_good": 0.8, "sharpness_bad": 1.3},
    ],
    ids=lambda loss: "-".join(str(value) for value in loss.values()),
)
def test_loss_and_gradients_equal_trl_s(architecture: str, loss: dict[str, Any], tmp_path: Path) -> None:
    config, groups = stage(loss=loss, micro_batch_tokens=40), random_groups()
    assert_equals_trl(architecture, config, groups, tmp_path)


def with_an_environment(groups: list[Any]) -> list[Any]:
    """Return the groups with the middle of each longer answer said by an environment."""

    def interrupted(rollout: Any) -> Any:
        completion = rollout.completion
        length = len(completion.token_ids)
        spans = ((1, 2), (3, length - 1)) if length > 5 else ((1, 2),) if length > 2 else ()
        return replace(rollout, completion=replace(completion, given=spans))

    return [replace(found, rollouts=tuple(map(interrupted, found.rollouts))) for found in groups]


@pytest.mark.parametrize("aggregate", ["token", "sequence"])
@pytest.mark.parametrize("shares", [True, False])
def test_what_an_environment_said_is_seen_and_not_learned_as_in_trl(
    aggregate: str, shares: bool, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    config, groups = stage(loss={"aggregate": aggregate}, micro_batch_tokens=60), with_an_environment(random_groups())
    assert sum(len(rollout.completion.given) for found in groups for rollout in found.rollouts) > 4
    if not shares:
        monkeypatch.setattr("stages.packed.forward._has_windows", lambda config: True)
    assert_equals_trl("qwen3", config, groups, tmp_path)


def test_an_entropy_bonus_equals_trl_s(tmp_path: Path) -> None:
    config, groups = stage(entropy_coef=0.2), random_groups()
    assert_equals_trl("qwen3", config, groups, tmp_path)


def test_loss_with_a_penalty_for_leaving_the_reference_equals_trl_s(tmp_path: Path) -> None:
    config, groups = stage(kl={"coef": 0.3}), random_groups()
    folder = write_tiny_model(tmp_path / "reference", seed=5)
    reference = transformers.AutoModelForCausalLM.from_pretrained(folder)
    vocabulary = reference.config.vocab_size
    model = tiny_model("qwen3", vocab_size=vocabulary)
    learner = Learner(policy_of(model, folder), config, RunFacts(model="none"))
    batch = make_batch(groups, config)
    assert batch is not None
    [part] = learner._parts(batch)
    loss, metrics = learner._loss(part)
    loss.backward()
    ours = gradients(model)
    theirs, trl_gradients = trl_loss_and_gradients(
        tiny_model("qwen3", vocab_size=vocabulary), config, groups, tmp_path, reference
    )
    assert loss.item() == pytest.approx(theirs, abs=1e-5)
    assert metrics["policy/kl_nats"] > 0.01
    for name, gradient in ours.items():
        torch.testing.assert_close(gradient, trl_gradients[name], atol=1e-5, rtol=1e-4)


@pytest.mark.parametrize("params", [{"type": "full"}, {"type": "lora", "r": 4}])
def test_a_penalty_in_the_reward_is_the_kl_of_each_answer_by_hand(params: dict[str, Any], tmp_path: Path) -> None:
    folder = write_tiny_model(tmp_path / "reference", seed=5)
    reference = transformers.AutoModelForCausalLM.from_pretrained(folder)
    model = transformers.AutoModelForCausalLM.from_pretrained(folder)
    kl = {"coef": 0.5, "estimate": "k1", "where": "reward"}
    config = stage(kl=kl, advantage={"type": "mean_only"}, params=params, micro_batch_tokens=20)
    learner = Learner(policy_of(model, folder), config, RunFacts(model="none"))
    dull = group([1, 2], [([3], 1.0), ([4, 5], 1.0)])
    groups = [*random_groups(), dull]
    groups[0] = replace(groups[0], greedy=groups[0].rollouts[1])
    found = learner.with_kl_in_reward(groups)
    assert [rollout.score.value for rollout in found[-1].rollouts] == [1.0, 1.0], "it had no signal, and has none now"
    assert found[0].greedy is not None and found[0].greedy.score.value == found[0].rollouts[1].score.value
    for old, new in zip(groups[:-1], found[:-1], strict=True):
        prompt = list(old.prompt.token_ids)
        for before, after in zip(old.rollouts, new.rollouts, strict=True):
            completion = before.completion
            [row] = sequence_logprobs(reference, [prompt + list(completion.token_ids)])
            penalty = 0.5 * (sum(completion.logprobs) - sum(row[len(prompt) - 1 :]))
            assert after.score.parts["kl_penalty"] == pytest.approx(-penalty, abs=1e-4)
            assert after.score.value == pytest.approx(before.score.value - penalty, abs=1e-4)
    batch = make_batch(found, config)
    assert batch is not None and "policy/kl_nats" not in learner.update(batch)
    plain = stage(kl={"coef": 0.5})
    assert Learner(policy_of(model, folder), plain, RunFacts(model="none")).with_kl_in_reward(groups) == groups


def test_a_penalty_in_a_reward_that_is_normalised_is_refused() -> None:
    with pytest.raises(ValidationError, match="keeps the scale of rewards"):
        stage(kl={"coef": 0.5, "where": "reward"})


def test_dropout_that_modules_hold_as_a_number_is_off() -> None:
    torch.manual_seed(0)
    sizes = {"vocab_size": VOCAB, "hidden_size": 32, "ffn_dim": 32, "num_hidden_layers": 2, "num_attention_heads": 2}
    config = transformers.OPTConfig(**sizes, max_position_embeddings=64, word_embed_proj_dim=32, dropout=0.5)
    model = transformers.AutoModelForCausalLM.from_config(config)
    learner = learner_of(model, stage())
    one, other = (learner.policy().model(torch.tensor([[1, 2, 3]])).logits for _ in range(2))
    assert learner.policy().model.training and torch.equal(one, other)


def test_splitting_the_batch_changes_nothing() -> None:
    groups = random_groups()
    whole = our_loss_and_gradients(tiny_model("qwen3", vocab_size=VOCAB), stage(micro_batch_tokens=4096), groups)
    split = our_loss_and_gradients(tiny_model("qwen3", vocab_size=VOCAB), stage(micro_batch_tokens=1), groups)
    assert whole[0] == pytest.approx(split[0], abs=1e-6)
    for name, gradient in whole[1].items():
        torch.testing.assert_close(gradient, split[1][name], atol=1e-6, rtol=1e-4)


def test_groups_without_signal_change_nothing() -> None:
    groups = random_groups()
    dull = group([1, 2, 3], [([4, 5], 1.0), ([6], 1.0)])
    alone = our_loss_and_gradients(tiny_model("qwen3", vocab_size=VOCAB), stage(), groups)
    beside = our_loss_and_gradients(tiny_model("qwen3", vocab_size=VOCAB), stage(), [*groups, dull])
    assert alone[0] == beside[0]


@pytest.mark.parametrize("architecture", ARCHITECTURES)
@pytest.mark.parametrize("params", [{"type": "full"}, {"type": "lora", "r": 4}])
def test_updates_make_good_answers_likelier_and_bad_ones_less(architecture: str, params: dict[str, Any]) -> None:
    model = tiny_model(architecture, vocab_size=VOCAB)
    learner = learner_of(model, stage(params=params, learning_rate=1e-2))
    good, bad = [5, 6, 7], [8, 9]

    def likelihoods() -> list[float]:
        return [sum(row[1:]) for row in sequence_logprobs(learner.policy().model, [[1, 2, *good], [1, 2, *bad]])]

    before = likelihoods()
    for _ in range(5):
        rows = sequence_logprobs(learner.policy().model, [[1, 2, *good], [1, 2, *bad]])
        batch = make_batch([group([1, 2], [(good, 1.0), (bad, 0.0)], [row[1:] for row in rows])], stage())
        assert batch is not None
        metrics = learner.update(batch)
        assert metrics["policy/mismatch_max_nats"] < 1e-4
    after = likelihoods()
    assert after[0] > before[0] + 0.1 and after[1] < before[1] - 0.1


def test_a_loss_that_is_not_finite_takes_no_step() -> None:
    model = tiny_model("qwen3", vocab_size=VOCAB)
    learner, batch = learner_of(model, stage()), make_batch(random_groups(), stage())
    assert batch is not None
    before = {name: parameter.clone() for name, parameter in model.named_parameters()}
    broken = replace(batch.tokens, advantages_N=batch.tokens.advantages_N * float("nan"))
    with pytest.raises(StageError, match="loss is nan; no step was taken"):
        learner.update(replace(batch, tokens=broken))
    assert all(torch.equal(before[name], parameter) for name, parameter in model.named_parameters())


@pytest.fixture
def fresh_accelerate() -> Iterator[None]:
    """One process has one precision: accelerate keeps it in a state that all accelerators share."""
    AcceleratorState._reset_state()
    yield
    AcceleratorState._reset_state()


@pytest.mark.usefixtures("fresh_accelerate")
@pytest.mark.parametrize("params", [{"type": "full"}, {"type": "lora", "r": 4}])
def test_in_bfloat16_the_policy_starts_as_its_reference_and_learns(params: dict[str, Any], tmp_path: Path) -> None:
    folder = write_tiny_model(tmp_path / "base")
    model = transformers.AutoModelForCausalLM.from_pretrained(folder)
    config = stage(params=params, kl={"coef": 0.1}, learning_rate=1e-2)
    learner = Learner(policy_of(model, folder), config, RunFacts(model="none", precision="bfloat16"))
    learner.require_reference([[1, 2, 3, 4], [5, 6]])
    batch = make_batch(random_groups(), config)
    assert batch is not None
    first = learner.update(batch)
    assert first["policy/kl_nats"] == 0.0 and learner.update(batch)["policy/kl_nats"] > 0
    assert all(p.dtype == torch.float32 for p in learner.policy().model.parameters())


def test_the_model_is_in_training_mode_without_dropout() -> None:
    model = tiny_model("gpt_neox", vocab_size=VOCAB, hidden_dropout=0.5, attention_dropout=0.5)
    learner = learner_of(model, stage())
    assert learner.policy().model.training  # or transformers would checkpoint no activations
    with torch.no_grad():
        one, other = (learner.policy().model(torch.tensor([[1, 2, 3]])).logits for _ in range(2))
    assert torch.equal(one, other)


def test_a_saved_learner_goes_on_as_if_nothing_had_happened(tmp_path: Path) -> None:
    groups, config = random_groups(), stage(schedule="cosine")
    batch = make_batch(groups, config)
    assert batch is not None
    one = learner_of(tiny_model("qwen3", vocab_size=VOCAB), config)
    one.update(batch)
    one.save(tmp_path / "learner")
    one.update(batch)
    other = learner_of(tiny_model("qwen3", vocab_size=VOCAB, seed=9), config)
    other.load(tmp_path / "learner")
    other.update(batch)
    theirs = dict(other.policy().model.named_parameters())
    assert all(torch.equal(parameter, theirs[name]) for name, parameter in one.policy().model.named_parameters())


class Hostile:
    def __init__(self, file: Path) -> None:
        self.file = file

    def __reduce__(self) -> Any:
        return Path.touch, (self.file,)


@pytest.mark.parametrize("where", ["description", "value"])
def test_a_forged_checkpoint_runs_nothing(where: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    learner = learner_of(tiny_model("qwen3", vocab_size=VOCAB), stage())
    batch = make_batch(random_groups(), stage())
    assert batch is not None
    learner.update(batch)
    if where == "value":
        learner._optimizer.param_groups[0]["weight_decay"] = Hostile(tmp_path / "was_here")
    learner.save(tmp_path / "learner")
    if where == "description":
        forged = pickle.dumps(Hostile(tmp_path / "was_here"))
        (tmp_path / "learner" / "weights" / ".metadata").write_bytes(forged)
    other = learner_of(tiny_model("qwen3", vocab_size=VOCAB), stage())
    with pytest.raises(StageError, match=r"cannot be loaded: .*(is no part of one|Weights only load failed)"):
        other.load(tmp_path / "learner")
    assert not (tmp_path / "was_here").exists()


def marked(marks: dict[str, list[float]]) -> list[Any]:
    """Return groups whose answers bear these marks of each reward, whatever their value."""
    found = []
    for one in random_groups():
        rollouts = [
            replace(rollout, score=replace(rollout.score, parts={label: row[at] for label, row in marks.items()}))
            for at, rollout in enumerate(one.rollouts)
        ]
        found.append(replace(one, rollouts=tuple(rollouts)))
    return found


def test_gradient_products_are_those_of_each_reward_alone_and_nothing_is_learned() -> None:
    rewards = [{"type": "math"}, {"type": "format"}, {"type": "length", "limit": 9}]
    config = stage(rewards=rewards, micro_batch_tokens=40)
    groups = marked({"math": [1, 0, 0, 1], "format": [0, 1, 1, 0], "length": [0.5] * 4})
    model = tiny_model("qwen3", vocab_size=VOCAB)
    before = {name: parameter.clone() for name, parameter in model.named_parameters()}
    batches = batches_by_reward(groups, config)
    assert set(batches) == {"math", "format"}  # no group differs in length
    products = learner_of(model, config).gradient_products(batches)
    assert all(parameter.grad is None for parameter in model.parameters())
    assert all(torch.equal(parameter, before[name]) for name, parameter in model.named_parameters())
    alone = {}
    for label in batches:
        values = [[rollout.score.parts[label] for rollout in one.rollouts] for one in groups]
        own = [
            replace(
                one,
                rollouts=tuple(
                    replace(rollout, score=replace(rollout.score, value=value))
                    for rollout, value in zip(one.rollouts, row, strict=True)
                ),
            )
            for one, row in zip(groups, values, strict=True)
        ]
        _, found = our_loss_and_gradients(tiny_model("qwen3", vocab_size=VOCAB), config, own)
        alone[label] = torch.cat([gradient.flatten() for gradient in found.values()])
    for (a, b), product in products.items():
        assert product == pytest.approx(float(alone[a] @ alone[b]), rel=1e-4)
    assert products["math", "format"] == products["format", "math"] < 0
    assert products["math", "math"] > 0


def test_a_scaled_step_moves_the_weights_so_much_less_and_the_next_one_as_ever() -> None:
    config = stage(weight_decay=0.0)
    batch = make_batch(random_groups(), config)
    assert batch is not None

    def moved(*scales: float) -> list[torch.Tensor]:
        model = tiny_model("qwen3", vocab_size=VOCAB)
        learner = learner_of(model, config)
        for scale in scales:
            before = [parameter.detach().clone() for parameter in model.parameters()]
            metrics = learner.update(batch, scale)
            assert metrics["train/learning_rate"] == pytest.approx(scale * config.learning_rate)
        return [parameter.detach() - old for parameter, old in zip(model.parameters(), before, strict=True)]

    for half, whole in zip(moved(0.5), moved(1.0), strict=True):
        torch.testing.assert_close(half, 0.5 * whole, rtol=1e-2, atol=1e-7)
    assert any(change.abs().max() > 0 for change in moved(0.0, 1.0))
