"""``ciess_ray.stream``, and what it gives."""

from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import pandas as pd

from ciess_ray.config.yaml_file import check_values, section_names
from ciess_ray.files.formats import read_parquet
from ciess_ray.front.settings import Ratings, settings_of
from ciess_ray.front.verbs import Progress, shown
from ciess_ray.names import STREAM_ROWS_FILE
from ciess_ray.serving.recommender import ServedRecommender
from ciess_ray.serving.stream_tables import tables_of
from envs.errors import check_name

#: Of a method's segments: what is a mean over those after the first, what the last one has, what all took.
_MEANS = (
    "test/recall@20",
    "test/ndcg@20",
    "test_cold/recall@20",
    "test_cold/ndcg@20",
    "validation/quality",
)
_LATEST, _SUMS = ("num_params", "num_bytes"), ("cpu_s",)


@dataclass(frozen=True, eq=False)
class StreamResults:
    """What a stream came to.

    Attributes:
        path: Its folder.
        rows: A row a segment and method, as in ``stream.parquet``.
        keeper: Where the folder is a temporary one, what it lives as long as.
    """

    path: Path
    rows: pd.DataFrame = field(repr=False)
    keeper: object | None = field(default=None, repr=False)

    def table(self) -> pd.DataFrame:
        """What each method came to: a row each, by name.

        Recall, NDCG and validation quality are means over the segments after the first; parameters and bytes
        are those of the last segment, where there is a table; CPU seconds are of all.
        """
        names = [name for name in (*_MEANS, *_LATEST, *_SUMS) if name in self.rows]
        figures = self.rows[names].astype(float)
        later = figures.where(self.rows["segment"] > 0)
        by_method = self.rows["method"]
        columns = {
            name: (later if name in _MEANS else figures)[name].groupby(by_method, sort=False)
            for name in names
        }
        return pd.DataFrame(
            {
                name: of.mean() if name in _MEANS else of.last() if name in _LATEST else of.sum()
                for name, of in columns.items()
            }
        )

    def recommender(self, method: str | None = None) -> ServedRecommender:
        """What serves a method's table of the latest segment, without Ray and PyTorch.

        Args:
            method: Its name; None for the one that validation likes best in that segment.

        Raises:
            ResultError: No method has a table, or its files, or the stream's, are missing or damaged.
            UnknownNameError: There is no such method with a table.
        """
        folders = {folder.name.replace("-", " "): folder for folder in tables_of(self.path) or ()}
        name = next(iter(folders)) if method is None else method
        return ServedRecommender.open(folders[check_name("method with a table", name, folders)])


def stream(
    ratings: Ratings | None = None,
    budget: str | float | None = None,
    *,
    user: str | None = None,
    item: str | None = None,
    timestamp: str | None = None,
    output: str | Path | None = None,
    overwrite: bool = False,
    progress: Progress = None,
    **fields: Any,
) -> StreamResults:
    """Keep a table within its budget while users and items keep coming.

    The log is followed segment by segment: in each every method decides all sizes anew, its last table is
    resized to them and trained on, and is tested on what came next. Nothing is written that was not asked
    for: without ``output`` the folder is a temporary one, as long as the results are in use.

    Args:
        ratings: A DataFrame with a row an interaction, the path of such a file, or what
            :func:`envs.data.read_interactions` gave, with times in each case; of rows with the same user and
            item the first counts. The path of a YAML file is a whole configuration.
        budget: ``"62000 params"`` or ``"64MB"``, in every segment, or a share of each segment's full table.
            None: what the YAML file says, or 10 %.
        user: Name of the column of users. Where no column is named these are user_id, item_id and timestamp.
        item: Name of the column of items.
        timestamp: Name of the column of times.
        output: Folder of the stream, in which ``ciess-ray stream --resume`` goes on with it.
        overwrite: Whether a stream in that folder may be replaced.
        progress: True shows it, False does not, None does in a notebook and at a terminal; a function is
            called with each piece of news.
        **fields: What else a YAML file says (``ciess-ray fields --stream`` lists it): sections are mappings,
            ``segments={"period": "month"}``, or their fields, ``**{"segments.period": "month"}``.

    Returns:
        The results: :meth:`StreamResults.table`, :meth:`StreamResults.recommender`, rows and folder.

    Raises:
        CiessError: Before minutes are lost: data, budget, a field or the output folder are wrong.

    Example:
        >>> import pandas as pd, ciess_ray
        >>> numbers = range(160)
        >>> purchases = pd.DataFrame(
        ...     {
        ...         "customer": [f"c{n % 20}" for n in numbers],
        ...         "sku": [f"s{n * n % 23}" for n in numbers],
        ...         "date": [f"2024-{1 + n // 40:02}-{1 + n % 28:02}" for n in numbers],
        ...     }
        ... )
        >>> results = ciess_ray.stream(
        ...     purchases, budget="25%", user="customer", item="sku", timestamp="date",
        ...     segments={"period": "month"}, methods=["equal sizes", "split"],
        ...     recommender={"max_embedding_size": 8},
        ...     training={"batch_size": 64, "batches": 20, "warm_batches": 10},
        ... )
        >>> results.rows.groupby("method", sort=False)["num_params"].agg(list).to_dict()
        {'equal sizes': [64, 64, 64, 64], 'split': [64, 64, 64, 64]}
        >>> served = results.recommender("split")
        >>> served.recommend(["c17", "somebody new"], k=2, unknown="popular").items.shape
        (2, 2)
    """
    # PyTorch takes seconds to import.
    from ciess_ray.streaming.config import StreamConfig

    settings = settings_of(
        "stream", ratings, (user, item, None, timestamp), output, fields, section_names(StreamConfig)
    )
    if budget is not None:
        settings.values["budget"] = budget
    config = check_values(StreamConfig, settings.values, settings.source)

    from ciess_ray.streaming.driver import cut_log, run_stream
    from ciess_ray.streaming.folder import StreamFolder
    from ciess_ray.streaming.live import StreamView

    folder = StreamFolder(config.output)
    folder.check(overwrite=overwrite)
    if settings.log is not None:
        # Those that a stream in the folder goes on with give way to what can be followed alone.
        cut_log(config, settings.log)
        with folder.held():
            settings.keep_ratings(overwrite=overwrite)
    with shown(progress, StreamView) as watcher:
        run_stream(config, overwrite=overwrite, on_progress=watcher)
    rows = read_parquet(config.output / STREAM_ROWS_FILE).to_pandas()
    return StreamResults(config.output, rows, settings.keeper)
