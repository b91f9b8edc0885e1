"""Recommenders that are trained by the rows that a batch uses, and what stands for one meanwhile."""

from abc import abstractmethod
from collections.abc import Iterator
from typing import Any

import torch
from torch import Tensor, nn

from envs.pairs import squared_norms
from envs.recommenders.base import BaseRecommender, Encoded

#: Users, and items or None for every item, that a batch uses.
Used = tuple[Tensor, Tensor | None]

#: Of a table the share that a batch may use at most for its rows alone to be taken out and put back. A row
#: takes three times as long so as it does in a step of the whole table.
_LARGEST_SHARE = 1 / 3


class RowWiseRecommender(BaseRecommender):
    """A recommender that makes of each row what it scores with, and of none but that row.

    A batch of a large table is trained on the rows that it uses (:class:`OfRows`), and the others are left
    alone. What a class has besides and looks up by user or item, a bias say, it must make part of what it
    encodes. A class that inherits :meth:`encode_rows` is trained on its whole table: it may look up more.
    """

    @abstractmethod
    def encode_rows(self, user: Tensor, item: Tensor) -> Encoded:
        """Representations of some users and some items, each of its row alone.

        Args:
            user: Masked rows of users, shape (n, num_tables * width); not to be written into.
            item: Those of items, shape (m, num_tables * width).
        """

    def encode(self) -> Encoded:
        """Representations of all users and all items."""
        user, item = torch.split(self.table.read(), [self.num_users, self.num_items])
        return self.encode_rows(user, item)

    @property
    def is_row_wise(self) -> bool:
        """Whether the class itself, and not one that it derives from, says what it makes of rows.

        One with a penalty of its own is not taken for such: it may look at the table.
        """
        return "encode_rows" in vars(type(self)) and type(self).penalty is BaseRecommender.penalty


class OfRows:
    """Stands in a recommender's place for a batch, with the rows of the table that the batch uses.

    A loss calls it as it would call the recommender, and with the numbers of the same users and items.
    """

    def __init__(self, recommender: RowWiseRecommender) -> None:
        self._recommender = recommender
        # Where among those of the batch each stands; what is not of the batch is never looked up.
        self._user_place = torch.zeros(recommender.num_users, dtype=torch.int64, device=recommender.device)
        self._item_place = torch.zeros(recommender.num_items, dtype=torch.int64, device=recommender.device)

    def use(self, used: Used) -> Tensor:
        """Begin a batch.

        Args:
            used: Its users, and its items or None for every item, in any order, int64.

        Returns:
            Rows of the table whose numbers it uses, ascending, each once, int64.
        """
        users, items = used
        recommender = self._recommender
        users = torch.unique(users)
        self._has_all_items = items is None
        items = torch.unique(items) if items is not None else _places(self._item_place)
        self._user_place.index_copy_(0, users, _places(users))
        self._item_place.index_copy_(0, items, _places(items))
        self._counts = [len(users), len(items)]
        self._rows, self._shares = recommender.table.holding(
            torch.cat([users, items + recommender.num_users])
        )
        return self._rows

    def take(self, values: Tensor) -> None:
        """Give it the numbers of these rows, shape (n, num_tables * width)."""
        self._shown = self._recommender.table.shown(values, self._rows, self._shares)

    def encode(self) -> Encoded:
        """Representations of the users and items of the batch."""
        user, item = torch.split(self._shown, self._counts)
        return self._recommender.encode_rows(user, item)

    def score(self, encoded: Encoded, users: Tensor, items: Tensor | None = None) -> Tensor:
        """See :meth:`BaseRecommender.score`; of every item only where the batch is of every item."""
        if items is not None:
            items = self._item_place.index_select(0, items)
        elif not self._has_all_items:
            raise ValueError("the loss has not said that its batches use every item")
        return self._recommender.score(encoded, self._user_place.index_select(0, users), items)

    def score_pairs(self, encoded: Encoded, users: Tensor, items: Tensor) -> Tensor:
        """See :meth:`BaseRecommender.score_pairs`."""
        places = self._user_place.index_select(0, users), self._item_place.index_select(0, items)
        return self._recommender.score_pairs(encoded, *places)

    def penalty(self, encoded: Encoded, users: Tensor, items: Tensor) -> Tensor:
        """See :meth:`BaseRecommender.penalty`."""
        places = self._item_place.index_select(0, items) + self._counts[0]
        used = torch.cat([self._user_place.index_select(0, users), places])
        return self._recommender.l2 / len(users) * squared_norms(self._shown, used)

    def parameters(self) -> Iterator[nn.Parameter]:
        """Those beside the table, whose gradients are of its rows."""
        parameters = self._recommender.named_parameters()
        return (parameter for name, parameter in parameters if name != "table.weight")

    def __getattr__(self, name: str) -> Any:
        return getattr(self._recommender, name)


def _places(rows: Tensor) -> Tensor:
    return torch.arange(len(rows), device=rows.device)


def few_rows(recommender: BaseRecommender, used: Used | None) -> OfRows | None:
    """What stands in a recommender's place where its batches use few rows; None where it is trained whole.

    Args:
        recommender: What is trained.
        used: By the first batch, for all; None is the whole table.
    """
    # Where a method has put something between the parameter and the table, it is of the whole table.
    weight = dict(recommender.table.named_parameters(recurse=False)).get("weight")
    if used is None or weight is None or not isinstance(recommender, RowWiseRecommender):
        return None
    of_rows = OfRows(recommender)
    is_few = recommender.is_row_wise and len(of_rows.use(used)) <= _LARGEST_SHARE * len(weight)
    return of_rows if is_few else None
