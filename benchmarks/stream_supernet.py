r"""Whether a supernet that goes on with a stream ranks tables as their own trainings do.

    OMP_NUM_THREADS=1 python benchmarks/stream_supernet.py online-retail-2.parquet --segments 2 4

LightGCN in one budget for all segments. In each of the segments asked for tables are judged in three ways:
trained as the one that is kept, on validation; by the supernet on the same rows; and by the last segment's
supernet on all that has come since, none of which is a validation row. Rows are appended segment by segment,
and a segment that is there is not judged again.
"""

import argparse
from pathlib import Path

import numpy as np
from scipy.stats import spearmanr
from stream_warm import L2, MAX_EMBEDDING_SIZE, append_rows, read_rows, sizes_of

from ciess_ray.streaming.config import StreamTraining
from ciess_ray.streaming.methods import Problem
from ciess_ray.streaming.methods.policy_search import Policy, benches_of, hand_made_policies
from ciess_ray.streaming.recommender import PackedRecommender, train_segment
from ciess_ray.streaming.segment import segment_data
from ciess_ray.streaming.yardsticks import best_decay
from envs.data import read_interactions
from envs.data.stream import cut_stream
from envs.recommenders.evaluation import evaluate
from envs.recommenders.training import Recipe
from envs.sizes.by_popularity import draw_policy

#: Random policies beside those made by hand, whose users are larger than items as is good in most data.
NUM_RANDOM, LEVELS = 11, 0.15


def policies_of(rng: np.random.Generator) -> list[Policy]:
    policies = hand_made_policies()
    for _ in range(NUM_RANDOM):
        policy = {"user": draw_policy(rng), "item": draw_policy(rng)}
        policy["user"][0], policy["item"][0] = 0.5 + LEVELS * rng.random(), 0.5 - LEVELS * rng.random()
        policies.append(policy)
    return policies


def main() -> None:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("log", type=Path)
    parser.add_argument("--segments", nargs="+", type=int, default=[2, 4])
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--cap-params", type=int, default=67_020)
    parser.add_argument("--new-entities", type=int, default=1750, help="of a segment")
    parser.add_argument("--user-share", type=float, default=0.7, help="of the parameters of the table before")
    parser.add_argument("--output", type=Path, default=Path("results/stream-supernet.csv"))
    arguments = parser.parse_args()
    stream = cut_stream(read_interactions(arguments.log), new_entities=arguments.new_entities)
    run = {"data": arguments.log.stem, "cap_params": arguments.cap_params, "seed": arguments.seed}
    former: PackedRecommender | None = None
    memory: dict[str, np.ndarray] = {}
    for number in range(max(arguments.segments) + 1):
        data = segment_data(stream, number)
        interactions, key = data.interactions, [arguments.seed, number]
        settings = StreamTraining().settings(is_warm=former is not None)
        recipe = Recipe(interactions.train, settings, "lightgcn", {"l2": L2})
        problem = Problem(
            data,
            arguments.cap_params,
            1,
            MAX_EMBEDDING_SIZE,
            1,
            None if former is None else former.table.sizes,
            lambda key=key: np.random.default_rng([*key, 0]),
            recipe,
            memory,
        )
        benches = benches_of(problem, best_decay(data), np.random.default_rng([*key, 2]))
        if number in arguments.segments and not any(
            row["segment"] == str(number) and all(row[name] == str(run[name]) for name in run)
            for row in read_rows(arguments.output)
        ):
            rows = []
            for policy in policies_of(np.random.default_rng([*key, 3])):
                sizes = benches[0].sizes(policy)
                trained = train_segment(recipe, sizes, np.random.default_rng([*key, 1]), former).recommender
                quality = evaluate(trained, interactions.train, interactions.validation).quality
                now, since = (bench.quality(policy) / bench.weight for bench in benches)
                numbers = {f"{kind}_{place}": x for kind in policy for place, x in enumerate(policy[kind])}
                users = {"num_validated": benches[0].weight, "num_since": benches[1].weight}
                judged = {"trained": quality, "supernet": now, "supernet_since": since}
                rows.append(run | {"segment": number} | users | numbers | judged)
            append_rows(arguments.output, rows)
        sizes = sizes_of(arguments.user_share, data, arguments.cap_params, np.random.default_rng([*key, 0]))
        former = train_segment(recipe, sizes, np.random.default_rng([*key, 1]), former).packed
    for number in arguments.segments:
        mine = [row for row in read_rows(arguments.output) if row["segment"] == str(number)]
        columns = {name: [float(row[name]) for row in mine] for name in ("supernet", "supernet_since")}
        trained = [float(row["trained"]) for row in mine]
        told = ", ".join(f"{name} {spearmanr(own, trained)[0]:.2f}" for name, own in columns.items())
        users = f"{mine[0]['num_validated']} and {mine[0]['num_since']} users"
        print(f"segment {number}, {len(mine)} tables, {users}: rank correlation with trained: {told}")


if __name__ == "__main__":
    main()
