"""``ciess_ray.sweep`` and ``ciess_ray.compare``."""

import contextlib
from pathlib import Path
from typing import TYPE_CHECKING, Any

from ciess_ray.config.yaml_file import section_names
from ciess_ray.front.progress import Progress, shown
from ciess_ray.front.ratings import Ratings
from ciess_ray.front.settings import settings_of

if TYPE_CHECKING:
    from ciess_ray.comparisons.results import ComparisonResults
    from ciess_ray.sweeps.results import SweepResults


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
) -> "SweepResults":
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
        The results: :meth:`SweepResults.table` has means over seeds.

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
        ...     "search": {"num_episodes": 1, "episode_length": 2, "supernet_batches": 10},
        ...     "agent": {"hiddens": [8], "updates_per_step": 1},
        ... }
        >>> results = ciess_ray.sweep(
        ...     ratings, user="customer", item="sku", base=base, space={"budget": ["25%"], "seed": [0]}
        ... )
        >>> results.table()["num_params"].astype(int).to_dict()
        {'full size': 256, 'equal sizes': 64, 'search': 64}
    """
    # PyTorch takes seconds to import, RLlib more.
    from ciess_ray.sweeps.config import SweepConfig, parse_sweep

    columns = {"user": user, "item": item, "rating": rating, "timestamp": timestamp}
    settings = settings_of("sweep", ratings, columns, output, fields, section_names(SweepConfig))
    plan = parse_sweep(settings.values, settings.source, settings.folder)
    settings.given.keep(Path(plan.config.output), overwrite=overwrite)

    from ciess_ray.sweeps.driver import sweep as run
    from ciess_ray.sweeps.live import SweepView

    with shown(progress, SweepView) as watcher:
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
        ...     methods=["equal sizes"],
        ... )
        >>> results.table()["num_params"].astype(int).to_dict()
        {'equal sizes': 64}
    """
    # PyTorch takes seconds to import, RLlib more.
    from ciess_ray.comparisons.config import ComparisonConfig, parse_comparison

    columns = {"user": user, "item": item, "rating": rating, "timestamp": timestamp}
    settings = settings_of("compare", ratings, columns, output, fields, section_names(ComparisonConfig))
    plan = parse_comparison(settings.values, settings.source, settings.folder)
    settings.given.keep(plan.config.output, overwrite=overwrite)

    from ciess_ray.comparisons.driver import compare as run
    from ciess_ray.comparisons.live import ComparisonLines

    with shown(progress, lambda console: contextlib.nullcontext(ComparisonLines(console))) as watcher:
        results, _ = run(plan, overwrite=overwrite, on_change=watcher)
    results.keeper = settings.keeper
    return results
