"""What ``recommender_table.py`` measures: data sets, recipes, and the cells, what is soon done first."""

from collections.abc import Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from ciess_ray.config.run import RunConfig
from ciess_ray.config.yaml_file import parse_config, put_overrides
from ciess_ray.names import YARDSTICKS
from envs.errors import DataError

#: Columns of a full table; of neighbour tables, neighbours of an item.
WIDTH = 128
#: Splits that things are built on, and those that are read once, when nothing changes any more.
BUILDING, HELD_OUT = (0, 1, 2), (1000, 1001, 1002)
FULL, FIFTH, TENTH, TWENTIETH = "100%", "20%", "10%", "5%"
#: Of a yardstick, which keeps to no budget.
UNCUT = "uncut"
BUDGETS = UNCUT, FULL, FIFTH, TENTH, TWENTIETH


@dataclass(frozen=True)
class DataSet:
    """Where interactions come from.

    Attributes:
        title: For people.
        file: Its name in the folder of data; None for what pip brings.
        num_interactions: About how many there are.
        validation_share: As of the configurations of this data, and the same for all recommenders.
    """

    title: str
    file: str | None
    num_interactions: int
    validation_share: float = 0.25

    def overrides(self, folder: Path) -> list[str]:
        """What a configuration is told of it."""
        share = f"dataset.validation_share={self.validation_share}"
        if self.file is None:
            return [share, "dataset.path=null", "dataset.sample=movielens-latest-small"]
        return [share, "dataset.sample=null", f"dataset.path={folder / self.file}"]


DATA_SETS = {
    "latest-small": DataSet("MovieLens latest-small", None, 100_000),
    "ml-100k": DataSet("MovieLens-100K", "ml-100k.inter", 100_000),
    "online-retail-2": DataSet("Online Retail II", "online-retail-2.parquet", 480_000),
    "ml-1m": DataSet("MovieLens-1M", "ml-1m.parquet", 1_000_000, 0.1),
    "gowalla": DataSet("Gowalla", "gowalla.parquet", 1_030_000, 0.1),
}


#: What a softmax over the catalogue wants where inner products are trained: little to begin with, and L2.
_SOFTMAX = {
    "training.loss": "full_softmax",
    "training.positives": "interaction",
    "training.batch_size": 8192,
    "recommender.options.init_std": 0.01,
}
_LIGHTGCN = _SOFTMAX | {"training.learning_rate": 0.05, "recommender.options.l2": 0.01}
_ML1M = _SOFTMAX | {"training.positives": "user", "training.batch_size": 20_000}
#: By data set and recommender what validation likes, one thing changed at a time (``training_recipe.py``).
FIELDS: dict[tuple[str, str], dict[str, Any]] = {
    ("latest-small", "lightgcn"): _LIGHTGCN | {"recommender.options.num_layers": 3},
    ("ml-100k", "lightgcn"): _LIGHTGCN
    | {"training.learning_rate": 0.15, "recommender.options.num_layers": 3},
    ("online-retail-2", "lightgcn"): _LIGHTGCN | {"recommender.options.num_layers": 2},
    ("online-retail-2", "mf"): _SOFTMAX | {"training.learning_rate": 0.03, "recommender.options.l2": 0.05},
    # As configs/ml-1m-lightgcn.yaml; in a minute a softmax is ahead of it, in five it is behind.
    ("ml-1m", "lightgcn"): {
        "training.loss": "bpr",
        "training.positives": "user",
        "training.learning_rate": 0.5,
        "training.batch_size": 20_000,
        "training.evaluate_every": 100,
        "training.patience": "null",
        "recommender.options.l2": [0.00025, 0.0005],
        "recommender.options.init_std": 0.1,
        "recommender.options.num_layers": 3,
    },
    ("ml-1m", "ngcf"): _ML1M | {"training.learning_rate": 0.05, "recommender.options.l2": 0.01},
    ("ml-1m", "mf"): _ML1M | {"training.learning_rate": 0.03, "recommender.options.l2": 0.1},
    ("gowalla", "lightgcn"): {
        "training.loss": "softmax",
        "training.positives": "interaction",
        "training.temperature": 0.1,
        "training.learning_rate": 0.03,
        "training.batch_size": 32_768,
        "recommender.options.l2": 1e-5,
        "recommender.options.init_std": 0.1,
        "recommender.options.num_layers": 2,
    },
    ("gowalla", "mf"): _SOFTMAX
    | {
        "training.loss": "softmax",
        "training.learning_rate": 0.03,
        "training.batch_size": 16_384,
        "recommender.options.l2": 0.1,
    },
}


#: What narrower tables differ in. MF's optimum of L2 falls with the columns; LightGCN's inner products on
#: Gowalla are a sixth better than cosines at 13 columns, and need longer at 128; on MovieLens-1M a softmax is
#: better where columns are few.
_NARROW: dict[tuple[str, str], dict[str, Any]] = {
    ("gowalla", "lightgcn"): _SOFTMAX
    | {
        "training.loss": "softmax",
        "training.temperature": "null",
        "training.learning_rate": 0.1,
        "training.batch_size": 32_768,
        "training.decay_every": 15,
        "training.max_batches": 360,
        "recommender.options.l2": 0.03,
        "recommender.options.num_layers": 3,
    },
    ("ml-1m", "lightgcn"): _ML1M
    | {
        "training.learning_rate": 0.15,
        "training.decay_every": 17,
        "training.max_batches": 400,
        "training.evaluate_every": 20,
        "training.patience": 5,
        "recommender.options.l2": 0.01,
    },
    ("gowalla", "mf"): {"recommender.options.l2": [0.1, 0.03, 0.01]},
    ("ml-1m", "mf"): {"recommender.options.l2": [0.1, 0.03, 0.01]},
}
#: Batches between two decays of the learning rate by 0.9, and in all. A closed form needs none: what it tries
#: on validation is its own.
_SCHEDULES = {
    ("latest-small", "lightgcn"): (20, 400),
    ("ml-100k", "lightgcn"): (20, 400),
    ("online-retail-2", "mf"): (23, 540),
    ("online-retail-2", "lightgcn"): (17, 400),
    ("ml-1m", "lightgcn"): (25, 1400),
    ("ml-1m", "mf"): (39, 900),
    ("ml-1m", "ngcf"): (11, 260),
    ("gowalla", "lightgcn"): (12, 240),
    ("gowalla", "mf"): (35, 820),
}


def _recipe(data: str, recommender: str, budget: str) -> list[str]:
    """What is set of a training; the package's defaults where nothing is said."""
    if (data, recommender) not in FIELDS:
        return []
    decay_every, max_batches = _SCHEDULES[data, recommender]
    schedule = {
        "training.decay_every": decay_every,
        "training.max_batches": max_batches,
        "training.evaluate_every": 20,
    }
    narrow = _NARROW.get((data, recommender), {}) if budget != FULL else {}
    fields = schedule | FIELDS[data, recommender] | narrow
    return [f"{name}={value}" for name, value in fields.items()]


#: By their names in a configuration, about how many times as long as ``spectral`` they take.
RECOMMENDERS = {
    "spectral": 1,
    "neighbours": 5,
    "ease": 10,
    "mf": 200,
    "lightgcn": 300,
    "ngcf": 600,
}
_YARDSTICK_WEIGHT = 5
LINEAR = "spectral", "neighbours", "ease"
#: Recommenders and yardsticks, in the order of the table; ``ease`` is both.
NAMES = *RECOMMENDERS, *(name for name in YARDSTICKS if name not in RECOMMENDERS)


@dataclass(frozen=True)
class Cell:
    """One row of the table: a recommender at equal sizes, on one split of one data set.

    Attributes:
        data: In :data:`DATA_SETS`.
        recommender: In :data:`NAMES`.
        budget: As a share of the recommender's own full table; :data:`UNCUT` of a yardstick.
        split: The seed of the split, and of all draws.
    """

    data: str
    recommender: str
    budget: str
    split: int

    def __str__(self) -> str:
        return f"{self.recommender} at {self.budget} on {self.data}, split {self.split}"

    @property
    def key(self) -> dict[str, Any]:
        """What its row begins with."""
        return vars(self)

    @property
    def is_yardstick(self) -> bool:
        """Whether it has no table of sized rows."""
        return self.budget == UNCUT

    @property
    def cost(self) -> float:
        """About how long it takes, beside others."""
        weight = _YARDSTICK_WEIGHT if self.is_yardstick else RECOMMENDERS[self.recommender]
        return weight * DATA_SETS[self.data].num_interactions

    def config(self, folder: Path) -> RunConfig:
        """Its run; of a yardstick the data and the seed alone count.

        Args:
            folder: Where data lie.

        Raises:
            ConfigError: Its recipe is wrong.
        """
        asked = [f"seed={self.split}"]
        if not self.is_yardstick:
            asked += [
                f"recommender.name={self.recommender}",
                f"recommender.max_embedding_size={WIDTH}",
                f"budget={self.budget}",
            ]
        overrides = [
            *DATA_SETS[self.data].overrides(folder),
            *_recipe(self.data, self.recommender, self.budget),
            *asked,
        ]
        return parse_config(put_overrides({}, overrides), str(self))


@dataclass(frozen=True)
class Selection:
    """Which cells; all where nothing is named.

    Attributes:
        data: Data sets.
        recommenders: Recommenders.
        budgets: Budgets.
        splits: Seeds.
    """

    data: Sequence[str] = ()
    recommenders: Sequence[str] = ()
    budgets: Sequence[str] = ()
    splits: Sequence[int] = field(default=())

    def __contains__(self, cell: Cell) -> bool:
        wanted = (self.data, cell.data), (self.recommenders, cell.recommender)
        wanted = *wanted, (self.budgets, cell.budget), (self.splits, cell.split)
        return all(not names or name in names for names, name in wanted)


def planned(splits: Sequence[int] = BUILDING) -> list[Cell]:
    """All cells of some splits, those that are soon done first; what takes hours has fewer."""
    small, first = [name for name in DATA_SETS if name != "gowalla"], splits[:1]
    shares = FULL, TENTH, TWENTIETH
    grid: list[tuple[Sequence[str], Sequence[str], Sequence[str], Sequence[int]]] = [
        (list(DATA_SETS), YARDSTICKS, [UNCUT], splits),
        (small, [*LINEAR, "lightgcn"], shares, splits),
        (["gowalla"], LINEAR, shares, splits),
        (["gowalla"], ["lightgcn"], [FULL], splits),
        # The sparsities that BET (WSDM 2024) publishes equal sizes of.
        (["gowalla"], ["lightgcn"], [FIFTH, TENTH, TWENTIETH], first),
        (["online-retail-2", "gowalla"], ["mf"], [FULL], splits),
        (["ml-1m"], ["mf"], [FULL], first),
        (["ml-1m", "gowalla"], ["mf"], [TENTH], first),
        (["ml-1m"], ["ngcf"], [FULL, TENTH], first),
    ]
    cells = [
        Cell(data, recommender, budget, split)
        for names, recommenders, budgets, its_splits in grid
        for data in names
        for recommender in recommenders
        for split in its_splits
        for budget in budgets
    ]
    return sorted(cells, key=lambda cell: (cell.cost, cell.split))


def check_files(cells: Sequence[Cell], folder: Path) -> None:
    """See that all data are there before any work.

    Raises:
        DataError: Naming the files that are not.
    """
    files = {folder / file for cell in cells if (file := DATA_SETS[cell.data].file)}
    missing = sorted(str(file) for file in files if not file.exists())
    if missing:
        raise DataError(f"{', '.join(missing)}: not there; bring the data, or leave them out with --data.")
