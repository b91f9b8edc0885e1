import pytest

from ciess_ray.resources import check_resources, gpus_of_each
from envs.errors import ConfigError

pytestmark = pytest.mark.usefixtures("ray_cluster")


@pytest.fixture
def config(make_config, tmp_path):
    def make(search=(), resources=(), device="cpu"):
        recommender = {"device": device}
        return make_config(tmp_path, search=dict(search), resources=dict(resources), recommender=recommender)

    return make


@pytest.mark.parametrize(
    ("search", "resources"),
    [
        ({}, {}),
        ({"num_env_runners": 2}, {}),
        ({"num_env_runners": 20}, {"num_cpus_per_env_runner": 0.1}),
        ({}, {"num_cpus_per_training": 2}),
    ],
)
def test_what_two_cpus_can_hold_passes(config, search, resources):
    check_resources(config(search, resources))


@pytest.mark.parametrize(
    ("search", "resources", "says"),
    [
        (
            {"num_env_runners": 3},
            {},
            r"num_env_runners=3 asks for 3 x 1 CPU = 3 CPU, and this cluster \(2 CPU\) has room for 2 such"
            ".*ask for 2 or fewer, or lower resources.num_cpus_per_env_runner",
        ),
        (
            {"num_env_runners": 5},
            {"num_cpus_per_env_runner": 0.5},
            "search.num_env_runners=5 asks for 5 x 0.5 CPU = 2.5 CPU",
        ),
        ({}, {"num_cpus_per_training": 3}, "a training asks for 3 CPU, .*resources.num_cpus_per_training"),
        ({}, {"num_gpus_per_training": 1}, "1 CPU and 1 GPU, .* or resources.num_gpus_per_training"),
        (
            {"num_env_runners": 1},
            {"num_gpus_per_env_runner": 0.5},
            "room for 0 such: .*Please lower resources.num_cpus_per_env_runner or",
        ),
    ],
)
def test_what_they_can_never_hold_is_refused_with_the_arithmetic(config, search, resources, says):
    with pytest.raises(ConfigError, match=says):
        check_resources(config(search, resources))


def test_a_gpu_by_name_is_refused_where_no_node_has_one(config):
    with pytest.raises(ConfigError, match="device='cuda' was asked for, but this cluster has no GPU"):
        check_resources(config(device="cuda"))


@pytest.mark.parametrize(
    ("device", "given", "num_claims", "gpus"),
    [("cpu", None, 4, 0.0), ("auto", None, 4, 0.5), ("auto", None, 1, 1.0), ("auto", 0.2, 4, 0.2)],
)
def test_gpus_are_shared_where_there_are_some(monkeypatch, device, given, num_claims, gpus):
    monkeypatch.setattr("ray.cluster_resources", lambda: {"CPU": 8.0, "GPU": 2.0})
    assert gpus_of_each(device, given, num_claims) == gpus
