"""Next to no data, or users who are all alike: a clear word, or finite figures, whatever recommends."""

import itertools
import logging
import math

import numpy as np
import pytest
import torch

from ciess_ray.comparisons.yardsticks import YARDSTICKS, run_yardstick
from ciess_ray.config.data import check_budgets, load_interactions
from ciess_ray.config.yaml_file import parse_config
from ciess_ray.training.contest import judge_of
from ciess_ray.training.convergence import equal_sizes, fit_to_convergence, full_sizes, train_for_test
from ciess_ray.training.preparing import preparations_of
from envs.errors import DataError
from envs.recommenders import RECOMMENDERS
from envs.recommenders.losses import LOSSES as EVERY_LOSS


def block(num_users, num_items):
    return list(itertools.product(range(num_users), range(num_items)))


LOSSES = [loss for loss in EVERY_LOSS if loss != "bpr"]
#: Data that can be searched, with what is said of them.
SEARCHED = {
    "one user": ([(0, item) for item in range(30)], "14 of 30 items have no interaction in training"),
    "all users alike": (block(12, 8), "most users lack so few of the 8 items"),
    "every pair there": (block(20, 15), "most users lack so few of the 15 items"),
    "two kinds of users": ([pair for pair in block(20, 60) if sum(pair) % 2], ""),
    "an item nobody else has": ([*block(10, 40), (3, 99)], "1 of 41 items have no interaction"),
    "five interactions": ([(0, item) for item in range(5)], "most users lack so few of the 5 items"),
}
#: Data that cannot be split.
REFUSED = {
    "one item": block(30, 1),
    "a single popular item": [pair for user in range(40) for pair in ((user, 0), (user, 1 + user))],
    "five interactions of three users": [(0, 0), (0, 1), (1, 1), (1, 2), (2, 0)],
}


def config_of(folder, pairs, name="mf", loss="bpr"):
    file = folder / "log.csv"
    file.write_text("\n".join(["user_id,item_id", *(f"{user},{item}" for user, item in pairs)]))
    return parse_config(
        {
            "dataset": {"path": file},
            "budget": "50%",
            "output": folder / "out",
            "recommender": {"name": name, "max_embedding_size": 6, "device": "cpu"},
            "training": {"batch_size": 16, "evaluate_every": 2, "max_batches": 4, "loss": loss},
            "search": {"supernet_batches": 2},
        }
    )


@pytest.mark.parametrize(
    ("name", "loss"), [*((name, "bpr") for name in RECOMMENDERS), *(("mf", loss) for loss in LOSSES)]
)
@pytest.mark.parametrize("case", SEARCHED)
def test_what_can_be_searched_gives_finite_figures(case, name, loss, tmp_path, caplog):
    pairs, said = SEARCHED[case]
    config = config_of(tmp_path, pairs, name, loss)
    with caplog.at_level(logging.WARNING):
        interactions = load_interactions(config)
    assert said in caplog.text and (said or not caplog.records)
    (cap_params,) = check_budgets(config, interactions)
    visible = interactions.without_test()
    prepared = [one.train(visible) for one in preparations_of(config, visible)]
    equal = equal_sizes(config, visible, cap_params)
    judged = judge_of(config, visible, prepared[-1].state)(equal)
    _, report = fit_to_convergence(config, visible, equal, (0, 1))
    recommender, ranking = train_for_test(config, interactions, equal, report.best_batch, (0, 2))
    figures = [prepared[0].quality, judged, report.best.quality, *ranking.best.summary().values()]
    assert all(0 <= figure <= 1 for figure in figures)
    with torch.no_grad():
        scores = recommender.eval().score(recommender.encode(), torch.arange(interactions.num_users))
    assert torch.isfinite(scores).all() and torch.isfinite(recommender.table.packed_values()).all()
    assert full_sizes(config, interactions).num_params >= cap_params


@pytest.mark.parametrize("case", SEARCHED)
def test_yardsticks_of_little_data_are_finite(case, tmp_path):
    interactions = load_interactions(config_of(tmp_path, SEARCHED[case][0]))
    for name in YARDSTICKS:
        row = run_yardstick(name, interactions.without_test(), lambda: interactions.test).row
        assert all(math.isfinite(value) for value in row.values() if isinstance(value, float))
        assert 0 <= row["test/ndcg@20"] <= 1


@pytest.mark.parametrize(
    ("name", "most"), [("spectral", 12), ("neighbours", 14), ("ease", 14), ("mf", None), ("ncf", None)]
)
def test_numbers_that_can_only_be_zeros_are_told(name, most, tmp_path, caplog):
    config = config_of(tmp_path, [pair for pair in block(12, 15) if pair != (0, 0)], name)
    wide = {"max_embedding_size": 64}
    with caplog.at_level(logging.WARNING):
        load_interactions(
            config.model_copy(update={"recommender": config.recommender.model_copy(update=wide)})
        )
        told = [record.getMessage() for record in caplog.records if "embedding_size" in record.getMessage()]
        assert bool(told) == (most is not None)
        assert not told or (
            f"max_embedding_size=64: a row of {name}, with as many users (12) and items (15) as here, has at "
            f"most {most} numbers"
            in told[0]
            and told[0].endswith(f"lower it to {most}.")
        )
        caplog.clear()
        # One that fits says nothing.
        load_interactions(config)
    assert "embedding_size" not in caplog.text


@pytest.mark.parametrize("case", REFUSED)
def test_what_cannot_be_split_is_refused_with_what_to_bring(case, tmp_path):
    pairs = REFUSED[case]
    users = len(np.unique([user for user, _ in pairs]))
    with pytest.raises(
        DataError,
        match=rf"log\.csv: none of the {users} users has the 3 interactions that a split .* bring data with "
        rf"more interactions a user \(this has {len(pairs)} in all\)",
    ):
        load_interactions(config_of(tmp_path, pairs))
