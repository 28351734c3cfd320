"""The union of every stage's config, by `kind`."""

from typing import Annotated

from pydantic import Field

from stages.evaluate.config import EvaluateStage
from stages.grpo.config import GRPOStage
from stages.pairs.config import PairsStage
from stages.preference.config import PreferenceStage
from stages.readiness.config import ReadinessStage
from stages.reward_model.config import RewardModelStage
from stages.sft.config import SFTStage

AnyStage = Annotated[
    SFTStage | PairsStage | PreferenceStage | RewardModelStage | GRPOStage | ReadinessStage | EvaluateStage,
    Field(discriminator="kind"),
]
