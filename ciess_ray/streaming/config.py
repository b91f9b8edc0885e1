"""What a stream is told: the log, where its segments end, the budget, the recommender and the methods."""

import copy
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Annotated, Any, Literal

from pydantic import Field, field_validator, model_validator

from ciess_ray.config.recommender import RecommenderConfig
from ciess_ray.config.run import MAX_SEED, LogConfig, TrackingConfig
from ciess_ray.config.section import CpuClaim, GpuClaim, Names, Place, Section, one_of, refuse_twice
from ciess_ray.config.yaml_file import check_values, is_data, put_overrides, read_values
from ciess_ray.names import FULL_SIZE
from envs.budget import MemoryBudget
from envs.data.stream import Period
from envs.errors import ConfigError, check_name, within
from envs.recommenders.losses import LOSSES, POSITIVES
from envs.recommenders.training import TrainingSettings

#: SCALL's, which want Ray, and minutes; like full size, a stream has them if it is told to.
SCALL_METHODS = ("scall", "scall reference")
#: Names of ``ciess_ray.streaming.methods.METHODS``, which takes seconds to import, in the order of tables.
TABLE_METHODS = (
    *("equal sizes", "last sizes", "split", "rank power", "table policy"),
    *(*SCALL_METHODS, FULL_SIZE),
)
#: The same of ``ciess_ray.streaming.yardsticks.YARDSTICKS``, which have no table.
YARDSTICK_NAMES = ("popular in this segment", "popular ever", "popular of late", "item cosine")
METHOD_NAMES = (*TABLE_METHODS, *YARDSTICK_NAMES)
DEFAULT_METHODS = tuple(name for name in METHOD_NAMES if name not in (*SCALL_METHODS, FULL_SIZE))
#: The recommender whose newcomers get a row between segments, see ``ciess_ray.streaming.newcomers``.
APPENDABLE = "lightgcn"
#: What becomes of a budget that has no room for everybody.
Overflow = Literal["refuse", "share"]
#: Decays by 0.9 within a training, after which the learning rate is a tenth of the first.
_NUM_DECAYS = 22


class SegmentsConfig(Section):
    """Where a segment ends. Give exactly one."""

    new_entities: int | None = Field(
        None, ge=1, description="before the row that would bring more new users and items; 15,000 in SCALL"
    )
    rows: int | None = Field(None, ge=1, description="after so many rows")
    period: Period | None = Field(None, description="with the day, week, month, quarter or year, in UTC")

    @model_validator(mode="after")
    def _check(self) -> "SegmentsConfig":
        chosen = [name for name, value in self if value is not None]
        if len(chosen) != 1:
            raise ConfigError(
                "segments: give exactly one of segments.new_entities, segments.rows and segments.period, not "
                f"{' and '.join(chosen) or 'none'}; null takes one back."
            )
        return self


class StreamTraining(Section):
    """How the recommender of a segment is trained; Adam, whose rate falls to a tenth in each training."""

    batch_size: int = Field(8192, ge=1, description="triples a batch")
    learning_rate: float = Field(
        0.3, gt=0, description="first learning rate of a training from scratch; chosen with LightGCN"
    )
    warm_learning_rate: float = Field(
        0.5, gt=0, description="the same of a later segment, whose table has to leave where it is"
    )
    loss: Annotated[str, one_of("training.loss", LOSSES)] = Field("bpr", description=", ".join(LOSSES))
    positives: Annotated[str, one_of("training.positives", POSITIVES)] = Field(
        "user", description="user or interaction: what is as likely as any other in a batch"
    )
    batches: int = Field(400, ge=1, description="batches of a training from scratch, as of the first segment")
    warm_batches: int | None = Field(
        170,
        ge=1,
        description="batches of a later segment, which begins with the last one's table at its new sizes; "
        "null: every segment begins from scratch",
    )

    def settings(self, *, is_warm: bool) -> TrainingSettings:
        """The recipe of a training from scratch, or of one that goes on."""
        num_batches, learning_rate = self.batches, self.learning_rate
        if is_warm and self.warm_batches is not None:
            num_batches, learning_rate = self.warm_batches, self.warm_learning_rate
        return TrainingSettings(
            batch_size=self.batch_size,
            learning_rate=learning_rate,
            decay_every=max(1, round(num_batches / (_NUM_DECAYS + 1))),
            min_learning_rate=0.0,
            loss=self.loss,
            positives=self.positives,
            evaluate_every=num_batches,
            patience=None,
            max_batches=num_batches,
        )


class StreamResources(Section):
    """Trainings side by side on Ray; tables and figures are the same wherever they are trained."""

    num_workers: int = Field(
        0,
        ge=0,
        description="tables of a method that are trained at once, each as a task of Ray; 0: one after the "
        "other in this process",
    )
    num_cpus_per_training: CpuClaim = Field(1.0, description="CPUs of such a task, and its threads")
    num_gpus_per_training: GpuClaim | None = Field(
        None, description="GPUs of such a task; null: an equal share, at most one, where device is no cpu"
    )


class StreamConfig(Section):
    """A log that goes on, segment by segment, and the tables and lists that follow it."""

    dataset: LogConfig = Field(description="the log")
    segments: SegmentsConfig = Field(description="where a segment ends")
    budget: str | float = Field(
        "10%",
        description="'62000 params' or 64MB of packed file, in every segment, while users and items come; "
        "'8 a row' is a mean size and 10% a share of the full table, which grow with the rows",
    )
    overflow: Overflow = Field(
        "refuse",
        description="where the budget has no room for d_min of each user and item: refuse it before anything "
        "is trained, or let the coldest users share one row, and the coldest items",
    )
    reserve: float = Field(
        0.0,
        ge=0,
        lt=1,
        description="share of the budget, e.g. 0.02, that tables of LightGCN leave free for those who come "
        "between segments, whom ciess-ray append gives a row",
    )
    methods: Names = Field(
        DEFAULT_METHODS,
        min_length=1,
        description=f"{', '.join(DEFAULT_METHODS)}, or {' or '.join(SCALL_METHODS)}, which take minutes, or "
        f"{FULL_SIZE}, beyond the budget",
    )
    num_neighbours: int = Field(10, ge=1, description="what item cosine keeps of each item's neighbours")
    seed: int = Field(0, ge=0, le=MAX_SEED, description="every draw comes from it")
    output: Place = Field(Path("runs/stream"), description="folder of the stream")
    recommender: RecommenderConfig = Field(default_factory=RecommenderConfig)
    training: StreamTraining = Field(default_factory=StreamTraining)
    resources: StreamResources = Field(default_factory=StreamResources)
    tracking: TrackingConfig = Field(default_factory=TrackingConfig)

    @field_validator("budget")
    @classmethod
    def _check_budget(cls, budget: str | float) -> str | float:
        with within("budget"):
            MemoryBudget.parse(budget)
        return budget

    @field_validator("methods")
    @classmethod
    def _check_methods(cls, methods: Sequence[str]) -> tuple[str, ...]:
        for method in methods:
            with within("methods"):
                check_name("method", method, METHOD_NAMES)
        refuse_twice("methods", methods)
        return tuple(methods)

    @model_validator(mode="after")
    def _check_recommender(self) -> "StreamConfig":
        if self.recommender.is_auto:
            raise ConfigError(
                f"recommender.name: {self.recommender.name} is decided on validation before a search, and a "
                "stream has none before it begins: name one."
            )
        for name in self.recommender.options.keys() & self.recommender.other_options.keys():
            raise ConfigError(f"recommender.options.{name}: a stream trains with one value; keep one.")
        if self.recommender.is_closed_form:
            raise ConfigError(
                f"recommender.name: {self.recommender.name} is computed anew from all interactions, and a "
                "stream trains a table on; name another."
            )
        if self.reserve and self.recommender.name != APPENDABLE:
            raise ConfigError(
                f"reserve: is for {APPENDABLE}, whose graph fills the rows of those who come; of "
                f"{self.recommender.name} it would be left unused."
            )
        return self

    @property
    def memory_budget(self) -> MemoryBudget:
        """The budget, read."""
        return MemoryBudget.parse(self.budget)


def load_stream_config(path: str | Path, overrides: Sequence[str] = ()) -> StreamConfig:
    """Read a YAML file, or take a file of data with every default, and put ``section.field=value`` over it.

    Args:
        path: The file.
        overrides: E.g. ``segments.period=month``; values are read as YAML.

    Raises:
        ConfigError: The file is missing or no YAML mapping, or that of a search; an override is unreadable,
            or a field is wrong.
    """
    values = {"dataset": {"path": str(path)}} if is_data(path) else read_values(path)
    put_overrides(values, overrides)
    if "segments" not in values:
        of_search = (
            "; a search's file goes to 'ciess-ray search'" if {"search", "agent"} & values.keys() else ""
        )
        raise ConfigError(
            f"{path}: segments is missing, which says where a segment ends: give segments.period=month, "
            f"segments.rows=N or segments.new_entities=N{of_search}."
        )
    return check_values(StreamConfig, values, str(path))


def recorded_config(
    path: Path,
    values: Mapping[str, Any],
    overrides: Sequence[str] = (),
    sections: Sequence[str] = ("dataset", "tracking"),
) -> StreamConfig:
    """What the folder of a stream says that it was told, its log where it lies now.

    Args:
        path: The folder.
        values: Plain values, as the folder has them.
        overrides: What is told anew: where the log lies, and where the stream is recorded.
        sections: Of which these may be.

    Raises:
        ConfigError: One is of something else, or a field is wrong.
    """
    for override in overrides:
        if override.partition(".")[0] not in sections:
            recorded = ", and tracking.uri=URI where it is recorded" if "tracking" in sections else ""
            raise ConfigError(
                f"{override!r}: a stream stays as it was configured; give only dataset.path=FILE where its "
                f"log has moved{recorded}."
            )
    # What the folder has said is compared with what it says later.
    told = put_overrides(copy.deepcopy(dict(values)), overrides) | {"output": str(path)}
    return check_values(StreamConfig, told, str(path))
