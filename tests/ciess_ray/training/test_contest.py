"""Which allocation validation chooses, and what is trained for that."""

import numpy as np
import pytest

from ciess_ray.config.run import Way
from ciess_ray.training.contest import Allocation, Contest, choose, options_text
from ciess_ray.training.convergence import Trained
from envs.sizes.embedding_sizes import EmbeddingSizes


def allocation(name, user_sizes):
    return Allocation(name, EmbeddingSizes(np.array(user_sizes), np.array([1, 1]), 1, 8))


VARIED, SPLIT, WORSE_SPLIT = (
    allocation("varied", [1, 4, 8]),
    allocation("split", [4, 4, 5]),
    allocation("worse split", [3, 3, 3]),
)
PLAIN = {"varied": 0.5, "split": 0.4, "worse split": 0.3}


def chosen(proposed, communities, *, tried=(2, 3, 4), tried_l2=(), l2=None):
    """What is chosen, and the names of what was trained, stage after stage."""
    asked = []

    def train(stage):
        asked.append([one.name for _, one in stage])
        qualities = (
            communities.get(one.name, PLAIN.get(one.name)) + (l2 or {}).get(one.options.get("l2"), 0)
            for _, one in stage
        )
        return [Trained({}, quality, 1) for quality in qualities]

    ways = [Way({}, {"l2": tried_l2})]
    ((best, _),) = choose([Contest(proposed, lambda sizes, _: sizes)], train, tried, ways)
    return best, asked


def in_communities(name, qualities):
    return {f"{name}, {number} communities": quality for number, quality in qualities.items()}


def test_the_best_and_the_best_plain_split_are_tried_in_communities_each_until_it_is_no_better():
    communities = in_communities("varied", {2: 0.45}) | in_communities("split", {2: 0.41, 3: 0.6, 4: 0.55})
    best, asked = chosen([VARIED, SPLIT, WORSE_SPLIT], communities)
    assert best.name == "split, 3 communities" and best.quality == 0.6
    assert asked == [
        ["varied", "split", "worse split"],
        ["varied, 2 communities", "split, 2 communities"],
        ["split, 3 communities"],
        ["split, 4 communities"],
    ]


def test_a_plain_split_that_is_the_best_is_tried_once_and_nothing_is_trained_for_an_empty_stage():
    best, asked = chosen([SPLIT, WORSE_SPLIT], in_communities("split", {2: 0.4}))
    assert best.name == "split"
    assert asked == [["split", "worse split"], ["split, 2 communities"]]


def test_without_a_plain_split_there_is_the_best_alone():
    best, asked = chosen([VARIED], in_communities("varied", {2: 0.6, 3: 0.7, 4: 0.8}))
    assert best.name == "varied, 4 communities" and len(asked) == 4


@pytest.mark.parametrize(("gain", "l2"), [(0.1, 0.01), (-0.1, None)])
def test_another_weight_of_l2_is_tried_for_the_best_of_all(gain, l2):
    best, asked = chosen([VARIED, SPLIT], {}, tried=(), tried_l2=[0.01], l2={0.01: gain})
    assert asked == [["varied", "split"], ["varied", "split"]]
    assert best.name == "varied" and best.options.get("l2") == l2


def test_contests_are_trained_in_step():
    stages = []

    def train(stage):
        stages.append([position for position, _ in stage])
        return [Trained({}, PLAIN[one.name.split(",")[0]], 1) for _, one in stage]

    contests = [Contest([VARIED]), Contest([SPLIT, WORSE_SPLIT], lambda sizes, _: sizes)]
    assert [best.name for best, _ in choose(contests, train, (2, 3), [Way({}, {})])] == ["varied", "split"]
    assert stages == [[0, 1, 1], [1]]


def test_options_are_tried_one_after_another_each_at_the_best_of_those_before():
    asked = []

    def train(stage):
        asked.extend(dict(one.options) for _, one in stage)
        gains = {"a": {2: 0.1}, "b": {7: -0.1, 8: 0.1}}
        return [
            Trained({}, 0.5 + sum(gains[name].get(value, 0) for name, value in one.options.items()), 0)
            for _, one in stage
        ]

    ((best, _),) = choose([Contest([VARIED])], train, (), [Way({}, {"a": (1, 2), "b": (7, 8)})])
    assert asked == [{}, {"a": 1}, {"a": 2}, {"a": 2, "b": 7}, {"a": 2, "b": 8}]
    assert best.options == {"a": 2, "b": 8}


def test_other_ways_to_train_are_tried_on_the_best_and_options_in_the_best_of_them():
    asked = []
    gains = {"bpr": 0.1, "softmax": 0.2, 0.03: 0.1}

    def train(stage):
        asked.extend(dict(one.options) for _, one in stage)
        return [
            Trained({}, sum(gains.get(value, 0) for value in one.options.values()), 1) for _, one in stage
        ]

    loss = "training.loss"
    ways = [
        Way({}, {"l2": (9.0,)}),
        Way({loss: "bpr", "l2": 1.0}, {}),
        Way({loss: "softmax"}, {"l2": (0.03, 7)}),
    ]
    ((best, _),) = choose([Contest([VARIED])], train, (), ways)
    assert asked == [
        {},
        {loss: "bpr", "l2": 1.0},
        {loss: "softmax"},
        *({loss: "softmax", "l2": l2} for l2 in (0.03, 7)),
    ]
    assert best.options == {loss: "softmax", "l2": 0.03}
    assert options_text(best.options) == "loss softmax, L2 0.03"
    assert (
        options_text({loss: "softmax", "training.temperature": None, "training.decay_every": 9})
        == "loss softmax"
    )
