"""Offline: what can be known to be wrong with the files in cluster/."""

import copy
import re
import shlex
import tomllib
from pathlib import Path

import pytest
import yaml
from ray.autoscaler._private.util import prepare_config, validate_config

from ciess_ray.sweep_config import load_sweep, parse_sweep

ROOT = Path(__file__).parents[2]
CLUSTER = ROOT / "cluster"
LAUNCHED = ("local.yaml", "aws.yaml", "gcp.yaml")


def read(name):
    return yaml.safe_load((CLUSTER / name).read_text())


def validate(config):
    validate_config(prepare_config(copy.deepcopy(config)))


@pytest.mark.parametrize("name", LAUNCHED)
def test_ray_up_takes_the_definition(name):
    validate(read(name))


@pytest.mark.parametrize("name", LAUNCHED)
def test_a_typo_would_be_noticed(name):
    with pytest.raises(Exception, match="max_wrokers"):
        validate(read(name) | {"max_wrokers": 3})


@pytest.mark.parametrize("name", ["aws.yaml", "gcp.yaml"])
def test_a_head_that_is_no_type_would_be_noticed(name):
    with pytest.raises(Exception, match="nowhere|head_node_type"):
        validate(read(name) | {"head_node_type": "nowhere"})


@pytest.mark.parametrize("name", LAUNCHED)
def test_the_head_runs_the_driver_and_workers_may_go(name):
    config, text = read(name), (CLUSTER / name).read_text()
    if name == "local.yaml":
        assert "--num-cpus=0" in config["head_start_ray_commands"][-1]
        assert config["max_workers"] == len(config["provider"]["worker_ips"])
    else:
        types = config["available_node_types"]
        assert (
            types["head"]["resources"] == {"CPU": 0}
            and types["worker"]["max_workers"] <= config["max_workers"]
        )
        assert "spot" in str(types["worker"]).lower() and "spot" not in str(types["head"]).lower()
    assert any("cluster,datasets" in command for command in config["setup_commands"])
    assert "Fill in" in text.split("\n\n")[0]


@pytest.fixture
def documents():
    return {
        document["kind"]: document for document in yaml.safe_load_all((CLUSTER / "rayjob.yaml").read_text())
    }


def pods(job):
    spec = job["spec"]["rayClusterSpec"]
    templates = [spec["headGroupSpec"]["template"]]
    return [template["spec"] for template in templates + [g["template"] for g in spec["workerGroupSpecs"]]]


def test_the_rayjob_is_whole(documents):
    job = documents["RayJob"]
    assert job["apiVersion"] == "ray.io/v1" and job["spec"]["shutdownAfterJobFinishes"] is True
    (pinned,) = [
        text
        for text in tomllib.loads((ROOT / "pyproject.toml").read_text())["project"]["dependencies"]
        if text.startswith("ray[")
    ]
    assert (
        job["spec"]["rayClusterSpec"]["rayVersion"].rsplit(".", 1)[0] == re.search(r">=([\d.]+)", pinned)[1]
    )
    for pod in [*pods(job), job["spec"]["submitterPodTemplate"]["spec"]]:
        known = {volume["name"]: volume for volume in pod.get("volumes", [])}
        for container in pod["containers"]:
            assert container["resources"]["limits"] == container["resources"]["requests"]
            assert {mount["name"] for mount in container.get("volumeMounts", [])} == known.keys()
        for volume in known.values():
            if "configMap" in volume:
                assert volume["configMap"]["name"] == documents["ConfigMap"]["metadata"]["name"]
            else:
                claim = volume["persistentVolumeClaim"]["claimName"]
                assert claim == documents["PersistentVolumeClaim"]["metadata"]["name"]
    assert "ReadWriteMany" in documents["PersistentVolumeClaim"]["spec"]["accessModes"]
    for group in job["spec"]["rayClusterSpec"]["workerGroupSpecs"]:
        assert group["minReplicas"] <= group["replicas"] <= group["maxReplicas"]


def test_a_driver_that_is_started_again_resumes(documents):
    shell, flag, script = shlex.split(documents["RayJob"]["spec"]["entrypoint"])
    assert (shell, flag) == ("sh", "-c") and documents["RayJob"]["spec"]["backoffLimit"] > 0
    sweep = yaml.safe_load(documents["ConfigMap"]["data"]["sweep.yaml"])
    assert f"[ -e {sweep['output']}/sweep.json ]" in script
    assert (
        f"ciess-ray sweep --resume {sweep['output']}" in script
        and "ciess-ray sweep /config/sweep.yaml" in script
    )


def test_the_sweeps_are_sweeps(documents):
    embedded = yaml.safe_load(documents["ConfigMap"]["data"]["sweep.yaml"])
    for plan in (load_sweep(CLUSTER / "sweep.yaml"), parse_sweep(embedded, "rayjob.yaml", CLUSTER)):
        assert len(plan.trials) == 18 and plan.config.resources.wait_for_nodes_s > 0
        assert plan.trials[0].config.dataset.path.is_absolute()


def test_the_image_is_built_from_what_is_there():
    lines = (CLUSTER / "Dockerfile").read_text().replace("\\\n", " ").splitlines()
    steps = [line.split() for line in lines if line and not line.startswith("#")]
    assert re.fullmatch(r"python:3\.\d+-slim-\w+", next(words[1] for words in steps if words[0] == "FROM"))
    ignore = (ROOT / ".dockerignore").read_text().splitlines()
    for words in steps:
        assert words[0] in {"FROM", "ARG", "RUN", "COPY", "USER", "WORKDIR", "ENV", "CMD"}
        for source in words[1:-1] if words[0] == "COPY" else ():
            assert (ROOT / source).exists() and f"!{source}" in ignore
    assert [words[1] for words in steps if words[0] == "USER"] == ["ray"]


def test_the_readme_names_every_file_and_no_other():
    text = (CLUSTER / "README.md").read_text()
    there = {file.name for file in CLUSTER.iterdir()} - {"README.md"}
    table = text.split("## ")[0]
    assert set(re.findall(r"`([\w.]+)`", table)) == there
