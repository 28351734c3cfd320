"""What a recipe may say about training a reward model."""

from typing import ClassVar, Literal, Self

from pydantic import Field, model_validator

from stages.preference.config import PairedConfig, StageData
from stages.preference.loss_config import DPOLoss, ODPOLoss, PreferenceLoss


class RewardModelStage(PairedConfig):
    """Learn a number for a conversation, such that chosen answers get more than rejected ones: Bradley and Terry 1952,
    Ouyang et al. 2022, arXiv 2203.02155."""

    kind: Literal["reward_model"]
    margin: bool = False
    """Whether a pair must be told apart by the gap of its `score_chosen` and `score_rejected` at least: Llama 2,
    Touvron et al. 2023, arXiv 2307.09288."""
    center: float | None = Field(default=0.01, gt=0)
    """Weight of a penalty on the squared sum of a pair's two numbers, which holds them around 0: Eisenstein et al.
    2023, arXiv 2312.09244. None: no penalty."""
    held_out: float = Field(default=0.1, gt=0, lt=1)
    """Share of prompts whose pairs are not learned from; accuracy and calibration are told on them."""

    produces: ClassVar[str] = "reward_model"
    adapts: ClassVar[Literal["CAUSAL_LM", "SEQ_CLS"]] = "SEQ_CLS"
    leaves_out_too_long: ClassVar[bool] = True

    @model_validator(mode="after")
    def _learns_from_pairs(self) -> Self:
        if isinstance(self.data, StageData) and self.data.answers is not None:
            raise ValueError("data.answers is for loss: {type: kto}; a reward model learns from pairs")
        return self

    def columns(self) -> list[str]:
        """Those of a pair, and scores where they make margins."""
        return ["prompt", "chosen", "rejected", *(["score_chosen", "score_rejected"] if self.margin else [])]

    def loss_of_pairs(self) -> PreferenceLoss:
        """The one that asks the same of pairs: margins are linear offsets."""
        return ODPOLoss(scale="linear") if self.margin else DPOLoss()
