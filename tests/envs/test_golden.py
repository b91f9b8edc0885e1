"""What the authors' code computes, and where we differ from it on purpose.

Parts (h), (i) and (j) of the file, the walk and the scale of actions, are checked with the exploration in
tests/ciess_ray/td3/test_exploration.py.
"""

from types import SimpleNamespace

import numpy as np
import pytest
import torch
from numpy.testing import assert_allclose
from scipy.sparse import csr_array

from envs import mdp
from envs.metrics import CUTOFFS, RankingMetrics, entity_quality, ranking_metrics
from envs.recommenders import NCF, NGCF, LightGCN
from envs.recommenders.evaluation import evaluate, rank_items
from envs.recommenders.losses import BPR
from envs.recommenders.propagation import (
    TiledAdjacency,
    row_normalised_adjacency,
)
from envs.sizes.embedding_sizes import EmbeddingSizes

CLOSE = {"rtol": 1e-5, "atol": 1e-5}


def matrix(dense):
    return csr_array(np.asarray(dense, np.float32))


@pytest.fixture(scope="module")
def train(golden):
    return matrix(golden["a_adjacency"]["R"])


@pytest.fixture
def make_lightgcn(golden, train):
    part = golden["b_lightgcn_forward"]
    sizes = EmbeddingSizes(np.array(part["user_sizes"]), np.array(part["item_sizes"]), 1, 4)

    def make(**options):
        recommender = LightGCN(train, sizes, generator=torch.Generator(), **options)
        with torch.no_grad():
            recommender.table.weight.copy_(torch.tensor(part["user_emb"] + part["item_emb"]))
        return recommender

    return make


def test_normalised_adjacency(golden, train):
    # The reference adds 1e-9 to every degree instead of leaving empty rows alone: below float32.
    expected = golden["a_adjacency"]["lightgcn_norm_adj"]
    table = torch.randn(sum(train.shape), 3, generator=torch.Generator().manual_seed(0))
    for tile_bytes in (1, 3 * 4 * 3, 2**20):
        tiled = TiledAdjacency(train, 3, torch.device("cpu"), tile_bytes, least_entries=0)
        user, item = tiled.split(table)
        product = torch.cat([tiled.cross(item, 1), tiled.cross(user, 0)])
        assert_allclose(product, np.array(expected) @ table.numpy(), **CLOSE)


def test_lightgcn_forward(golden, make_lightgcn):
    part, recommender = golden["b_lightgcn_forward"], make_lightgcn()
    mask = np.array(part["user_mask"] + part["item_mask"])
    assert_allclose(recommender.table.mask, mask)
    with torch.no_grad():
        assert_allclose(recommender.table(), mask * (part["user_emb"] + part["item_emb"]), **CLOSE)
        user, item = encoded = recommender.encode()
        scores = recommender.score(encoded, torch.arange(6))
    assert_allclose(user, part["user_out"], **CLOSE)
    assert_allclose(item, part["item_out"], **CLOSE)
    assert_allclose(scores, part["scores"], **CLOSE)


def test_kept_ratio_counts_sizes_and_not_values(golden, make_lightgcn):
    # The reference counts values that are not 0 inside the mask, so that a parameter of exactly 0 is free
    # there (0.607 here); the sum of the sizes is what has to be stored.
    part = golden["b_lightgcn_forward"]
    assert make_lightgcn().sizes.kept_ratio == pytest.approx(part["sum_sizes_over_budget"])


def test_bpr_loss_and_its_gradient(golden, train, make_lightgcn):
    part = golden["c_bpr_lightgcn"]
    triple = [torch.tensor(part[name]) for name in ("users", "pos", "neg")]
    bpr = BPR(train, batch_size=6)
    recommender = make_lightgcn(l2=part["decay"])
    loss = bpr(recommender, *triple)
    loss.backward()
    assert_allclose(loss.item(), part["total"], **CLOSE)
    assert_allclose(recommender.table.weight.grad, part["grad_user"] + part["grad_item"], **CLOSE)
    # The gradients above are small; what the L2 term adds to them must be seen beside the ranking term.
    without = bpr(make_lightgcn(l2=0.0), *triple).item()
    assert_allclose(without, part["mf_loss"], **CLOSE)
    heavy = bpr(make_lightgcn(l2=1e4 * part["decay"]), *triple).item()
    assert_allclose(heavy - without, 1e4 * part["reg_loss"], rtol=1e-5)


def test_row_normalised_adjacency(golden, train):
    assert_allclose(
        row_normalised_adjacency(train).toarray(), golden["a_adjacency"]["ngcf_norm_adj"], **CLOSE
    )


def test_ngcf_forward_and_loss(golden, train):
    # The reference drops nodes and messages at evaluation too; these values are without any. It has two
    # biases a layer, which only enter as their sum, and one here.
    tables, part = golden["b_lightgcn_forward"], golden["b2_ngcf_forward"]
    sizes = EmbeddingSizes(np.array(tables["user_sizes"]), np.array(tables["item_sizes"]), 1, 4)
    recommender = NGCF(train, sizes, generator=torch.Generator()).eval()
    weights = {name: torch.tensor(values) for name, values in part["weights"].items()}
    with torch.no_grad():
        recommender.table.weight.copy_(torch.tensor(tables["user_emb"] + tables["item_emb"]))
        for layer in range(3):
            recommender.weights_sum[layer].copy_(weights[f"W_gc_{layer}"])
            recommender.weights_product[layer].copy_(weights[f"W_bi_{layer}"])
            recommender.biases[layer].copy_((weights[f"b_gc_{layer}"] + weights[f"b_bi_{layer}"])[0])
        user, item = recommender.encode()
    assert_allclose(user, part["user_out"], **CLOSE)
    assert_allclose(item, part["item_out"], **CLOSE)
    triple = [torch.tensor(golden["c_bpr_lightgcn"][name]) for name in ("users", "pos", "neg")]
    bpr = BPR(train, batch_size=6)
    assert recommender.l2 == 1e-3
    assert_allclose(bpr(recommender, *triple).item(), part["total"], **CLOSE)
    recommender.l2 = 0.0
    assert_allclose(bpr(recommender, *triple).item(), part["mf_loss"], **CLOSE)


@pytest.fixture
def ncf_tables(golden):
    """Sizes of part (b) and the tables of part (b3), that of the hidden layer masked to them."""
    part, params = golden["b_lightgcn_forward"], golden["b3_ncf_forward"]["params"]
    sizes = EmbeddingSizes(np.array(part["user_sizes"]), np.array(part["item_sizes"]), 1, 4, num_tables=2)
    hidden, product = (
        torch.tensor(params[f"emb_user_{branch}.weight"] + params[f"emb_item_{branch}.weight"])
        for branch in ("mlp", "mf")
    )
    return sizes, torch.cat([hidden * torch.from_numpy(sizes.mask()[:, :4]), product], dim=1)


def test_ncf_logits_and_loss(golden, train, ncf_tables):
    # The reference does not mask the table of the products: sizes of d_max here, and the mask of the hidden
    # layer's table in its values.
    part, (_, tables) = golden["b3_ncf_forward"], ncf_tables
    full = EmbeddingSizes.full(6, 8, 4, num_tables=2)
    recommender = NCF(train, full, generator=torch.Generator())
    params = {name: torch.tensor(values) for name, values in part["params"].items()}
    with torch.no_grad():
        recommender.table.weight.copy_(tables)
        first, output = params["fc_layers.0.weight"], params["affine_output.weight"][0]
        recommender.hidden_user.copy_(first[:, :4].T)
        recommender.hidden_item.copy_(first[:, 4:].T)
        recommender.hidden_bias.copy_(params["fc_layers.0.bias"])
        recommender.output_hidden.copy_(output[:4])
        recommender.output_product.copy_(output[4:])
        recommender.output_bias.copy_(params["affine_output.bias"])
    users, positives, negatives = (
        torch.tensor(golden["c_bpr_lightgcn"][name]) for name in ("users", "pos", "neg")
    )
    encoded = recommender.encode()
    with torch.no_grad():
        pairs = recommender.score_pairs(encoded, users, positives)
        scores = recommender.score(encoded, users, positives)
    assert_allclose(pairs, part["logits_user_pos"], **CLOSE)
    assert_allclose(scores.diagonal(), part["logits_user_pos"], **CLOSE)
    bpr = BPR(train, batch_size=6)
    assert recommender.l2 == 1e-2
    assert_allclose(bpr(recommender, users, positives, negatives).item(), part["total"], **CLOSE)
    assert_allclose(
        recommender.penalty(encoded, users, torch.cat([positives, negatives])).item(),
        part["reg_loss"],
        **CLOSE,
    )


def test_kept_ratio_of_ncf_counts_both_tables_at_their_sizes(golden, ncf_tables):
    # 35 numbers within the mask in each table. The reference counts the table of the products whole: 35 + 56.
    sizes, _ = ncf_tables
    ratio, kept = golden["b3_ncf_forward"]["calc_sparsity"]
    assert (kept, ratio) == (35 + 14 * 4, 91 / 112)
    assert (sizes.num_params, sizes.kept_ratio) == (2 * 35, 70 / 112)


def fixed_scores(scores):
    """A recommender that always gives these scores."""
    scores = torch.tensor(scores)
    return SimpleNamespace(
        num_users=scores.shape[0],
        num_items=scores.shape[1],
        device=torch.device("cpu"),
        encode=lambda: None,
        score=lambda encoded, users: scores[users],
        training=False,
        train=lambda mode: None,
        eval=lambda: None,
    )


@pytest.fixture(scope="module")
def ranking(golden):
    part = golden["d_ranking"]
    seen, relevant = matrix(part["train"]), matrix(part["valid"])
    return SimpleNamespace(
        part=part,
        seen=seen,
        relevant=relevant,
        metrics=evaluate(fixed_scores(part["scores"]), seen, relevant),
    )


def test_ranking_metrics(ranking):
    # User 3 has no validation interactions: 0 and counted in the reference, NaN and left out here.
    metrics, part = ranking.metrics, ranking.part
    assert np.isnan(metrics.user_quality).tolist() == [False, False, False, True, False]
    for column, k in enumerate(CUTOFFS):
        assert_allclose(np.nan_to_num(metrics.recall[:, column]), part[f"recall@{k}"], **CLOSE)
        assert_allclose(np.nan_to_num(metrics.ndcg[:, column]), part[f"ndcg@{k}"], **CLOSE)
    assert_allclose(np.nan_to_num(metrics.user_quality), part["quality_user"], **CLOSE)
    assert_allclose(np.nan_to_num(metrics.user_quality).mean(), part["AVG"], **CLOSE)
    assert_allclose(metrics.quality, part["AVG"] * 5 / 4, **CLOSE)


def test_the_ranking_of_every_user_gives_the_same_metrics(ranking):
    ranked = rank_items(fixed_scores(ranking.part["scores"]), ranking.seen, np.arange(5), 20)
    metrics = ranking_metrics(ranked, ranking.relevant)
    np.testing.assert_array_equal(metrics.recall, ranking.metrics.recall)
    np.testing.assert_array_equal(metrics.ndcg, ranking.metrics.ndcg)


def test_item_quality(golden, ranking):
    expected = np.array(golden["e_item_quality"]["quality_item"])
    recall, ndcg = np.nan_to_num(ranking.metrics.recall), np.nan_to_num(ranking.metrics.ndcg)
    counting_absent_users_as_0 = entity_quality(RankingMetrics(recall, ndcg), ranking.seen)
    assert_allclose(np.nan_to_num(counting_absent_users_as_0["item"]), expected, **CLOSE)
    # Here user 3, who has no quality, takes no part in the mean of an item, and an item of nobody else has
    # none itself.
    dense = ranking.seen.toarray()
    others = dense[[0, 1, 2, 4]].sum(axis=0)
    quality = entity_quality(ranking.metrics, ranking.seen)["item"]
    np.testing.assert_array_equal(np.isnan(quality), others == 0)
    share = np.divide(others, dense.sum(axis=0), out=np.zeros(24), where=others > 0)
    assert_allclose(np.nan_to_num(quality) * share, expected, **CLOSE)


@pytest.fixture
def states(golden, train):
    """Our states of users or items, and the inputs to them, from part (f)."""
    part = golden["f_state"]
    counts = {"user": np.diff(train.indptr), "item": np.bincount(train.indices, minlength=8)}

    def make(kind, quality=None, share=None):
        assert counts[kind].tolist() == part[f"{kind}_freq"]
        if share is None:
            quality = np.array(part[f"{kind}_quality"]) if quality is None else quality
            share = mdp.relative_quality(quality, np.array(part[f"{kind}_peak"]))
        return mdp.observe(mdp.scale_popularity(counts[kind]), np.array(part[f"{kind}_sizes"]), share, 1, 128)

    return make


def test_states(golden, states):
    part = golden["f_state"]
    assert_allclose(states("user"), part["state_user"], **CLOSE)
    got, expected = states("item"), np.array(part["state_item"])
    assert_allclose(got[:7], expected[:7], **CLOSE)
    # Item 7 was never seen in training. Its popularity is -1.667 in the reference and clipped to -1 here; its
    # full quality is 0, which gives -1 in the reference, and no quality here: 0, the middle of the scale.
    assert expected[7].tolist() == pytest.approx([-5 / 3, expected[7, 1], -1])
    assert got[7].tolist() == pytest.approx([-1, expected[7, 1], 0])


@pytest.mark.parametrize(("kind", "num_seen"), [("user", 6), ("item", 7)])
def test_states_after_a_reset(golden, states, kind, num_seen):
    # Before the first step the reference shows a quality of 0; here that of the full table, which is 1. As
    # above, item 7 differs in popularity too, and has no quality.
    expected = np.array(golden["f_state"][f"state_reset_{kind}"])[:num_seen]
    peak = np.array(golden["f_state"][f"{kind}_peak"])
    got = states(kind, quality=peak)[:num_seen]
    assert_allclose(got[:, :2], expected[:, :2], **CLOSE)
    assert (expected[:, 2] == 0).all()
    assert (got[:, 2] == 1).all()
    # In the reference form nobody has a quality before the first step, which the state shows as 0.
    assert_allclose(states(kind, share=np.full(peak.shape, np.nan))[:num_seen], expected, **CLOSE)


def test_states_without_a_full_size_fit(golden, states):
    # The released code never fits the full table: its peaks are 0, raised to 1e-5.
    part = golden["f_state"]
    quality = np.array(part["user_quality"])
    got = states("user", share=mdp.saturated_quality(quality))
    assert_allclose(got, part["state_user_peak_zero"], **CLOSE)
    assert set(got[:, 2]) == {-1, 1} and (got[:, 2] == 1).tolist() == (quality > 0).tolist()
    # Nearly 0 is neither; and who has no quality, which counts as 0 there, is in the middle here.
    assert_allclose(mdp.saturated_quality(np.array([5e-6, np.nan])), [0.5, np.nan], **CLOSE)


def test_reward(golden):
    # The released code charges ((d - 1) / d_max)² and pays the raw quality; CIESS's text (d / d_max)² and the
    # share of the full table's.
    for case in golden["g_reward"]["cases"]:
        sizes = np.array(case["sizes"])
        quality = np.full(sizes.shape, case["quality"])
        cost = mdp.memory_cost(sizes, 128, "reference")
        assert_allclose(mdp.reward(quality, cost, case["lambda"]), case["reward"], **CLOSE)
        in_paper = mdp.reward(quality, mdp.memory_cost(sizes, 128, "paper"), case["lambda"])
        extra = case["lambda"] * (2 * sizes - 1) / 128**2
        assert_allclose(in_paper, np.array(case["reward"]) - extra, **CLOSE)


def test_scale_of_sizes(golden):
    part = golden["i_normalise_actions"]
    assert_allclose(mdp.scale_size(np.array(part["actions"]), 1, 128), part["normalised"], **CLOSE)
    assert_allclose(mdp.unscale_size(np.array(part["normalised"]), 1, 128), part["actions"], **CLOSE)
    # The reference subtracts d_min where it should subtract 1: right for d_min = 1 alone.
    assert mdp.scale_size(np.array([4, 128]), 4, 128).tolist() == [-1, 1]
