"""What a run is told: checked models.

Every field carries its meaning, and its default the source. What can be known to be wrong is refused before
any work is done. ``yaml_file`` reads them.
"""

import inspect
from collections.abc import Mapping
from pathlib import Path
from typing import Annotated, Any, ClassVar, Literal

from pydantic import (
    BaseModel,
    Field,
    field_validator,
    model_validator,
)

from ciess_ray.config.agent import AgentConfig, SearchConfig
from ciess_ray.config.section import (
    CpuClaim,
    DataPlace,
    GpuClaim,
    Place,
    Section,
    Uri,
    one_of,
    refuse_equal_budgets,
    refuse_twice,
)
from ciess_ray.config.yaml_values import read_yaml
from envs.budget import MemoryBudget, check_bounds
from envs.data import READERS, SAMPLES, TEST_SHARE, Interactions
from envs.errors import ConfigError
from envs.recommenders import DEVICES, RECOMMENDERS, ClosedForm, check_recommender, find_recommender
from envs.recommenders.training import TrainingSettings, check_temperature
from envs.step_modes import STEP_MODES, StepMode

#: RLlib seeds NumPy's global generator with it, which takes 32 bits, and its workers with the next ones.
MAX_SEED = 4_000_000_000
#: Of recommenders in closed form.
_MASKED = "masked"
#: How interactions are split into training, validation and test.
SPLIT_RULES = ("random", "time")
#: By ``search.mode``, the sections of a file of that name beside this one.
PRESETS: dict[str, dict[str, dict[str, Any]]] = {
    mode: read_yaml(Path(__file__).with_name(f"{mode}.yaml").read_text(encoding="utf-8"))
    for mode in ("paper", "reference")
}


def default_l2(recommender: str) -> Any:
    """The weight of L2 of a recommender whose options name none; None where it knows no L2."""
    parameter = inspect.signature(find_recommender(recommender)).parameters.get("l2")
    return None if parameter is None else parameter.default


class LogConfig(Section):
    """Which interactions. Give one of ``path`` and ``sample``."""

    path: DataPlace | None = Field(
        None,
        description="file of interactions: Parquet (or a folder of its parts), CSV, TSV, MovieLens, "
        "RecBole, adjacency; text may be compressed with gzip; relative to where the command is started, "
        "or a URI such as s3://bucket/folder",
    )
    sample: Annotated[str, one_of("dataset.sample", SAMPLES)] | None = Field(
        None, description=f"data that pip brings: {', '.join(sorted(SAMPLES))}"
    )
    format: Annotated[str, one_of("dataset.format", ["auto", *READERS])] = Field(
        "auto", description=f"auto (by the file's name), {', '.join(READERS)}"
    )
    columns: dict[Literal["user", "item", "rating", "timestamp"], str] | None = Field(
        None, description="names of the columns, e.g. {user: customer, item: sku}"
    )

    @model_validator(mode="after")
    def _check(self) -> "LogConfig":
        if (self.path is None) == (self.sample is None):
            raise ConfigError(
                "dataset: give either dataset.path (a file of interactions) or dataset.sample "
                f"({', '.join(sorted(SAMPLES))}), and not both; null takes one back."
            )
        return self


class DatasetConfig(LogConfig):
    """Which interactions, and how they are split."""

    k_core: int | None = Field(None, ge=2, description="keep users and items with so many interactions each")
    split: Annotated[str, one_of("dataset.split", SPLIT_RULES)] = Field(
        "random",
        description="random (of each user's interactions), or time: the first 70 % of all rows in order of "
        "time train, the next 10 % validate, the last 20 % test; rows of users and items that training does "
        "not know are left out and counted",
    )
    split_seed: Annotated[int, Field(ge=0)] | None = Field(
        None,
        description="seed of the split of each user's interactions; null: the run's seed, so that what is "
        "repeated with other seeds is repeated on other splits",
    )
    validation_share: float = Field(
        0.25,
        gt=0,
        lt=1 - TEST_SHARE,
        description="share of each user's interactions that all is chosen on, beside a quarter for test; "
        "0.25 in CIESS; with less, sizes are chosen for nearly as much training data as the last table has",
    )

    @model_validator(mode="after")
    def _check_split(self) -> "DatasetConfig":
        if self.split == "time":
            self._check_times()
        return self

    def _check_times(self) -> None:
        """Refuse what a split by time does not take."""
        if self.split_seed is not None:
            raise ConfigError("dataset.split_seed: dataset.split=time draws nothing; leave it out, or null.")
        if self.validation_share != type(self).model_fields["validation_share"].default:
            raise ConfigError(
                "dataset.validation_share: dataset.split=time validates on the 10 % of rows after the first "
                "70 %; leave it out."
            )
        if self.columns is not None and "timestamp" not in self.columns:
            raise ConfigError(
                "dataset.columns: dataset.split=time needs the column of times; name it too, e.g. "
                "{timestamp: date}."
            )


class RecommenderConfig(Section):
    """The base recommender whose table is to shrink."""

    #: d_min of CIESS: a row of nothing would be no row.
    min_embedding_size: ClassVar[int] = 1

    name: str = Field(
        "lightgcn",
        description=f"{', '.join(sorted(RECOMMENDERS))}, or package.module:ClassName for a class of your own",
    )
    options: dict[str, Any] = Field(
        default_factory=dict,
        description="what the recommender itself takes: l2, init_std; lightgcn and ngcf: num_layers; ngcf: "
        "node_dropout, message_dropout; spectral: user_exponent, item_exponent, spectrum_exponent; "
        "neighbours: user_exponent, item_exponent, outgoing; ease: l2, in interactions. Of a list "
        "(l2: [0.0001, 0.0003]) the first is what is searched with; what was chosen, equal sizes and "
        "the full table are trained with each of the others too, and keep what is best on validation. "
        "spectral, neighbours and ease try some values where none is given",
    )
    max_embedding_size: int = Field(128, description="d_max, the width of the full table; 128 in CIESS")
    # Whether there is a GPU is seen where the training runs, which need not be here.
    device: Annotated[str, one_of("device", DEVICES)] = Field(
        "auto", description="cpu, cuda, or auto: a GPU where there is one"
    )

    @model_validator(mode="after")
    def _check(self) -> "RecommenderConfig":
        lists = {name: value for name, value in self.options.items() if isinstance(value, list | tuple)}
        for name, values in lists.items():
            if not values:
                raise ConfigError(f"recommender.options.{name}: the list names none; leave it out.")
            refuse_twice(f"recommender.options.{name}", values)
        check_recommender(self.name, self.options_with())
        for name, values in lists.items():
            for value in values[1:]:
                check_recommender(self.name, self.options_with({name: value}))
        check_bounds(self.min_embedding_size, self.max_embedding_size)
        return self

    @property
    def weights_of_l2(self) -> list[Any]:
        """Those that options name, the first of which is searched with; None for the recommender's own."""
        l2 = self.options.get("l2")
        return list(l2) if isinstance(l2, list | tuple) else [l2]

    @property
    def other_options(self) -> dict[str, tuple[float, ...]]:
        """By option, the values that are tried beside what is searched with."""
        named = {
            name: tuple(value[1:]) for name, value in self.options.items() if isinstance(value, list | tuple)
        }
        by_default = find_recommender(self.name).tried
        return {name: values for name, values in by_default.items() if name not in self.options} | named

    def options_with(self, chosen: Mapping[str, float] | None = None) -> dict[str, Any]:
        """What its constructor is given, with values of some options, or else the first that are named."""
        first = {
            name: value[0] if isinstance(value, list | tuple) else value
            for name, value in self.options.items()
        }
        return first | dict(chosen or {})

    @property
    def num_tables(self) -> int:
        """Tables of the recommender in which every row has its size; the budget caps them together."""
        return find_recommender(self.name).num_tables

    @property
    def is_closed_form(self) -> bool:
        """Whether its table is computed, not trained."""
        return issubclass(find_recommender(self.name), ClosedForm)

    def row_counts(self, interactions: Interactions) -> tuple[int, int]:
        """Rows of its table that are users', of which there may be none, and rows that are items'."""
        return find_recommender(self.name).row_counts(interactions.num_users, interactions.num_items)

    def most_numbers(self, interactions: Interactions) -> int | None:
        """Numbers of a row that can say something of these data; None where all can."""
        return find_recommender(self.name).most_numbers(interactions.num_users, interactions.num_items)

    def id_bytes(self, interactions: Interactions) -> int:
        """Bytes that a parameter of its table has beside it in the packed file."""
        return find_recommender(self.name).id_bytes(interactions.num_items)


class ResourcesConfig(Section):
    """What each Ray process claims of the cluster; fractions share a CPU or a GPU."""

    num_cpus_per_env_runner: CpuClaim = Field(1.0, description="CPUs of an env runner, and its threads")
    num_gpus_per_env_runner: GpuClaim | None = Field(
        None,
        description="GPUs of an env runner; null: an equal share, at most one, where device is no cpu",
    )
    num_cpus_per_training: CpuClaim = Field(
        1.0, description="CPUs of a retraining or a test training, and its threads"
    )
    num_gpus_per_training: GpuClaim | None = Field(
        None, description="GPUs of such a training; null: as for env runners"
    )


class TrackingConfig(Section):
    """Where runs are recorded beside their folders."""

    mlflow: bool = Field(True, description="record the run in MLflow")
    uri: Uri = Field("sqlite:///mlflow.db", repr=False, description="MLflow's tracking store")
    experiment: str = Field("ciess-ray", description="MLflow's experiment")

    @field_validator("uri")
    @classmethod
    def _check_uri(cls, uri: str) -> str:
        if "@" in uri and not uri.startswith(("sqlite:", "file:")) and any(map(str.isspace, uri)):
            # Not shown: what is hidden of a URI ends at a blank.
            raise ConfigError("tracking.uri: a URI holds no blanks; write each in it as %20.")
        return uri


class RunConfig(Section):
    """One search: data, recommender, budget, agent."""

    dataset: DatasetConfig = Field(description="the interactions")
    budget: str | float | tuple[str | float, ...] = Field(
        "10%",
        description="0.1, 10%, '62000 params', or 64MB of packed file, or '8 a row', a mean size; the paper "
        "has 20, 10 and 5%. In a list the tightest comes first; the same search serves the others, each into "
        "a folder within output",
    )
    seed: int = Field(
        0,
        ge=0,
        le=MAX_SEED,
        description="every draw of the run comes from it, the split of the data included",
    )
    output: Place = Field(Path("runs/search"), description="folder of the result")
    cache: Place | None = Field(
        Path(".ciess-ray/cache"),
        description="where full-size fits and supernets are kept for the next search; null: in output",
    )
    recommender: RecommenderConfig = Field(default_factory=RecommenderConfig)
    training: TrainingSettings = Field(default_factory=TrainingSettings)
    search: SearchConfig = Field(default_factory=SearchConfig)
    agent: AgentConfig = Field(default_factory=AgentConfig)
    resources: ResourcesConfig = Field(default_factory=ResourcesConfig)
    tracking: TrackingConfig = Field(default_factory=TrackingConfig)

    @model_validator(mode="before")
    @classmethod
    def _take_preset(cls, values: Any) -> Any:
        """The fields that the mode sets where the user has not."""
        if not isinstance(values, Mapping):
            return values
        filled = {
            name: value.model_dump(exclude_unset=True) if isinstance(value, BaseModel) else value
            for name, value in values.items()
        }
        search = filled.get("search")
        mode = search.get("mode") if isinstance(search, Mapping) else None
        preset = {
            section: {**fields, **filled.get(section, {})}
            for section, fields in PRESETS.get(str(mode), {}).items()
            # What is no section is refused later, and by its own name.
            if isinstance(filled.get(section, {}), Mapping)
        }
        return filled | preset

    @field_validator("budget")
    @classmethod
    def _check_budget(cls, budget: Any) -> Any:
        budgets = budget if isinstance(budget, tuple) else (budget,)
        if not budgets:
            raise ConfigError("budget: the list names none; write budget: 10%, for instance.")
        refuse_equal_budgets("budget", budgets)
        return budgets if len(budgets) > 1 else budgets[0]

    @model_validator(mode="after")
    def _check_recommender(self) -> "RunConfig":
        """Refuse ways of a search that its recommender cannot go."""
        name, search = self.recommender.name, self.search
        check_temperature(self.training, find_recommender(name), name)
        if self.recommender.is_closed_form and search.step_mode not in ("auto", _MASKED):
            raise ConfigError(
                f"search.step_mode: {name} is computed, not trained, and a step masks what was computed: "
                "leave it out."
            )
        if search.tried_communities and not find_recommender(name).has_user_rows:
            raise ConfigError(
                f"search.tried_communities: these are of the rows of users, of which {name} has none; leave "
                "it out."
            )
        return self

    @property
    def step_mode(self) -> str:
        """Where a step's recommender comes from, a name in ``envs.step_modes.STEP_MODES``."""
        if self.recommender.is_closed_form:
            return _MASKED
        if self.search.step_mode != "auto":
            return self.search.step_mode
        return "supernet" if self.search.mode == "projected" else "fresh"

    @property
    def steps(self) -> StepMode:
        """What that mode does."""
        return STEP_MODES[self.step_mode]

    def with_options(self, chosen: Mapping[str, float]) -> "RunConfig":
        """The same run with these values of options alone; without any it is left as it is configured."""
        if not chosen:
            return self
        recommender = self.recommender.model_copy(update={"options": self.recommender.options_with(chosen)})
        return self.model_copy(update={"recommender": recommender})

    @property
    def step_training(self) -> TrainingSettings:
        """How a step of the search trains."""
        learning_rate = self.search.step_learning_rate or self.training.learning_rate
        return self.training.model_copy(update={"learning_rate": learning_rate})

    @property
    def split_seed(self) -> int:
        """Of the split of the data; 0 where nothing is drawn."""
        if self.dataset.split == "time":
            return 0
        return self.seed if self.dataset.split_seed is None else self.dataset.split_seed

    @property
    def memory_budgets(self) -> list[MemoryBudget]:
        """The budget and the looser ones, read."""
        budgets = self.budget if isinstance(self.budget, tuple) else (self.budget,)
        return [MemoryBudget.parse(budget) for budget in budgets]

    @property
    def checkpoint_folder(self) -> Path:
        """What a search needs to go on after it was killed."""
        return self.output / "checkpoints"

    @property
    def kept_folder(self) -> Path:
        """Where what is trained once is looked for and left."""
        return self.cache or self.checkpoint_folder
