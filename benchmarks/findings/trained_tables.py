"""Tables of given sizes trained to convergence: where their rows begin, and which L2 they want.

    python benchmarks/findings/trained_tables.py configs/ml-1m-lightgcn.yaml 2%:3.5 2%:equal 20%:39 20%:equal
        --communities 1 16 32 lot --tilts 0 0.2 --l2 0.00025 0.0005 --set dataset.path=ml-1m.parquet

Each table is ``BUDGET:SIZE``, the size of every user; items share what is left. With one community all rows
begin at the first column; with ``lot`` users are in one of 32 by lot; with ``17+16`` the first 17 numbers of
a user are at the first columns and only the others where one of 16 communities begins; with ``apart`` items
begin behind the users' last column. With a tilt t above 0 users get more
the more of their interactions lie outside the first singular directions, as many as the table has columns:
their sizes times exp(t z), z the standardised share. Qualities are those of validation; test is not looked
at. A row is appended as it is measured, and none is measured twice.
"""

import argparse
import itertools
import sys
import time
from dataclasses import replace
from pathlib import Path

import numpy as np
import torch
from numpy.typing import NDArray
from scipy.sparse.linalg import svds

from ciess_ray.config.data import caps_params_of, load_interactions
from ciess_ray.config.run import RunConfig
from ciess_ray.config.yaml_file import load_config
from ciess_ray.training.contest import place
from ciess_ray.training.convergence import fit_to_convergence
from envs.communities import find_communities
from envs.data import Interactions
from envs.recommenders.propagation import symmetric_weights
from envs.sizes.embedding_sizes import EmbeddingSizes, ScatteredSizes

# What all measurements share lies a folder above.
sys.path.append(str(Path(__file__).parents[1]))
from measurements import Measurements  # noqa: E402

_SEED = 22
_NUM_LOTS = 32


def main() -> None:
    """Measure what the file has not."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("config", type=Path)
    parser.add_argument("tables", nargs="+", metavar="BUDGET:SIZE")
    parser.add_argument("--communities", nargs="+", default=["1"])
    parser.add_argument("--tilts", nargs="+", type=float, default=[0.0])
    parser.add_argument("--l2", nargs="+", type=float, default=[None])
    parser.add_argument("--set", nargs="*", default=[], metavar="SECTION.FIELD=VALUE")
    parser.add_argument("--output", type=Path, default=Path("results/trained_tables.jsonl"))
    arguments = parser.parse_args()
    torch.set_num_threads(1)
    rows = Measurements(arguments.output)
    for table, communities, tilt, l2 in itertools.product(
        arguments.tables, arguments.communities, arguments.tilts, arguments.l2
    ):
        budget, _, user_size = table.partition(":")
        config = load_config(arguments.config, [*arguments.set, f"budget={budget}"]).with_options(
            {} if l2 is None else {"l2": l2}
        )
        key = {
            "config": arguments.config.name,
            "table": table,
            "communities": communities,
            # None as in rows from before there were tilts.
            "tilt": tilt or None,
            "l2": config.recommender.options_with().get("l2"),
            "seed": config.seed,
            "training": config.training.model_dump(mode="json") | {"num_negatives": 128},
        }
        if rows.has(**key):
            continue
        interactions = load_interactions(config)
        sizes = _begin(_sizes(config, interactions, user_size, tilt), communities, config, interactions)
        started = time.process_time()
        _, report = fit_to_convergence(config, interactions, sizes, (config.seed, _SEED))
        rows.add(
            key
            | {"quality": report.best.quality, **report.best.summary(), "best_batch": report.best_batch}
            | {"num_params": sizes.num_params, "packed_bytes": sizes.packed_bytes}
            | {"num_columns": sizes.width, "user_size": float(sizes.user.mean())}
            | {"item_size": float(sizes.item.mean()), "cpu_s": time.process_time() - started}
        )


def _sizes(config: RunConfig, interactions: Interactions, user_size: str, tilt: float) -> EmbeddingSizes:
    """The same size for all users but for the tilt and one for all items, under the budget exactly."""
    recommender, (cap_params,) = config.recommender, caps_params_of(config, interactions)
    num_users, num_items = interactions.num_users, interactions.num_items
    total = cap_params / recommender.num_tables
    user = total / interactions.num_entities if user_size == "equal" else float(user_size)
    factors = np.ones(num_users)
    if tilt:
        unexplained = _unexplained(interactions, round(user) + 1, np.random.default_rng((config.seed, 2)))
        factors = np.exp(tilt * (unexplained - unexplained.mean()) / unexplained.std())
    return EmbeddingSizes.from_proposal(
        user * factors / factors.mean(),
        np.full(num_items, (total - user * num_users) / num_items),
        cap_params,
        recommender.min_embedding_size,
        recommender.max_embedding_size,
        np.random.default_rng(config.seed),
        fill=True,
        num_tables=recommender.num_tables,
    )


def _unexplained(
    interactions: Interactions, num_directions: int, rng: np.random.Generator
) -> NDArray[np.float64]:
    """Share of each user's normalised interactions outside the leading right singular vectors."""
    normalised = symmetric_weights(interactions.train).astype(np.float64)
    *_, item = svds(normalised, k=num_directions, v0=rng.uniform(-1.0, 1.0, min(normalised.shape)))
    whole = (normalised * normalised).sum(axis=1)
    share: NDArray[np.float64] = 1 - ((normalised @ item.T) ** 2).sum(axis=1) / np.maximum(whole, 1e-12)
    return share


def _begin(
    sizes: EmbeddingSizes, communities: str, config: RunConfig, interactions: Interactions
) -> EmbeddingSizes:
    if communities == "lot":
        rng = np.random.default_rng((config.seed, 1))
        user = rng.integers(1, _NUM_LOTS + 1, size=interactions.num_users)
        first_columns = np.append(user, np.zeros(interactions.num_items, user.dtype))
        return replace(sizes, first_columns=first_columns)
    if communities == "1":
        return sizes
    if communities == "apart":
        first = np.repeat([0, sizes.widths[0]], [interactions.num_users, interactions.num_items])
        return replace(sizes, first_columns=first)
    if "+" in communities:
        num_shared, num_communities = map(int, communities.split("+"))
        return _share(sizes, num_shared, num_communities, config, interactions)
    return place(sizes, int(communities), config.memory_budgets[0], config, interactions)


def _share(
    sizes: EmbeddingSizes,
    num_shared: int,
    num_communities: int,
    config: RunConfig,
    interactions: Interactions,
) -> ScatteredSizes:
    """The first numbers of a row at the first columns, the others of users where their community begins."""
    rng = np.random.default_rng((config.seed, 3))
    begin = np.zeros(sizes.num_rows, np.int64)
    begin[: interactions.num_users] = find_communities(interactions.train, num_communities, rng)
    # Alike to a prefix but for a gap behind the shared columns.
    row_sizes = np.concatenate([sizes.user, sizes.item])[:, None]
    columns = np.arange(sizes.width + num_communities)
    behind = columns - begin[:, None]
    kept = np.where(columns < num_shared, columns < row_sizes, (behind >= num_shared) & (behind < row_sizes))
    return ScatteredSizes.of(kept, interactions.num_users, sizes.min_embedding_size, len(columns))


if __name__ == "__main__":
    main()
