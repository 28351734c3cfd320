import json
from pathlib import Path

import pytest

from pipeline.config import ConfigError, load_config
from rewards.config import JudgeRewardConfig
from stages.grpo.config import GRPOStage

RECIPE = """
name: tiny
model: some/model
stages:
  sft: {kind: sft, data: train.jsonl, num_steps: 2}
  grpo: {kind: grpo, init_from: sft, prompts: train.jsonl, num_steps: 2, rewards: [{type: math}]}
"""


@pytest.fixture
def recipe(tmp_path: Path) -> Path:
    path = tmp_path / "recipe.yaml"
    path.write_text(RECIPE)
    return path


def error_of(path: Path, *overrides: str) -> str:
    with pytest.raises(ConfigError) as caught:
        load_config(path, overrides)
    return str(caught.value)


def test_a_bare_string_names_a_data_set(recipe: Path) -> None:
    config = load_config(recipe)
    assert config.stages["sft"].data.path == "train.jsonl"


def test_overrides_apply_in_order_before_validation(recipe: Path) -> None:
    config = load_config(recipe, ["stages.sft.num_steps=5", "stages.sft.num_steps=7", "seed=3"])
    assert (config.stages["sft"].num_steps, config.seed) == (7, 3)


def test_an_unknown_key_names_the_nearest_valid_one(recipe: Path) -> None:
    message = error_of(recipe, "stages.sft.lerning_rate=1e-3")
    assert "stages.sft.lerning_rate is not a known key. Did you mean 'learning_rate'?" in message


def test_an_unknown_key_at_the_top_names_the_nearest_valid_one(recipe: Path) -> None:
    assert "sede is not a known key. Did you mean 'seed'?" in error_of(recipe, "sede=3")


def test_an_unknown_key_deep_in_a_variant_names_the_nearest_valid_one(recipe: Path) -> None:
    message = error_of(recipe, "stages.grpo.loss.clip_hihg=0.3")
    assert "stages.grpo.loss.clip_hihg is not a known key. Did you mean 'clip_high'?" in message


def test_an_unknown_kind_lists_the_kinds(recipe: Path) -> None:
    message = error_of(recipe, "stages.sft.kind=sfft")
    assert "stages.sft: 'sfft' is not one of" in message and "Did you mean 'sft'?" in message


def test_an_unknown_reward_type_lists_the_types(recipe: Path) -> None:
    message = error_of(recipe, "stages.grpo.rewards=[{type: maths}]")
    assert "'maths' is not one of" in message and "Did you mean 'math'?" in message


def test_a_key_given_twice_is_refused(tmp_path: Path) -> None:
    path = tmp_path / "twice.yaml"
    path.write_text(RECIPE + "seed: 1\nseed: 2\n")
    assert "key 'seed' is given twice" in error_of(path)


def test_blocks_can_be_merged(recipe: Path) -> None:
    path = recipe.parent / "merged.yaml"
    path.write_text(
        RECIPE.replace("sft: {", "base_of_sft: &b {kind: sft, data: a.jsonl, num_steps: 3}\n  sft: {<<: *b, ")
    )
    assert load_config(path).stages["base_of_sft"].num_steps == 3


def test_what_is_resolved_reads_back_the_same_small_numbers_included(recipe: Path) -> None:
    reward = "{import_path: 'm:f', kwargs: {eps: 0.00001}}"
    config = load_config(recipe, [f"stages.grpo.rewards=[{reward}]", "stages.grpo.learning_rate=1e-6"])
    path = recipe.parent / "resolved.json"
    path.write_text(json.dumps(config.model_dump(mode="json")))
    assert load_config(path) == config


def test_what_json_cannot_hold_is_no_argument_of_a_reward(recipe: Path) -> None:
    message = error_of(recipe, "stages.grpo.rewards=[{import_path: 'm:f', kwargs: {b: !!binary aGk=}}]")
    assert "--set stages.grpo.rewards: " in message and "the tag 'tag:yaml.org,2002:binary' is not for" in message


def test_an_override_that_is_no_yaml_is_said(recipe: Path) -> None:
    assert "--set name: '[a' is not YAML" in error_of(recipe, "name=[a")


def test_the_engine_is_vllm_unless_another_is_named(recipe: Path) -> None:
    assert load_config(recipe, ["engine.max_model_tokens=64"]).engine.type == "vllm"


def test_a_temperature_of_zero_gives_no_groups_to_learn_from(recipe: Path) -> None:
    assert "temperature 0 makes all answers of a group equal" in error_of(recipe, "stages.grpo.sampling.temperature=0")


def test_an_adapter_that_engines_would_not_get_whole_is_refused(recipe: Path) -> None:
    message = error_of(recipe, "stages.grpo.params={type: lora, extra: {use_dora: true}}")
    assert "params.extra.use_dora changes more than engines are sent" in message


def test_a_missing_key_is_named(recipe: Path) -> None:
    path = recipe.parent / "short.yaml"
    path.write_text("name: x\nstages: {s: {kind: sft, data: a.jsonl, num_steps: 1}}\n")
    assert "model is missing" in error_of(path)


def test_a_value_out_of_range_is_shown_with_the_rule(recipe: Path) -> None:
    message = error_of(recipe, "stages.grpo.group_size=1")
    assert "stages.grpo.group_size" in message and "greater than or equal to 2" in message and "given: 1" in message


def test_steps_and_epochs_exclude_each_other(recipe: Path) -> None:
    assert "both are given of num_steps and num_epochs" in error_of(recipe, "stages.sft.num_epochs=1")
    assert "neither is given of num_steps and num_epochs" in error_of(recipe, "stages.sft.num_steps=null")


def test_a_number_in_scientific_notation_is_a_number_everywhere(recipe: Path) -> None:
    config = load_config(recipe, ["stages.grpo.rewards=[{import_path: 'm:f', kwargs: {eps: 1e-5, big: -2.5E+3}}]"])
    assert config.stages["grpo"].rewards[0].kwargs == {"eps": 1e-5, "big": -2500.0}


def test_a_reward_may_be_named_in_short(recipe: Path) -> None:
    rewards = load_config(recipe, ["stages.grpo.rewards=[math, 'mine.rewards:short']"]).stages["grpo"].rewards
    assert [reward.label for reward in rewards] == ["math", "short"]
    message = error_of(recipe, "stages.grpo.rewards=[{import_path: mine.rewards.short}]")
    assert "an import path is 'module:function'" in message and "given: 'mine.rewards.short'" in message


@pytest.mark.parametrize(
    ("override", "says"),
    [
        ("stages.sft.kind=dpo", "Did you mean 'preference'?"),
        ("stages.grpo.num_generations=4", "Did you mean 'group_size'?"),
        ("stages.grop.num_steps=4", "there is no stage 'grop'. Did you mean 'grpo'?"),
        ("name=my run", "letters, digits"),
        ("stages.sft.warmup_steps=2", "warmup_steps 2 leaves nothing of num_steps 2"),
        ("stages.grpo.params={type: lora, dropout: 0.1}", "params.dropout is 0.1, and must be 0"),
    ],
)
def test_other_systems_words_and_settings_that_make_no_sense(recipe: Path, override: str, says: str) -> None:
    assert says in error_of(recipe, override)


def test_micro_batches_must_divide(recipe: Path) -> None:
    message = error_of(recipe, "stages.sft.batch_size=10", "stages.sft.micro_batch_size=4")
    assert "micro_batch_size 4 does not divide batch_size 10" in message


def test_a_missing_recipe_and_one_that_is_no_mapping_are_said(tmp_path: Path) -> None:
    assert "does not exist" in error_of(tmp_path / "none.yaml")
    (tmp_path / "list.yaml").write_text("- 1\n")
    assert "holds a list" in error_of(tmp_path / "list.yaml")


def test_an_import_path_alone_is_a_function_reward(recipe: Path) -> None:
    config = load_config(recipe, ["stages.grpo.rewards=[{import_path: 'my.module:fn', weight: 0.5}]"])
    assert config.stages["grpo"].rewards[0].label == "fn"


@pytest.mark.parametrize(
    ("line", "where"),
    [
        ("  kwargs: {api_key: 1234}", ""),
        ("  kwargs: {eos_token: '<|im_end|>', token: '<|im_end|>', max_tokens: 12, secret: short}", ""),
        ("  kwargs: {api_key_variable: OPENAI_API_KEY, columns: {secret: the_hidden_number}}", ""),
        ("  base_url: https://host.example:8000/v1", ""),
        ("  kwargs: {api_key: 'a-long-text'}", "rewards.kwargs.api_key"),
        ("  kwargs: {aws_secret_access_key: a-long-text}", "rewards.kwargs.aws_secret_access_key"),
        ("  kwargs: [{headers: {Authorization: a-long-text}}]", "rewards.kwargs.0.headers.Authorization"),
        ("  password: |\n    ab,cd}ef", "rewards.password"),
        ("  base_url: https://me:a-long-text@host.example/v1", "rewards.base_url"),
        ("  base_url: https://host.example/v1?v=1&api-key=a-long-text", "rewards.base_url"),
        ("  base_url: https://host.example/v1?keys=many", ""),
        ("  rubric: [sk-proj-0123456789abcdef]  # fine", "line 3"),
        ("  # was hf_0123456789abcdefghij", "line 3"),
    ],
)
def test_what_looks_like_a_secret_is_named_and_not_repeated(line: str, where: str, tmp_path: Path) -> None:
    path = tmp_path / "recipe.yaml"
    path.write_text(f"name: r\nrewards:\n{line}\n")
    found = error_of(path)
    assert ("looks like a secret" in found) == bool(where), found
    if where:
        assert where in found
        assert not any(secret in found for secret in ("a-long-text", "ab,cd}ef", "0123456789"))


def test_a_secret_is_refused_as_an_override_too(recipe: Path) -> None:
    found = error_of(recipe, "stages.grpo.rewards=[{import_path: a:b, kwargs: {password: a-long-text}}]")
    assert "stages.grpo.rewards.0.kwargs.password looks like a secret" in found and "a-long-text" not in found


def test_homes_are_written_out_where_a_path_is_meant(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("HOME", "/home/me")
    path = tmp_path / "r.yaml"
    path.write_text(
        "name: r\nmodel: ~/base\nstages:\n"
        "  sft: {kind: sft, data: ~/a.jsonl, num_steps: 1}\n"
        "  grpo:\n    kind: grpo\n    num_steps: 1\n    prompts: {path: ~/b.jsonl, system: '~/ is home', limit: ~}\n"
        "    sync: {folder: ~/weights}\n"
        "    rewards: [{type: judge, model: j, base_url: 'http://x', cache: ~/c.sqlite, rubric: '~/ is good'}]\n"
    )
    config = load_config(path, ["stages.sft.data=~/other.jsonl"])
    sft, grpo = config.stages["sft"], config.stages["grpo"]
    assert config.model == "/home/me/base"
    assert sft.datasets()["data"].path == "/home/me/other.jsonl"
    data = grpo.datasets()["prompts"]
    assert (data.path, data.system, data.limit) == ("/home/me/b.jsonl", "~/ is home", None)
    assert isinstance(grpo, GRPOStage) and grpo.sync.folder == "/home/me/weights"
    [judge] = grpo.rewards
    assert isinstance(judge, JudgeRewardConfig) and (judge.cache, judge.rubric) == ("/home/me/c.sqlite", "~/ is good")
