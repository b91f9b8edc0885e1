"""What a run is told: YAML in, checked models out.

Every field carries its meaning, and its default the source. An unknown key is refused with the nearest
valid one, and what can be known to be wrong is refused before any work is done.
"""

from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from types import NoneType, UnionType
from typing import Annotated, Any, Literal, Union, get_args, get_origin

import yaml
from pydantic import BaseModel, ConfigDict, Field, ValidationError, field_validator, model_validator

from ciess_ray.exploration import build_exploration
from envs.budget import MemoryBudget, check_bounds
from envs.data import READERS, SAMPLES, Columns
from envs.errors import CiessError, ConfigError, UnknownNameError
from envs.recommenders import RECOMMENDERS, check_recommender, find_recommender, resolve_device
from envs.recommenders.losses import LOSSES
from envs.recommenders.training import TrainingSettings
from envs.step_modes import STEP_MODES

Exploration = dict[str, Any]


class _Section(BaseModel):
    """A part of the configuration: unknown keys are refused, values do not change."""

    model_config = ConfigDict(extra="forbid", frozen=True, allow_inf_nan=False)


class DatasetConfig(_Section):
    """Which interactions, and how they are split. Give one of ``path`` and ``sample``."""

    path: Path | None = Field(
        None, description="file of interactions: Parquet, CSV, MovieLens, RecBole, adjacency"
    )
    sample: str | None = Field(None, description=f"data that pip brings: {', '.join(sorted(SAMPLES))}")
    format: str = Field("auto", description=f"auto (by the file's name), {', '.join(READERS)}")
    columns: dict[Literal["user", "item", "rating", "timestamp"], str] | None = Field(
        None, description="names of the columns, e.g. {user: customer, item: sku}"
    )
    k_core: int | None = Field(None, ge=2, description="keep users and items with so many interactions each")
    split_seed: int = Field(0, ge=0, description="seed of the 50/25/25 split of each user's interactions")

    @model_validator(mode="after")
    def _check(self) -> "DatasetConfig":
        if (self.path is None) == (self.sample is None):
            raise ConfigError(
                "dataset: give either dataset.path (a file of interactions) or dataset.sample "
                f"({', '.join(sorted(SAMPLES))}), and not both; null takes one back."
            )
        if self.sample is not None and self.sample not in SAMPLES:
            raise UnknownNameError("dataset.sample", self.sample, SAMPLES)
        if self.format != "auto" and self.format not in READERS:
            raise UnknownNameError("dataset.format", self.format, ["auto", *READERS])
        return self

    def named_columns(self) -> Columns | None:
        """The names of the columns as the readers take them."""
        return None if self.columns is None else Columns(**self.columns)


class RecommenderConfig(_Section):
    """The base recommender whose table is to shrink."""

    name: str = Field(
        "lightgcn",
        description=f"{', '.join(sorted(RECOMMENDERS))}, or package.module:ClassName for a class of your own",
    )
    options: dict[str, Any] = Field(
        default_factory=dict,
        description="what the recommender itself takes: l2, init_std; lightgcn and ngcf: num_layers; ngcf: "
        "node_dropout, message_dropout",
    )
    min_embedding_size: int = Field(1, description="d_min; 1 in CIESS")
    max_embedding_size: int = Field(128, description="d_max, the width of the full table; 128 in CIESS")
    device: str = Field("auto", description="cpu, cuda, or auto: a GPU where there is one")

    @model_validator(mode="after")
    def _check(self) -> "RecommenderConfig":
        check_recommender(self.name, self.options)
        check_bounds(self.min_embedding_size, self.max_embedding_size)
        resolve_device(self.device)
        return self

    @property
    def num_tables(self) -> int:
        """Tables of the recommender in which every row has its size; the budget caps them together."""
        return find_recommender(self.name).num_tables


class TrainingConfig(_Section):
    """How a base recommender is trained; Adam, one positive and one negative item a triple."""

    batch_size: int = Field(10_000, ge=1, description="triples a batch; 10,000 in CIESS's code")
    learning_rate: float = Field(0.03, gt=0, description="first learning rate; 0.03 in CIESS's code")
    learning_rate_decay: float = Field(
        0.9, gt=0, le=1, description="factor at each decay; 0.9 in CIESS's code"
    )
    decay_every: int = Field(100, ge=1, description="batches between decays; 50 to 200 in CIESS's code")
    min_learning_rate: float = Field(1e-3, ge=0, description="where the decay ends; 1e-3 in CIESS's code")
    positives: Literal["user", "interaction"] = Field(
        "user", description="draw a user and one of its items, as CIESS's code does, or an interaction"
    )
    loss: str = Field(
        "bpr", description=f"{' or '.join(LOSSES)}; bpr in CIESS, softmax is sampled and for narrow tables"
    )
    num_negatives: int = Field(128, ge=1, description="negatives that a batch shares, for softmax")
    evaluate_every: int = Field(100, ge=1, description="batches between two validations")
    patience: int = Field(5, ge=1, description="validations without a new best that end a training")
    max_batches: int = Field(4_000, ge=1, description="where a training ends in any case")

    @field_validator("loss")
    @classmethod
    def _check_loss(cls, loss: str) -> str:
        if loss not in LOSSES:
            raise UnknownNameError("training.loss", loss, LOSSES)
        return loss

    def settings(self) -> TrainingSettings:
        """The same as the recommenders take it."""
        return TrainingSettings(**self.model_dump())


class AgentConfig(_Section):
    """TD3 and its exploration."""

    hiddens: tuple[int, ...] = Field((256, 256), min_length=1, description="hidden widths; 2 x 256 in CIESS")
    actor_lr: float = Field(1e-3, gt=0, description="Adam's rate for the actors; 1e-3 in CIESS")
    critic_lr: float = Field(3e-3, gt=0, description="Adam's rate for the critics; 3e-3 in CIESS")
    gamma: float = Field(
        0.0,
        ge=0,
        lt=1,
        description="discount; 0.99 in CIESS. A fresh recommender's quality depends on no earlier size, so 0 "
        "loses nothing and learns from far fewer steps",
    )
    tau: float = Field(0.005, gt=0, le=1, description="share a target moves at an update; 0.005 in CIESS")
    batch_size: int = Field(
        4096, ge=1, description="transitions of users, and of items, an update; 4096 in CIESS"
    )
    updates_per_step: int = Field(20, ge=0, description="updates a table step; 1 in CIESS")
    replay_buffer_capacity: int = Field(
        1_000_000, ge=1, description="transitions kept of users, and of items"
    )
    exploration: Exploration = Field(
        default_factory=lambda: {"name": "random_walk", "noise": "gaussian"},
        description="{name: random_walk, noise: gaussian}; CIESS: Gaussian, 6 sizes, a walk of 5 steps",
    )

    @field_validator("exploration")
    @classmethod
    def _check_exploration(cls, spec: Exploration) -> Exploration:
        build_exploration(spec, 1, 2)
        return spec


class SearchConfig(_Section):
    """The search itself."""

    mode: Literal["projected", "paper"] = Field(
        "projected",
        description="projected: each step meets the budget exactly; paper: λ alone does",
    )
    num_episodes: int = Field(30, ge=1, description="M; 30 in CIESS")
    episode_length: int = Field(10, ge=1, description="T, steps an episode; 10 in CIESS")
    step_mode: str = Field(
        "auto",
        description=f"where a step's recommender comes from: {', '.join(STEP_MODES)}; fresh in CIESS. "
        "auto: fresh in mode paper, else supernet, which ranks allocations best and is cheapest",
    )
    epochs_per_step: float = Field(5.0, gt=0, description="epochs that a step trains; 5 in CIESS")
    batches_per_step: int | None = Field(
        None, ge=1, description="batches that a step trains, instead of epochs"
    )
    step_learning_rate: float | None = Field(
        None, gt=0, description="first learning rate of a step's short training; null: training.learning_rate"
    )
    supernet_batches: int = Field(2_000, ge=1, description="batches that the supernet is trained, once")
    supernet_kept_ratios: tuple[float, float] | None = Field(
        None,
        description="least and greatest kept ratio of the tables the supernet is trained on; null: a third "
        "below and above the budget",
    )
    num_warmup_steps: int = Field(
        0, ge=0, description="first steps, taken by random table-level policies; none in CIESS"
    )
    memory_weight: Annotated[float, Field(ge=0)] | Literal["auto"] = Field(
        "auto", description="λ: a number (CIESS: 0.4 for ML-1M), or auto: dual ascent onto the budget"
    )
    initial_memory_weight: float = Field(0.0, ge=0, description="where auto begins")
    memory_weight_lr: float = Field(
        0.02, gt=0, description="how far auto moves where sizes are twice the budget"
    )
    quality_ceiling: float | None = Field(
        1.0,
        gt=0,
        description="upper bound of an entity's share of full-size quality; 1 in CIESS, null for none",
    )
    num_greedy_steps: int = Field(
        2, ge=0, description="steps at the end that the actors take alone, without exploration"
    )
    num_candidates: int = Field(
        5, ge=1, description="l, candidates that are trained to convergence; 5 in CIESS"
    )
    num_env_runners: int = Field(
        0, ge=0, description="Ray actors that take steps in parallel; 0: the driver does"
    )

    @model_validator(mode="after")
    def _check(self) -> "SearchConfig":
        if self.step_mode not in ("auto", *STEP_MODES):
            raise UnknownNameError("search.step_mode", self.step_mode, ["auto", *STEP_MODES])
        low, high = self.supernet_kept_ratios or (1.0, 1.0)
        if not 0 < low <= high <= 1:
            raise ConfigError(
                f"search.supernet_kept_ratios must be two kept ratios in (0, 1], the lower first, "
                f"not [{low:g}, {high:g}]."
            )
        return self

    @property
    def resolved_step_mode(self) -> str:
        """A name in ``envs.step_modes.STEP_MODES``."""
        if self.step_mode != "auto":
            return self.step_mode
        return "fresh" if self.mode == "paper" else "supernet"

    @property
    def num_steps(self) -> int:
        """Table steps in all."""
        return self.num_episodes * self.episode_length


class TrackingConfig(_Section):
    """Where runs are recorded beside their folders."""

    mlflow: bool = Field(True, description="record the run in MLflow")
    uri: str = Field("sqlite:///mlflow.db", description="MLflow's tracking store")
    experiment: str = Field("ciess-ray", description="MLflow's experiment")


class RunConfig(_Section):
    """One search: data, recommender, budget, agent."""

    dataset: DatasetConfig = Field(description="the interactions")
    budget: str | float = Field(
        "10%", description="0.1, 10%, '62000 params', or 64MB of packed file; the paper has 20, 10 and 5%"
    )
    seed: int = Field(0, ge=0, description="every draw of the run comes from it")
    output: Path = Field(Path("runs/search"), description="folder of the result")
    cache: Path | None = Field(
        Path(".ciess-ray/cache"),
        description="where full-size fits are kept for the next search; null: nowhere",
    )
    recommender: RecommenderConfig = Field(default_factory=RecommenderConfig)
    training: TrainingConfig = Field(default_factory=TrainingConfig)
    search: SearchConfig = Field(default_factory=SearchConfig)
    agent: AgentConfig = Field(default_factory=AgentConfig)
    tracking: TrackingConfig = Field(default_factory=TrackingConfig)

    @field_validator("budget")
    @classmethod
    def _check_budget(cls, budget: str | float) -> str | float:
        MemoryBudget.parse(budget)
        return budget

    @property
    def memory_budget(self) -> MemoryBudget:
        """The budget, read."""
        return MemoryBudget.parse(self.budget)


def load_config(path: Path, overrides: Sequence[str] = ()) -> RunConfig:
    """Read a YAML file and put ``section.field=value`` over it.

    Args:
        path: The file.
        overrides: E.g. ``training.batch_size=2048``; values are read as YAML.

    Raises:
        ConfigError: The file is missing or no YAML mapping, an override is unreadable, or a field is wrong.
    """
    try:
        text = path.read_text(encoding="utf-8")
    except FileNotFoundError:
        raise ConfigError(
            f"{path}: no such configuration; the ones that come along lie in configs/."
        ) from None
    except (OSError, UnicodeDecodeError) as error:
        raise ConfigError(f"{path}: cannot be read as text ({error}).") from error
    try:
        values = yaml.safe_load(text)
    except yaml.YAMLError as error:
        raise ConfigError(f"{path}: no valid YAML: {error}") from error
    if not isinstance(values, dict):
        raise ConfigError(f"{path}: expected fields such as 'dataset:' and 'budget:', not {text[:40]!r}.")
    for override in overrides:
        _put(values, override)
    return parse_config(values, str(path))


def parse_config(values: Mapping[str, Any], source: str = "config") -> RunConfig:
    """The checked model of plain values.

    Raises:
        ConfigError: A field is unknown, missing or wrong; each is named with its remedy.
    """
    try:
        return RunConfig.model_validate(values)
    except ValidationError as error:
        by_field: dict[str, list[Any]] = {}
        for problem in error.errors():
            by_field.setdefault(_field_of(problem["loc"]), []).append(problem)
        lines = (_explain(source, where, problems) for where, problems in by_field.items())
        raise ConfigError("\n".join(lines)) from error
    except CiessError as error:
        raise error.within(source) from error


def field_table() -> Iterator[tuple[str, str, str]]:
    """Every field as its dotted name, its default and its meaning."""
    yield from _fields(RunConfig, "")


def _fields(model: type[BaseModel], prefix: str) -> Iterator[tuple[str, str, str]]:
    for name, field in model.model_fields.items():
        section = field.annotation
        if isinstance(section, type) and issubclass(section, BaseModel):
            yield from _fields(section, f"{prefix}{name}.")
        else:
            default = field.get_default(call_default_factory=True)
            shown = "required" if field.is_required() else "null" if default is None else str(default)
            yield f"{prefix}{name}", shown, field.description or ""


def _put(values: dict[str, Any], override: str) -> None:
    key, separator, text = override.partition("=")
    if not separator or not key:
        raise ConfigError(f"cannot read the override {override!r}: write section.field=value.")
    *sections, name = key.split(".")
    for section in sections:
        inner = values.setdefault(section, {})
        if not isinstance(inner, dict):
            raise ConfigError(f"the override {override!r} goes into {section!r}, which is no section.")
        values = inner
    try:
        values[name] = yaml.safe_load(text)
    except yaml.YAMLError as error:
        raise ConfigError(f"cannot read the value of the override {override!r}: {error}") from error


def _field_of(place: Sequence[str | int]) -> str:
    """The dotted name of where a problem is; the kinds of value that one field may have share its name."""
    model: Any = RunConfig
    for depth, part in enumerate(place[:-1]):
        field = getattr(model, "model_fields", {}).get(part)
        model = None if field is None else field.annotation
        if get_origin(model) in (Union, UnionType):
            return ".".join(map(str, place[: depth + 1 if _is_choice(model) else None]))
    return ".".join(map(str, place))


def _is_choice(annotation: Any) -> bool:
    """Whether a value may be of several kinds, null aside; each tells of its own problem with a value."""
    return sum(kind is not NoneType for kind in get_args(annotation)) > 1


def _explain(source: str, where: str, problems: Sequence[Any]) -> str:
    problem = problems[0]
    known = {name: meaning for name, _, meaning in field_table()}
    if problem["type"] == "extra_forbidden":
        sections = {name.rsplit(".", 1)[0] for name in known if "." in name}
        return f"{source}: {UnknownNameError('field', where, [*known, *sections])}"
    if problem["type"] == "missing":
        return f"{source}: the field {where!r} is missing; 'ciess-ray fields' explains every field."
    given = f"{source}: {where}={problem['input']!r}"
    if problem["type"] == "model_type":
        example = next(name for name in known if name.startswith(f"{where}."))
        return f"{given}: {where} is a section; write its fields, e.g. {example}=..., or none of it."
    # Of a field of several kinds, the kind that the value has knows what is wrong with it.
    of_its_kind = [p for p in problems if not p["type"].endswith(("_type", "_parsing", "literal_error"))]
    if len(problems) > 1 and not of_its_kind:
        return f"{given}: expected {known[where]}."
    return f"{given}: {(of_its_kind or problems)[0]['msg']}."
