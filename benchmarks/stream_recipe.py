r"""What a stream's LightGCN owes to its recipe and what to its width: one thing at a time, on validation.

    OMP_NUM_THREADS=1 python benchmarks/stream_recipe.py online-retail-2.parquet
    OMP_NUM_THREADS=1 python benchmarks/stream_recipe.py online-retail-2.parquet --seeds 1 2 \
        --only default "former, learning rate 0.1" "half-life 0.5 segments" \
        "half of the positives of this segment"

Each recipe follows the stream of ``stream_warm.py``, its table resized from segment to segment, at sizes of
which users get a share of the parameters; all others are the default with one thing changed. Beside
them are item cosine and the truncated SVD of what LightGCN propagates with, which is not trained: it says
what a table of so many columns holds. A row a segment is appended when a stream is through, and none is run
twice.

Nothing is tested on; what the default has on test stands in ``results/stream-warm.csv``.
"""

import argparse
import statistics
import time
from collections.abc import Iterator
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray
from scipy.sparse import csr_array
from scipy.sparse.linalg import svds
from stream_warm import FIRST_SEGMENT, L2, MAX_EMBEDDING_SIZE, append_rows, read_rows, sizes_of

from ciess_ray.streaming.config import StreamTraining
from ciess_ray.streaming.judging import Ranker, judge
from ciess_ray.streaming.recommender import PackedRecommender, train_segment
from ciess_ray.streaming.segment import SegmentData, segment_data
from ciess_ray.streaming.yardsticks import item_cosine
from envs.data import read_interactions
from envs.data.stream import Stream, cut_stream
from envs.metrics import CUTOFFS
from envs.recommenders.evaluation import rank_items
from envs.recommenders.losses import BPR, RankingLoss, SampledSoftmax
from envs.recommenders.propagation import symmetric_weights
from envs.recommenders.training import Recipe
from envs.sizes.embedding_sizes import EmbeddingSizes
from envs.yardsticks import best_by

NUM_NEIGHBOURS, WARM_BATCHES = 10, 150
HALF = "half"


@dataclass(frozen=True)
class Way:
    """How the tables of a stream are trained.

    Attributes:
        learning_rate: First one of a training from scratch.
        warm_learning_rate: First one of a later segment's.
        num_negatives: Shared by a batch, of a sampled softmax; None is BPR.
        half_life: Positives are drawn by interaction, and after so many segments one is half as likely;
            :data:`HALF` draws one half from this segment's and one from all before. None draws by user, as
            CIESS does.
        num_layers: Of LightGCN.
        is_full: Whether everybody has d_max, whatever the budget.
    """

    learning_rate: float = 0.3
    warm_learning_rate: float = 0.5
    num_negatives: int | None = None
    half_life: float | str | None = None
    num_layers: int = 3
    is_full: bool = False


DEFAULT = Way()
FORMER = "former, learning rate 0.1"
WAYS = {
    FORMER: replace(DEFAULT, learning_rate=0.1, warm_learning_rate=0.1),
    "default": DEFAULT,
    "half-life 0.5 segments": replace(DEFAULT, half_life=0.5),
    "half of the positives of this segment": replace(DEFAULT, half_life=HALF),
    "1 layer": replace(DEFAULT, num_layers=1),
    "softmax, 128 negatives": replace(DEFAULT, num_negatives=128),
    "full size": replace(DEFAULT, is_full=True),
    "full size, learning rate 0.1": replace(DEFAULT, is_full=True, learning_rate=0.1, warm_learning_rate=0.1),
    "full size, learning rate 0.03": replace(
        DEFAULT, is_full=True, learning_rate=0.03, warm_learning_rate=0.03
    ),
}
#: Not trained, and without a budget.
SVD_COLUMNS = (9, 16, 32, 64)
COSINE = "item cosine"


class OfLate(BPR):
    """Draws positives in proportion to a weight of each training interaction, shape (nnz,)."""

    def __init__(self, train: csr_array, batch_size: int, weights: NDArray[np.float64]) -> None:
        super().__init__(train, batch_size)
        self._ends = np.cumsum(weights)
        self._user_of = np.repeat(np.arange(train.shape[0]), self.num_positives)

    def draw_positives(self, rng: np.random.Generator) -> tuple[NDArray[np.int64], NDArray[np.int64]]:
        """Users, ascending, and one of the items of each."""
        drawn = np.sort(rng.random(self.batch_size)) * self._ends[-1]
        row = np.minimum(np.searchsorted(self._ends, drawn, side="right"), len(self._ends) - 1)
        return self._user_of[row], self.train.indices[row].astype(np.int64)


def recipe_of(way: Way, data: SegmentData, *, is_warm: bool) -> Recipe:
    """The recipe of a segment's training."""
    train = data.interactions.train
    training = StreamTraining(
        learning_rate=way.learning_rate,
        warm_learning_rate=way.warm_learning_rate,
        warm_batches=WARM_BATCHES,
    )
    settings, options = training.settings(is_warm=is_warm), {"l2": L2, "num_layers": way.num_layers}
    recipe = Recipe(train, settings, "lightgcn", options)
    loss: RankingLoss | None = None
    if way.half_life is not None:
        loss = OfLate(train, settings.batch_size, weights_of(data, way.half_life))
    elif way.num_negatives is not None:
        loss = SampledSoftmax(train, settings.batch_size, way.num_negatives)
    if loss is not None:
        object.__setattr__(recipe, "loss", loss)
    return recipe


def weights_of(data: SegmentData, half_life: float | str) -> NDArray[np.float64]:
    """What each training interaction counts as a positive, in the order of the matrix."""
    starts = np.array([segment.start for segment in data.past.segments])
    ages = data.number - (np.searchsorted(starts, np.arange(data.past.num_rows), side="right") - 1)
    is_new = ages == 0
    if half_life == HALF:
        weights = np.where(is_new, 1 / is_new.sum(), 1 / max((~is_new).sum(), 1))
    else:
        weights = 0.5 ** (ages / float(half_life))
    pairs = data.past.user, data.past.item
    return np.asarray(csr_array((weights, pairs), data.interactions.train.shape).data)


def figures_of(data: SegmentData, rank: Ranker) -> dict[str, float]:
    interactions, nobody = data.interactions, np.full(max(CUTOFFS), -1)
    summary = judge(rank, interactions.validation, interactions.train, data.cold_validation, nobody)
    figures = summary.known.summary()
    return {f"validation/{key}": figures[key] for key in ("recall@20", "ndcg@20")}


def follow(
    stream: Stream, way: Way, user_share: float, cap_params: int, seed: int
) -> Iterator[dict[str, Any]]:
    """The figures of each segment; each begins with the table of the one before."""
    former: PackedRecommender | None = None
    for number in range(len(stream.segments)):
        data = segment_data(stream, number)
        counts = data.interactions.num_users, data.interactions.num_items
        if way.is_full:
            sizes = EmbeddingSizes.full(*counts, MAX_EMBEDDING_SIZE)
        else:
            sizes = sizes_of(user_share, data, cap_params, np.random.default_rng([seed, number, 0]))
        recipe = recipe_of(way, data, is_warm=former is not None)
        training = train_segment(recipe, sizes, np.random.default_rng([seed, number, 1]), former)
        former = training.packed

        def rank(seen: csr_array, users: NDArray[np.integer], depth: int) -> NDArray[np.int64]:
            return rank_items(training.recommender, seen, users, depth)  # noqa: B023 - called at once

        row = {"segment": number, "num_params": sizes.num_params, "cpu_s": round(training.cpu_s, 3)}
        row |= figures_of(data, rank)
        yield row


def references(stream: Stream) -> Iterator[tuple[str, dict[str, Any]]]:
    """Item cosine, and the SVD of the normalised matrix at several widths, segment by segment."""
    for number in range(len(stream.segments)):
        data = segment_data(stream, number)
        start = time.process_time()
        cosine = item_cosine(data, NUM_NEIGHBOURS)
        row = {"segment": number, "num_params": None, "cpu_s": round(time.process_time() - start, 3)}
        yield COSINE, row | figures_of(data, cosine.rank)
        train = data.interactions.train
        weights = symmetric_weights(train)
        roots = np.sqrt(np.maximum(np.bincount(train.indices, minlength=train.shape[1]), 1))
        start = time.process_time()
        _, values, columns = svds(weights, k=min(max(SVD_COLUMNS), min(train.shape) - 1), random_state=0)
        taken = round(time.process_time() - start, 3)
        columns = columns[np.argsort(-values)]
        for width in SVD_COLUMNS:
            basis = columns[:width]

            def rank(seen: csr_array, users: NDArray[np.integer], depth: int) -> NDArray[np.int64]:
                of_items = basis * roots  # noqa: B023 - called at once
                return best_by(lambda rows: (weights[rows] @ basis.T) @ of_items, seen, users, depth)  # noqa: B023

            num_params = width * sum(train.shape)
            row = {"segment": number, "num_params": num_params, "cpu_s": taken}
            yield f"SVD, {width} columns", row | figures_of(data, rank)


def summarise(rows: list[dict[str, str]]) -> None:
    """Print means over the segments that count, and over seeds."""
    by_way: dict[str, list[dict[str, str]]] = {}
    for row in rows:
        if int(row["segment"]) >= FIRST_SEGMENT:
            by_way.setdefault(row["recipe"], []).append(row)
    for way, its_rows in by_way.items():
        seeds = {row["seed"] for row in its_rows}
        cpu = sum(float(row["cpu_s"]) for row in its_rows) / len(seeds)
        ndcg = statistics.mean(float(row["validation/ndcg@20"]) for row in its_rows)
        print(f"{way:40} N@20 {ndcg:.4f} on validation, {cpu:5.1f} CPU s, {len(seeds)} seed(s)")


def main() -> None:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("log", type=Path)
    parser.add_argument("--seeds", nargs="+", type=int, default=[0])
    parser.add_argument("--only", nargs="+", choices=list(WAYS), help="these recipes")
    parser.add_argument("--cap-params", type=int, default=67_020)
    parser.add_argument("--new-entities", type=int, default=1750, help="of a segment")
    parser.add_argument("--user-share", type=float, default=0.7, help="of the parameters")
    parser.add_argument("--output", type=Path, default=Path("results/stream-recipe.csv"))
    arguments = parser.parse_args()
    stream = cut_stream(read_interactions(arguments.log), new_entities=arguments.new_entities)
    output = arguments.output
    rows = read_rows(output)
    if not any(row["recipe"] == COSINE for row in rows):
        append_rows(output, [{"recipe": name, "seed": 0} | row for name, row in references(stream)])
    names = arguments.only or list(WAYS)
    for seed in arguments.seeds:
        for name in names:
            if any((row["recipe"], row["seed"]) == (name, str(seed)) for row in rows):
                continue
            of_stream = follow(
                stream,
                WAYS[name],
                arguments.user_share,
                arguments.cap_params,
                seed,
            )
            append_rows(output, [{"recipe": name, "seed": seed} | row for row in of_stream])
            rows = read_rows(output)
            summarise([row for row in rows if row["recipe"] == name])
    summarise(rows)


if __name__ == "__main__":
    main()
