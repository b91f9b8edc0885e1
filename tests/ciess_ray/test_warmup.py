import numpy as np

from ciess_ray.warmup import WarmUp

BEST = {"user": np.array([0.9, 0.3, -0.5]), "item": np.array([0.05, 0.6, 1.0])}


def distance(policy):
    return float(np.sqrt(sum(np.square(policy[kind] - BEST[kind]).sum() for kind in BEST)))


def qualities(seed, num_steps, warmup=None, start=0):
    warmup = warmup or WarmUp(num_steps)
    found = []
    for step in range(start, num_steps):
        policy = warmup.propose(np.random.default_rng((seed, step)))
        for proposed in policy.values():
            assert proposed.shape == (3,)
            assert (proposed >= [0, 0, -1]).all() and (proposed <= 1).all()
        found.append(-distance(policy))
        warmup.tell(policy, found[-1])
    return found


def test_the_best_is_found_in_a_hundred_steps_and_not_by_chance():
    for seed in range(5):
        found = qualities(seed, 120)
        assert max(found) > max(found[:30]) / 2
        # What comes late lies near what is best.
        assert np.mean(found[90:]) > np.mean(found[:30]) + 0.7


def test_it_begins_with_plain_splits_and_equal_sizes_among_them():
    warmup, rng = WarmUp(120), np.random.default_rng(0)
    splits = []
    for _ in range(9):
        policy = warmup.propose(rng)
        assert all(own[1] == own[2] == 0 for own in policy.values())
        splits.append((policy["user"][0], policy["item"][0]))
        warmup.tell(policy, 0.0)
    users, items = np.array(splits).T
    np.testing.assert_allclose(users + items, 1)
    np.testing.assert_allclose(np.diff(users), 0.1)
    assert (0.5, 0.5) in splits
    assert warmup.propose(rng)["user"][2] != 0


def test_the_same_draws_and_news_give_the_same_policies():
    assert qualities(3, 40) == qualities(3, 40)
    warmup = WarmUp(40)
    first = [-distance(warmup.propose(np.random.default_rng((3, 0))))]
    assert first == qualities(3, 40)[:1]


def test_it_goes_on_where_it_was():
    whole, half = WarmUp(40), WarmUp(40)
    expected = qualities(1, 40, whole)
    begun = [qualities(1, 20, half)]
    other = WarmUp(40)
    other.set_state(half.get_state())
    assert begun[0] + qualities(1, 40, other, start=20) == expected


def test_a_warmup_of_few_steps_is_random():
    warmup, rng = WarmUp(4), np.random.default_rng(0)
    tried = []
    for _ in range(4):
        tried.append(np.concatenate(list(warmup.propose(rng).values())))
        warmup.tell(dict(zip(BEST, np.split(tried[-1], 2), strict=True)), 1.0)
    assert np.ptp(tried, axis=0).min() > 0.05
