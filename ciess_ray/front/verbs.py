"""``ciess_ray.search``, ``ciess_ray.sweep``, ``ciess_ray.compare`` and ``ciess_ray.load_result``."""

import contextlib
from collections.abc import Callable, Iterator, Sequence
from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING, Any, TypeAlias

from ciess_ray.config.yaml_file import choosing, parse_config, section_names
from ciess_ray.front.settings import Ratings, settings_of
from ciess_ray.names import COMPARISON_FILE, STREAM_FILE, SWEEP_FILE
from ciess_ray.result import RESULT_FILE, SearchResult, check_output
from ciess_ray.searches.live import LiveView, RunsView, SearchView
from ciess_ray.terminal import console, in_notebook
from envs.errors import ResultError

if TYPE_CHECKING:
    from ciess_ray.comparisons.results import ComparisonResults
    from ciess_ray.sweeps.results import SweepResults
    from ciess_ray.sweeps.streams import StreamSweepResults

#: None: where somebody watches; True, False: always, never; a function is called with each piece of news.
Progress: TypeAlias = bool | Callable[[Any], None] | None


def search(
    ratings: Ratings | None = None,
    budget: str | float | Sequence[str | float] | None = None,
    *,
    user: str | None = None,
    item: str | None = None,
    rating: str | None = None,
    timestamp: str | None = None,
    output: str | Path | None = None,
    overwrite: bool = False,
    progress: Progress = None,
    **fields: Any,
) -> SearchResult:
    """Find the embedding sizes that rank best under a budget.

    Works in the Ray that runs, a user's own too, and leaves it running; else starts one on this machine for
    the length of the search. Nothing is written that was not asked for: without ``output`` the result lies in
    a temporary folder as long as it is in use, and MLflow records where a field of ``tracking`` says so.

    Args:
        ratings: A DataFrame with a row an interaction, the path of such a file, what
            :func:`envs.data.read_interactions` gave, or :class:`envs.data.Interactions`, whose splits are
            taken. The path of a YAML file is a whole configuration.
        budget: ``"10%"``, ``0.1``, ``"62000 params"`` or ``"64MB"``; of several the first is the tightest,
            which is searched, and :meth:`SearchResult.looser` has the others. None: what the YAML file says,
            or 10 %.
        user: Name of the column of users. Where no column is named these are user_id, item_id and, where
            they exist, rating and timestamp.
        item: Name of the column of items.
        rating: Name of the column of ratings.
        timestamp: Name of the column of times, which tells of two rows with one user and item which is later.
        output: Folder of the result, in which ``ciess-ray search --resume`` goes on with a search that was
            broken off.
        overwrite: Whether a result in that folder may be replaced.
        progress: True shows it, False does not, None does in a notebook and at a terminal; a function is
            called with each piece of news.
        **fields: What else a YAML file says (``ciess-ray fields`` lists it): sections are mappings,
            ``training={"max_batches": 700}``, or their fields, ``**{"training.max_batches": 700}``.

    Returns:
        The result: :meth:`SearchResult.table`, :meth:`SearchResult.recommend`, and its folder. What
        recommends was trained on all interactions; what the table has figures of was trained without test.

    Raises:
        CiessError: Before minutes are lost: data, budget, a field or the output folder are wrong.

    Example:
        >>> import pandas as pd, ciess_ray
        >>> numbers = range(160)
        >>> ratings = pd.DataFrame(
        ...     {"customer": [f"c{n % 20}" for n in numbers], "sku": [f"s{n * n % 23}" for n in numbers]}
        ... )
        >>> result = ciess_ray.search(
        ...     ratings, budget="25%", user="customer", item="sku",
        ...     recommender={"max_embedding_size": 8},
        ...     training={"batch_size": 64, "max_batches": 20, "evaluate_every": 10},
        ...     search={"num_episodes": 1, "episode_length": 2, "supernet_batches": 10, "num_candidates": 1},
        ...     agent={"hiddens": [8], "updates_per_step": 1},
        ... )
        >>> result.table()["num_params"].tolist()
        [256, 64, 64]
        >>> result.recommend(["c17"], k=2)[["user", "rank"]].values.tolist()
        [['c17', 1], ['c17', 2]]
    """
    settings = settings_of(
        "search", ratings, (user, item, rating, timestamp), output, fields, section_names()
    )
    values = settings.values
    if budget is not None:
        values["budget"] = budget if isinstance(budget, str | float | int) else list(budget)
    # The command line keeps one in the folder that one stands in.
    values.setdefault("cache", None)
    config = parse_config(choosing(values), settings.source)
    check_output(config.output, overwrite=overwrite)
    settings.keep_ratings(overwrite=overwrite)

    # RLlib takes seconds to import, which a mistake in a field should not have to wait for.
    from ciess_ray.searches.driver import search as run

    with shown(progress, SearchView) as watcher:
        result = run(config, overwrite=overwrite, on_progress=watcher)
    return replace(result, keeper=settings.keeper)


def sweep(
    ratings: Ratings | None = None,
    *,
    user: str | None = None,
    item: str | None = None,
    rating: str | None = None,
    timestamp: str | None = None,
    output: str | Path | None = None,
    overwrite: bool = False,
    progress: Progress = None,
    **fields: Any,
) -> "SweepResults | StreamSweepResults":
    """Run many searches that differ in some fields, side by side, and compare them.

    Ray, files and MLflow are treated as by :func:`ciess_ray.search`.

    Args:
        ratings: The data of all searches, as there; or the path of a YAML file of a sweep. None: ``base``
            names the data.
        user: Name of the column of users.
        item: Name of the column of items.
        rating: Name of the column of ratings.
        timestamp: Name of the column of times.
        output: Folder of the sweep, or a URI, in which ``ciess-ray sweep --resume`` goes on with it.
        overwrite: Whether a sweep in that folder may be replaced.
        progress: As there.
        **fields: What a sweep's YAML file says: ``base``, what all searches share, a YAML file or its fields;
            ``space``, the fields that differ, each with the list of its values; and what ``ciess-ray fields
            --sweep`` lists.

    Returns:
        The results: :meth:`SweepResults.table` has means over seeds, that of streams every segment.

    Raises:
        CiessError: Before any search starts: data, a budget, a field or the output are wrong.

    Example:
        >>> import pandas as pd, ciess_ray
        >>> numbers = range(160)
        >>> ratings = pd.DataFrame(
        ...     {"customer": [f"c{n % 20}" for n in numbers], "sku": [f"s{n * n % 23}" for n in numbers]}
        ... )
        >>> base = {
        ...     "recommender": {"max_embedding_size": 8, "device": "cpu"},
        ...     "training": {"batch_size": 64, "max_batches": 20, "evaluate_every": 10},
        ...     "search": {
        ...         "num_episodes": 1, "episode_length": 2, "supernet_batches": 10, "num_candidates": 1
        ...     },
        ...     "agent": {"hiddens": [8], "updates_per_step": 1},
        ... }
        >>> results = ciess_ray.sweep(
        ...     ratings, user="customer", item="sku", base=base, space={"budget": ["25%"], "seed": [0]}
        ... )
        >>> results.table()["num_params"].astype(int).to_dict()
        {'full size': 256, 'equal sizes': 64, 'search': 64}
    """
    # PyTorch takes seconds to import, RLlib more.
    from ciess_ray.sweeps.config import SweepConfig, SweepPlan

    settings = settings_of(
        "sweep", ratings, (user, item, rating, timestamp), output, fields, section_names(SweepConfig)
    )
    plan = SweepPlan.of(settings.values, settings.source, settings.folder)
    settings.keep_ratings(overwrite=overwrite)

    from ciess_ray.sweeps.driver import sweep as run

    with shown(progress, RunsView) as watcher:
        results = run(plan, overwrite=overwrite, on_change=watcher)
    results.keeper = settings.keeper
    return results


def compare(
    ratings: Ratings | None = None,
    *,
    user: str | None = None,
    item: str | None = None,
    rating: str | None = None,
    timestamp: str | None = None,
    output: str | Path | None = None,
    overwrite: bool = False,
    progress: Progress = None,
    **fields: Any,
) -> "ComparisonResults":
    """Compare the search with what one would do by hand, and with other methods, at the same budgets.

    Ray, files and MLflow are treated as by :func:`ciess_ray.search`.

    Args:
        ratings: The data of all cells, as there; or the path of a YAML file of a comparison. None: ``base``
            names the data.
        user: Name of the column of users.
        item: Name of the column of items.
        rating: Name of the column of ratings.
        timestamp: Name of the column of times.
        output: Folder of the comparison; cells that it holds are not computed again.
        overwrite: Whether cells of other settings in that folder are computed anew.
        progress: As there.
        **fields: What a comparison's YAML file says: ``base``, ``space`` and ``methods``, and what
            ``ciess-ray fields --comparison`` lists.

    Returns:
        The results: :meth:`ComparisonResults.table` has means over seeds, and the search against each method.

    Raises:
        CiessError: Before any cell starts: data, a budget, a field or the output are wrong.

    Example:
        >>> import pandas as pd, ciess_ray
        >>> numbers = range(160)
        >>> ratings = pd.DataFrame(
        ...     {"customer": [f"c{n % 20}" for n in numbers], "sku": [f"s{n * n % 23}" for n in numbers]}
        ... )
        >>> base = {
        ...     "recommender": {"max_embedding_size": 8, "device": "cpu"},
        ...     "training": {"batch_size": 64, "max_batches": 20, "evaluate_every": 10},
        ... }
        >>> results = ciess_ray.compare(
        ...     ratings, user="customer", item="sku", base=base, space={"budget": ["25%"]},
        ...     methods=["equal sizes"], yardsticks=[],
        ... )
        >>> int(results.table().loc["equal sizes", "num_params"])
        64
    """
    # PyTorch takes seconds to import, RLlib more.
    from ciess_ray.comparisons.config import ComparisonConfig, ComparisonPlan

    settings = settings_of(
        "compare", ratings, (user, item, rating, timestamp), output, fields, section_names(ComparisonConfig)
    )
    plan = ComparisonPlan.of(settings.values, settings.source, settings.folder)
    settings.keep_ratings(overwrite=overwrite)

    from ciess_ray.comparisons.driver import compare as run

    with shown(progress, RunsView) as watcher:
        results = run(plan, overwrite=overwrite, on_change=watcher)
    results.keeper = settings.keeper
    return results


def load_result(path: str | Path) -> SearchResult:
    """Read the folder of a finished search, without Ray.

    Args:
        path: The folder.

    Raises:
        ResultError: There is no finished search, or a file of it is missing or damaged.

    Example:
        >>> import ciess_ray
        >>> result = ciess_ray.load_result("runs/quickstart")
        >>> result.recommend([17], k=2)["rank"].tolist()
        [1, 2]
    """
    path = Path(path)
    for file, what in ((SWEEP_FILE, "sweep"), (COMPARISON_FILE, "comparison"), (STREAM_FILE, "stream")):
        if (path / file).exists() and not (path / RESULT_FILE).exists():
            raise ResultError(f"{path}: is the folder of a {what}; 'ciess-ray report {path}' tells of it.")
    return SearchResult.load(path)


@contextlib.contextmanager
def shown(progress: Progress, view: type[LiveView]) -> Iterator[Callable[[Any], None] | None]:
    """What is to be called with each piece of news, where anything is."""
    is_watched = console.is_terminal or in_notebook()
    if callable(progress):
        yield progress
    elif progress or (progress is None and is_watched):
        with view(console) as watcher:
            yield watcher
    else:
        yield None
