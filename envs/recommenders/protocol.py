"""What every base recommender keeps to, and a check that names the rule that one breaks.

A search trains a recommender hundreds of times and packs the last one. A class that draws from the global
generator, looks beyond a row's size or keeps a tensor outside its state would run all the same, and give
figures that nobody gets again.
"""

import contextlib
import inspect
import math
import sys
import traceback
from collections.abc import Callable, Iterator
from functools import cache
from typing import Any

import numpy as np
import torch
from scipy.sparse import csr_array
from torch import Tensor

from envs.errors import ConfigError, RecommenderProtocolError
from envs.recommenders.base import PACKED, BaseRecommender, ClosedForm, Encoded, SizedEmbedding
from envs.sizes.embedding_sizes import EmbeddingSizes

#: What a constructor is given; its other arguments are options.
GIVEN = ("train", "sizes", "generator", "device")

_NUM_USERS, _NUM_ITEMS, _MAX_EMBEDDING_SIZE = 7, 9, 6


@cache
def check_protocol(
    recommender_class: type[BaseRecommender],
    options: tuple[tuple[str, int | float], ...] = (),
    *,
    is_own: bool = True,
) -> None:
    """Build a recommender on a tiny graph with mixed sizes and check each rule of the protocol.

    It takes milliseconds, and a class with the same options is checked once a process.

    Args:
        recommender_class: What is checked.
        options: What its constructor is given beside :data:`GIVEN`, by name.
        is_own: Whether it is somebody's own. One of the package is only built, which sees to it that its
            options are usable.

    Raises:
        RecommenderProtocolError: Naming the class, the rule that it breaks, and the remedy.
        ConfigError: An option has a value that it refuses.
    """
    # What the check draws must not show in what is drawn after it.
    with torch.random.fork_rng(devices=[]):
        trial = _Trial(recommender_class, dict(options))
        for name, remedy, check in _RULES if is_own else _RULES[:1]:
            if name in _OF_TRAINING and issubclass(recommender_class, ClosedForm):
                continue
            with _rule(recommender_class, name, remedy):
                check(trial)


def _require(condition: object, problem: str) -> None:
    if not condition:
        raise RecommenderProtocolError(problem)


def _are_close(scores: Tensor, others: Tensor) -> bool:
    return torch.allclose(scores, others, rtol=1e-4, atol=1e-5)


@contextlib.contextmanager
def _rule(cls: type[BaseRecommender], name: str, remedy: str) -> Iterator[None]:
    start = f"the recommender {cls.__module__}:{cls.__qualname__} breaks the rule '{name}': "
    try:
        yield
    except ConfigError:  # An option whose value it refuses breaks no rule.
        raise
    except RecommenderProtocolError as broken:
        raise RecommenderProtocolError(f"{start}{broken}. {remedy}.") from None
    except Exception as error:  # Of the recommender's own code, which may raise anything.
        frames = traceback.extract_tb(error.__traceback__)
        own_file = getattr(sys.modules[cls.__module__], "__file__", None)
        last = ([frame for frame in frames if frame.filename == own_file] or frames)[-1]
        raise RecommenderProtocolError(
            f"{start}{type(error).__name__}: {error} ({last.filename}, line {last.lineno}). {remedy}."
        ) from error


def check_signature(cls: type[BaseRecommender]) -> None:
    """Check that a constructor can be called, and says which options it has.

    Raises:
        RecommenderProtocolError: It does not.
    """
    remedy = (
        "Write __init__(self, train, sizes, *, generator, device=None, ...), each option by its name with a "
        "number as its default; without an __init__ of its own a class takes that of its base"
    )
    with _rule(cls, "constructor", remedy):
        parameters = inspect.signature(cls).parameters
        missing = [name for name in GIVEN if name not in parameters]
        _require(not missing, f"__init__ does not take {', '.join(map(repr, missing))}")
        _require(tuple(parameters)[:2] == GIVEN[:2], f"its first arguments are not {GIVEN[0]} and {GIVEN[1]}")
        for name, parameter in parameters.items():
            _require(
                parameter.kind in (parameter.POSITIONAL_OR_KEYWORD, parameter.KEYWORD_ONLY),
                f"__init__ takes {parameter}, which does not say what its options are",
            )
            _require(
                name in GIVEN or type(parameter.default) in (int, float),
                f"the default of the option {name!r} is no number",
            )


class _Trial:
    """One class, whose signature is right, on one tiny graph, with a user and an item of no interaction."""

    def __init__(self, cls: type[BaseRecommender], options: dict[str, Any]) -> None:
        self.cls, self.options = cls, options
        dense = np.random.default_rng(0).random((_NUM_USERS, _NUM_ITEMS)) < 0.5
        dense[0], dense[:, 0] = False, False
        dense[1, 1:4] = dense[2:, 4] = True
        self.train = csr_array(dense.astype(np.float32))
        for array in (self.train.data, self.train.indices, self.train.indptr):
            array.flags.writeable = False
        self.sizes = self.sizes_up_to(5)
        self.users = torch.arange(_NUM_USERS).repeat_interleave(_NUM_ITEMS)
        self.items = torch.arange(_NUM_ITEMS).repeat(_NUM_USERS)

    def sizes_up_to(self, largest: int) -> EmbeddingSizes:
        user, item = np.array([5, 1, 3, 2, 5, 1, 4]), np.array([1, 4, 2, 5, 1, 3, 2, 2, 3])
        num_users, _ = self.cls.row_counts(len(user), len(item))
        return EmbeddingSizes(
            np.minimum(user[:num_users], largest),
            np.minimum(item, largest),
            max_embedding_size=_MAX_EMBEDDING_SIZE,
            num_tables=self.cls.num_tables,
        )

    def build(self, seed: int = 0) -> BaseRecommender:
        return self.cls(
            self.train,
            self.sizes,
            generator=torch.Generator().manual_seed(seed),
            device=torch.device("cpu"),
            **self.options,
        )

    def moved(self) -> BaseRecommender:
        """One that is not where it was initialised; an output layer may start at exactly zero."""
        recommender = self.build()
        if isinstance(recommender, ClosedForm):
            recommender.solve(np.random.default_rng(1))
            return recommender
        generator = torch.Generator().manual_seed(1)
        with torch.no_grad():
            for parameter in recommender.parameters():
                parameter.add_(0.01 * torch.randn(parameter.shape, generator=generator))
        return recommender

    @torch.no_grad()
    def encoded(self, recommender: BaseRecommender) -> Encoded:
        """What the recommender encodes in evaluation."""
        return recommender.eval().encode()

    @torch.no_grad()
    def scores(self, recommender: BaseRecommender) -> Tensor:
        """All scores of the recommender in evaluation."""
        return recommender.score(self.encoded(recommender), torch.arange(_NUM_USERS)).clone()

    def check_constructor(self) -> None:
        recommender = self.build()
        _require(isinstance(recommender.table, SizedEmbedding), "self.table is no SizedEmbedding")
        _require(recommender.sizes is self.sizes, "its table does not have the sizes that it was given")
        shape = (recommender.num_users, recommender.num_items)
        _require(shape == self.train.shape, f"num_users, num_items are {shape}, not {self.train.shape}")

    def check_encode(self) -> None:
        encoded = self.encoded(self.build())
        is_pair = isinstance(encoded, tuple) and [isinstance(part, Tensor) for part in encoded] == [True] * 2
        _require(is_pair, "they are no two tensors")
        rows = tuple(len(part) for part in encoded)
        _require(rows == self.train.shape, f"they have {rows} rows, not {self.train.shape}")

    def check_evaluation(self) -> None:
        recommender = self.moved()
        scores, again = self.scores(recommender), self.scores(recommender)
        _require(torch.allclose(scores, again, rtol=0, atol=0, equal_nan=True), "two scores differ")

    @torch.no_grad()
    def check_score(self) -> None:
        recommender = self.build()
        encoded = self.encoded(recommender)
        users, items = torch.tensor([3, 0, 3]), torch.tensor([8, 1, 1, 5])
        scores = recommender.score(encoded, users)
        _require(scores.shape == (3, _NUM_ITEMS), f"for 3 users the shape is {tuple(scores.shape)}")
        _require(scores.isfinite().all(), "a score is NaN or infinite")
        some = recommender.score(encoded, users, items)
        _require(some.shape == (3, 4), f"for 3 users and 4 items the shape is {tuple(some.shape)}")
        _require(_are_close(some, scores[:, items]), "with items, other columns come back")
        before = scores.clone()
        # The evaluation writes into the scores, where they are of items already seen.
        scores.view(-1).fill_(-math.inf)
        _require(
            torch.equal(recommender.score(encoded, users), before),
            "writing into the scores changes the recommender",
        )

    @torch.no_grad()
    def check_score_pairs(self) -> None:
        recommender = self.moved()
        pairs = recommender.score_pairs(self.encoded(recommender), self.users, self.items)
        _require(pairs.shape == self.users.shape, f"the shape is {tuple(pairs.shape)}")
        _require(_are_close(pairs, self.scores(recommender).ravel()), "it disagrees with score")

    def check_penalty(self) -> None:
        recommender = self.moved()
        penalty = recommender.penalty(recommender.encode(), self.users, self.items[:5])
        _require(penalty.shape == (), f"its shape is {tuple(penalty.shape)}")
        _require(penalty.isfinite() and penalty >= 0, f"it is {penalty.item()}")

    def check_gradient(self) -> None:
        weights = torch.randn(len(self.users), generator=torch.Generator().manual_seed(2))
        for name, arguments in (
            ("score_pairs", (self.users, self.items)),
            ("score", (torch.arange(_NUM_USERS),)),
        ):
            recommender = self.moved().train()
            values = getattr(recommender, name)(recommender.encode(), *arguments).reshape(-1)
            _require(values.requires_grad, f"{name} has no gradient")
            (values * weights).sum().backward()
            mask, grad = recommender.table.mask, recommender.table.weight.grad
            grad = torch.zeros(mask.shape) if grad is None else grad
            _require(grad[mask].any(), f"that of {name} does not reach the table")
            _require(grad.isfinite().all(), f"that of {name} is NaN or infinite")
            _require(not grad[~mask].any(), f"that of {name} reaches beyond a row's size")

    @torch.no_grad()
    def check_embedding_sizes(self) -> None:
        recommender = self.moved()
        table = recommender.table
        expected = self.scores(recommender)
        table.weight[~table.mask] += 100.0
        _require(
            torch.equal(self.scores(recommender), expected),
            "what lies beyond a row's size changes the scores",
        )
        # A weight-sharing search cuts the rows of a recommender that has been built.
        table.mask_to(self.sizes_up_to(2))
        cut = self.scores(recommender)
        table.weight[~table.mask] = 0.0
        table.mask_to(self.sizes)
        _require(
            _are_close(cut, self.scores(recommender)),
            "a row cut with table.mask_to does not score as a row that ends in zeros",
        )

    def check_save_and_load(self) -> None:
        saved = self.moved().train()
        if not isinstance(saved, ClosedForm):
            saved.score_pairs(saved.encode(), self.users, self.items).sum().backward()  # type: ignore[no-untyped-call]
            torch.optim.SGD(saved.parameters(), lr=0.1).step()
        state = saved.scorer_state()
        stored = [part for part in (saved.table.weight, *state.values()) if part.numel()]
        places = {part.untyped_storage().data_ptr() for part in stored}
        _require(len(places) == len(stored), "one tensor has two names")
        loaded = self.build(seed=1)
        loaded.table.load_packed_values(saved.table.packed_values(), saved.table.packed_ids())
        missing = loaded.load_state_dict(state, strict=False)
        is_whole = not missing.unexpected_keys and set(missing.missing_keys) <= {*PACKED}
        _require(is_whole, f"its state is not that of another instance ({missing})")
        _require(
            _are_close(self.scores(loaded), self.scores(saved)),
            "another instance with the same table and scorer_state() scores differently",
        )

    def check_seed(self) -> None:
        # A closed form is computed.
        is_solved = issubclass(self.cls, ClosedForm)
        built, again = (self.moved() if is_solved else self.build() for _ in range(2))
        for name, value in built.state_dict().items():
            _require(
                torch.equal(value, again.state_dict()[name]), f"two built from one seed differ in {name}"
            )
        _require(
            is_solved or all(map(torch.equal, built.train().encode(), again.train().encode())),
            "two built from one seed differ in training",
        )
        _require(torch.equal(self.scores(built), self.scores(again)), "two built from one seed score apart")


#: Each rule with what to do where it is broken, and its check, in their order.
_RULES: tuple[tuple[str, str, Callable[[_Trial], None]], ...] = (
    (
        "constructor",
        "Call super().__init__(train, sizes, generator=generator, device=device, ...) first",
        _Trial.check_constructor,
    ),
    (
        "encode",
        "encode() returns a tensor with a row a user and one with a row an item",
        _Trial.check_encode,
    ),
    (
        "evaluation is deterministic",
        "After eval() nothing is drawn and nothing is counted: look at self.training",
        _Trial.check_evaluation,
    ),
    (
        "score",
        "score(encoded, users, items) returns a new tensor of shape (len(users), len(items)), with the "
        "columns of score(encoded, users); a user or an item without any interaction must not give NaN",
        _Trial.check_score,
    ),
    (
        "score_pairs",
        "score_pairs(encoded, users, items)[n] is score(encoded, users)[n, items[n]]",
        _Trial.check_score_pairs,
    ),
    (
        "penalty",
        "penalty(encoded, users, items) returns one finite number of at least 0, as a tensor",
        _Trial.check_penalty,
    ),
    (
        "gradient",
        "Compute scores from self.table(), without detach(), no_grad() or a copy",
        _Trial.check_gradient,
    ),
    (
        "embedding sizes",
        "Read the rows through self.table(), which is masked; self.table.weight is not",
        _Trial.check_embedding_sizes,
    ),
    (
        "save and load",
        "Whatever is learned or drawn is a parameter or a buffer of its own, named in state_dict(); what is "
        "computed from the training interactions is not",
        _Trial.check_save_and_load,
    ),
    (
        "one seed, one recommender",
        "Draw from the generator that the constructor is given, in training too",
        _Trial.check_seed,
    ),
)

#: Rules that a closed form has nothing to break with.
_OF_TRAINING = ("penalty", "gradient")
