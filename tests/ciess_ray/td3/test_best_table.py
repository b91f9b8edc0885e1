import numpy as np
import torch

from ciess_ray.td3.module import Actor
from ciess_ray.td3.replay import IMITATED_ACTION, IMITATED_OBS, BestTable

KINDS = ("user", "item")


class Step:
    def __init__(self, quality):
        self.quality = quality


class Rollout:
    """A table whose entity n has popularity n / 10 and the action ``first + n / 100``."""

    def __init__(self, quality, first):
        self.step = Step(quality)
        n = np.arange(10, dtype=np.float32)
        obs = np.stack([n / 10, np.full(10, 0.9, np.float32), np.full(10, 0.8, np.float32)], axis=1)
        self.transitions = {kind: {"obs": obs, "action": first + n / 100} for kind in KINDS}


def batch(size=64):
    return {kind: {"obs": torch.linspace(-1, 1, 3 * size).reshape(size, 3)} for kind in KINDS}


def test_the_best_table_is_imitated_whatever_came_after_it():
    best = BestTable(3)
    for quality, first in ((0.2, -0.5), (0.3, 0.25), (0.1, 0.75)):
        best.tell(Rollout(quality, first))
    drawn = batch()
    best.add_to(drawn)
    for columns in drawn.values():
        popularity = columns[IMITATED_OBS][:, 0]
        assert len(popularity.unique()) > 5
        torch.testing.assert_close(columns[IMITATED_ACTION], 0.25 + popularity / 10)
        # Where an episode stands is the transitions'.
        torch.testing.assert_close(columns[IMITATED_OBS][:, 1:], columns["obs"][:, 1:])


def test_without_a_table_nothing_is_added():
    drawn = batch()
    BestTable(0).add_to(drawn)
    assert all(set(columns) == {"obs"} for columns in drawn.values())


def test_a_table_is_kept_as_it_was():
    best, rollout = BestTable(1), Rollout(0.5, 0.0)
    best.tell(rollout)
    for columns in rollout.transitions.values():
        columns["action"][:] = 9
        columns["obs"][:] = 9
    drawn = batch()
    best.add_to(drawn)
    assert all((columns[IMITATED_ACTION] < 1).all() for columns in drawn.values())


def test_draws_go_on_where_they_were():
    whole, half, other = BestTable(5), BestTable(5), BestTable(0)
    for best in (whole, half):
        best.tell(Rollout(0.5, 0.1))
        best.add_to(batch())
    other = BestTable(5)
    other.set_state(half.get_state())
    expected, resumed = batch(), batch()
    whole.add_to(expected)
    other.add_to(resumed)
    for kind in KINDS:
        for name, column in expected[kind].items():
            torch.testing.assert_close(resumed[kind][name], column)
    # What came before counts still.
    other.tell(Rollout(0.4, -0.9))
    other.add_to(resumed)
    assert (resumed["user"][IMITATED_ACTION] > 0).all()


def test_an_actor_comes_near_what_it_imitates():
    torch.manual_seed(0)
    actor, best = Actor((32,)), BestTable(2)
    best.tell(Rollout(0.5, -0.4))
    optimizer = torch.optim.Adam(actor.parameters(), lr=0.01)
    for _ in range(200):
        drawn = batch()["user"]
        columns = {"user": drawn}
        best.add_to(columns)
        loss = (actor(drawn[IMITATED_OBS]) - drawn[IMITATED_ACTION]).square().mean()
        optimizer.zero_grad()
        loss.backward()
        optimizer.step()
    assert loss < 1e-4
