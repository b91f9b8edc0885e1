"""What training minimises, and the batches that it draws for it, without a loop."""

from envs.recommenders.losses.ranking import BPR, POSITIVES, RankingLoss, check_any
from envs.recommenders.losses.sce import ScalableCrossEntropy
from envs.recommenders.losses.softmax import FullSoftmax, SampledSoftmax, Softmax

__all__ = [
    "BPR",
    "LOSSES",
    "POSITIVES",
    "FullSoftmax",
    "RankingLoss",
    "SampledSoftmax",
    "ScalableCrossEntropy",
    "Softmax",
    "check_any",
]

#: Each made of training interactions, positives a batch, and by name what ``positives`` are, and a
#: ``temperature`` where it has one.
LOSSES: dict[str, type[RankingLoss]] = {
    "bpr": BPR,
    "softmax": SampledSoftmax,
    "full_softmax": FullSoftmax,
    "sce": ScalableCrossEntropy,
}
