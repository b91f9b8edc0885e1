"""What a sweep is made of, without a sweep."""

import json
import time
from pathlib import Path
from types import SimpleNamespace

import pytest
import yaml
from ray import tune
from secrets_left import SECRET

from ciess_ray.names import SWEEP_FILE
from ciess_ray.resources import num_at_once
from ciess_ray.result import read_steps
from ciess_ray.sweeps.claims import (
    check_claims,
    claims_of,
    num_threads,
    told_claims,
    within_claims,
)
from ciess_ray.sweeps.config import SweepPlan, TrialResources
from ciess_ray.sweeps.driver import SWEEP_FORMAT, read_sweep
from ciess_ray.sweeps.monitor import _error_of, reason_of
from ciess_ray.sweeps.schedulers import build_scheduler
from ciess_ray.sweeps.storage import Storage
from ciess_ray.sweeps.trial import OBJECTIVE, STEP
from envs.errors import ConfigError, ResultError, TrainingError

BASE = {"dataset": {"path": "log.parquet"}, "recommender": {"device": "cpu"}}


def plan_of(folder, space=None, **fields):
    file = folder / "sweep.yaml"
    file.write_text(yaml.safe_dump({"base": BASE, "space": space or {"seed": [0, 1]}, **fields}))
    return SweepPlan.load(file)


def test_a_sweep_of_before_is_read_where_its_fields_are_as_they_are_now(tmp_path):
    plan, storage = plan_of(tmp_path), Storage(tmp_path / "sweep")
    for ceiling in (1.0, None):
        values = plan.values()
        values["base"] |= {"search": {"quality_ceiling": ceiling}}
        storage.write(SWEEP_FILE, json.dumps({"format": SWEEP_FORMAT, "sweep": values}).encode())
        if ceiling is not None:
            assert [one.config for one in read_sweep(storage)[0].trials] == [
                one.config for one in plan.trials
            ]
        else:
            with pytest.raises(
                ConfigError, match="there is no field 'search.quality_ceiling' any more: a share"
            ):
                read_sweep(storage)


class TestClaims:
    def test_a_trial_alone_claims_what_a_training_claims(self, tmp_path):
        plan = plan_of(tmp_path, set={"resources.num_cpus_per_training": 4})
        claims = claims_of(plan.trials[0].config, TrialResources(), 0.0)
        assert sum(bundle["CPU"] for bundle in claims) == 4.0 and len(claims) == 2
        assert within_claims(plan.trials[0].config, claims)["resources"]["num_cpus_per_training"] == 3.99
        assert (
            told_claims(claims) == "0.01 + 3.99 = 4 CPU" and num_threads(plan.trials[0].config, claims) == 4
        )

    def test_env_runners_are_claimed_beside_the_driver(self, tmp_path):
        plan = plan_of(tmp_path, set={"search.num_env_runners": 4})
        claims = claims_of(plan.trials[0].config, TrialResources(), 0.0)
        assert claims == [{"CPU": 1.0}] * 5 and told_claims(claims) == "1 + 4 x 1 = 5 CPU"
        assert num_threads(plan.trials[0].config, claims) == 1

    def test_a_training_that_is_larger_than_an_env_runner_has_a_bundle_of_its_own(self, tmp_path):
        fields = {"search.num_env_runners": 2, "resources.num_cpus_per_env_runner": 0.5}
        claims = claims_of(plan_of(tmp_path, set=fields).trials[0].config, TrialResources(), 0.0)
        assert claims == [{"CPU": 1.0}, {"CPU": 0.5}, {"CPU": 0.5}, {"CPU": 1.0}]

    def test_gpus_are_claimed_where_there_are_any_and_the_device_is_no_cpu(self, tmp_path):
        config = plan_of(tmp_path, set={"recommender.device": "auto"}).trials[0].config
        assert claims_of(config, TrialResources(), 0.0) == [{"CPU": 0.01}, {"CPU": 0.99}]
        claims = claims_of(config, TrialResources(), 2.0)
        assert claims == [{"CPU": 0.01, "GPU": 0.5}, {"CPU": 0.99, "GPU": 0.5}]
        quarter = TrialResources(num_gpus_per_driver=0.25)
        assert claims_of(config, quarter, 2.0)[0]["GPU"] == 0.25
        assert within_claims(config, claims)["resources"]["num_gpus_per_training"] == 0.5

    def test_a_gpu_that_is_asked_for_by_name_is_waited_for_or_missed(self, tmp_path, ray_cluster):
        plan = plan_of(tmp_path, set={"recommender.device": "cuda"})
        claims = claims_of(plan.trials[0].config, TrialResources(), 0.0)
        assert claims == [{"CPU": 0.01, "GPU": 0.5}, {"CPU": 0.99, "GPU": 0.5}]
        with pytest.raises(ConfigError, match="claims .* 1 GPU .*: set recommender.device to auto or cpu"):
            check_claims(plan)

    def test_bundles_are_not_split_between_nodes(self):
        two_and_two = [{"CPU": 2.0}, {"CPU": 2.0}]
        assert num_at_once([{"CPU": 1.0}, {"CPU": 1.0}], two_and_two, 10) == 2
        assert num_at_once([{"CPU": 3.0}], two_and_two, 10) == 0
        assert num_at_once([{"CPU": 0.01}, {"CPU": 0.99}], two_and_two, 10) == 4
        assert num_at_once([{"CPU": 0.01}, {"CPU": 0.99}], two_and_two, 3) == 3

    def test_three_cpus_on_two_are_refused_with_the_arithmetic_and_the_line_to_change(
        self, tmp_path, ray_cluster
    ):
        plan = plan_of(tmp_path, set={"search.num_env_runners": 2})
        with pytest.raises(ConfigError) as refusal:
            check_claims(plan)
        message = str(refusal.value)
        assert "claims 1 + 2 x 1 = 3 CPU" in message and "this cluster (2 CPU) can never hold one" in message
        assert "set search.num_env_runners to 1" in message and "resources.wait_for_nodes_s" in message

    def test_nodes_that_are_still_to_join_are_waited_for(self, tmp_path, ray_cluster):
        plan = plan_of(tmp_path, set={"search.num_env_runners": 2}, resources={"wait_for_nodes_s": 2.5})
        started = time.monotonic()
        with pytest.raises(ConfigError):
            check_claims(plan)
        assert time.monotonic() - started >= 2.0


class TestStorage:
    def test_files_and_folders_come_back(self, tmp_path):
        storage = Storage(tmp_path / "there")
        assert storage.read("a") is None and storage.names() == []
        storage.write("a", b"1")
        for _ in range(2):
            storage.write("copied/inner/b", b"2")
        assert storage.read("copied/inner/b") == b"2" and storage.names() == ["a", "copied"]
        storage.download("copied", tmp_path / "back")
        assert (tmp_path / "back" / "inner" / "b").read_bytes() == b"2"
        storage.download("a", tmp_path / "new" / "a")
        assert (tmp_path / "new" / "a").read_bytes() == b"1"
        storage.remove("copied")
        storage.remove("a")
        assert storage.names() == []

    def test_a_uri_of_pyarrow_is_a_place_too(self, tmp_path):
        storage = Storage(f"file://{tmp_path}/there")
        storage.write("inner/a", b"1")
        assert (tmp_path / "there" / "inner" / "a").read_bytes() == b"1" and not storage.is_local

    def test_a_secret_in_its_uri_is_used_and_nowhere_shown(self):
        uri = f"mock://key:{SECRET}@bucket/sweep"
        storage = Storage(f"{uri}/")
        assert (storage.location, storage.shown) == (uri, "mock://…@bucket/sweep")
        with pytest.raises(ResultError, match=r"^mock://…@bucket/sweep: no sweep") as caught:
            read_sweep(storage)
        values = {"base": {"dataset": {"path": "a.csv"}}, "space": {"seed": [0, 1]}, "output": uri}
        plan = SweepPlan.of(values, "sweep.yaml", Path())
        state = {"format": SWEEP_FORMAT, "sweep": plan.values(), "fingerprints": {}}
        storage.write(SWEEP_FILE, json.dumps(state).encode())
        again, _ = read_sweep(storage)
        assert again.config.output == plan.config.output == uri and again.values() == plan.values()
        told = [caught.value, state, plan.config, again.config, again.source]
        told.append(reason_of(OSError(f"{uri}: no such bucket")))
        told.append(reason_of(TrainingError(f"{uri}: no such bucket")))
        for wrong in (uri.replace("mock", "nothing"), uri.replace("mock", "file")):
            with pytest.raises(ConfigError, match="neither a path nor a URI") as refused:
                Storage(wrong)
            told.append(refused.value)
        assert [one for one in told if SECRET in repr(one) or SECRET in str(one)] == []

    def test_what_cannot_be_is_refused(self, tmp_path):
        with pytest.raises(ConfigError, match="nothing://there: neither a path nor a URI that pyarrow knows"):
            Storage("nothing://there")
        (tmp_path / "file").write_text("")
        with pytest.raises(ConfigError, match="cannot be written .* name a folder that you may write"):
            Storage(tmp_path / "file" / "sweep").write("a", b"")


def test_rows_are_read_back_out_of_a_searchs_progress(tmp_path):
    lines = [
        {"phase": "supernet", "step": 9, "time_ms": 1},
        {
            "phase": "search",
            "step": 1,
            "num_steps": 2,
            "elapsed_s": 1.0,
            "time_ms": 5,
            "search/quality": 0.25,
        },
    ]
    # The last line of a search that was killed may be torn.
    progress = "".join(json.dumps(line) + "\n" for line in lines) + '{"phase": "sea'
    (tmp_path / "progress.jsonl").write_text(progress)
    assert read_steps(tmp_path) == [{"step": 1, "time_ms": 5, "metrics": {"search/quality": 0.25}}]


@pytest.mark.parametrize(
    "others", [{"budget": "10%"}, {"dataset": {"path": "b.parquet"}}, {"dataset.k_core": 5}]
)
def test_trials_of_other_data_or_another_budget_are_no_rivals(others):
    asked = {"grace_steps": 5, "reduction_factor": 2, "name": "asha"}
    values = {"base": BASE | {"search": {"num_episodes": 3}}, "space": {"seed": [0]}, "scheduler": asked}
    plan = SweepPlan.of(values, "sweep", Path())
    scheduler = build_scheduler(plan.config, plan.trials)
    decisions = []
    own = {"budget": "5%", "dataset": {"path": "a.parquet"}}
    for number, fields in enumerate([own, own, own | others, own | others]):
        told = SimpleNamespace(trial_id=str(number), config={"trial": {"fields": fields}})
        scheduler.on_trial_add(None, told)
        decisions.append(scheduler.on_trial_result(None, told, {STEP: 5, OBJECTIVE: 0.5 - 0.1 * number}))
    assert decisions == ["CONTINUE", "STOP"] * 2


def test_only_trials_of_one_budget_are_rivals():
    values = {
        "base": BASE | {"search": {"num_episodes": 3}},
        "space": {"budget": ["5%", "10%"], "agent.gamma": {"uniform": [0.0, 0.5]}},
        "num_samples": 4,
        "scheduler": {"name": "asha", "grace_steps": 5, "reduction_factor": 2},
    }
    plan = SweepPlan.of(values, "sweep", Path())
    scheduler = build_scheduler(plan.config, plan.trials)
    decisions = []
    # Every trial of the tight budget is worse than any of the loose one.
    for number, trial in enumerate(plan.trials):
        told = SimpleNamespace(trial_id=str(number), config={"trial": {"fields": trial.fields}})
        scheduler.on_trial_add(None, told)
        quality = (0.1 if trial.fields["budget"] == "5%" else 0.5) - 0.01 * (number % 4)
        decisions.append(scheduler.on_trial_result(None, told, {STEP: 5, OBJECTIVE: quality}))
    # The first of each budget has nobody to be worse than.
    assert decisions == ["CONTINUE", "STOP", "STOP", "STOP"] * 2


class Listener(tune.Callback):
    def __init__(self, file):
        self._file = file

    def on_trial_error(self, iteration, trials, trial, **info):
        self._file.write_text(_error_of(trial))


@pytest.mark.parametrize(
    ("error", "told"),
    [
        (TrainingError("the loss is NaN: lower [rate]."), "TrainingError: the loss is NaN: lower [rate]."),
        (RuntimeError("no luck\nat all"), "RuntimeError: no luck"),
    ],
)
def test_why_a_trial_failed_is_told_in_the_errors_own_words(error, told, tmp_path, ray_cluster, monkeypatch):
    monkeypatch.setenv("TUNE_DISABLE_AUTO_CALLBACK_LOGGERS", "1")
    # Tune would leave it in place, for the tests that follow in this process.
    monkeypatch.setenv("TUNE_DISABLE_SIGINT_HANDLER", "1")

    def fail(config):
        raise error

    heard = tmp_path / "heard"
    run = tune.RunConfig(name="sweep", storage_path=str(tmp_path), callbacks=[Listener(heard)], verbose=0)
    result = tune.Tuner(tune.with_resources(fail, {"cpu": 0.1}), run_config=run).fit()[0]
    assert heard.read_text() == reason_of(result.error) == told
