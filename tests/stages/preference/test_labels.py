from typing import Any

import pytest
from pydantic import ValidationError

from stages.base import StageError
from stages.preference.config import Labelling, PreferenceStage
from stages.preference.labels import by_score, class_weights, from_pairs, require_both
from stages.preference.loss_config import DPOLoss, KTOLoss

PAIR = {"prompt": "p", "chosen": "good", "rejected": "bad", "score_chosen": 1.0}


def rows(*labels: object) -> list[dict[str, object]]:
    return [{"prompt": "p", "completion": "c", "label": label} for label in labels]


def test_a_pair_is_a_good_answer_and_a_bad_one() -> None:
    assert list(from_pairs([PAIR])) == [
        {"prompt": "p", "completion": "good", "label": True},
        {"prompt": "p", "completion": "bad", "label": False},
    ]


def test_scores_make_labels_and_what_is_between_is_left_out() -> None:
    scored = [
        {"score": score, "finished": finished}
        for score, finished in ((1.0, True), (1.0, False), (0.5, True), (0.1, True), (0.1, False))
    ]
    labels = [row["label"] for row in by_score(scored, Labelling(good_from=0.9, bad_below=0.4))]
    assert labels == [True, False, False], "what was cut is bad where it is scored so, and never good"
    assert len(list(by_score(scored, Labelling(good_from=0.5)))) == 4
    with pytest.raises(ValidationError, match="some would be both"):
        Labelling(good_from=0.1, bad_below=0.2)


@pytest.mark.parametrize("labels", [(True, True), (False,)])
def test_answers_of_one_class_teach_nothing(labels: tuple[bool, ...]) -> None:
    with pytest.raises(StageError, match=rf"all {len(labels)} answers are {'good' if labels[0] else 'bad'}"):
        require_both(rows(*labels))


def test_a_label_that_is_none_is_named_by_its_row() -> None:
    with pytest.raises(StageError, match=r"1 labels are neither true nor false \(row 2: 'yes'\)"):
        require_both(rows(True, "yes", False))
    require_both(rows(1, 0, True))


def test_both_classes_weigh_the_same_and_none_less_than_one() -> None:
    # the paper's section 4.2: desirable * 1 = undesirable * 3, the larger class left at 1
    assert class_weights(rows(True, False, False, False), KTOLoss(type="kto")) == (3.0, 1.0)
    assert class_weights(rows(True, True, False), KTOLoss(type="kto")) == (1.0, 2.0)
    assert class_weights(rows(True, False), KTOLoss(type="kto", desirable_weight=0.5)) == (0.5, 1.0)


@pytest.mark.parametrize(
    ("changes", "says"),
    [
        ({"micro_batch_size": 1, "loss": {"type": "kto"}}, "2 or more under kto"),
        ({"data": {"stage": "pairs", "answers": {"good_from": 1}}}, "dpo learns from pairs"),
    ],
)
def test_settings_that_do_not_go_together_are_refused(changes: dict[str, object], says: str) -> None:
    with pytest.raises(ValidationError, match=says):
        PreferenceStage.model_validate({"kind": "preference", "data": "x.jsonl", "num_steps": 1, **changes})


@pytest.mark.parametrize(
    ("loss", "says"),
    [
        ({"variants": ["exo_pair"]}, "above 0"),
        ({"variants": ["aot"], "weighted": True}, "none has a weight"),
        ({"variants": ["sigmoid", "bco_pair"], "f_divergence": "forward_kl"}, "bco_pair knows no divergence"),
    ],
)
def test_what_trl_would_refuse_is_refused_before_anything_is_loaded(loss: dict[str, object], says: str) -> None:
    with pytest.raises(ValidationError, match=says):
        DPOLoss.model_validate(loss)


def test_neighbours_that_a_loss_compares_are_part_of_what_comes_of_it() -> None:
    def identity(size: int, **loss: object) -> object:
        values = {"kind": "preference", "data": "x.jsonl", "num_steps": 1, "loss": loss, "micro_batch_size": size}
        return PreferenceStage.model_validate(values).identity()

    assert identity(8, type="dpo") == identity(2, type="dpo")
    for loss in ({"type": "kto"}, {"type": "dpo", "variants": ["aot"]}):
        assert identity(8, **loss) != identity(2, **loss)


@pytest.mark.parametrize(
    ("stage", "says"),
    [
        ({"token_weights": True, "loss": {"type": "dpo", "weighted": True}}, "weighs pairs by all of their tokens"),
        ({"loss": {"type": "dpo", "label_smoothing": 0.1}}, r"takes no notice of it; take variants: \[robust\]"),
        ({"params": {"type": "lora", "dropout": 0.1}}, "params.dropout is 0.1, and must be 0"),
    ],
)
def test_settings_that_trl_would_pass_over_are_refused(stage: dict[str, Any], says: str) -> None:
    with pytest.raises(ValidationError, match=says):
        PreferenceStage.model_validate({"kind": "preference", "data": "p.jsonl", "num_steps": 1, **stage})


def test_only_kto_itself_compares_neighbours() -> None:
    assert KTOLoss(type="kto").compares_neighbours
    assert not KTOLoss(type="kto", variant="apo_zero_unpaired").compares_neighbours
    assert DPOLoss(variants=["sigmoid", "aot"]).compares_neighbours and not DPOLoss().compares_neighbours
