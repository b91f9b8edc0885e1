"""Cross-entropy of a user's items among the catalogue, or among negatives drawn from it."""

from abc import abstractmethod
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any, ClassVar

import numpy as np
import torch
import torch.nn.functional as F
from numpy.typing import NDArray
from scipy.sparse import csr_array
from torch import Tensor

from envs.errors import ConfigError
from envs.recommenders.base import BaseRecommender, Encoded
from envs.recommenders.losses.ranking import RankingLoss

#: Scores held at a time, 32 MB; with their gradients three times as much.
SCORES_PER_PART = 2**23
#: Scores a batch from which on one takes minutes.
MOST_SCORES = 2**33
#: Negatives that a batch of the sampled softmax shares.
NUM_NEGATIVES = 1024
_NEVER = -1e30


@dataclass(frozen=True, eq=False)
class Positives:
    """Positives of a batch, those of a user side by side.

    Attributes:
        distinct: The batch's users, ascending, shape (num_users,), int64.
        first: Where each one's positives begin, and where the last one's end, shape (num_users + 1,), int64.
        row: The place of each positive's user in ``distinct``, shape (n,), int64.
        users: The user of each positive, shape (n,), int64.
        items: The items, ascending within a user, shape (n,), int64.
        weights: What each counts, shape (n,), float32.
    """

    distinct: Tensor
    first: Tensor
    row: Tensor
    users: Tensor
    items: Tensor
    weights: Tensor

    @classmethod
    def of(cls, users: Tensor, items: Tensor, *, is_by_user: bool) -> "Positives":
        """Those of a batch, of which each, or each user, counts the same, and all of them 1."""
        distinct, row, counts = torch.unique_consecutive(users, return_inverse=True, return_counts=True)
        weights = (
            (1.0 / (counts * len(counts)))[row] if is_by_user else torch.full(users.shape, 1 / len(users))
        )
        first = F.pad(counts.cumsum(0), (1, 0))
        return cls(distinct, first, row, users, items, weights.to(users.device))

    def part(self, start: int, end: int) -> "Positives":
        """Those of the users at these places."""
        pairs = slice(int(self.first[start]), int(self.first[end]))
        return Positives(
            self.distinct[start:end],
            self.first[start : end + 1] - self.first[start],
            self.row[pairs] - start,
            self.users[pairs],
            self.items[pairs],
            self.weights[pairs],
        )

    def include(self, rows: Tensor, items: Tensor, num_items: int) -> Tensor:
        """Whether items are positives of the users at these places; all three of one shape, or broadcast."""
        keys = self.row * num_items + self.items
        asked = rows * num_items + items
        place = torch.searchsorted(keys, asked).clamp_(max=len(keys) - 1)
        return keys[place] == asked

    def cost(self, scores: Tensor, others: Tensor) -> Tensor:
        """Cross-entropy of each positive among all of its user's positives and other items.

        Args:
            scores: Of the positives, shape (n,).
            others: Logarithm of the sum of exp(score) over the other items, shape (num_users,).

        Returns:
            One number, the positives weighed.
        """
        # Sums over a user's positives keep their size with the largest taken out, which moves no gradient.
        top = others.detach().scatter_reduce(0, self.row, scores.detach(), "amax")
        total = (others - top).exp().index_add(0, self.row, (scores - top[self.row]).exp())
        return (self.weights * ((total.log() + top)[self.row] - scores)).sum()


class _InParts(torch.autograd.Function):
    """A sum of costs of parts, each computed with its gradient at once and then forgotten.

    Scores of a whole batch against the catalogue, and what autograd keeps of them, would take many times the
    memory of the representations, to whose gradient a part only adds.
    """

    @staticmethod
    def forward(
        ctx: Any,
        cost: Callable[[Encoded, Positives], Tensor],
        parts: Sequence[Positives],
        user: Tensor,
        item: Tensor,
        *beside: Tensor,
    ) -> Tensor:
        encoded = user.detach().requires_grad_(), item.detach().requires_grad_()
        inputs = [*encoded, *beside]
        grads = [torch.zeros_like(value) for value in inputs]
        total = user.new_zeros(())
        for part in parts:
            with torch.enable_grad():
                of_part = cost(encoded, part)
            total += of_part.detach()
            more = torch.autograd.grad(of_part, inputs, allow_unused=True)
            for grad, addend in zip(grads, more, strict=True):
                if addend is not None:
                    grad += addend
        ctx.save_for_backward(*grads)
        return total

    @staticmethod
    def backward(ctx: Any, *grads: Tensor) -> tuple[Tensor | None, ...]:
        return None, None, *(grads[0] * grad for grad in ctx.saved_tensors)


class Softmax(RankingLoss):
    """Mean over positives of log(Σ exp(score)) less their own score, in batches of whole users.

    The sum over the catalogue is the same for all items of a user, who comes with all of them: thirty cost
    one row of scores. Users are drawn without replacement, as many as have ``batch_size`` positives on
    average. With ``positives="interaction"`` each positive counts the same, with ``"user"`` each user: what
    CIESS's draws come to, with less variance. A user's items compete with each other, too, as in a
    multinomial likelihood (Mult-VAE, arXiv 1802.05814).

    Args:
        train: Training interactions, shape (num_users, num_items), indices sorted.
        batch_size: Positives a batch, on average.
        positives: What counts the same, see :class:`RankingLoss`.
        temperature: What cosines of representations are divided by, in place of inner products; None takes
            scores as the recommender has them.

    Raises:
        DataError: There is no training interaction, or every user interacted with every item.
    """

    has_temperature: ClassVar[bool] = True

    def __init__(
        self,
        train: csr_array,
        batch_size: int,
        *,
        positives: str = "user",
        temperature: float | None = None,
    ) -> None:
        super().__init__(train, batch_size, positives=positives)
        self.temperature = temperature
        self.num_users = max(1, min(len(self._users), batch_size * len(self._users) // int(self._ends[-1])))

    def draw_positives(self, rng: np.random.Generator) -> tuple[NDArray[np.int64], NDArray[np.int64]]:
        """Users, ascending, each with all of its training items, ascending; both of one length, int64."""
        user = self._users[np.sort(rng.permutation(len(self._users))[: self.num_users])]
        counts = self.num_positives[user]
        ends = np.cumsum(counts)
        place = np.arange(ends[-1]) - np.repeat(ends - counts - self.train.indptr[user], counts)
        return np.repeat(user, counts), self.train.indices[place].astype(np.int64)

    def select(self, batch: tuple[NDArray[Any], ...], rows: NDArray[np.bool_]) -> tuple[NDArray[Any], ...]:
        """These positives, and what all share."""
        users, items, *shared = batch
        return users[rows], items[rows], *shared

    def __call__(self, recommender: BaseRecommender, *batch: Tensor) -> Tensor:
        """What a batch costs."""
        users, items, *shared = batch
        encoded = recommender.encode()
        penalty = recommender.penalty(encoded, users, items)
        if self.temperature is not None:
            scale = self.temperature**-0.5
            encoded = scale * F.normalize(encoded[0]), scale * F.normalize(encoded[1])
        positives = Positives.of(users, items, is_by_user=self.positives == "user")
        return self.cost(recommender, encoded, positives, *shared) + penalty

    @abstractmethod
    def cost(
        self, recommender: BaseRecommender, encoded: Encoded, positives: Positives, *shared: Tensor
    ) -> Tensor:
        """What the positives cost, one number.

        Args:
            recommender: What scores.
            encoded: Representations that it scores with.
            positives: Of the batch, weighed.
            *shared: The other arrays of :meth:`draw`.
        """

    def in_parts(
        self,
        recommender: BaseRecommender,
        encoded: Encoded,
        positives: Positives,
        num_items: int,
        cost: Callable[[Encoded, Positives], Tensor],
    ) -> Tensor:
        """A cost that is a sum over users, so many at a time as have scores of so many items in a part."""
        num_users = len(positives.distinct)
        step = max(1, SCORES_PER_PART // num_items)
        parts = [positives.part(start, min(start + step, num_users)) for start in range(0, num_users, step)]
        # What scores beside the representations has its gradient from the parts, too.
        beside = [parameter for parameter in recommender.parameters() if parameter.requires_grad]
        total: Tensor = _InParts.apply(cost, parts, *encoded, *beside)  # type: ignore[no-untyped-call]
        return total


class FullSoftmax(Softmax):
    """A softmax over the whole catalogue, some users at a time, so that memory does not grow with the batch.

    Raises:
        ConfigError: A batch has more scores than a machine computes in minutes.
    """

    def __init__(
        self,
        train: csr_array,
        batch_size: int,
        *,
        positives: str = "user",
        temperature: float | None = None,
    ) -> None:
        super().__init__(train, batch_size, positives=positives, temperature=temperature)
        num_scores = self.num_users * train.shape[1]
        if num_scores > MOST_SCORES:
            raise ConfigError(
                f"training.loss=full_softmax scores all {train.shape[1]:,} items for the {self.num_users:,} "
                f"users that have {batch_size:,} positives: {num_scores:,} scores a batch, where "
                f"{MOST_SCORES:,} take minutes. Lower training.batch_size, or take training.loss=sce or "
                "softmax, which score a few hundred items for each."
            )

    def draw(self, rng: np.random.Generator) -> tuple[NDArray[Any], ...]:
        """Users and their items, both of one length, int64."""
        return self.draw_positives(rng)

    def used(self, batch: tuple[Tensor, ...]) -> tuple[Tensor, None]:
        """Users, and every item."""
        return batch[0], None

    def cost(
        self, recommender: BaseRecommender, encoded: Encoded, positives: Positives, *shared: Tensor
    ) -> Tensor:
        """Cross-entropy among all items, in parts."""

        def cost(encoded: Encoded, part: Positives) -> Tensor:
            scores = recommender.score(encoded, part.distinct)
            own = scores[part.row, part.items]
            return (part.weights * (scores.logsumexp(dim=1)[part.row] - own)).sum()

        return self.in_parts(recommender, encoded, positives, self.train.shape[1], cost)


class SampledSoftmax(Softmax):
    """A softmax over a user's items and negatives that the whole batch shares.

    Sampled softmax (arXiv 2201.02327). The sum over the catalogue is estimated without bias: a user's own
    items are in it as they are, and a negative as often as it stands for. Half of the negatives are uniform
    and half by popularity, where most of the sum is; logits are corrected by the logarithm of how often a
    negative is expected.

    Args:
        train: Training interactions, shape (num_users, num_items), indices sorted.
        batch_size: Positives a batch, on average.
        num_negatives: Negatives a batch, drawn with replacement.
        positives: What counts the same, see :class:`RankingLoss`.
        temperature: See :class:`Softmax`.
    """

    def __init__(
        self,
        train: csr_array,
        batch_size: int,
        num_negatives: int = NUM_NEGATIVES,
        *,
        positives: str = "user",
        temperature: float | None = None,
    ) -> None:
        super().__init__(train, batch_size, positives=positives, temperature=temperature)
        self._num_negatives = num_negatives
        popularity = np.bincount(train.indices, minlength=train.shape[1])
        self._probability = 0.5 / train.shape[1] + 0.5 * popularity / train.nnz
        self._ends_of_items = np.cumsum(self._probability)

    def draw(self, rng: np.random.Generator) -> tuple[NDArray[Any], ...]:
        """One batch.

        Returns:
            Users and their items, both of one length, int64; negative items (num_negatives,), int64, and how
            often each is expected among them, as its logarithm, (num_negatives,), float32.
        """
        user, item = self.draw_positives(rng)
        place = rng.random(self._num_negatives) * self._ends_of_items[-1]
        negative = np.searchsorted(self._ends_of_items, place, side="right")
        expected = np.log(self._num_negatives * self._probability[negative])
        return user, item, negative, expected.astype(np.float32)

    def used(self, batch: tuple[Tensor, ...]) -> tuple[Tensor, Tensor]:
        """Users, their items, and the negatives."""
        return batch[0], torch.cat([batch[1], batch[2]])

    def cost(
        self, recommender: BaseRecommender, encoded: Encoded, positives: Positives, *shared: Tensor
    ) -> Tensor:
        """Cross-entropy among a user's items and what the negatives stand for, in parts."""
        negatives, expected = shared
        num_items = self.train.shape[1]

        def cost(encoded: Encoded, part: Positives) -> Tensor:
            rows = torch.arange(len(part.distinct), device=negatives.device)[:, None]
            logits = recommender.score(encoded, part.distinct, negatives) - expected
            others = logits.masked_fill(part.include(rows, negatives, num_items), _NEVER).logsumexp(dim=1)
            return part.cost(recommender.score_pairs(encoded, part.users, part.items), others)

        return self.in_parts(recommender, encoded, positives, len(negatives), cost)
