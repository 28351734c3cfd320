"""What a recipe may say about how rewards are run. Imports nothing heavy."""

from pydantic import BaseModel, ConfigDict, Field


class ScoringConfig(BaseModel):
    """How rewards are run: processes, deadlines, and how much failure a run bears."""

    model_config = ConfigDict(frozen=True, extra="forbid", use_attribute_docstrings=True, allow_inf_nan=False)

    num_workers: int = Field(default=1, ge=1)
    """Worker processes; each imports the rewards once. As many again for an environment."""
    deadline_s: float = Field(default=20.0, gt=0)
    """Seconds that one group, or one step of an environment, may take before its worker is killed and replaced."""
    start_timeout_s: float = Field(default=120.0, gt=0)
    """Seconds that a worker may take to start and import the rewards, or load their models."""
    max_memory_gb: float | None = Field(default=4.0, gt=0)
    """Most private memory of a worker, and of each process that a reward starts; none: no limit."""
    max_cpu_s: float | None = Field(default=60.0, gt=0)
    """Seconds of processor time, over all its threads, that one group may take, where a worker marks one at a time;
    none: no limit."""
    max_retries: int = Field(default=1, ge=0)
    """How often a group is tried again when its worker was killed from outside."""
    max_unscorable_fraction: float = Field(default=0.2, ge=0, le=1)
    """Share of unscorable attempts, over the last `window_groups`, past which the run stops. Before there are so many,
    three standard deviations more."""
    window_groups: int = Field(default=256, ge=1)
    """Length of that window, in groups."""

    @property
    def max_memory_bytes(self) -> int | None:
        """The memory limit in bytes."""
        return None if self.max_memory_gb is None else int(self.max_memory_gb * 2**30)
