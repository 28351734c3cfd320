"""What a recipe may say about supervised fine-tuning."""

from typing import ClassVar, Literal

from pydantic import Field

from stages.base import Config
from stages.data.config import DataConfig, DataSetConfig
from stages.training import SupervisedConfig


class NllLoss(Config):
    """Negative log-likelihood, mean over the completion's tokens."""

    type: Literal["nll"] = "nll"


class DftLoss(Config):
    """Each token's loss times its own probability, detached (DFT, Wu et al. 2025, arXiv 2508.05629)."""

    type: Literal["dft"] = "dft"


class SFTStage(SupervisedConfig):
    """Learn to answer as the data set does; the loss is on what the assistant says alone."""

    kind: Literal["sft"]
    data: DataConfig
    """Rows with `prompt` and `completion`."""
    train_on: Literal["last", "all"] = "last"
    """Which of the assistant's turns are learned: those of the completion, which is the last turn of a conversation in
    `messages`; or all, those of the prompt, too. A turn with `weight: 0` is context alone."""
    loss: NllLoss | DftLoss = Field(default_factory=NllLoss, discriminator="type")

    needs_columns: ClassVar[tuple[str, ...]] = ("prompt", "completion")

    def datasets(self) -> dict[str, DataSetConfig]:
        """The training set."""
        return {"data": self.data}
