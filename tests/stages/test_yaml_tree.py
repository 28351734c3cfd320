"""Recipes that somebody made to stop, crash or mislead whoever reads them are refused at once, with the line."""

import os
import re
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import pytest

from pipeline.config import ConfigError, load_config
from rewards.config import JudgeRewardConfig
from rewards.types import RewardError
from stages.offline import parse_reward
from stages.yaml_tree import MOST_BYTES, MOST_VALUES, TreeError, read_tree, yaml_tree
from tests.pipeline.test_config import RECIPE, error_of

LEVELS = "".join(f"l{n}: &l{n} [{', '.join([f'*l{n - 1}'] * 10)}]\n" for n in range(1, 10))
LAUGHS = "l0: &l0 [ha, ha, ha, ha, ha, ha, ha, ha, ha, ha]\n" + LEVELS
MERGED = "m0: &m0 {a: 1}\n" + "".join(f"m{n}: &m{n} {{<<: [*m{n - 1}, *m{n - 1}], k{n}: 1}}\n" for n in range(1, 40))


@contextmanager
def within(seconds: float) -> Iterator[None]:
    start = time.process_time()
    yield
    assert time.process_time() - start < seconds


@pytest.mark.parametrize(
    ("text", "says"),
    [
        (LAUGHS, "with its aliases written out it has"),
        (MERGED, "with its aliases written out it has"),
        ("s: &s [*s]", "line 1: *s stands inside of what it stands for"),
        ("name: r\ns: &s {a: {b: *s}}", "line 2: *s stands inside"),
        ("s: &s {<<: *s}", "*s stands inside"),
        ("s: &s\n  *s : 1", "*s stands inside"),
        ("a: *nobody", "line 1: found undefined alias"),
        ("a: &x 1\nb: &x 2", "found duplicate anchor"),
        ("[" * 5000, "line 1: brackets lie more than 64 deep"),
        ("{a: " * 5000, "line 1: brackets lie more than 64 deep"),
        ("- " * 5000 + "1", "values lie more than 64 deep"),
        ("? " * 5000 + "1", "values lie more than 64 deep"),
        ("a:\n b: " + "9" * 5000, "line 2: '9999"),
        ("a: " + "9" * 400 + ".0e999999", None),
        ("a: 0x", None),
        ("a: 010", "line 1: YAML reads '010' to the base 60 or 8"),
        ("a: 12:30", "YAML reads '12:30' to the base 60"),
        ("a: 1:30.5", "YAML reads '1:30.5' to the base 60"),
        ("a: !!int ''", "line 1: '' is no int"),
        ("a: !!int [1]", "the tag 'tag:yaml.org,2002:int' is not for"),
        ("a: !!bool perhaps", "line 1: 'perhaps' is no bool"),
        ("a: !!float x", "line 1: 'x' is no float"),
        ("a: !!timestamp 2024-99-99", "the tag 'tag:yaml.org,2002:timestamp' is not for recipes"),
        ("a: !!binary '%'", "the tag 'tag:yaml.org,2002:binary'"),
        ("a: !!set {b, c}", "the tag 'tag:yaml.org,2002:set'"),
        ("a: !!omap [b: 1]", "the tag 'tag:yaml.org,2002:omap'"),
        ("a: !!python/object/apply:os.system [id]", "the tag 'tag:yaml.org,2002:python/object/apply:os.system'"),
        ("a: !mine 1", "the tag '!mine'"),
        ("a: !<\x1b> 1", None),
        ("a: !!merge x\nb: {<<: 3}", "line 2: << merges mappings"),
        ("a: {<<: [{b: 1}, 2]}", "line 1: << merges mappings"),
        ("a: 1\na: 2", "line 2: key 'a' is given twice"),
        ("a: {b: 1, c: 2,\n b: 3}", "line 2: key 'b' is given twice"),
        ("1: a", "line 1: key 1 is no text"),
        ("~: a", "key None is no text"),
        ("on: a", "key True is no text"),
        ("1.5: a", "key 1.5 is no text"),
        ("[a, b]: c", "key ['a', 'b'] is no text"),
        ("? {a: 1}\n: c", "key {'a': 1} is no text"),
        (f"? {'k' * 5000}\n: 1", "has 5000 characters, and may have 200"),
        ("a: \x00", "line 1: the character #x0000 is not for YAML"),
        ("a: 1\nb: \x1b[31m", "line 2: the character #x001b is not for YAML"),
        ('a: "\\ud800"', "half of a character"),
        ('a: "\\Uffffffff"', None),
        ("\ta: 1", "found character"),
        ("a: 'open", "found unexpected end of stream"),
        ("a: 1\n---\na: 2", "but found another document"),
        ("%YAML 9.9\n---\na: 1", "found incompatible YAML document"),
        ("- 1\n" * 30_000, f"and may have {MOST_VALUES:,}"),
        ("x" * (MOST_BYTES + 1), f"and may have {MOST_BYTES}"),
    ],
)
def test_what_yaml_can_say_and_a_recipe_may_not_is_refused_in_little_time(text: str, says: str | None) -> None:
    with within(8):
        try:
            tree = yaml_tree(text)
        except TreeError as error:
            assert says is None or says in str(error), error
            assert str(error).isprintable() and len(str(error)) < 400
        else:
            assert says is None, tree


def test_aliases_and_merges_are_copies_and_own_keys_come_first() -> None:
    tree = yaml_tree("a: &a {x: 1, y: [1]}\nb: *a\nc: {y: 2, <<: *a}\nd: {<<: [{x: 3}, *a]}")
    assert tree["b"] == tree["a"] and tree["b"] is not tree["a"] and tree["b"]["y"] is not tree["a"]["y"]
    assert tree["c"] == {"x": 1, "y": 2} and tree["d"] == {"x": 3, "y": [1]}


def test_dates_stay_texts_and_small_numbers_are_numbers() -> None:
    assert yaml_tree("[2024-01-02, 2024-99-99, 1e-5, 0, -7, 0x1F, 1_000, yes, ~, '010', '=']") == [
        "2024-01-02", "2024-99-99", 1e-5, 0, -7, 31, 1000, True, None, "010", "=",
    ]  # fmt: skip


@pytest.mark.parametrize(
    ("content", "says"),
    [
        ("name: r".encode("utf-16"), "it is in UTF-16"),
        (b"name: r\nx: \xff", "line 2: byte 0xff is not UTF-8"),
        (b"#" * (MOST_BYTES + 1), f"over {MOST_BYTES} bytes"),
        (b"", "holds a NoneType"),
        (LAUGHS.encode(), "line 5: with its aliases written out"),
    ],
)
def test_files_that_are_no_recipe_are_refused_by_name(content: bytes, says: str, tmp_path: Path) -> None:
    path = tmp_path / "recipe.yaml"
    path.write_bytes(content)
    with within(2):
        message = error_of(path)
    assert says in message and str(path) in message


def test_a_byte_order_mark_is_no_matter(tmp_path: Path) -> None:
    (tmp_path / "recipe.yaml").write_bytes(b"\xef\xbb\xbf" + RECIPE.encode())
    assert load_config(tmp_path / "recipe.yaml").name == "tiny"


@pytest.mark.parametrize("kind", ["pipe", "folder", "zeros", "socket link"])
def test_what_is_no_file_is_neither_waited_for_nor_read_for_ever(kind: str, tmp_path: Path) -> None:
    path = tmp_path / "recipe.yaml"
    if kind == "pipe":
        os.mkfifo(path)
    elif kind == "folder":
        path.mkdir()
    else:
        path.symlink_to("/dev/zero" if kind == "zeros" else "/dev/null")
    with within(1):
        assert "no file but a folder, a pipe or a device" in error_of(path)


def test_resolved_json_of_somebody_else_is_read_within_the_same_bounds(tmp_path: Path) -> None:
    (tmp_path / "deep.json").write_text("[" * 900 + "]" * 900)
    (tmp_path / "digits.json").write_text("9" * 5000)
    (tmp_path / "half.json").write_text('["\\ud800"]')
    for name, says in (("deep", "more than 64 deep"), ("digits", "no JSON"), ("half", "half of a character")):
        with pytest.raises(TreeError, match=says):
            read_tree(tmp_path / f"{name}.json")


@pytest.mark.parametrize(
    ("override", "says"),
    [
        ("seed=" + "9" * 5000, "--set seed: '9999"),
        ("seed=" + "[" * 5000, "--set seed: '[[[["),
        ("seed=&s [*s]", "stands inside of what it stands for"),
        ("seed=2024-99-99", "seed: Input should be a valid integer"),
        (".".join("a" * 5000) + "=1", "more than 64 deep"),
        ("stages.sft.\x1b[31mred=1", r"stages.sft.'\x1b[31mred' is not a known key"),
        ("stages.sft.a[0]=1", "stages.sft.'a[0]' is not a known key"),
        ("a[b](c)=1", "'a[b](c)' is not a known key"),
        ("stages.sft.two\nlines=1", r"stages.sft.'two\nlines' is not a known key"),
        ("stages.sft.num_steps=.inf", "stages.sft.num_steps"),
        ("stages.sft.learning_rate=.nan", "stages.sft.learning_rate"),
        ("x" * 5000, "has no '='"),
    ],
)
def test_hostile_overrides_are_refused_with_their_place(override: str, says: str, tmp_path: Path) -> None:
    (tmp_path / "recipe.yaml").write_text(RECIPE)
    with within(2), pytest.raises(ConfigError) as caught:
        load_config(tmp_path / "recipe.yaml", [override])
    assert says in str(caught.value)
    assert "\x1b" not in str(caught.value) and len(str(caught.value)) < 2000


def test_an_override_of_an_alias_changes_no_other_stage(tmp_path: Path) -> None:
    stage = "{kind: sft, data: a.jsonl, num_steps: 2}"
    (tmp_path / "r.yaml").write_text(f"name: r\nmodel: m\nstages:\n  a: &a {stage}\n  b: *a\n")
    stages = load_config(tmp_path / "r.yaml", ["stages.a.num_steps=5"]).stages
    assert [stages[name].model_dump()["num_steps"] for name in "ab"] == [5, 2]


def test_of_a_thousand_unknown_keys_twenty_are_told(tmp_path: Path) -> None:
    path = tmp_path / "recipe.yaml"
    path.write_text(RECIPE + "".join(f"unknown{n}: 1\n" for n in range(1000)))
    with within(3):
        lines = error_of(path).splitlines()
    assert len(lines) == 21 and "980 more things are wrong" in lines[-1]


@pytest.mark.parametrize(
    "spec", ["&s [*s]", "[" * 5000, "9" * 5000, "2024-99-99", "!!python/name:os.system x", "\x00", "a: 1\na: 2"]
)
def test_hostile_rewards_of_the_command_line_are_refused(spec: str) -> None:
    with within(2), pytest.raises(RewardError, match="is no reward: ") as caught:
        parse_reward(spec)
    assert re.fullmatch(r"[ -~]{1,600}", str(caught.value))


def test_a_home_is_written_out_in_a_reward_of_the_command_line(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("HOME", "/home/me")
    reward = parse_reward("{type: judge, model: ~/j, base_url: 'http://x', cache: ~/c.sqlite, rubric: '~/ is good'}")
    assert isinstance(reward, JudgeRewardConfig)
    assert (reward.cache, reward.model, reward.rubric) == ("/home/me/c.sqlite", "/home/me/j", "~/ is good")
