r"""A table that goes on with its stream, resized and trained on, against the same sizes from scratch.

    OMP_NUM_THREADS=1 python benchmarks/stream_warm.py online-retail-2.parquet --seeds 0 1 2

LightGCN in one budget for all segments, which bring at most so many new users and items, trained as a stream
trains by default. Sizes are equal, or one for all users and one for all items, of which users get a share of
the parameters. A row a segment is appended when a stream is through, and none is run twice, so the command
can be broken off and resumed.

The defaults were chosen on validation, means over segments 2 to 5: the learning rates on seeds 0 and 1, of
0.1, 0.3 and 0.5 from scratch and of 0.1 to 0.8 for what goes on; the batches of what goes on on seeds 0 to 2,
of 150 and 170, the most that 45 % of the CPU seconds from scratch have room for.
"""

import argparse
import csv
import statistics
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np

from ciess_ray.streaming.config import StreamTraining
from ciess_ray.streaming.recommender import PackedRecommender, train_segment
from ciess_ray.streaming.segment import SegmentData, reveal_test, segment_data
from envs.data import read_interactions
from envs.data.stream import Stream, cut_stream
from envs.recommenders.evaluation import evaluate
from envs.recommenders.training import Recipe
from envs.sizes.embedding_sizes import EmbeddingSizes

MAX_EMBEDDING_SIZE, L2 = 64, 5e-4
SCRATCH, RESIZED = "scratch", "resized"
STARTS = (SCRATCH, RESIZED)
#: What figures are means over: the first two segments know too few users.
FIRST_SEGMENT = 2


def sizes_of(
    user_share: float | None, data: SegmentData, cap_params: int, rng: np.random.Generator
) -> EmbeddingSizes:
    """Equal sizes, or users with a share of the parameters, which fill the cap as far as d_max lets them."""
    counts = data.interactions.num_users, data.interactions.num_items
    if user_share is None:
        return EmbeddingSizes.equal(*counts, cap_params, 1, MAX_EMBEDDING_SIZE, rng)
    user, item = (
        np.full(count, min(share * cap_params / count, MAX_EMBEDDING_SIZE))
        for count, share in zip(counts, (user_share, 1 - user_share), strict=True)
    )
    return EmbeddingSizes.from_proposal(user, item, cap_params, 1, MAX_EMBEDDING_SIZE, rng, fill=True)


def run_stream(
    stream: Stream, user_share: float | None, start: str, cap_params: int, seed: int
) -> Iterator[dict[str, Any]]:
    """The figures of each segment; the first begins from scratch in any case."""
    former: PackedRecommender | None = None
    for number, segment in enumerate(stream.segments):
        data = segment_data(stream, number)
        # Both ways to start have the same sizes.
        sizes = sizes_of(user_share, data, cap_params, np.random.default_rng([seed, number, 0]))
        settings = StreamTraining().settings(is_warm=former is not None)
        recipe = Recipe(data.interactions.train, settings, "lightgcn", {"l2": L2})
        training = train_segment(recipe, sizes, np.random.default_rng([seed, number, 1]), former)
        former = training.packed if start == RESIZED else None
        validation = evaluate(training.recommender, recipe.train, data.interactions.validation)
        test = reveal_test(stream, number)
        metrics = evaluate(training.recommender, test.seen, test.known)
        row: dict[str, Any] = {
            "segment": number,
            "num_users": segment.num_users,
            "num_items": segment.num_items,
            "num_params": training.packed.table.num_params,
            "batches": settings.max_batches,
            "learning_rate": settings.learning_rate,
            "cpu_s": round(training.cpu_s, 3),
            "wall_s": round(training.wall_s, 3),
            "cold_share": test.cold_share,
        }
        for name, judged in (("validation", validation), ("test", metrics)):
            summary = judged.summary()
            row |= {f"{name}/{key}": summary[key] for key in ("recall@20", "ndcg@20")}
        resized = training.resized
        for key in ("num_new", "num_grown", "num_shrunk", "num_moved"):
            row[key] = None if resized is None else getattr(resized, key)
        yield row


def summarise(rows: list[dict[str, str]]) -> None:
    """Print what resized tables have of the N@20 and the CPU seconds of those from scratch."""
    streams: dict[tuple[str, str, str], dict[str, list[dict[str, str]]]] = {}
    for row in rows:
        if int(row["segment"]) >= FIRST_SEGMENT:
            key = row["data"], row["sizes"], row["seed"]
            streams.setdefault(key, {}).setdefault(row["start"], []).append(row)
    for (data, sizes, seed), by_start in sorted(streams.items()):
        if len(by_start) == len(STARTS):
            means = {
                column: {
                    start: statistics.mean(float(row[column]) for row in its_rows)
                    for start, its_rows in by_start.items()
                }
                for column in ("test/ndcg@20", "cpu_s")
            }
            ndcg, cpu = (f"{mean[RESIZED] / mean[SCRATCH]:.1%}" for mean in means.values())
            print(
                f"{data}, {sizes}, seed {seed}: N@20 {means['test/ndcg@20'][RESIZED]:.4f} for "
                f"{means['test/ndcg@20'][SCRATCH]:.4f} ({ndcg}) at {cpu} of the CPU seconds"
            )


def main() -> None:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("log", type=Path)
    parser.add_argument("--seeds", nargs="+", type=int, default=[0])
    parser.add_argument("--cap-params", type=int, default=67_020)
    parser.add_argument("--new-entities", type=int, default=1750, help="of a segment")
    parser.add_argument("--user-share", type=float, default=0.7, help="of the parameters, beside equal sizes")
    parser.add_argument("--output", type=Path, default=Path("results/stream-warm.csv"))
    arguments = parser.parse_args()
    stream = cut_stream(read_interactions(arguments.log), new_entities=arguments.new_entities)
    rows = read_rows(arguments.output)
    shares = {"equal": None, f"users {arguments.user_share:g}": arguments.user_share}
    for seed in arguments.seeds:
        for sizes, user_share in shares.items():
            for start in STARTS:
                key = {
                    "data": arguments.log.stem,
                    "new_entities": arguments.new_entities,
                    "cap_params": arguments.cap_params,
                    "sizes": sizes,
                    "start": start,
                    "seed": seed,
                }
                if any(all(row[name] == str(value) for name, value in key.items()) for row in rows):
                    continue
                of_stream = run_stream(stream, user_share, start, arguments.cap_params, seed)
                append_rows(arguments.output, [key | row for row in of_stream])
                rows = read_rows(arguments.output)
    summarise(rows)


def read_rows(path: Path) -> list[dict[str, str]]:
    if not path.exists():
        return []
    with path.open(encoding="utf-8", newline="") as file:
        return list(csv.DictReader(file))


def append_rows(path: Path, rows: list[dict[str, Any]]) -> None:
    is_new = not path.exists()
    with path.open("a", encoding="utf-8", newline="") as file:
        writer = csv.DictWriter(file, list(rows[0]), lineterminator="\n")
        if is_new:
            writer.writeheader()
        writer.writerows(rows)


if __name__ == "__main__":
    main()
