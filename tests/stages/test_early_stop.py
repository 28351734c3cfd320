"""Exams at checkpoints: when learning stops, whose weights are handed over, and that a resume decides the same."""

import json
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import pytest
from pydantic import ValidationError
from safetensors.torch import load_file

from stages import checkpoints
from stages.base import StageContext, StageError
from stages.evaluate.early_stop import EarlyStop
from stages.preference import train as preference
from stages.preference.config import PreferenceStage
from tests.models import write_tiny_model
from tests.stages.contexts import make_context
from tests.stages.test_supervised import Killed, metrics, preference_stage, same, tensors

pytestmark = pytest.mark.training


class Scripted(EarlyStop):
    """Reaches what is written down for each exam, the first one that of the start."""

    def __init__(
        self, context: StageContext, script: Sequence[float], patience: int, kill_at: int | None = None
    ) -> None:
        self._context = context
        self._script = script
        self._kill_at = kill_at
        self._config = preference_early_stop(patience=patience)
        self._reached: dict[int, float] = {}

    def sit(self, version: int) -> None:
        if version == self._kill_at:
            raise Killed
        self._reached[version] = self._script[version // 2]


def preference_early_stop(**changes: Any) -> Any:
    from stages.evaluate.config import EarlyStopConfig

    return EarlyStopConfig.model_validate({"exam": "exam.jsonl", **changes})


@pytest.fixture
def model(tmp_path: Path) -> Path:
    return write_tiny_model(tmp_path / "base")


@pytest.mark.parametrize(
    "params", [pytest.param({"type": "full"}, marks=pytest.mark.exhaustive), {"type": "lora", "r": 2}]
)
@pytest.mark.parametrize("kill_at", [None, 4, pytest.param(8, marks=pytest.mark.exhaustive)])
def test_the_best_checkpoint_is_handed_over_and_a_resume_decides_the_same(
    params: dict[str, Any], kill_at: int | None, tmp_path: Path, model: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    # exams of versions 0, 2, 4, ...: the best is 4; 6 and 8 are no better, so patience 2 ends it there
    script = [0.9, 0.1, 0.5, 0.5, 0.4, 0.8, 0.8, 0.8, 0.8]

    def go(name: str, *, kill_at: int | None = None) -> tuple[StageContext, Any]:
        @contextmanager
        def scripted(_: Any, context: StageContext, policy: Any) -> Iterator[Scripted]:
            yield Scripted(context, script, 2, kill_at)

        monkeypatch.setattr(preference, "open_early_stop", scripted)
        context = make_context(tmp_path, model, name=name)
        stage = preference_stage(tmp_path, params=params, num_steps=16, learning_rate=1e-2)
        return context, preference.run(stage, context)

    if kill_at is not None:
        with pytest.raises(Killed):
            go("stage", kill_at=kill_at)
    context, result = go("stage")
    assert {name: value for name, value in result.metrics.items() if name.startswith("early_stop")} == {
        "early_stop/accuracy_at_start": 0.9,
        "early_stop/accuracy": 0.5,
        "early_stop/best_version": 4.0,
        "early_stop/last_version": 8.0,
    }
    assert result.metrics["train/steps"] == 4
    assert checkpoints.steps(context.checkpoints) == [4, 6, 8]
    four = preference_stage(tmp_path, params=params, num_steps=16, learning_rate=1e-2)
    assert not same(tensors(context), tensors_at(tmp_path, model, four, monkeypatch, version=8))
    assert same(tensors(context), tensors_at(tmp_path, model, four, monkeypatch, version=4))


def tensors_at(
    tmp_path: Path, model: Path, stage: PreferenceStage, monkeypatch: pytest.MonkeyPatch, version: int
) -> dict[str, Any]:
    """Return what the stage hands over where the exam says that this version is the best and the last."""
    script = [0.0] * (version // 2) + [1.0] + [0.0] * 8

    @contextmanager
    def scripted(_: Any, context: StageContext, policy: Any) -> Iterator[Scripted]:
        yield Scripted(context, script, 8)

    monkeypatch.setattr(preference, "open_early_stop", scripted)
    context = make_context(tmp_path, model, name=f"until-{version}")
    assert preference.run(stage, context).metrics["train/steps"] == version
    return tensors(context)


def test_a_stage_that_was_killed_after_its_last_exam_learns_no_more(
    tmp_path: Path, model: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    @contextmanager
    def scripted(_: Any, context: StageContext, policy: Any) -> Iterator[Scripted]:
        yield Scripted(context, [0.0, 0.5, 0.4], 1)

    monkeypatch.setattr(preference, "open_early_stop", scripted)
    stage = preference_stage(tmp_path, num_steps=16)
    context = make_context(tmp_path, model)
    with monkeypatch.context() as patch:
        patch.setattr(preference, "save_policy", _die)
        with pytest.raises(Killed):
            preference.run(stage, context)
    num_steps = len(metrics(context))
    assert preference.run(stage, context).metrics["train/steps"] == 2
    assert len(metrics(context)) == num_steps
    assert same(tensors(context), load_file(context.checkpoints / "step_000002" / "model.safetensors"))


def test_a_best_checkpoint_that_was_damaged_is_not_handed_over(
    tmp_path: Path, model: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    class Damaging(Scripted):
        def sit(self, version: int) -> None:
            super().sit(version)
            if version == 4:
                file = tmp_path / "stage" / "checkpoints" / "step_000002" / "model.safetensors"
                content = file.read_bytes()
                file.write_bytes(content[:-1] + bytes([content[-1] ^ 1]))

    @contextmanager
    def scripted(_: Any, context: StageContext, policy: Any) -> Iterator[Scripted]:
        yield Damaging(context, [0.0, 0.5, 0.4], 1)

    monkeypatch.setattr(preference, "open_early_stop", scripted)
    with pytest.raises(StageError, match=r"step_000002, is damaged: the content of model.safetensors has changed"):
        preference.run(preference_stage(tmp_path, num_steps=16), make_context(tmp_path, model))


def _die(*_: Any, **__: Any) -> None:
    raise Killed


@pytest.mark.processes
def test_a_real_exam_that_stays_at_nought_stops_at_its_patience(
    tmp_path: Path, model: Path, caplog: pytest.LogCaptureFixture
) -> None:
    (tmp_path / "exam.jsonl").write_text(
        "".join(json.dumps({"prompt": f"What is {n} plus 2?", "answer": str(n + 2)}) + "\n" for n in range(4))
    )
    exam = {"exam": str(tmp_path / "exam.jsonl"), "max_tokens": 8}
    stage = preference_stage(tmp_path, num_steps=16, early_stop=exam)
    context = make_context(tmp_path, model)
    told = preference.run(stage, context).metrics
    assert (told["early_stop/accuracy"], told["early_stop/best_version"], told["early_stop/last_version"]) == (0, 2, 6)
    reached = [(row["step"], row["early_stop/accuracy"]) for row in metrics(context) if "early_stop/accuracy" in row]
    assert reached == [(0, 0.0), (2, 0.0), (4, 0.0), (6, 0.0)]
    assert len(list(context.rollouts.glob("early_stop_*.parquet"))) == 4
    assert "no checkpoint is better in the exam of early_stop than the start was (0.000" in caplog.text


def test_without_checkpoints_there_is_nothing_to_examine(tmp_path: Path) -> None:
    with pytest.raises(ValidationError, match=r"early_stop examines checkpoints.*say how often"):
        preference_stage(tmp_path, early_stop={"exam": "exam.jsonl"}, checkpoint={"every_steps": 0})


def test_an_adapter_that_engines_are_not_sent_whole_cannot_be_examined(tmp_path: Path) -> None:
    dora = {"type": "lora", "extra": {"use_dora": True}}
    with pytest.raises(ValidationError, match="use_dora changes more than engines are sent"):
        preference_stage(tmp_path, early_stop={"exam": "exam.jsonl"}, params=dora)
    preference_stage(tmp_path, params=dora)


def test_how_often_it_is_examined_decides_what_comes_of_a_stage(tmp_path: Path) -> None:
    exam = {"exam": "exam.jsonl"}
    often, seldom = (
        preference_stage(tmp_path, early_stop=exam, checkpoint={"every_steps": every}).identity() for every in (2, 4)
    )
    assert often != seldom
    slower = preference_stage(tmp_path, early_stop={**exam, "scoring": {"num_workers": 7}})
    assert slower.identity() == often
