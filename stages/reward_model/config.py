"""What a recipe may say about training a reward model."""

from collections.abc import Sequence
from typing import ClassVar, Literal, Self

from pydantic import Field, model_validator

from stages.data.config import DataSetConfig
from stages.data.rows import Row
from stages.preference.config import PairsSource, StageData
from stages.training import SupervisedConfig


class RewardModelStage(SupervisedConfig):
    """Learn a number for a conversation, such that chosen answers get more than rejected ones: Bradley and Terry 1952,
    Ouyang et al. 2022, arXiv 2203.02155."""

    kind: Literal["reward_model"]
    data: PairsSource
    """`{stage: NAME}`, or rows with `prompt`, `chosen`, `rejected`."""
    margin: bool = False
    """Whether a pair must be told apart by the gap of its `score_chosen` and `score_rejected` at least: Llama 2,
    Touvron et al. 2023, arXiv 2307.09288."""
    center: float | None = Field(default=0.01, gt=0)
    """Weight of a penalty on the squared sum of a pair's two numbers, which holds them around 0: Eisenstein et al.
    2023, arXiv 2312.09244. None: no penalty."""
    held_out: float = Field(default=0.1, gt=0, lt=1)
    """Share of prompts whose pairs are not learned from; accuracy and calibration are told on them."""

    produces: ClassVar[str] = "reward_model"

    @model_validator(mode="after")
    def _learns_from_pairs(self) -> Self:
        if isinstance(self.data, StageData) and self.data.answers is not None:
            raise ValueError("data.answers is for loss: {type: kto}; a reward model learns from pairs")
        return self

    def columns(self) -> list[str]:
        """Those of a pair, and scores where they make margins."""
        return ["prompt", "chosen", "rejected", *(["score_chosen", "score_rejected"] if self.margin else [])]

    def check_rows(self, rows: Sequence[Row]) -> None:
        """Pairs must differ."""
        from stages.preference.losses import refuse_equal_sides

        refuse_equal_sides(rows)

    def input_kind(self, role: str) -> str:
        """A policy, and pairs."""
        return "pairs" if role == "pairs" else super().input_kind(role)

    def inputs(self) -> dict[str, str]:
        """The policy, and the pairs where a stage made them."""
        pairs = {"pairs": self.data.stage} if isinstance(self.data, StageData) else {}
        return {**super().inputs(), **pairs}

    def datasets(self) -> dict[str, DataSetConfig]:
        """The pairs, where they come from outside."""
        return {} if isinstance(self.data, StageData) else {"data": self.data}
