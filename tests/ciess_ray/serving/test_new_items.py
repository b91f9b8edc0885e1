"""New items beside a table that was computed: what the closed form would have made of them."""

import numpy as np
import pytest
import torch
from scipy.sparse import csr_array

from ciess_ray.result import ResultFolder
from ciess_ray.serving.recommender import ServedRecommender
from envs.recommenders import RECOMMENDERS
from envs.recommenders.training import Recipe, TrainingSettings
from envs.sizes.embedding_sizes import EmbeddingSizes

NUM_USERS, NUM_ITEMS = 60, 40


def test_an_item_folded_in_with_all_its_users_is_the_row_that_it_has(make_interactions, tmp_path):
    interactions = make_interactions(NUM_USERS, NUM_ITEMS)
    recipe = Recipe(interactions.train, TrainingSettings(), "spectral")
    recommender = recipe.recommender(EmbeddingSizes.full(0, NUM_ITEMS, 8), np.random.default_rng(0))
    ResultFolder(tmp_path).write_table(recommender.eval(), interactions, "spectral")
    scorer = ServedRecommender.open(tmp_path).scorer
    users_of_items = csr_array(interactions.train.T)
    means = users_of_items / np.maximum(users_of_items.sum(axis=1), 1)[:, None]
    np.testing.assert_allclose(scorer.new_items(csr_array(means)), scorer.item, atol=2e-3)


@pytest.mark.parametrize("num_kept", [3, NUM_ITEMS + 1])
@pytest.mark.parametrize(
    ("name", "options"),
    [("neighbours", {"user_exponent": 0.0, "outgoing": way}) for way in (0, 1)] + [("ease", {"l2": 2.0})],
)
def test_a_new_item_has_the_weights_that_the_closed_form_gives_it(
    make_interactions, tmp_path, name, options, num_kept
):
    """Computed with the item there, and known items left their former rows but for its place in them."""
    interactions = make_interactions(NUM_USERS, NUM_ITEMS)
    # Whoever had a known item, and so near to what that is near to.
    firsts = np.flatnonzero(interactions.train[:, [4]].toarray())[1:]
    column = np.isin(np.arange(NUM_USERS), firsts).astype(np.float32)[:, None]
    together = csr_array(np.hstack([interactions.train.toarray(), column]))
    make, rng = RECOMMENDERS[name], np.random.default_rng(0)

    def weights(train, width):
        sizes = EmbeddingSizes.full(0, train.shape[1], width)
        recommender = make(train, sizes, generator=torch.Generator(), **options)
        recommender.solve(rng)
        return recommender.eval()

    recommender = weights(interactions.train, num_kept)
    ResultFolder(tmp_path).write_table(recommender, interactions, name)
    whole = make.weights(weights(together, num_kept), NUM_ITEMS).toarray()
    if options.get("outgoing", 1):
        says = whole[:NUM_ITEMS, NUM_ITEMS]
        kept = recommender.table().detach().abs().numpy()
        says = np.where(np.abs(says) > (kept.min(axis=1)), says, 0)
    else:
        says = whole[NUM_ITEMS, :NUM_ITEMS]
        says = np.where(np.argsort(np.argsort(-says, kind="stable")) < num_kept, says, 0)
    assert (says != 0).any() and (num_kept > 3 or (says == 0).any())
    served = ServedRecommender.open(tmp_path)
    found = served.score_new_items([[*interactions.user_ids[firsts]]], interactions.user_ids)
    np.testing.assert_allclose(found[:, 0], interactions.train @ says, rtol=1e-4, atol=1e-5)
