"""What a sweep is told: a base configuration, fields that differ between trials, how trials are run."""

from collections.abc import Mapping
from typing import Any, Literal

from pydantic import Field, model_validator

from ciess_ray.config.credentials import without_secrets
from ciess_ray.config.grid import Grid, ManyRuns, dimension_of
from ciess_ray.config.section import CpuClaim, GpuClaim, Location, Section
from ciess_ray.config.yaml_file import check_values
from ciess_ray.streaming.config import StreamConfig
from envs.errors import ConfigError


class SchedulerConfig(Section):
    """Which trials are stopped early."""

    name: Literal["fifo", "asha"] = Field(
        "fifo",
        description="fifo: every trial runs to its end; asha: of the trials of one budget, recommender and "
        "data, the worse are stopped early",
    )
    grace_steps: int = Field(20, ge=1, description="asha: table steps that every trial may take")
    reduction_factor: float = Field(3.0, gt=1, description="asha: one in so many goes on at each rung")


class TrialResources(Section):
    """What a trial claims beside what its configuration says of env runners and trainings."""

    num_cpus_per_driver: CpuClaim | None = Field(
        None,
        description="CPUs of the process that runs a trial; null: 1 beside env runners of its own, and else "
        "what a training claims, because the one waits while the other works",
    )
    num_gpus_per_driver: GpuClaim | None = Field(
        None,
        description="GPUs of that process; null: half of one where device is no cpu and GPUs are there",
    )
    max_concurrent_trials: int | None = Field(
        None, ge=1, description="trials that run at once; null: as many as the cluster holds"
    )
    wait_for_nodes_s: float = Field(
        0.0, ge=0, description="seconds to wait for nodes to join before a trial is called too large"
    )


class SweepConfig(ManyRuns):
    """One sweep: many searches, or streams, that differ in some fields."""

    num_samples: int = Field(1, ge=1, description="draws for each point of the grid")
    seed: int = Field(0, ge=0, description="of what is drawn")
    searcher: Literal["random", "optuna"] = Field(
        "random",
        description="random draws, or optuna (pip install 'ciess-ray[optuna]'), which learns from the trials "
        "that ended",
    )
    scheduler: SchedulerConfig = Field(default_factory=SchedulerConfig)
    resources: TrialResources = Field(default_factory=TrialResources)
    max_failures: int = Field(
        3, ge=0, description="times that a trial is tried again, from its last checkpoint"
    )
    output: Location = Field(
        "runs/sweep",
        repr=False,
        description="folder of the sweep: local, on a disk that all nodes share, or a URI such as s3://bucket/sweep",
    )

    @model_validator(mode="after")
    def _check_draws(self) -> "SweepConfig":
        drawn = [name for name, values in self.space.items() if dimension_of(name, values)[0] != "grid"]
        grids = [name for name in self.space if name not in drawn]
        if self.num_samples > 1 and not drawn:
            raise ConfigError(
                f"num_samples={self.num_samples}: space draws nothing, so that trials would be repeated; put "
                "seed: [0, 1, ...] into space for repetitions."
            )
        if self.searcher == "optuna" and grids:
            raise ConfigError(
                f"searcher=optuna: {', '.join(grids)} is a grid, every point of which is tried; write "
                "{choice: [...]}, or take searcher=random."
            )
        return self


class SweepPlan(Grid):
    """A sweep that has been checked, trial by trial; of streams where its base has segments.

    Args:
        config: The sweep.
        base_values: Plain values of what all trials share.
        source: What messages call the sweep's file.

    Raises:
        ConfigError: A trial is wrong; it is named by what it differs in.
    """

    model = SweepConfig
    config: SweepConfig

    def __init__(self, config: SweepConfig, base_values: Mapping[str, Any], source: str) -> None:
        self.is_of_streams = "segments" in base_values
        if self.is_of_streams:
            self._check_streams(config, source)
        super().__init__(config, base_values, source, num_samples=config.num_samples, seed=config.seed)

    def read(self, values: Mapping[str, Any], source: str) -> Any:
        """The configuration of a search, or of a stream."""
        return (
            check_values(StreamConfig, values, source) if self.is_of_streams else super().read(values, source)
        )

    def _check_streams(self, config: SweepConfig, source: str) -> None:
        if config.searcher != "random" or config.scheduler.name != "fifo":
            raise ConfigError(
                f"{source}: streams are followed to their end, and none is stopped for another: take "
                "searcher=random and scheduler.name=fifo."
            )
        if "://" in str(config.output):
            raise ConfigError(
                f"{source}: output={without_secrets(config.output)}: streams are gone on with in their "
                "folders; name one on a disk that all nodes share."
            )
