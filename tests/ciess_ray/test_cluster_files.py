"""Offline: what can be known to be wrong with the files in cluster/."""

import copy
import re
import shlex
import tomllib
from pathlib import Path

import pytest
import yaml
from ray.autoscaler._private.util import prepare_config, validate_config
from ray.dashboard.modules.job.cli import job_cli_group
from ray.scripts.scripts import cli as ray_cli

from ciess_ray.sweeps.config import SweepPlan

ROOT = Path(__file__).parents[2]
CLUSTER = ROOT / "cluster"
LAUNCHED = ("local.yaml", "aws.yaml", "gcp.yaml")
#: Words in capitals that are values of a cloud's, and nothing to fill in.
WORDS = {"CPU", "PERSISTENT", "SPOT", "DELETE"}


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


@pytest.mark.parametrize("name", ["aws.yaml", "gcp.yaml"])
def test_half_a_cpu_would_be_noticed(name):
    config = read(name)
    config["available_node_types"]["worker"]["resources"] = {"CPU": 2.5}
    with pytest.raises(Exception, match="2.5"):
        validate(config)


@pytest.mark.parametrize("name", LAUNCHED)
def test_files_are_copied_to_where_the_user_may_write(name):
    """Ray copies as ssh_user and before any command: a folder in the root would end ``ray up``."""
    config = read(name)
    own = ("~/", "/tmp/", f"/home/{config['auth']['ssh_user']}/")
    assert all(place.startswith(own) for place in config["file_mounts"])
    # What is excluded without a slash is excluded everywhere, envs/data as well.
    assert not {"data", "runs"} & set(config["rsync_exclude"])


@pytest.mark.parametrize("name", ["aws.yaml", "gcp.yaml"])
def test_the_data_lies_where_the_sweep_looks(name):
    config = read(name)
    folder = Path(read("sweep.yaml")["base"]["dataset"]["path"]).parent
    (place,) = [place for place, local in config["file_mounts"].items() if local == "./data"]
    assert f"sudo ln -sfn {place} {folder}" in config["setup_commands"]


@pytest.mark.parametrize("name", LAUNCHED)
def test_every_node_has_the_token_and_asks_for_it(name):
    """A head turns tokens on where it finds one, and a worker never by itself."""
    config = read(name)
    assert [
        local for place, local in config["file_mounts"].items() if place.endswith("/.ray/auth_token")
    ] == ["~/.ray/auth_token"]
    for commands in (config["head_start_ray_commands"], config["worker_start_ray_commands"]):
        assert commands[-1].startswith("export RAY_AUTH_MODE=token;") and "ray start" in commands[-1]


@pytest.mark.parametrize("name", LAUNCHED)
def test_jobs_find_the_command(name):
    config = read(name)
    (venv,) = set(re.findall(r"(~/[\w-]+)/bin/ray start", str(config)))
    setup = config["setup_commands"]
    assert f"python3 -m venv {venv}" in setup
    assert any(f"export PATH={venv}/bin:$PATH" in command for command in setup)
    (package,) = [place for place, local in config["file_mounts"].items() if local == "."]
    assert f"'{package}[cluster,datasets]'" in setup[-1] and setup[-1].startswith(f"{venv}/bin/pip")
    for command in setup + config["head_start_ray_commands"] + config["worker_start_ray_commands"]:
        assert shlex.split(command)


def placeholders(value, keys=()):
    if isinstance(value, dict):
        for key, inner in value.items():
            yield from placeholders(key, keys)
            yield from placeholders(inner, (*keys, str(key)))
    elif isinstance(value, list):
        for inner in value:
            yield from placeholders(inner, keys)
    elif isinstance(value, str) and re.fullmatch(r"[A-Z][A-Z_]+", value) and value not in WORDS:
        yield value, keys


@pytest.mark.parametrize("name", [*LAUNCHED, "rayjob.yaml"])
def test_what_is_to_be_filled_in_is_told_at_the_top(name):
    text = (CLUSTER / name).read_text()
    header = re.match(r"(#.*\n)+", text)[0]
    found = [found for document in yaml.safe_load_all(text) for found in placeholders(document)]
    assert found and "Fill in" in header
    for value, keys in found:
        assert any(re.search(rf"\b{key}\b", header) for key in keys), f"{value} at {'.'.join(keys)}"


@pytest.mark.parametrize("name", LAUNCHED)
def test_the_head_runs_the_driver_and_workers_may_go(name):
    config = read(name)
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
    # A sweep waits for a first worker, which nothing but a minimum brings.
    assert (config if name == "local.yaml" else types["worker"])["min_workers"] >= 1


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
    cluster = job["spec"]["rayClusterSpec"]
    for group in cluster["workerGroupSpecs"]:
        assert 1 <= group["minReplicas"] <= group["replicas"] <= group["maxReplicas"]
        assert group["template"]["spec"]["nodeSelector"] and group["template"]["spec"]["tolerations"]
    assert cluster["headGroupSpec"]["rayStartParams"]["num-cpus"] == "0"
    assert cluster["authOptions"] == {"mode": "token"} and cluster["enableInTreeAutoscaling"] is True
    limits = cluster["autoscalerOptions"]["resources"]
    assert limits["limits"] == limits["requests"]
    user = re.search(r"--uid (\d+)", (CLUSTER / "Dockerfile").read_text())[1]
    assert all(pod["securityContext"] == {"fsGroup": int(user)} for pod in pods(job))
    assert job["spec"]["submitterPodTemplate"]["spec"]["restartPolicy"] == "Never"


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
    for plan in (SweepPlan.load(CLUSTER / "sweep.yaml"), SweepPlan.of(embedded, "rayjob.yaml", CLUSTER)):
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
    (wanted,) = [
        text
        for text in tomllib.loads((ROOT / "pyproject.toml").read_text())["project"]["dependencies"]
        if text.startswith("torch")
    ]
    (first, second) = [" ".join(words) for words in steps if words[:3] == ["RUN", "pip", "install"]]
    assert f'"{wanted}" --index-url "${{TORCH_INDEX}}"' in first and "/src[cluster,datasets]" in second


def test_the_readme_names_every_file_and_no_other():
    text = (CLUSTER / "README.md").read_text()
    there = {file.name for file in CLUSTER.iterdir()} - {"README.md"}
    table = text.split("## ")[0]
    assert set(re.findall(r"`([\w.]+)`", table)) == there
    for path in re.findall(r"(?<![\w/])(?:cluster|configs)/[\w./-]+", text):
        assert (ROOT / path).exists(), path


def test_the_readmes_commands_are_ones_that_ray_has():
    """Options and all, as far as they can be known without running them."""
    commands = dict(ray_cli.commands) | {f"job {name}": job for name, job in job_cli_group.commands.items()}
    found = re.findall(
        r"(?<![\w-])ray (job \w+|[a-z][\w-]+)([^\n#&>`]*)", (CLUSTER / "README.md").read_text()
    )
    assert {"up", "down", "dashboard", "rsync-up", "get-auth-token", "job submit", "job logs"} <= {
        name for name, _ in found
    }
    for name, rest in found:
        known = {option for parameter in commands[name].params for option in parameter.opts}
        given = re.findall(r"(?<!\S)--[a-z][\w-]*", rest.split(" -- ")[0])
        assert set(given) <= known, f"ray {name}"
