import pytest

from ciess_ray.config.yaml_file import parse_config
from ciess_ray.searches.hints import rank_hints, refit_note, training_hints

NAMES = ("full size", "equal sizes", "search")


@pytest.fixture
def hints_of():
    """Makes the hints of a search whose tables were best at these batches, with these weights of L2."""

    def make(
        best_batches=(200, 200, 200),
        weights=(None, None, None),
        qualities=(0.3, 0.2, 0.25),
        on_test=(0.3, 0.2, 0.25),
        **training,
    ):
        settings = {"evaluate_every": 20, "patience": 5, "max_batches": 1000} | training
        recommender = {"name": "lightgcn", "options": settings.pop("options", {})}
        dataset = {"path": "log.csv"}
        config = parse_config({"dataset": dataset, "training": settings, "recommender": recommender})
        rows = [
            {
                "name": name,
                "best_batch": batch,
                "l2": weight,
                "validation": {"quality": quality},
                "test": {"ndcg@20": ndcg},
                "num_params": 900 if name == "full size" else 90,
            }
            for name, batch, weight, quality, ndcg in zip(
                NAMES, best_batches, weights, qualities, on_test, strict=True
            )
        ]
        return [*rank_hints(*rows, is_equal_packed=False), *training_hints(config, rows)]

    return make


def test_nothing_is_said_of_what_is_as_it_should_be(hints_of):
    assert hints_of() == []
    # All batches are trained, and the learning rate has decayed by then.
    assert hints_of((1000,) * 3, patience=None) == []


def test_a_yardstick_that_was_best_at_its_first_validation_is_named(hints_of):
    (hint,) = hints_of((20, 200, 20))
    assert hint.startswith(
        "full size, search: best at the first validation, batch 20, and worse from there on"
    )
    assert "recommender.options.l2" in hint and "training.evaluate_every" in hint
    # With so few batches it ended before patience did, and was not rising.
    (hint,) = hints_of((100,) * 3, evaluate_every=100, max_batches=200)
    assert hint.startswith("full size, equal sizes, search: best at the first")
    # There was no other.
    assert not any("first" in hint for hint in hints_of((20, 20, 20), max_batches=20))


def test_a_full_table_that_finds_nothing_is_told(hints_of):
    (hint,) = hints_of(qualities=(0.0, 0.0, 0.01))
    assert hint.startswith("full size finds nothing of what is held out for validation")


def test_what_is_won_on_validation_and_not_on_test_is_told(hints_of):
    for on_test in ((0.3, 0.25, 0.25), (0.3, 0.26, 0.25)):
        (hint,) = hints_of(on_test=on_test)
        assert hint.startswith("on test equal sizes are no worse than what the search found")
    (hint,) = hints_of(qualities=(0.3, 0.26, 0.25), on_test=(0.3, 0.26, 0.25))
    assert hint.startswith("equal sizes were better on validation")


def test_a_full_table_that_is_worse_than_a_small_one_is_told(hints_of):
    (hint,) = hints_of(qualities=(0.19, 0.2, 0.25))
    assert hint.startswith("full size is worse on validation than equal sizes of 90 parameters")
    assert "recommender.max_embedding_size" in hint


def test_a_yardstick_that_was_still_rising_is_named(hints_of):
    (hint,) = hints_of((1000, 200, 200))
    assert "before full size (best at batch 1,000) had stopped rising: raise it" in hint


def test_a_weight_of_l2_beyond_which_none_was_tried_is_named(hints_of):
    (hint,) = hints_of(weights=(1e-3, 1e-3, None), options={"l2": [1e-4, 1e-3]})
    assert hint.startswith("full size, equal sizes: better with the largest weight of L2 that was tried")
    assert "the first, 0.0001" in hint and "a larger one" in hint
    (hint,) = hints_of(weights=(None, 1e-5, None), options={"l2": [1e-4, 1e-3, 1e-5]})
    assert hint.startswith("equal sizes: better with the smallest weight") and "a smaller one" in hint
    assert hints_of(weights=(1e-3,) * 3, options={"l2": [1e-4, 1e-3, 1e-2]}) == []
    assert hints_of(weights=(1e-3,) * 3, options={"l2": [1e-3, 1e-4]}) == []


def test_a_search_that_loses_to_equal_sizes_is_told(hints_of):
    (hint,) = hints_of(qualities=(0.3, 0.26, 0.25))
    assert hint.startswith("equal sizes were better on validation")


def test_what_a_refit_leaves_out_is_told():
    told = {"num_interactions": 12_000, "num_left_out": 3_000}
    note = refit_note(told)
    assert "all 12,000 interactions, without 3,000 of users and items that training does not know; " in note
    assert "without 0" not in refit_note(told | {"num_left_out": 0}) and refit_note(None) is None
