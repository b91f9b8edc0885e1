"""The cases of benchmarks/recommenders.py, each measured in a process of its own.

python benchmarks/recommender_cases.py '{"kind": "limits"}' prints one line of JSON.
"""

import json
import sys
import time
from pathlib import Path
from typing import Any

import numpy as np
import torch
import torch.nn.functional as F
from machine import baseline_bytes, batch_cost, describe_machine, measure_limits, peak_bytes, repeat, summary
from scipy.sparse import block_array, csr_array, csr_matrix

from envs.recommenders import RECOMMENDERS, build_recommender
from envs.recommenders.evaluation import evaluate
from envs.recommenders.propagation import symmetric_weights
from envs.recommenders.training import Trainer, TrainingSettings
from envs.sizes.embedding_sizes import EmbeddingSizes

BATCH_SIZE = 10_000
MAX_EMBEDDING_SIZE = 128
SETTINGS = TrainingSettings(batch_size=BATCH_SIZE)


def save_splits(path: Path, **splits: csr_array) -> None:
    arrays = {}
    for name, matrix in splits.items():
        arrays |= {f"{name}_indptr": matrix.indptr, f"{name}_indices": matrix.indices}
        arrays["shape"] = np.array(matrix.shape)
    np.savez(path, **arrays)


def load_split(path: str, name: str) -> csr_array:
    with np.load(path) as file:
        indices = file[f"{name}_indices"]
        ones = np.ones(len(indices), np.float32)
        return csr_array((ones, indices, file[f"{name}_indptr"]), shape=tuple(file["shape"].tolist()))


def make_trainer(name: str, train: csr_array, width: int, batch_size: int = BATCH_SIZE) -> Trainer:
    """A recommender all of whose rows are ``width`` long, with its trainer."""
    sizes = EmbeddingSizes(
        np.full(train.shape[0], width, np.int32),
        np.full(train.shape[1], width, np.int32),
        1,
        MAX_EMBEDDING_SIZE,
        num_tables=RECOMMENDERS[name].num_tables,
    )
    recommender = build_recommender(name, train, sizes, generator=torch.Generator().manual_seed(0))
    settings = SETTINGS.model_copy(update={"batch_size": batch_size})
    return Trainer(recommender, train, settings, np.random.default_rng(0))


def draw(trainer: Trainer) -> tuple[torch.Tensor, ...]:
    return tuple(torch.from_numpy(column) for column in trainer.loss.draw(trainer.rng))


def warm_up(name: str, width: int = 8) -> None:
    """Load whatever a batch and an evaluation load, on a graph of no size, so that it is in the baseline."""
    rng = np.random.default_rng(0)
    train = csr_array((rng.random((50, 40)) < 0.3).astype(np.float32))
    trainer = make_trainer(name, train, width)
    trainer.step(draw(trainer))
    evaluate(trainer.recommender, train, train)


def prepare(case: dict[str, Any]) -> dict[str, Any]:
    """Read or generate interactions, split them unless they are for growth, and put them into a file."""
    from envs.data import generate_interactions, read_interactions, split_interactions

    started = time.perf_counter()
    if case["source"]:
        log, source = read_interactions(case["source"]), Path(case["source"]).name
    else:
        log = generate_interactions(*case["shape"], seed=0)
        source = "synthetic data of the same shape, seed 0"
    made = time.perf_counter()
    if case["is_split"]:
        interactions = split_interactions(log, seed=0)
        save_splits(Path(case["data"]), train=interactions.train, validation=interactions.validation)
        num_training = interactions.train.nnz
    else:
        pairs, shape = (np.ones(log.num_rows), (log.user, log.item)), (log.num_users, log.num_items)
        whole = csr_array(pairs, shape=shape, dtype=np.float32)
        save_splits(Path(case["data"]), train=whole)
        num_training = log.num_rows
    return {
        "source": source,
        "num_users": log.num_users,
        "num_items": log.num_items,
        "num_interactions": log.num_rows,
        "num_training_interactions": int(num_training),
        "read_or_generate_s": made - started,
    }


def recommender(case: dict[str, Any]) -> dict[str, Any]:
    """An evaluation, batches, and the memory of both."""
    name, width, repeats = case["name"], case["width"], case["repeats"]
    judged = case["num_judged"]
    warm_up(name)
    baseline = baseline_bytes()
    train, validation = load_split(case["data"], "train"), load_split(case["data"], "validation")
    with_data = peak_bytes()
    # Fewer judged users for a smoke test; -1 is all.
    validation = csr_array(
        (
            validation.data[: validation.indptr[judged]],
            validation.indices[: validation.indptr[judged]],
            np.minimum(validation.indptr, validation.indptr[judged]),
        ),
        shape=validation.shape,
    )
    trainer = make_trainer(name, train, width)
    evaluation = repeat(lambda: evaluate(trainer.recommender, train, validation), **repeats)
    evaluation_peak = peak_bytes()
    sampling = repeat(lambda: draw(trainer), **repeats | {"min_s": min(0.3, repeats["min_s"])})
    batch = repeat(lambda: trainer.step(draw(trainer)), **repeats)
    batches = -(-train.nnz // BATCH_SIZE)
    cost = batch_cost(
        name,
        num_users=train.shape[0],
        num_items=train.shape[1],
        num_edges=2 * train.nnz,
        width=trainer.recommender.table.weight.shape[1],
        max_embedding_size=MAX_EMBEDDING_SIZE,
        num_params=sum(p.numel() for p in trainer.recommender.parameters()),
        batch_size=BATCH_SIZE,
    )
    return {
        "batch": batch,
        "sampling": sampling,
        "epoch_batches": batches,
        "epoch_s": batches * batch["median_s"],
        "evaluation": evaluation,
        "memory_bytes": {
            "imports": baseline,
            "imports_and_data": with_data,
            "evaluation_peak": evaluation_peak,
            "peak": peak_bytes(),
        },
        "cost_of_batch": cost,
    }


def normalised_adjacency(train: csr_array) -> csr_array:
    """D^-1/2 A D^-1/2 of the bipartite graph, users first."""
    weights = symmetric_weights(train)
    return csr_array(block_array([[None, weights], [weights.T, None]]))


def growth(case: dict[str, Any]) -> dict[str, Any]:
    """LightGCN's propagation, forward and backward, and its batch, on more and more interactions.

    Beside them one read of each row that a product of the adjacency reads, in its order: what the machine's
    caches make of a table that grows, whatever is computed with it.
    """
    train = load_split(case["data"], "train")
    trainer = make_trainer("lightgcn", train, case["width"])
    model = trainer.recommender
    gradients = [torch.ones(rows, case["width"]) for rows in train.shape]
    table = torch.zeros(sum(train.shape), case["width"])
    chunks = torch.from_numpy(normalised_adjacency(train).indices).split(2**14)
    rows = torch.empty(2**14, case["width"])

    def propagation() -> None:
        model.zero_grad(set_to_none=True)
        torch.autograd.backward(model.encode(), gradients)

    def gather() -> None:
        for chunk in chunks:
            torch.index_select(table, 0, chunk, out=rows[: len(chunk)])

    return {
        "num_interactions": int(train.nnz),
        "num_entities": sum(train.shape),
        "propagation": repeat(propagation, **case["repeats"]),
        "gather": repeat(gather, **case["repeats"]),
        "batch": repeat(lambda: trainer.step(draw(trainer)), **case["repeats"]),
    }


def growth_memory(case: dict[str, Any]) -> dict[str, int]:
    """What batches on more and more interactions hold, beyond what a batch holds on a tiny graph."""
    warm_up("lightgcn", case["width"])
    baseline_bytes()
    warm_up("lightgcn", case["width"])
    baseline = peak_bytes()
    trainer = make_trainer("lightgcn", load_split(case["data"], "train"), case["width"])
    for _ in range(2):
        trainer.step(draw(trainer))
    peak = peak_bytes()
    return {"tiny": baseline, "peak": peak, "growth": max(peak - baseline, 1)}


class CooLightGCN:
    """LightGCN as it is written down most often: a coalesced COO adjacency, autograd, a dense mask."""

    def __init__(self, train: csr_array, weight: torch.Tensor, mask: torch.Tensor, l2: float) -> None:
        matrix = normalised_adjacency(train).tocoo()
        self.adjacency = torch.sparse_coo_tensor(
            torch.from_numpy(np.stack([matrix.row, matrix.col]).astype(np.int64)),
            torch.from_numpy(matrix.data),
            matrix.shape,
            check_invariants=False,
        ).coalesce()
        self.num_users, self.num_items = train.shape
        self.weight = torch.nn.Parameter(weight.detach().clone())
        self.mask, self.l2 = mask.float(), l2
        self.optimizer = torch.optim.Adam([self.weight], lr=SETTINGS.learning_rate)

    def loss(self, users: torch.Tensor, positives: torch.Tensor, negatives: torch.Tensor) -> torch.Tensor:
        """BPR and L2 of the rows used, as ours."""
        table = self.weight * self.mask
        layers = [table]
        for _ in range(3):
            layers.append(torch.sparse.mm(self.adjacency, layers[-1]))
        user, item = torch.stack(layers).mean(dim=0).split([self.num_users, self.num_items])
        user_rows, item_rows = table.split([self.num_users, self.num_items])
        margin = (user[users] * (item[negatives] - item[positives])).sum(dim=1)
        rows = torch.cat([user_rows[users], item_rows[positives], item_rows[negatives]])
        return F.softplus(margin).mean() + self.l2 * rows.square().sum() / len(users)

    def step(self, batch: tuple[torch.Tensor, ...]) -> None:
        """Forward, backward and Adam."""
        self.optimizer.zero_grad()
        self.loss(*batch).backward()
        self.optimizer.step()


def coo_lightgcn(case: dict[str, Any]) -> dict[str, Any]:
    """A batch of our LightGCN and of the plain one in turn; both see the same triples."""
    train = load_split(case["data"], "train")
    trainer = make_trainer("lightgcn", train, case["width"])
    ours = trainer.recommender
    peer = CooLightGCN(train, ours.table.weight, ours.table.mask, ours.l2)
    batch = draw(trainer)
    our_loss, peer_loss = trainer.loss(ours, *batch), peer.loss(*batch)
    our_loss.backward()
    peer_loss.backward()
    our_grad, peer_grad = ours.table.weight.grad, peer.weight.grad
    agreement = {
        "loss": abs(our_loss.item() - peer_loss.item()) / abs(peer_loss.item()),
        "gradient": ((our_grad - peer_grad).abs().max() / peer_grad.abs().max()).item(),
        "tolerance": 1e-5,
    }
    if not max(agreement["loss"], agreement["gradient"]) <= agreement["tolerance"]:
        raise SystemExit(f"the two LightGCN do not compute the same: {agreement}")
    del our_loss, peer_loss, our_grad, peer_grad
    return {
        "what": "a batch of 10,000 triples, sampling apart, 3 layers",
        "differs": "nothing: loss and gradient agree; Adam of the peer is torch's default, ours is fused",
        "relative_difference": agreement,
        **in_turn(lambda: trainer.step(batch), lambda: peer.step(batch), case["turns"]),
    }


def in_turn(ours: Any, peer: Any, turns: int) -> dict[str, Any]:
    """Seconds of two calls, A B A B after one warm-up each; a call may give its own seconds."""
    seconds: dict[str, list[float]] = {"ours": [], "peer": []}
    for turn in range(turns + 1):
        for key, run in (("ours", ours), ("peer", peer)):
            started = time.perf_counter()
            own = run()
            ended = time.perf_counter() - started
            if turn > 0:
                seconds[key].append(own if isinstance(own, float) else ended)
    ratios = [theirs / own for own, theirs in zip(seconds["ours"], seconds["peer"], strict=True)]
    return {
        "ours": summary(seconds["ours"]),
        "peer": summary(seconds["peer"]),
        "ratio": {"median": float(np.median(ratios)), "min": min(ratios), "max": max(ratios)},
    }


def implicit_bpr(case: dict[str, Any]) -> dict[str, Any]:
    """An epoch of our MF and one of implicit's BPR in turn."""
    try:
        import implicit
        from implicit.cpu.bpr import BayesianPersonalizedRanking
    except ImportError:
        return {"missing": "implicit is not installed: pip install 'implicit>=0.7'"}
    train = load_split(case["data"], "train")
    trainer = make_trainer("mf", train, case["width"], case["batch_size"])
    matrix = csr_matrix(train)

    cpu_s: dict[str, list[float]] = {"ours": [], "peer": []}

    def ours() -> None:
        started = time.process_time()
        trainer.train(-(-train.nnz // trainer.settings.batch_size))
        cpu_s["ours"].append(time.process_time() - started)

    def peer() -> float:
        # Its fit also initialises and counts; the callback is given the seconds of an epoch alone.
        epochs: list[tuple[float, float]] = []
        model = BayesianPersonalizedRanking(
            factors=case["width"], iterations=2, num_threads=torch.get_num_threads(), random_state=0
        )
        model.fit(
            matrix,
            show_progress=False,
            callback=lambda epoch, elapsed, *_: epochs.append((elapsed, time.process_time())),
        )
        cpu_s["peer"].append(epochs[1][1] - epochs[0][1])
        return epochs[1][0]

    seconds = in_turn(ours, peer, case["turns"])
    return {
        "what": "an epoch: as many triples as there are training interactions, sampling included",
        "differs": "the peer takes one SGD step a triple, without locks between its threads (Hogwild), on "
        "three rows of factors and an item bias; ours takes one Adam step a batch. The peer draws a positive "
        "by interaction and a negative by item popularity, and skips triples whose negative is known; ours "
        "draws a positive by user and never a known negative",
        "version": implicit.__version__,
        **seconds,
        # On a machine that is busy with other things these are the ones to compare.
        "cpu_s": {name: summary(values[1:]) for name, values in cpu_s.items()},
    }


def limits(case: dict[str, Any]) -> dict[str, Any]:
    """The machine's best rates."""
    return {"machine": describe_machine(), "limits": measure_limits(case["is_quick"])}


KINDS = {
    "limits": limits,
    "prepare": prepare,
    "recommender": recommender,
    "growth": growth,
    "growth_memory": growth_memory,
    "coo_lightgcn": coo_lightgcn,
    "implicit_bpr": implicit_bpr,
}

if __name__ == "__main__":
    request = json.loads(sys.argv[1])
    print(json.dumps(KINDS[request["kind"]](request)))
