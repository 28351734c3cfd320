"""The pages of runs: what they show is what lies on disk, and no text of a model can act in them."""

import json
import math
import os
import re
import time
from pathlib import Path
from typing import Any

import pytest
from tokenizers import Tokenizer, decoders, models
from typer.testing import CliRunner

from pipeline.cli import app
from pipeline.config import ConfigError, RunConfig
from pipeline.report import compare_page, figures, run_page
from pipeline.report.closing import leave_report
from pipeline.report.curves import MOST_POINTS, thinned
from pipeline.report.decoding import UNFINISHED, texts_of
from pipeline.report.recipes import differences
from pipeline.report.run_data import history, joined, read, spent
from pipeline.state import RunFolder, RunState, StageState, write_json
from rollout.records import write_groups
from stages.sampled import Sample, sample
from tests.pipeline.runs import HOSTILE, answer, group, write_metrics, write_run


def data_of(text: str) -> Any:
    [found] = re.findall(r'<script id="data" type="application/json">(.*?)</script>', text, re.DOTALL)
    return json.loads(found)


def traces_of(text: str) -> list[Any]:
    return [trace for figure in data_of(text)["figures"].values() for trace in figure["data"]]


def test_the_page_shows_what_lies_on_disk(tmp_path: Path) -> None:
    text = run_page.write(*write_run(tmp_path)).read_text()
    traces = traces_of(text)
    [loss] = [trace for trace in traces if trace.get("y") == [3.0, 2.0]]
    assert loss["x"] == [1, 2], "of a step that two attempts took, the later one counts"
    [climb] = [trace for trace in traces if trace.get("name") == "dev/accuracy"]
    assert (climb["text"], climb["y"]) == (["base", "grpo"], [50.0, 75.0])
    assert (climb["error_y"]["array"], climb["error_y"]["arrayminus"]) == ([10.0, 15.0], [10.0, 5.0])
    seconds = {trace["name"]: trace["x"] for trace in traces if trace.get("orientation") == "h"}
    assert seconds == {
        "generating, and scoring meanwhile": [1.0, 0.0],
        "waiting for scores": [0.5, 0.0],
        "learning": [7.0, 0.0],  # 2 + 2 + 3, of both attempts
        "all else: starting, loading, saving": [0.5, 4.0],
    }
    [ages] = [trace for trace in traces if trace.get("name") == "grpo" and trace["x"][0] == -0.5]
    assert ages["y"] == [0.0, 80.0, 20.0, 20.0, 0.0], "step 2 improves version 1; one of five answers is older"
    assert "75.0 % [70.0, 90.0] of 9" in text and "+50.0 [+40.0, +60.0]" in text and "3 ok; 1 timeout" in text


def test_groups_are_shown_with_scores_advantages_and_the_probability_of_tokens(tmp_path: Path) -> None:
    groups = data_of(run_page.write(*write_run(tmp_path)).read_text())["groups"]
    assert [(each["stage"], each["from"], each["id"]) for each in groups] == [
        ("grpo", "step 2", "a"),
        ("grpo", "step 2", "b"),
        ("exam", "base/dev/accuracy", "e"),
        ("exam", "grpo/dev/accuracy", "e"),
    ]
    first, second, third = groups[0]["answers"]
    assert first["tokens"] == [["<5>", 0.0], ["<6>", -0.5], ["<7>", -1.0]], "no tokenizer lies here"
    assert first["advantage"] == pytest.approx(-second["advantage"]) and first["advantage"] > 0
    assert (third["value"], third["cause"], second["versions"]) == (None, "timeout", [0, 1])
    assert [each["has_signal"] for each in groups] == [True, False, None, None]


def test_no_text_of_a_model_or_a_recipe_acts_in_the_page(tmp_path: Path) -> None:
    text = run_page.write(*write_run(tmp_path)).read_text()
    assert HOSTILE not in text and "max_tokens: 64" in text
    assert data_of(text)["groups"][0]["prompt"][0]["content"] == HOSTILE


def test_a_run_that_has_hardly_begun_has_a_page(tmp_path: Path) -> None:
    config, _ = write_run(tmp_path)
    folder = RunFolder(tmp_path / "young")
    write_json(folder.resolved, config.model_dump(mode="json"))
    folder.save(RunState(name="r", stages={"grpo": StageState(status="running", attempts=1)}))
    assert data_of(run_page.write(config, folder).read_text())["groups"] == []


def test_a_stage_that_runs_or_was_killed_has_the_time_and_status_that_strop_status_shows(tmp_path: Path) -> None:
    config, folder = write_run(tmp_path)
    begun = time.time() - 100
    grpo = StageState(status="running", attempts=2, begun=begun, wall_s=4.0, why="a rank died")
    folder.save(RunState(name="r", stages={"grpo": grpo}))
    (folder.stage("grpo") / "latest").symlink_to("attempt_002")
    os.utime(folder.stage("grpo") / "attempt_002" / "metrics.jsonl", (begun + 6, begun + 6))
    assert sum(read(config, folder).spent_s["grpo"].values()) == pytest.approx(10.0), "until its last sign of life"
    text = run_page.write(config, folder).read_text()
    assert (
        '>interrupted, attempt 2<div class="hint">why again: a rank died</div></td>' in text
        and ">10 s</td>" in text
        and "engine vllm, 10 s in stages" in text
    )
    with folder.locked():
        assert sum(read(config, folder).spent_s["grpo"].values()) == pytest.approx(104.0, abs=3.0)
        assert ">running, attempt 2<" in run_page.write(config, folder).read_text()


def test_one_damaged_line_result_or_tokenizer_hides_no_other(tmp_path: Path) -> None:
    config, folder = write_run(tmp_path)
    odd = [{"step": 3, "train/loss": None, "time/learn_s": "x", "reward/mean": 0.75, "reward/cause/ok/count": math.nan}]
    write_metrics(folder, "grpo", 3, [*odd, {"step": math.nan}, {"step": math.inf}, {"step": 10**400}, {"step": "3"}])
    (folder.stage("grpo") / "output").mkdir()
    (folder.stage("grpo") / "output" / "tokenizer.json").write_text('{"version"')
    whole = (folder.stage("exam") / "result.json").read_text()
    (folder.stage("exam") / "result.json").write_text(whole[: len(whole) // 2])
    text = run_page.write(config, folder).read_text()
    assert "4 lines of grpo/attempt_003/metrics.jsonl are no metrics" in text
    assert "exam/result.json is damaged" in text and "grpo/output/tokenizer.json cannot be read" in text
    assert [0.5, 0.75] in [trace.get("y") for trace in traces_of(text)], "the reward of steps 2 and 3"


def test_what_is_damaged_is_left_out_and_said(tmp_path: Path) -> None:
    config, folder = write_run(tmp_path)
    write_metrics(folder, "grpo", 3, [{"step": 3, "train/loss": math.nan, "train/grad_norm": math.inf}], end='{"ste')
    (folder.stage("grpo") / "rollouts" / "step_000001.parquet").write_bytes(b"PAR1")
    text = run_page.write(config, folder).read_text()
    assert "1 lines of grpo/attempt_003/metrics.jsonl are no metrics" in text
    assert "grpo: step_000001.parquet cannot be read" in text
    assert [3.0, 2.0] in [trace.get("y") for trace in traces_of(text)], "what is not finite is no point of a curve"


def byte_fallback() -> Tokenizer:
    """Return a tokenizer as Llama 2's is: a token for each byte, with the byte's number, and three of texts."""
    vocabulary = {**{f"<0x{byte:02X}>": byte for byte in range(256)}, "\u2581so": 256, "far": 257, "<unk>": 258}
    tokenizer = Tokenizer(models.BPE(vocab=vocabulary, merges=[], byte_fallback=True, unk_token="<unk>"))
    steps = [decoders.Replace("\u2581", " "), decoders.ByteFallback(), decoders.Fuse(), decoders.Strip(" ", 1, 0)]
    tokenizer.decoder = decoders.Sequence(steps)
    return tokenizer


@pytest.mark.parametrize(
    ("tokens", "texts"),
    [
        ([256, 257, 256], ["so", "far", " so"]),
        ([0xC3, 0xA9, 256], ["", "é", " so"]),
        ([0xC3, 0xA9, 0xFF, 256, 257], ["", "é", "", f"{UNFINISHED} so", "far"]),  # a third byte undoes the é
        ([0xC3, 0xA9, 0xFF, 0xFF, 257] * 2, ["", "é", "", "", f"{2 * UNFINISHED}far"] * 2),
        ([257, 0xC3], ["far", UNFINISHED]),
    ],
)
def test_each_token_of_an_answer_has_a_text_also_among_bytes_that_make_no_character(
    tokens: list[int], texts: list[str]
) -> None:
    assert texts_of(byte_fallback(), tokens) == texts


def test_steps_beyond_a_checkpoint_from_which_a_later_attempt_goes_on_do_not_count() -> None:
    first = [{"step": step, "x": 0.0} for step in range(5)]
    later = [{"step": 3, "x": 1.0}]
    assert [row["x"] for row in history([first, later]).values()] == [0.0, 0.0, 0.0, 1.0]
    looked_at_the_start = [{"step": 0, "x": 2.0}, *later]
    assert [row["x"] for row in history([first, looked_at_the_start]).values()] == [2.0, 0.0, 0.0, 1.0]


def test_an_exam_that_went_on_after_a_kill_counts_no_answer_twice() -> None:
    sft, odpo = {"step": 0, "sft/a": 3.0}, {"step": 1, "odpo/a": 4.0}
    row = joined([[sft, odpo], [{"step": 0, "odpo/a": 5.0}]])[0]
    assert (row["sft/a"], row["odpo/a"]) == (3.0, 5.0)


def test_seconds_of_a_stage_add_up_to_its_wall_time() -> None:
    rows = [{"step": 1, "dev/accuracy/time/sync_s": 1.0, "time/generate_and_score_s": 4.0, "reward/wait_s": 9.0}]
    found = spent([rows], wall_s=20.0)
    assert found == {"syncing weights": 1.0, "waiting for scores": 4.0, "all else: starting, loading, saving": 15.0}


def test_causes_leave_out_what_went_well(tmp_path: Path) -> None:
    config, folder = write_run(tmp_path)
    counts, figure = figures.causes(read(config, folder))
    assert counts == {"ok": 3, "timeout": 1} and figure is not None
    [bar] = figure.data
    assert (bar.x, bar.y) == (("timeout",), (1,))


def test_long_curves_are_thinned_and_keep_their_end() -> None:
    points = [(step, 0.0) for step in range(10 * MOST_POINTS + 1)]
    assert len(thinned(points)) <= MOST_POINTS + 1 and thinned(points)[-1] == points[-1]
    assert thinned(points[:5]) == points[:5]


def test_a_distribution_is_in_shares_of_each_source() -> None:
    figure = figures.distribution({"a": [1, 1, 2, 4], "none": [], "b": [4]}, "tokens")
    assert [trace.name for trace in figure.data] == ["a", "b"]
    assert figure.data[0].y == (0.0, 50.0, 25.0, 0.0, 25.0, 25.0, 0.0)
    assert figure.data[0].x == (0.5, 0.5, 1.5, 2.5, 3.5, 4.5, 4.5)


def test_what_is_the_same_of_all_answers_is_a_sentence_and_no_picture() -> None:
    found = Sample(num_files=1, lengths={"grpo": [7, 9]}, ages=[0, 0])
    lengths, ages = run_page.distributions({"grpo": found})
    assert len(lengths.panels) == 1 and not lengths.hint
    assert not ages.panels and ages.hint == "All the same: 0 versions that the oldest token is behind."


def test_runs_are_compared_by_the_same_figures(tmp_path: Path) -> None:
    write_run(tmp_path, "one")
    write_run(tmp_path, "two", learning_rate=0.5)
    folders = [RunFolder(tmp_path / "one"), RunFolder(tmp_path / "two")]
    text = compare_page.write(folders, tmp_path / "new" / "compare.html").read_text()
    losses = [trace["name"] for trace in traces_of(text) if trace.get("y") == [3.0, 2.0]]
    assert losses == ["one", "two"]
    assert [trace["name"] for trace in traces_of(text) if trace.get("y") == [50.0, 75.0] and "name" in trace] == losses
    assert re.search(r"stages\.grpo\.learning_rate</th>\s*<td class=\"value\">0\.25</td><td class=\"value\">0\.5", text)
    assert "stages.grpo.group_size" not in text and data_of(text)["groups"] == []


def test_what_cannot_be_compared_is_said(tmp_path: Path) -> None:
    one = write_run(tmp_path)[1]
    other = write_run(tmp_path / "elsewhere")[1]
    with pytest.raises(ConfigError, match=r"nothing to compare .*/r with; name another run"):
        compare_page.write([one], tmp_path / "c.html")
    with pytest.raises(ConfigError, match="are both the run 'r', so the page could not tell them apart"):
        compare_page.write([one, other], tmp_path / "c.html")
    assert not (tmp_path / "c.html").exists()


def test_the_command_line_compares_runs_and_says_which_folder_is_none(tmp_path: Path) -> None:
    runs = tmp_path / "[" / "red]"  # no markup
    one, two, page = write_run(runs, "one")[1], write_run(runs, "two")[1], runs / "c.html"
    refused = CliRunner().invoke(app, ["compare", str(one.root), str(tmp_path / "none"), "--to", str(page)])
    assert (
        refused.exit_code == 2
        and "none is not there; what is asked for is a run's folder" in refused.output
        and not page.exists()
    )
    done = CliRunner().invoke(app, ["compare", str(one.root), str(two.root), "--to", str(page)])
    assert (
        done.exit_code == 0
        and str(page) in done.output.replace("\n", "")
        and "Nothing but their names" in page.read_text()
    )
    told = CliRunner().invoke(app, ["report", str(one.root)])
    assert told.output == f"{one.root / 'report.html'}\n"


@pytest.mark.parametrize("command", ["status", "report", "compare"])
def test_a_run_that_has_not_begun_is_no_trace_but_a_sentence(tmp_path: Path, command: str) -> None:
    one, two = write_run(tmp_path, "one")[1], write_run(tmp_path, "two")[1]
    (two.root / "run.json").unlink()
    to = ["--to", str(tmp_path / "c.html")] if command == "compare" else []
    refused = CliRunner().invoke(app, [command, *([str(one.root)] if to else []), str(two.root), *to])
    assert refused.exit_code == 2 and f"the run in {two.root} has not begun" in refused.output.replace("\n", "")
    assert not list(tmp_path.rglob("*.html"))


def test_differences_tell_of_a_missing_stage_once(tmp_path: Path) -> None:
    def config(name: str, stages: dict[str, Any]) -> RunConfig:
        return RunConfig.model_validate({"name": name, "model": "m", "stages": stages})

    def grpo(**kwargs: Any) -> dict[str, Any]:
        reward = {"import_path": "a:b", "kwargs": kwargs}
        return {"kind": "grpo", "prompts": "p.jsonl", "num_steps": 2, "rewards": [reward]}

    sft = {"kind": "sft", "data": "d.jsonl", "num_steps": 3}
    found = differences([config("a", {"rl": grpo(top=1, k=1)}), config("b", {"sft": sft, "rl": grpo(k=3)})])
    where = "stages.rl.rewards.0.kwargs"
    assert found == [
        (f"{where}.top", ["1", "(absent)"]),
        (f"{where}.k", ["1", "3"]),
        ("stages.sft", ["(absent)", "sft"]),
    ]


def test_a_report_that_fails_is_said_and_fails_nothing(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    config, folder = write_run(tmp_path)
    leave_report(config, folder)
    assert f"to look at: {folder.root / 'report.html'}" in capsys.readouterr().out
    (folder.root / "run.json").write_text("{")
    leave_report(config, folder)
    assert "the report could not be written (RunFolderError" in capsys.readouterr().err


def test_each_file_of_groups_has_its_share_of_what_is_shown(tmp_path: Path) -> None:
    config, folder = write_run(tmp_path)
    for step in range(1, 5):
        groups = [group(f"{step}-{at}", "?", answer("x", 1.0, *[step - 1] * 10)) for at in range(3)]
        write_groups(folder.stage("grpo") / "rollouts" / f"step_{step:06d}.parquet", groups)
    found = sample(config.stages["grpo"], folder.stage("grpo"), lambda tokens: ["x"] * len(tokens), 40)
    assert [each["id"] for each in found.groups] == ["1-0", "2-0", "3-0", "4-0"], "early steps do not use up all"
    assert len(found.lengths["grpo"]) == 12 and (found.num_read, found.num_files) == (4, 4)
