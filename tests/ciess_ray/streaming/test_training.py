"""What a stream's trainings are told."""

from ciess_ray.streaming.config import StreamTraining


def test_a_table_that_goes_on_has_batches_and_a_rate_of_its_own():
    training = StreamTraining(learning_rate=0.2, warm_learning_rate=0.7, batches=100, warm_batches=30)
    scratch, warm = (training.settings(is_warm=is_warm) for is_warm in (False, True))
    assert (scratch.learning_rate, scratch.max_batches) == (0.2, 100)
    assert (warm.learning_rate, warm.max_batches) == (0.7, 30)
    for settings in (scratch, warm):
        last = settings.learning_rate_at(settings.max_batches - 1) / settings.learning_rate
        assert 0.04 < last < 0.2
    always_scratch = StreamTraining(warm_batches=None)
    assert always_scratch.settings(is_warm=True) == always_scratch.settings(is_warm=False)
