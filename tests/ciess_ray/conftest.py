import json
import subprocess
import sys

import gymnasium as gym
import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
import torch
from filelock import FileLock

from envs import TOY_SIZE_ENV_ID, mdp
from envs.data import generate_interactions

KINDS = ("user", "item")
#: By two processes at once, so that it is seen that they may.
MAKE_A_STORE = """
import sys
from ciess_ray.config.run import TrackingConfig
from ciess_ray.tracking.mlflow_connection import connect
import mlflow
print("ready", flush=True)
sys.stdin.readline()
connect(TrackingConfig(uri="sqlite:///mlflow.db"))
"""
TOY = {"num_users": 300, "num_items": 200, "max_embedding_size": 64}


@pytest.fixture(scope="session")
def workplace(ray_cluster, tmp_path_factory):
    """A folder with made-up interactions and room for the cached full-size fits."""
    folder = tmp_path_factory.mktemp("search")
    log = generate_interactions(200, 120, 4_000, seed=0, rank=4)
    ids = {"user_id": [f"u{user:03}" for user in log.user], "item_id": log.item * 10}
    pq.write_table(pa.table(ids), folder / "log.parquet")
    return folder


@pytest.fixture(scope="session")
def make_config(workplace):
    """Makes the configuration of a search that takes seconds."""
    from ciess_ray.config.yaml_file import parse_config

    def make(output, **sections):
        values = {
            "dataset": {"path": workplace / "log.parquet"},
            "budget": "20%",
            "output": output,
            "cache": workplace / "cache",
            "recommender": {"max_embedding_size": 16, "device": "cpu"},
            "training": {"batch_size": 256, "evaluate_every": 20, "patience": 2, "max_batches": 60},
            "search": {
                "num_episodes": 2,
                "episode_length": 2,
                "batches_per_step": 4,
                "supernet_batches": 20,
                "num_warmup_steps": 2,
                "num_candidates": 2,
                # Of those that are about it.
                "refit": False,
            },
            "agent": {"hiddens": (16, 16), "updates_per_step": 2},
            "tracking": {"mlflow": False},
        }
        for name, fields in sections.items():
            values[name] = values.get(name, {}) | fields if isinstance(fields, dict) else fields
        return parse_config(values)

    return make


@pytest.fixture(scope="session")
def finished(workplace, make_config):
    """The configuration and the result of one search, with what it said on its way."""
    from ciess_ray.searches.driver import search

    config = make_config(workplace / "finished")
    news = []
    return config, search(config, on_progress=news.append), news


@pytest.fixture(scope="session")
def make_result(make_interactions, tmp_path_factory):
    """Makes the folder of a finished search without a search, of a recommender that was trained a little."""
    import dataclasses

    from ciess_ray.config.yaml_file import parse_config
    from ciess_ray.result import ResultFolder
    from envs.recommenders import RECOMMENDERS
    from envs.recommenders.training import Recipe, TrainingSettings
    from envs.sizes.embedding_sizes import EmbeddingSizes

    def make(name, ids=None, options=None, num_batches=40, num_users=60, num_items=40):
        interactions = make_interactions(num_users, num_items)
        if ids is not None:
            user_ids, item_ids = ids
            interactions = dataclasses.replace(interactions, user_ids=user_ids, item_ids=item_ids)
        rng = np.random.default_rng(0)
        counts = RECOMMENDERS[name].row_counts(num_users, num_items)
        sizes = EmbeddingSizes(
            *(rng.integers(1, most, n) for most, n in zip((8, 6), counts, strict=True)),
            max_embedding_size=16,
            num_tables=RECOMMENDERS[name].num_tables,
        )
        recipe = Recipe(interactions.train, TrainingSettings(batch_size=128), name, options or {})
        trainer = recipe.trainer(sizes, rng)
        trainer.train(num_batches)
        recommender = trainer.recommender
        folder = ResultFolder(tmp_path_factory.mktemp(name))
        folder.write_table(recommender.eval(), interactions, name)
        recommending = {"name": name, "max_embedding_size": 16, "options": options or {}}
        config = parse_config({"dataset": {"path": "log.parquet"}, "recommender": recommending})
        summary = {"status": "finished", "phase": "done", "looser_budgets": {}}
        folder.write_result(summary | {"config": config.model_dump(mode="json")})
        return folder.path, recommender, interactions

    return make


@pytest.fixture
def run_cli(monkeypatch, capsys):
    """Runs the command line as ``main`` does; gives exit status, output and complaints."""
    from ciess_ray.cli import main as cli

    def run(*arguments):
        monkeypatch.setattr(sys, "argv", ["ciess-ray", *map(str, arguments)])
        status = 0
        try:
            cli.main()
        except SystemExit as exit:
            status = exit.code or 0
        return status, *capsys.readouterr()

    return run


@pytest.fixture
def without_ray(workplace, monkeypatch):
    """Whoever starts Ray, or asks the one that runs, is told off."""

    def told_off(*_, **__):
        raise AssertionError("Ray was asked for")

    monkeypatch.setattr("ray.is_initialized", lambda: False)
    monkeypatch.setattr("ray.init", told_off)


@pytest.fixture
def make_algo(ray_cluster):
    """Builds TD3 on ToySizeEnv with small nets; every algorithm is stopped at the end of the test."""
    from ciess_ray.td3.algorithm import TD3

    algos = []

    def make(
        env_config=TOY,
        seed=0,
        num_env_runners=0,
        train_batch_size_per_learner=256,
        env=TOY_SIZE_ENV_ID,
        evaluation=None,
        **training,
    ):
        plain = {"gamma": 0.99, "imitation_weight": 0.0}
        fields = {"hiddens": (32, 32), "updates_per_step": 4} | plain | training
        config = (
            TD3.get_default_config()
            .environment(env, env_config=env_config)
            .evaluation(**(evaluation or {}))
            .training(train_batch_size_per_learner=train_batch_size_per_learner, **fields)
            .env_runners(num_env_runners=num_env_runners, num_cpus_per_env_runner=0.5)
            .resources(num_cpus_for_main_process=0.5)
            .fault_tolerance(delay_between_env_runner_restarts_s=0, env_runner_health_probe_timeout_s=5)
            .debugging(seed=seed, log_level="ERROR")
        )
        algos.append(config.build_algo())
        return algos[-1]

    yield make
    for algo in algos:
        algo.stop()


@pytest.fixture
def greedy_errors():
    """Mean |greedy size - optimum| of users and of items in the first step of an episode."""

    def errors(algo, env_config):
        env = gym.make(TOY_SIZE_ENV_ID, **env_config).unwrapped
        env.memory_weight = algo.memory_weight
        obs, _ = env.reset(seed=0)
        result = {}
        for kind, optimum in env.optimal_sizes().items():
            with torch.no_grad():
                action = algo.get_module(kind).actor(torch.from_numpy(obs[kind])).numpy()
            sizes = np.rint(mdp.unscale_size(action, env.min_embedding_size, env.max_embedding_size))
            result[kind] = float(np.abs(sizes - optimum).mean())
        return result

    return errors


@pytest.fixture(scope="session")
def made_by_two(tmp_path_factory, worker_id):
    """A new store, whose migrations take seconds, and what two processes that made it at once ended with."""
    folder = tmp_path_factory.getbasetemp()
    if worker_id != "master":
        # It is one for all of pytest's processes.
        folder = folder.parent
    store, record = folder / "mlflow.db", folder / "made-by-two.json"
    with FileLock(folder / "made-by-two.lock"):
        if not record.exists():
            record.write_text(json.dumps(_made_by_two(folder)))
    return store, [tuple(ended) for ended in json.loads(record.read_text())]


def _made_by_two(folder):
    pipe = {"stdin": subprocess.PIPE, "stdout": subprocess.PIPE, "stderr": subprocess.STDOUT, "text": True}
    command = [sys.executable, "-W", "ignore", "-c", MAKE_A_STORE]
    processes = [subprocess.Popen(command, cwd=folder, **pipe) for _ in range(2)]
    for process in processes:
        assert process.stdout.readline() == "ready\n"
    for process in processes:
        process.stdin.write("go\n")
        process.stdin.flush()
    printed = [process.communicate()[0] for process in processes]
    return [(process.returncode, text) for process, text in zip(processes, printed, strict=True)]


@pytest.fixture(scope="session")
def empty_store(made_by_two):
    """A store with nothing in it."""
    return made_by_two[0]
