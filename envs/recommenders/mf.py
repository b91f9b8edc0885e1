"""Matrix factorisation: the smallest base recommender there is."""

from torch import Tensor

from envs.recommenders.base import DotProductRecommender


class MF(DotProductRecommender):
    """Scores a pair by the inner product of its masked rows (BPR-MF, arXiv 1205.2618).

    A prefix of the shorter row meets a prefix of the longer one: what only one of them keeps is lost.
    """

    def encode(self) -> tuple[Tensor, Tensor]:
        """The masked rows themselves."""
        table = self.table()
        return table[: self.num_users], table[self.num_users :]
