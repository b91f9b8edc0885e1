"""What a server has to keep of a recommender, to the byte: the packed table is not all of it.

A request that brings its own history, the items that somebody likes, is answered with the table, its index
and scales, and the recommender's other weights. LightGCN and NGCF need everybody's interactions besides, over
which they propagate, or in place of table and interactions the rows that come out of that
(``ciess-ray export --propagated``), whichever is smaller. A server that answers known users by their name
keeps the histories too, whatever the recommender.
"""

import tempfile
from dataclasses import dataclass
from pathlib import Path

import torch

from ciess_ray.packed.embedding import pack_recommender
from ciess_ray.serving.files import (
    IDS_FILE,
    INTERACTIONS_FILE,
    PROPAGATING,
    SCORER_FILE,
    ScorerFile,
    propagated_form,
    write_ids,
)
from ciess_ray.serving.interactions_file import write_interactions
from envs.data import Interactions
from envs.recommenders import RECOMMENDERS, BaseRecommender, build_recommender, find_recommender, options_of
from envs.sizes.embedding_sizes import EmbeddingSizes, ScatteredSizes

TABLE, GRAPH, ROWS = "table", "table and graph", "propagated rows"
#: Bytes that other values of options may take in the header of the scorer's file.
_OPTIONS_BYTES = 128


@dataclass(frozen=True)
class ServedBytes:
    """Bytes of what serves a recommender.

    Attributes:
        packed_bytes: Of the table's file, index, scales and header included. Scattered numbers have no such
            file: an upper bound of one, with the cheaper of two indices.
        served_bytes: Of all that answers a request that brings its own history.
        served_as: What that is, beside the recommender's other weights: ``table``, ``table and graph`` or
            ``propagated rows``.
        served_with_histories_bytes: Of the same with everybody's interactions, once.
        ids_bytes: Of the user's own ids, which none of these hold.
    """

    packed_bytes: int
    served_bytes: int
    served_as: str
    served_with_histories_bytes: int
    ids_bytes: int


def served_bytes(recommender: BaseRecommender, interactions: Interactions, name: str) -> ServedBytes:
    """Bytes of the files that a result's folder has of a recommender, or would have.

    Args:
        recommender: Trained on ``interactions.train``.
        interactions: What it was trained on.
        name: What the configuration calls it.
    """
    sizes = recommender.sizes
    is_scattered = isinstance(sizes, ScatteredSizes)
    if is_scattered:
        packed = sizes.packed_bytes + sizes.num_params * recommender.id_bytes(recommender.num_items)
    else:
        packed = pack_recommender(recommender, name).num_bytes
    with tempfile.TemporaryDirectory(prefix="ciess-ray-bytes-") as temporary:
        folder = Path(temporary)
        write_companions(folder, recommender, interactions, name)
        scorer, histories, ids = (
            (folder / file).stat().st_size for file in (SCORER_FILE, INTERACTIONS_FILE, IDS_FILE)
        )
        with_histories = packed + scorer + histories
        forms = {GRAPH: with_histories} if _needs_graph(name) else {TABLE: packed + scorer}
        if name in PROPAGATING:
            with torch.no_grad():
                rows = torch.cat(recommender.eval().encode()).cpu().numpy()
            table, rows_scorer = propagated_form(name, rows, recommender.num_users)
            rows_scorer.write(folder)
            forms[ROWS] = table.num_bytes + (folder / SCORER_FILE).stat().st_size
            with_histories = min(with_histories, forms[ROWS] + histories)
    served_as = min(forms, key=lambda form: forms[form])
    return ServedBytes(packed, forms[served_as], served_as, with_histories, ids)


def _needs_graph(name: str) -> bool:
    """Whether everybody's interactions answer requests beside the table."""
    # A recommender of one's own is made of its training graph, whatever it does with it.
    return name in PROPAGATING or name not in RECOMMENDERS


@dataclass(frozen=True)
class Beside:
    """Bytes of what answers requests beside a table, at most.

    Attributes:
        scorer_bytes: Of the recommender's other weights.
        graph_bytes: Of everybody's interactions, where it needs them; otherwise 0.
    """

    scorer_bytes: int
    graph_bytes: int

    @property
    def num_bytes(self) -> int:
        """Of both: what a budget of served bytes has less for the table's file."""
        return self.scorer_bytes + self.graph_bytes


def beside_the_table(name: str, max_embedding_size: int, interactions: Interactions) -> Beside:
    """What a recommender is served with beside its packed table, before there is one.

    Rows that have been propagated, which may take less, are no table that a search could size.

    Args:
        name: What the configuration calls it.
        max_embedding_size: The width of its full table.
        interactions: All that will be in ``interactions.train`` where it serves.
    """
    its_class = find_recommender(name)
    rows = its_class.row_counts(interactions.num_users, interactions.num_items)
    sizes = EmbeddingSizes.full(*rows, max_embedding_size, 1, its_class.num_tables)
    recommender = build_recommender(name, interactions.train, sizes, generator=torch.Generator())
    with tempfile.TemporaryDirectory(prefix="ciess-ray-bytes-") as temporary:
        scorer_file(recommender, name).write(Path(temporary))
        scorer = (Path(temporary) / SCORER_FILE).stat().st_size
    graph = beside_a_table(interactions)[0] if _needs_graph(name) else 0
    return Beside(scorer + _OPTIONS_BYTES, graph)


def beside_a_table(interactions: Interactions) -> tuple[int, int]:
    """Bytes of everybody's interactions, which are in ``interactions.train``, and of the user's own ids."""
    with tempfile.TemporaryDirectory(prefix="ciess-ray-bytes-") as temporary:
        folder = Path(temporary)
        _write_data(folder, interactions)
        histories, ids = ((folder / file).stat().st_size for file in (INTERACTIONS_FILE, IDS_FILE))
    return histories, ids


def write_companions(
    folder: Path, recommender: BaseRecommender, interactions: Interactions, name: str
) -> None:
    """Write what scoring and ids need beside a packed table.

    Args:
        folder: Where to.
        recommender: Trained on ``interactions.train``.
        interactions: What it was trained on.
        name: What the configuration calls it.
    """
    scorer_file(recommender, name).write(folder)
    _write_data(folder, interactions)


def scorer_file(recommender: BaseRecommender, name: str) -> ScorerFile:
    """What a recommender, by its name in the configuration, scores with beside its packed table."""
    state = {key: value.numpy() for key, value in recommender.scorer_state().items()}
    return ScorerFile(name, options_of(recommender), state)


def _write_data(folder: Path, interactions: Interactions) -> None:
    write_interactions(folder / INTERACTIONS_FILE, interactions.train)
    write_ids(folder / IDS_FILE, interactions.user_ids, interactions.item_ids)
