"""What a run is told: checked models.

Every field carries its meaning, and its default the source. What can be known to be wrong is refused before
any work is done. ``yaml_file`` reads them.
"""

from collections.abc import Mapping
from pathlib import Path
from typing import Annotated, Any, Literal, NamedTuple

from pydantic import (
    BaseModel,
    Field,
    ValidationError,
    field_validator,
    model_validator,
)

from ciess_ray.config.agent import AgentConfig, SearchConfig
from ciess_ray.config.recommender import AUTO, RecommenderConfig
from ciess_ray.config.section import (
    CpuClaim,
    DataPlace,
    Duration,
    GpuClaim,
    Place,
    Section,
    Uri,
    one_of,
    refuse_equal_budgets,
    seconds_of,
)
from ciess_ray.config.yaml_values import read_yaml
from envs.budget import MemoryBudget
from envs.data import READERS, SAMPLES, TEST_SHARE
from envs.errors import ConfigError, within
from envs.recommenders import find_recommender
from envs.recommenders.losses import LOSSES
from envs.recommenders.training import TrainingSettings, check_temperature
from envs.step_modes import STEP_MODES, StepMode

#: RLlib seeds NumPy's global generator with it, which takes 32 bits, and its workers with the next ones.
MAX_SEED = 4_000_000_000
#: Of recommenders in closed form.
_MASKED = "masked"
#: How fields of training begin in a recipe, beside options of the recommender.
OF_TRAINING = "training."
#: How interactions are split into training, validation and test.
SPLIT_RULES = ("random", "time")
#: By ``search.mode``, the sections of a file of that name beside this one.
PRESETS: dict[str, dict[str, dict[str, Any]]] = {
    mode: read_yaml(Path(__file__).with_name(f"{mode}.yaml").read_text(encoding="utf-8"))
    for mode in ("paper", "reference")
}


class Way(NamedTuple):
    """A way to train.

    Attributes:
        options: What differs from what is searched with: fields of training, and options of the recommender.
        others: By option, the values that are tried beside that.
    """

    options: dict[str, Any]
    others: dict[str, tuple[float, ...]]


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
    validation_share: float | None = Field(
        None,
        gt=0,
        lt=1 - TEST_SHARE,
        description="share of each user's interactions that all is chosen on, beside a quarter for test; "
        "null: 50,000 of all interactions, a tenth at least, a quarter at most, which the modes paper and "
        "reference have; with less, sizes are chosen for nearly as much training data as the last table has",
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
        # The latter stands in folders of earlier versions.
        if self.validation_share not in (None, 0.25):
            raise ConfigError(
                "dataset.validation_share: dataset.split=time validates on the 10 % of rows after the first "
                "70 %; leave it out."
            )
        if self.columns is not None and "timestamp" not in self.columns:
            raise ConfigError(
                "dataset.columns: dataset.split=time needs the column of times; name it too, e.g. "
                "{timestamp: date}."
            )


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
    time: Duration | None = Field(
        None,
        description="what a search is given: 90s, 10m, 1h. What does not fit is left out: other ways to "
        "train what is chosen, communities, recipes, then batches and episodes; null: it takes what it takes",
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
        if isinstance(filled.get("recommender"), str):
            filled["recommender"] = {"name": filled["recommender"]}
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
        if self.recommender.is_auto:
            self._check_auto()
            return self
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
        for number, recipe in enumerate(search.tried_recipes):
            with within(f"search.tried_recipes, number {number + 1}"):
                tried = self.with_options(recipe)
                RecommenderConfig.model_validate(dict(tried.recommender))
                check_temperature(tried.training, find_recommender(name), name)
        return self

    def _check_auto(self) -> None:
        """Refuse what is said of one recommender where it is not known yet which one it is."""
        search = self.search
        if search.mode != "projected":
            raise ConfigError(
                f"recommender.name={AUTO}: search.mode={search.mode} trains one recommender as the paper "
                "does; name it."
            )
        if search.user_share < 1:
            raise ConfigError(
                f"search.user_share: recommender.name={AUTO} weighs all that is served, of everybody: leave "
                "it out, or name a recommender."
            )
        said = [
            *(OF_TRAINING + name for name in sorted(self.training.model_fields_set)),
            *(["search.tried_recipes"] if search.tried_recipes else []),
            *(["search.tried_communities"] if search.tried_communities else []),
            *([f"search.step_mode={search.step_mode}"] if search.step_mode != "auto" else []),
        ]
        if said:
            raise ConfigError(
                f"{', '.join(said)}: that is of one recommender, and recommender.name={AUTO} chooses among "
                "several, each trained as is found for it: leave it out, or name one."
            )

    @property
    def time_s(self) -> float | None:
        """Seconds that a search is given."""
        return None if self.time is None else seconds_of(self.time)

    @property
    def finds_recipe(self) -> bool:
        """Whether it is found from the data how recommenders are trained: nothing is said of it."""
        return self.search.mode == "projected" and not self.training.model_fields_set

    @property
    def ways(self) -> list[Way]:
        """All ways to train; first what is searched with."""
        ways = [Way({}, self.recommender.other_options)]
        for recipe in self.search.tried_recipes:
            recommender = self.with_options(recipe).recommender
            first = {name: recommender.options_with().get(name, value) for name, value in recipe.items()}
            ways.append(Way(first, recommender.other_options))
        return ways

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

    def with_options(self, chosen: Mapping[str, Any]) -> "RunConfig":
        """The same run with these values of options alone; without any it is left as it is configured.

        Args:
            chosen: Options of the recommender, and fields of training by dotted names.

        Raises:
            ConfigError: A field of training is none, or its value is wrong.
        """
        if not chosen:
            return self
        fields = {
            name.removeprefix(OF_TRAINING): value
            for name, value in chosen.items()
            if name.startswith(OF_TRAINING)
        }
        options = {name: value for name, value in chosen.items() if not name.startswith(OF_TRAINING)}
        recommender = self.recommender.model_copy(update={"options": self.recommender.options_with(options)})
        training = self.training
        if fields:
            if fields.get("loss") in [name for name, loss in LOSSES.items() if not loss.has_temperature]:
                # It goes with the loss that it is of, which may be found only later.
                fields = {"temperature": None} | fields
            try:
                training = TrainingSettings.model_validate({**training.model_dump(), **fields})
            except ValidationError as error:
                first = error.errors()[0]
                name = ".".join(map(str, first["loc"]))
                raise ConfigError(f"training.{name}: {first['msg']}.") from error
        return self.model_copy(update={"recommender": recommender, "training": training})

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
