import os

import numpy as np
import pytest

from ciess_ray.td3.warmup import WarmUp, plain_splits
from envs.toy import ToySizeEnv

BEST = {"user": np.array([0.9, 0.3, -0.5]), "item": np.array([0.05, 0.6, 1.0])}


def quality(policy):
    return -float(np.sqrt(sum(np.square(policy[kind] - BEST[kind]).sum() for kind in BEST)))


def is_plain(policy):
    return all(own[1] == own[2] == 0 for own in policy.values())


def take(warmup, num_runners=1, lost=None, num_iterations=None):
    """Steps of a search on so many env runners; `lost` says whether one dies on its way."""
    tried = []
    for iteration in range(10_000 if num_iterations is None else num_iterations):
        dealt = warmup.deal(range(num_runners))
        if not dealt:
            break
        back = {worker: policy for worker, policy in dealt.items() if not (lost and lost(iteration, worker))}
        for policy in back.values():
            for proposed in policy.values():
                assert proposed.shape == (3,)
                assert (proposed >= [0, 0, -1]).all() and (proposed <= 1).all()
        warmup.settle(dealt, {worker: quality(policy) for worker, policy in back.items()})
        tried += back.values()
    return tried


def qualities(*arguments, **more):
    return [quality(policy) for policy in take(*arguments, **more)]


@pytest.mark.parametrize("num_runners", [1, 4, 8])
def test_the_best_is_found_in_a_hundred_steps_and_not_by_chance(num_runners):
    runs = [qualities(WarmUp(120, seed), num_runners) for seed in range(12)]
    assert np.median([max(found) / max(found[:30]) for found in runs]) < 0.5
    # What comes late lies near what is best, whichever env runner found that.
    assert all(np.mean(found[90:]) > np.mean(found[:30]) + 0.7 for found in runs)


@pytest.mark.parametrize("num_runners", [1, 4, 8, 50])
def test_it_begins_with_plain_splits_and_equal_sizes_among_them(num_runners):
    tried = take(WarmUp(120, 0), num_runners)
    assert len(tried) == 120
    users, items = np.array([(own["user"][0], own["item"][0]) for own in tried[:9]]).T
    assert all(is_plain(policy) for policy in tried[:9]) and not is_plain(tried[9])
    np.testing.assert_allclose(users + items, 1)
    np.testing.assert_allclose(np.diff(users), 0.1)
    assert (0.5, 0.5) in zip(users, items, strict=True)
    assert [policy["user"][0] for policy in plain_splits(120)] == users.tolist()


def test_it_may_begin_with_other_policies_before_as_many_random_ones():
    def later(first):
        tried = take(WarmUp(120, 0, first))
        num_first = 9 if first is None else len(first)
        assert first is None or tried[:num_first] == first
        return [
            sum(is_plain(one) for one in tried),
            *(tried[num_first + place]["user"][0] for place in range(21)),
        ]

    first = [{kind: np.array([0.1 * place, 0.5, 0.5]) for kind in BEST} for place in range(3)]
    _, *random = later(first)
    num_plain, *as_many = later(None)
    assert num_plain == 9 and np.ptp(random) > 0.5 < np.ptp(as_many)
    # What follows the random ones lies near the best.
    assert np.mean([quality(one) for one in take(WarmUp(120, 0, first))[24 + 66 :]]) > -0.7


@pytest.mark.parametrize("num_runners", [1, 4, 8])
def test_what_is_lost_on_its_way_is_proposed_again(num_runners):
    rng = np.random.default_rng(0)
    tried = take(WarmUp(120, 0), num_runners, lost=lambda iteration, worker: rng.random() < 0.4)
    assert len(tried) == 120
    splits = sorted(policy["user"][0] for policy in tried if is_plain(policy))
    np.testing.assert_allclose(splits, np.linspace(0.1, 0.9, 9))
    assert np.mean([quality(policy) for policy in tried[90:]]) > -0.7


def test_the_same_draws_and_news_give_the_same_policies():
    assert qualities(WarmUp(40, 3)) == qualities(WarmUp(40, 3))
    assert qualities(WarmUp(40, 3)) != qualities(WarmUp(40, 4))


def test_it_goes_on_where_it_was():
    def is_lost(iteration, worker):
        return (iteration, worker) == (0, 2)

    expected = qualities(WarmUp(40, 1), 4, lost=is_lost)
    half, other = WarmUp(40, 1), WarmUp(40, 1)
    begun = qualities(half, 4, lost=is_lost, num_iterations=1)
    other.set_state(half.get_state())
    assert begun + qualities(other, 4) == expected


def test_a_warmup_of_few_steps_is_random():
    tried = [np.concatenate(list(policy.values())) for policy in take(WarmUp(4, 0))]
    assert len(tried) == 4 and np.ptp(tried, axis=0).min() > 0.05


def test_env_runners_share_one_warmup_and_a_lost_one_takes_no_split_with_it(make_algo, tmp_path):
    from ray.tune.registry import register_env

    def create(context):
        # A class of this module could not be imported by the runners.
        class MortalEnv(ToySizeEnv):
            def step(self, action):
                if context.worker_index == 1 and not (tmp_path / "died").exists():
                    (tmp_path / "died").touch()
                    os._exit(1)
                return super().step(action)

        return MortalEnv(**context)

    register_env("mortal", create)
    toy = {"num_users": 60, "num_items": 40, "max_embedding_size": 64, "episode_length": 50}
    algo = make_algo(toy, env="mortal", num_env_runners=2, num_warmup_steps=60, updates_per_step=0)
    steps = []
    while len(steps) < 6:
        algo.train()
        steps += algo.last_steps
    assert all(step.is_warmup for step in steps)
    sizes = [tuple(np.unique(step.proposed_sizes[kind]) for kind in ("user", "item")) for step in steps]
    plain = [tuple(int(own[0]) for own in pair) for pair in sizes if all(own.size == 1 for own in pair)]
    # Of sixty steps fifteen are at random, and five of these plain.
    assert len(plain) == len(set(plain)) == 5
    assert sum(user == item for user, item in plain) == 1
