"""The work of one segment: each method decides sizes, trains on from its last table, and is tested.

A method's table of a segment is all that its next one begins with, and draws depend on the seed, the segment
and the method alone, so that a stream that goes on after a kill comes to what it would have come to.
"""

from collections.abc import Callable
from dataclasses import dataclass, replace
from functools import cached_property, partial
from typing import Any

import numpy as np
import ray
from numpy.typing import NDArray
from scipy.sparse import csr_array

from ciess_ray.packed.table import PackedTable
from ciess_ray.result import ResultFolder
from ciess_ray.serving.files import SCORER_FILE, TABLE_FILE, ScorerFile
from ciess_ray.streaming.config import METHOD_NAMES, StreamConfig
from ciess_ray.streaming.folder import LISTS_FILE, MEMORY_FILE, StreamFolder
from ciess_ray.streaming.judging import LIST_LENGTH, Ranker, judge, list_overlap, top_lists
from ciess_ray.streaming.methods import METHODS, Problem, SegmentBefore
from ciess_ray.streaming.recommender import PackedRecommender, SegmentTraining
from ciess_ray.streaming.segment import SegmentData, SegmentTest, reveal_test, segment_data
from ciess_ray.streaming.trying import Teaching, Tried
from ciess_ray.streaming.yardsticks import YARDSTICKS, popular_items
from ciess_ray.streams import Stream as Draws
from ciess_ray.streams import rng_of
from ciess_ray.training.convergence import Meter
from envs.data.stream import Stream
from envs.errors import within
from envs.metrics import CUTOFFS
from envs.recommenders.evaluation import rank_items
from envs.recommenders.training import Recipe
from envs.sizes.embedding_sizes import EmbeddingSizes
from envs.sizes.sharing import coldest_that_share

_CHOOSING, _TESTING = "choosing", "testing"
#: What a row counts for a segment later where it is decided who shares.
_DECAY_OF_SHARING = 0.5
#: Times d_min that the others have on average. With as few sharing as must, all others have d_min, and no
#: method has anything to decide; on Online Retail II, 8,000 parameters, validation's N@20 of the two segments
#: that they are too few for was 8 and 12 % lower then. With three and seven eighths sharing it was the same.
_SIZE_BESIDE_SHARED = 2


@dataclass(frozen=True)
class News:
    """What a stream is at.

    Attributes:
        segment: Its number, from 0.
        num_segments: How many there are.
        method: The method that is under way, or done.
        note: What it is at; of one that is done, what it chose.
        result: What it came to; None while it is under way.
        is_found: Whether that was there already.
    """

    segment: int
    num_segments: int
    method: str
    note: str = ""
    result: dict[str, Any] | None = None
    is_found: bool = False


Watcher = Callable[[News], None]


def cap_params(config: StreamConfig, stream: Stream, number: int) -> int:
    """Parameters that the budget allows in a segment, in all tables together.

    Raises:
        BudgetError: They are fewer than d_min for each user and item, or where these may share, for two.
    """
    segment, recommender = stream.segments[number], config.recommender
    return config.memory_budget.cap_params(
        segment.num_users + segment.num_items,
        recommender.min_embedding_size,
        recommender.max_embedding_size,
        recommender.num_tables,
        reserve=config.reserve,
        may_share=config.overflow == "share",
    )


class SegmentWork:
    """What the methods of a segment share: its data, read once one of them needs it."""

    def __init__(
        self, config: StreamConfig, folder: StreamFolder, stream: Stream, number: int, tell: Watcher
    ) -> None:
        self.config, self.folder, self.stream, self.number, self._tell = config, folder, stream, number, tell

    def result(self, method: str) -> dict[str, Any]:
        """What a method comes to, or has come to before."""
        segment = self.stream.segments[self.number]
        result = self.folder.result(self.number, method, segment)
        is_found = result is not None
        if result is None:
            self.say(method)
            with within(f"{self.stream.source}, segment {self.number:03}"):
                result = self._yardstick(method) if method in YARDSTICKS else self._table(method)
        self.folder.log("method finished", segment=self.number, method=method, end=segment.end)
        self.say(method, result["chosen"], result, is_found=is_found)
        return result

    def say(self, method: str, note: str = "", result: dict[str, Any] | None = None, **what: bool) -> None:
        """Tell what the segment is at."""
        self._tell(News(self.number, len(self.stream.segments), method, note, result, **what))

    @cached_property
    def data(self) -> SegmentData:
        """What may be chosen by."""
        return segment_data(self.stream, self.number)

    @cached_property
    def _put(self) -> Any | None:
        """The interactions that may be chosen by, once in Ray's object store; None where all is done here."""
        return ray.put(self.data.interactions) if self.config.resources.num_workers else None

    @cached_property
    def test(self) -> SegmentTest:
        """What is tested on, of which nothing that chooses is told."""
        return reveal_test(self.stream, self.number)

    @cached_property
    def popular(self) -> NDArray[np.int64]:
        """What somebody unknown gets."""
        return popular_items(self.data, max(CUTOFFS))

    @cached_property
    def is_shared(self) -> NDArray[np.bool_] | None:
        """Who shares a row where the budget has no room for everybody; nobody with None.

        Popularity fades by half a segment: last appearances alone would keep who came by once of late before
        somebody who came often and paused, and counts of all time those who have left.
        """
        recommender = self.config.recommender
        a_row = recommender.min_embedding_size * recommender.num_tables
        room = cap_params(self.config, self.stream, self.number) // a_row
        if room >= self.data.interactions.num_entities:
            return None
        size = min(_SIZE_BESIDE_SHARED, recommender.max_embedding_size // recommender.min_embedding_size)
        return coldest_that_share(*self.data.popularity(_DECAY_OF_SHARING), max(room // size, 2))

    def figures(self, method: str, rank: Ranker) -> dict[str, Any]:
        """Rows of the segment, how good lists are on validation and on test, and what stayed of the last."""
        data, test, popular = self.data, self.test, self.popular
        interactions, segment = data.interactions, self.stream.segments[self.number]
        validation = judge(rank, interactions.validation, interactions.train, data.cold_validation, popular)
        tested = judge(rank, test.known, test.seen, test.cold, popular)
        return {
            "num_rows": segment.num_rows,
            "num_users": segment.num_users,
            "num_items": segment.num_items,
            "cold_share": test.cold_share,
            **validation.summary("validation"),
            **tested.summary("test"),
            f"list_overlap@{LIST_LENGTH}": list_overlap(
                self.folder.kept(LISTS_FILE, self.number - 1, method), rank, interactions.train
            ),
        }

    def _told(self, method: str, chosen: str, figures: dict[str, Any]) -> dict[str, Any]:
        """What ``result.json`` says."""
        rows = vars(self.stream.segments[self.number])
        named = {"segment": self.number, "method": method, "rows": rows, "chosen": chosen}
        return {**named, "figures": figures}

    def _yardstick(self, method: str) -> dict[str, Any]:
        meter = Meter()
        with meter.phase(_CHOOSING):
            yardstick = YARDSTICKS[method](self.data, self.config.num_neighbours)
        with meter.phase(_TESTING):
            figures = self.figures(method, yardstick.rank)
            lists = top_lists(yardstick.rank, self.data.interactions.train)
        figures |= {"num_bytes": yardstick.num_bytes, **yardstick.figures, **_costs(meter)}
        result = self._told(method, yardstick.chosen, figures)
        self.folder.write(self.number, method, result, None, {LISTS_FILE: lists})
        return result

    def _counters(self, method: str) -> tuple[int, int]:
        """What a method's draws in the segment depend on, beside the seed."""
        return self.number, METHOD_NAMES.index(method)

    def _teaching(self, method: str, former: PackedRecommender | None) -> Teaching:
        config = self.config
        is_warm = former is not None and config.training.warm_batches is not None
        return Teaching(
            config.training.settings(is_warm=is_warm),
            config.recommender,
            former if is_warm else None,
            partial(rng_of, config.seed, Draws.STREAM_TRAINING, *self._counters(method)),
        )

    def _problem(self, method: str, teaching: Teaching, former: PackedRecommender | None) -> Problem:
        """What a method is given, but for what it has kept of the segment before."""
        config = self.config
        recommender = config.recommender
        return Problem(
            self.data,
            cap_params(config, self.stream, self.number),
            recommender.min_embedding_size,
            recommender.max_embedding_size,
            recommender.num_tables,
            None if former is None else former.table.sizes,
            partial(rng_of, config.seed, Draws.STREAM_SIZES, *self._counters(method)),
            teaching.recipe(self.data.interactions),
            before=None if former is None else partial(self._before, method),
            is_shared=self.is_shared,
        )

    def _before(self, method: str) -> SegmentBefore:
        """What a method may learn on."""
        config, number = self.config, self.number - 1
        work = SegmentWork(config, self.folder, self.stream, number, self._tell)
        result = self.folder.result(number, method, self.stream.segments[number])
        assert result is not None
        teaching = work._teaching(method, None)

        def scratch(batches: int) -> Recipe:
            training = config.training.model_copy(update={"batches": batches})
            settings = training.settings(is_warm=False)
            return replace(teaching, settings=settings).recipe(work.data.interactions)

        problem = work._problem(method, teaching, None)
        return SegmentBefore(problem, result["figures"], scratch, config.seed, partial(self.say, method))

    def _table(self, method: str) -> dict[str, Any]:
        config, data = self.config, self.data
        recommender, meter = config.recommender, Meter()
        former = None if self.number == 0 else _packed(self.folder, self.number - 1, method)
        teaching = self._teaching(method, former)
        problem = self._problem(method, teaching, former)
        problem.memory.update(self.folder.memory(self.number - 1, method))
        tried = Tried(
            teaching,
            problem.recipe,
            data.interactions,
            self._put,
            config.resources,
            lambda name: self.say(method, name),
        )
        with meter.phase(_CHOOSING):
            METHODS[method](problem, tried)
        best, training = tried.best
        with meter.phase(_TESTING):
            figures = self.figures(method, _ranker(training))
            lists = top_lists(_ranker(training), data.interactions.train)
        sizes = best.sizes
        figures |= {
            "cap_params": problem.cap_params,
            "num_params": sizes.num_params,
            "num_bytes": training.packed.table.num_bytes,
            "num_shared": 0 if sizes.is_shared is None else int(sizes.is_shared.sum()),
            "mean_user_size": sizes.mean_sizes[0],
            "mean_item_size": sizes.mean_sizes[1],
            **_churn(former.table.sizes if former else None, sizes),
            "num_trainings": tried.num_trainings,
            "cpu_s/training": training.cpu_s,
            **_costs(meter, tried.cpu_s),
        }
        result = self._told(method, best.name, figures)
        # What a user had is not recommended again, what was validation neither.
        had = csr_array(data.interactions.validation + self.test.known)
        tested = data.interactions.with_test(had)
        self.folder.write(
            self.number,
            method,
            result,
            lambda path: ResultFolder(path).write_table(training.recommender, tested, recommender.name),
            {LISTS_FILE: lists, MEMORY_FILE: problem.memory},
        )
        return result


def _ranker(training: SegmentTraining) -> Ranker:
    return lambda seen, users, depth: rank_items(training.recommender, seen, users, depth)


def _packed(folder: StreamFolder, number: int, method: str) -> PackedRecommender:
    """What a segment has left of a method."""
    folder.verify(number, method, TABLE_FILE, SCORER_FILE)
    place = folder.method(number, method)
    return PackedRecommender(PackedTable.open(place / TABLE_FILE), ScorerFile.read(place).state)


def _costs(meter: Meter, elsewhere_s: float = 0.0) -> dict[str, float]:
    """What was taken here, and by whoever trained elsewhere."""
    choosing, testing = meter.cpu_s[_CHOOSING] + elsewhere_s, meter.cpu_s[_TESTING]
    return {
        f"cpu_s/{_CHOOSING}": choosing,
        f"cpu_s/{_TESTING}": testing,
        "cpu_s": choosing + testing,
        "wall_s": sum(meter.wall_s.values()),
    }


def _churn(former: EmbeddingSizes | None, sizes: EmbeddingSizes) -> dict[str, int]:
    """Rows that are new, rows of another size than before, and the numbers of all tables that moved."""
    if former is None:
        return {"num_new": sizes.num_rows, "num_grown": 0, "num_shrunk": 0, "num_moved": 0}
    changes = np.concatenate(
        [sizes.user[: len(former.user)] - former.user, sizes.item[: len(former.item)] - former.item]
    )
    return {
        "num_new": sizes.num_rows - former.num_rows,
        "num_grown": int((changes > 0).sum()),
        "num_shrunk": int((changes < 0).sum()),
        "num_moved": int(np.abs(changes).sum()) * sizes.num_tables,
    }
