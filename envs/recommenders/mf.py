"""Matrix factorisation: the smallest base recommender there is."""

from torch import Tensor

from envs.recommenders.base import DotProductRecommender
from envs.recommenders.rows import RowWiseRecommender


class MF(DotProductRecommender, RowWiseRecommender):
    """Scores a pair by the inner product of its masked rows (BPR-MF, arXiv 1205.2618).

    A prefix of the shorter row meets a prefix of the longer one: what only one of them keeps is lost.
    """

    def encode_rows(self, user: Tensor, item: Tensor) -> tuple[Tensor, Tensor]:
        """The masked rows themselves."""
        return user, item
