import json
import os
import pickle
import re
from pathlib import Path

import pytest
import torch
import yaml

from ciess_ray.comparisons.config import ComparisonPlan
from ciess_ray.config.agent import SearchConfig
from ciess_ray.config.keys import FORMER, with_former, without_former
from ciess_ray.config.run import PRESETS as SECTIONS
from ciess_ray.config.run import DatasetConfig, RunConfig
from ciess_ray.config.yaml_file import dotted_fields, field_table, load_config, parse_config, put_overrides
from ciess_ray.names import flatten
from ciess_ray.searches.driver import search
from ciess_ray.streaming.config import load_stream_config
from ciess_ray.sweeps.config import SweepPlan
from envs.errors import BudgetError, CiessError, ConfigError, EmbeddingSizeError, UnknownNameError
from envs.recommenders.training import TrainingSettings

#: By mode, what it sets by dotted names.
PRESETS = {mode: dotted_fields(sections, ("search", "agent")) for mode, sections in SECTIONS.items()}
GOLDEN = Path(__file__).parents[2] / "golden" / "result"
CONFIGS = sorted((Path(__file__).parents[3] / "configs").glob("*.yaml"))


@pytest.fixture
def file(tmp_path):
    path = tmp_path / "run.yaml"
    path.write_text("dataset:\n  path: ratings.csv\nsearch:\n  num_episodes: 7\n")
    return path


def test_defaults_are_the_papers(file):
    config = load_config(file)
    assert config.dataset.path == Path("ratings.csv")
    assert config.search.num_steps == 70
    assert config.recommender.max_embedding_size == 128 and config.agent.hiddens == (256, 256)
    assert config.training == TrainingSettings()


def test_overrides_land(file):
    overrides = [
        "search.num_episodes=3",
        "search.memory_weight=0.7",
        "training.learning_rate=1e-2",
        "agent.hiddens=[16, 8]",
        "agent.exploration={name: noise, noise: uniform}",
        "recommender.options.num_layers=2",
        "dataset.columns={user: customer, item: sku}",
        "budget=62000 params",
        "cache=null",
        "seed=5",
        "output=a=b",
    ]
    config = load_config(file, overrides)
    assert config.search.num_episodes == 3
    assert config.search.memory_weight == 0.7 and config.training.learning_rate == 0.01
    assert config.agent.hiddens == (16, 8) and config.agent.exploration == {
        "name": "noise",
        "noise": "uniform",
    }
    assert config.recommender.options == {"num_layers": 2}
    assert config.dataset.columns == {"user": "customer", "item": "sku"}
    assert config.memory_budgets[0].unit == "params" and config.cache is None
    assert config.seed == 5 and config.output == Path("a=b")


def test_the_last_of_two_overrides_counts(file):
    assert load_config(file, ["seed=1", "seed=2"]).seed == 2


def test_a_configuration_survives_a_round_trip(file):
    config = load_config(file, ["recommender.name=mf"])
    assert parse_config(config.model_dump(mode="json")) == config
    # Of one whose recommender is yet to be chosen what its user said.
    config = load_config(file)
    assert config.recommender.is_auto
    assert parse_config(config.model_dump(mode="json", exclude_unset=True)) == config


class TestPresets:
    @staticmethod
    def values(config, names):
        return {name: getattr(getattr(config, name.split(".")[0]), name.split(".")[1]) for name in names}

    @pytest.mark.parametrize("mode", PRESETS)
    def test_a_mode_sets_what_the_user_has_not(self, file, mode):
        config, default = load_config(file, [f"search.mode={mode}"]), load_config(file)
        preset = PRESETS[mode]
        assert preset.keys() <= {name for name, _, _ in field_table()}
        assert self.values(config, preset) == preset != self.values(default, preset)
        assert (config.step_mode, default.step_mode) == ("fresh", "supernet")
        assert config.search.num_episodes == 7
        # The folder of a search keeps the values, not the names of the defaults.
        assert parse_config(config.model_dump(mode="json")) == config

    def test_the_episodes_of_the_reference_are_one_step_longer(self, file):
        assert load_config(file, ["search.mode=reference"]).search.num_steps == 7 * 11

    def test_what_the_user_sets_wins(self, file):
        set_by_user = {
            "search.memory_weight": "auto",
            "search.step_mode": "finetune",
            "search.batches_per_step": None,
            "agent.gamma": 0.0,
            "agent.exploration": {"name": "noise"},
        }
        overrides = [f"{name}={yaml.safe_dump(value)}" for name, value in set_by_user.items()]
        config = load_config(file, ["search.mode=reference", *overrides])
        assert self.values(config, set_by_user) == set_by_user
        assert config.agent.updates_per_step == 1 and config.search.episode_length == 11
        assert config.agent.imitation_weight == 0
        assert config.step_mode == "finetune"
        assert parse_config(config.model_dump(mode="json")) == config

    def test_sections_made_by_hand_are_filled_too(self):
        dataset = DatasetConfig(path="ratings.csv")
        config = RunConfig(dataset=dataset, search=SearchConfig(mode="reference", episode_length=4))
        expected = {"dataset": {"path": "ratings.csv"}, "search": {"mode": "reference", "episode_length": 4}}
        assert config == parse_config(expected) and config.search.memory_weight == 0.01
        assert expected["search"].keys() == {"mode", "episode_length"}

    def test_the_list_of_fields_tells_them(self):
        defaults = {name: default for name, default, _ in field_table()}
        assert defaults["search.memory_weight"] == "auto (paper: 0.4; reference: 0.01)"
        assert defaults["agent.gamma"] == "0.0 (paper: 0.99; reference: 0.99)"
        assert defaults["search.batches_per_step"] == "null (reference: 2)"
        # A preset that repeats the default says nothing.
        assert defaults["search.num_warmup_steps"] == "0"


class TestFormerFields:
    def test_each_is_refused_with_what_is_so_without_it(self, file):
        names = {name for name, _, _ in field_table()}
        for name, former in FORMER.items():
            assert name not in names
            with pytest.raises(ConfigError) as caught:
                load_config(file, [f"{name}={json.dumps(former.value)}"])
            assert str(caught.value) == f"{file}: there is no field {name!r} any more: {former.why}."
            # What it names in its place is there.
            assert set(re.findall(r"[a-z]+\.[a-z]+_[a-z_]+", former.why)) <= names

    def test_what_a_folder_recorded_is_read_where_it_is_what_it_is_now(self):
        recorded = json.loads((GOLDEN / "result.json").read_text())["config"]
        read = parse_config(without_former(recorded), "result.json")
        now = flatten(read.model_dump(mode="json"))
        of_then = {name: value for name, value in flatten(recorded).items() if name not in FORMER}
        # What has come since is as it was before it.
        since = {"dataset.split": "random", "training.temperature": None}
        since |= {"search.refit": True, "search.tried_recipes": [], "search.tries_users_first": False}
        since |= {"search.user_share": 1.0, "time": None}
        assert now == of_then | since
        assert flatten(recorded).keys() >= FORMER.keys()
        recorded["agent"]["tau"] = 0.01
        with pytest.raises(ConfigError, match="result.json: there is no field 'agent.tau' any more: targets"):
            parse_config(without_former(recorded), "result.json")
        assert without_former({"agent.tau": 0.005, "agent": 3, "seed": 1}) == {"agent": 3, "seed": 1}

    @pytest.mark.parametrize(("mode", "num_greedy_steps"), [("projected", 2), ("paper", 0), ("reference", 0)])
    def test_what_differed_by_mode_is_what_it_was_there(self, file, mode, num_greedy_steps):
        config = load_config(file, [f"search.mode={mode}"])
        values = with_former(config.model_dump(mode="json"))
        assert values["search"]["num_greedy_steps"] == config.search.num_greedy_steps == num_greedy_steps
        assert parse_config(without_former(values)) == config
        values["search"]["num_greedy_steps"] = 1
        with pytest.raises(ConfigError, match="no field 'search.num_greedy_steps' any more"):
            parse_config(without_former(values))

    def test_weights_of_l2_that_a_folder_recorded_apart_are_one_list_and_have_the_keys_they_had(self, file):
        for named, first in (("0.0001", {}), ("0.5", {"l2": 0.5})):
            config = load_config(file, [f"recommender.options.l2=[{named}, 0.01]"])
            values = with_former(config.model_dump(mode="json"))
            assert values["recommender"]["options"] == first and values["training"]["tried_l2"] == [0.01]
            assert parse_config(without_former(values)) == config
        one = load_config(file, ["recommender.options.l2=0.0001"]).model_dump(mode="json")
        assert with_former(one)["recommender"]["options"] == {"l2": 0.0001}

    def test_budgets_that_a_folder_recorded_apart_are_one_list(self, file):
        config = load_config(file, ["budget=[10%, 20%, 0.5]", "recommender.name=mf"])
        values = config.model_dump(mode="json")
        apart = values | {"budget": "10%", "looser_budgets": ["20%", 0.5]}
        assert parse_config(without_former(apart)) == config
        assert with_former(values) == with_former(parse_config(without_former(apart)).model_dump(mode="json"))
        assert (values["budget"], values["looser_budgets"]) == ("10%", ["20%", 0.5])
        assert load_config(file, ["budget=[20%]"]) == load_config(file, ["budget=20%"])


def test_a_configuration_cannot_be_changed(file):
    with pytest.raises(ValueError, match="frozen"):
        load_config(file).search.num_episodes = 1


@pytest.mark.parametrize(
    ("override", "error", "says"),
    [
        ("sed=1", ConfigError, "unknown field 'sed'. Did you mean 'seed'"),
        ("recommender.options.l2=[0, 0.5, 0.0]", ConfigError, r"options\.l2: 0 stands there twice"),
        ("recommender.options.l2=[]", ConfigError, r"options\.l2: the list names none"),
        ("recommender.options.l2=[0.1, two]", ConfigError, "the option l2 .* must be a number like"),
        ("search.tried_communities=[2, 2]", ConfigError, r"tried_communities: 2 stands there twice; once"),
        ("output=''", ConfigError, "output='': an empty name; name a file or a folder"),
        ("cache=''", ConfigError, "cache='': an empty name"),
        ("dataset.path=''", ConfigError, r"dataset\.path='': an empty name"),
        ("output=s3://bucket/out", ConfigError, "output='s3://bucket/out': a URI, where only a path does"),
        ("cache=s3:/bucket/out", ConfigError, "cache='s3:/bucket/out': a URI, where only a path does"),
        ("dataset.path=7", ConfigError, r"dataset\.path=7: expected file of interactions"),
        (
            "dataset.path='s3://me:word@bucket/log'",
            ConfigError,
            r"dataset\.path='s3://…@bucket/log': a URI with credentials in it, .* to the environment",
        ),
        ("search.num_episode=1", ConfigError, "Did you mean 'search.num_episodes'"),
        ("serach.num_episodes=1", ConfigError, "unknown field 'serach'. Did you mean 'search'"),
        ("recommender.name=lightgnc", UnknownNameError, "Did you mean 'lightgcn'"),
        ("recommender.options.num_layer=1", UnknownNameError, "Did you mean 'num_layers'"),
        ("recommender.device=gpu", UnknownNameError, "device 'gpu'. Did you mean 'cuda'.*auto, cpu, cuda"),
        ("agent.exploration.name=random_wlak", UnknownNameError, "Did you mean 'random_walk'"),
        ("agent.exploration.noise=gausian", UnknownNameError, "Did you mean 'gaussian'"),
        (
            "agent.exploration.num_step=3",
            ConfigError,
            "exploration 'random_walk': has no argument 'num_step'",
        ),
        ("agent.exploration.noise={sgma: 3}", ConfigError, "noise 'gaussian': .* argument 'sgma'"),
        ("agent.exploration.noise=3", ConfigError, "noise must be a name or a mapping .* not 3"),
        ("search.mode=fast", ConfigError, "search.mode='fast': .*'projected', 'paper' or 'reference'"),
        ("search.mode=[paper]", ConfigError, r"search.mode=\['paper'\]: .*'projected', 'paper' or"),
        ("search.num_episodes=many", ConfigError, "search.num_episodes='many': .*valid integer"),
        ("search.num_episodes=2.5", ConfigError, "search.num_episodes=2.5: .*valid integer"),
        ("search.num_episodes=0", ConfigError, "greater than or equal to 1"),
        (
            "search.memory_weight=car",
            ConfigError,
            "search.memory_weight='car': expected λ: a number .* or auto",
        ),
        (
            "search.memory_weight=null",
            ConfigError,
            "search.memory_weight=None: expected λ: a number .* or auto",
        ),
        ("search.memory_weight=.nan", ConfigError, "search.memory_weight=nan: .*finite"),
        ("budget=null", ConfigError, "budget=None: expected 0.1, 10%, '62000 params', or 64MB"),
        ("dataset=ok.csv", ConfigError, "dataset='ok.csv': dataset is a section; .* e.g. dataset.path=..."),
        ("search.memory_weight=-1", ConfigError, "search.memory_weight.*-1.*greater than or equal to 0"),
        ("training.learning_rate=.nan", ConfigError, "training.learning_rate=nan"),
        ("training.learning_rate=.inf", ConfigError, "training.learning_rate=inf: .*finite"),
        ("agent.hiddens=[]", ConfigError, "agent.hiddens"),
        ("search=3", ConfigError, "search=3: search is a section; .* e.g. search.mode=..."),
        ("seed=-1", ConfigError, "seed=-1"),
        ("dataset.path=null", ConfigError, "give either dataset.path .* or dataset.sample"),
        ("dataset.sample=movielens-latest-small", ConfigError, "and not both"),
        ("dataset.split=tmie", UnknownNameError, "dataset.split 'tmie'. Did you mean 'time'"),
        (
            "dataset={path: a.csv, split: time, split_seed: 0}",
            ConfigError,
            "dataset.split_seed: dataset.split=time draws",
        ),
        (
            "dataset={path: a.csv, split: time, validation_share: 0.1}",
            ConfigError,
            "dataset.validation_share: .* leave it",
        ),
        (
            "dataset={path: a.csv, split: time, columns: {user: u, item: i}}",
            ConfigError,
            "dataset.columns: dataset.split=time needs the column of times; name it too",
        ),
        ("dataset.format=csw", UnknownNameError, "dataset.format 'csw'. Did you mean 'csv'"),
        ("dataset.columns={usr: a}", ConfigError, "dataset.columns.*usr"),
        ("dataset.k_core=1", ConfigError, "dataset.k_core=1"),
        ("budget=lots", BudgetError, "cannot read 'lots'"),
        ("budget=0", BudgetError, "above 0"),
        ("budget=150%", BudgetError, "more than the full table"),
        ("budget=5 bananas", BudgetError, "unknown unit 'bananas'"),
        ("budget=2,5%", BudgetError, "cannot read '2,5%' as a memory budget; a comma parts groups"),
        ("budget=[10%, '0,1']", BudgetError, "cannot read '0,1' as a memory budget"),
        ("budget=[10%, 20%, 20%]", ConfigError, 'budget: "20%" stands there twice'),
        ("budget=[10%, 20%, 0.1]", ConfigError, 'budget: "10%" stands there twice'),
        ("budget=[]", ConfigError, "budget: the list names none"),
        ("budget=[10%, {a: 1}]", ConfigError, "budget=.*: expected 0.1, 10%, '62000 params'"),
        ("recommender.max_embedding_size=0", EmbeddingSizeError, "bound no size"),
        ("seed", ConfigError, "cannot read the override 'seed': write section.field=value"),
        ("=3", ConfigError, "cannot read the override '=3'"),
        ("seed=[1", ConfigError, r"the override 'seed=\[1': no valid YAML"),
        ("search.memory_weight=200", ConfigError, "search.memory_weight=200: .*less than or equal to 100"),
        ("agent.hiddens=[0]", ConfigError, "agent.hiddens.*greater than or equal to 1"),
        ("agent.hiddens=[64, -1]", ConfigError, "agent.hiddens.*greater than or equal to 1"),
        ("agent.hiddens=[1_000_000_000]", ConfigError, "agent.hiddens.*less than or equal to 65536"),
        ("agent.exploration.num_steps=2.5", ConfigError, "num_steps must be a number like 5, .* not 2.5"),
        ("agent.exploration.max_step=1_000_000_000", ConfigError, "max_step must be a number like 5, from 0"),
        ("agent.exploration.is_noise_last=1", ConfigError, "is_noise_last must be true or false, not 1"),
        (
            "agent.exploration.noise={sigma: wide}",
            ConfigError,
            "sigma must be a number like 6, .* not 'wide'",
        ),
        ("agent.exploration.noise={sigma: -1}", ConfigError, "sigma must be a number like 6, .* not -1"),
        ("agent.exploration.noise={sigma: .nan}", ConfigError, "sigma must be a number like 6, .* not nan"),
        ("agent.exploration.name=[random_walk]", UnknownNameError, "unknown exploration"),
        ("seed=4294967296", ConfigError, "seed=4294967296: .*less than or equal to 4000000000"),
        (
            "resources.num_gpus_per_env_runner=1.5",
            ConfigError,
            "per_env_runner=1.5: Ray .* above 1 in whole GPUs",
        ),
        ("resources.num_cpus_per_training=1e-5", ConfigError, "per_training=1e-05: .* or equal to 0.0001"),
        (
            "recommender={name: ngcf, options: {node_dropout: 1}}",
            ConfigError,
            "node_dropout .* below 1, not 1",
        ),
        ("recommender.options.l2=.inf", ConfigError, "the option l2 .* must be a number like"),
        ("dataset.path.x=1", ConfigError, "goes into 'path', which is no section"),
        ("dataset..path=1", ConfigError, "'dataset..path' has an empty name in it"),
        ("training={patience: 1, patience: 2}", ConfigError, "the key 'patience' stands twice, in line 1"),
        ("seed=1_000_000_000_000_000_000_000", ConfigError, "whole number of more than 64 bits"),
    ],
)
def test_a_mistake_is_named_with_its_remedy(file, override, error, says):
    with pytest.raises(error, match=says) as caught:
        load_config(file, [override])
    assert isinstance(caught.value, CiessError)
    says = str(caught.value)
    assert "override" in says or (says.startswith(f"{file}: ") and len(says.splitlines()) == 1)
    copy = pickle.loads(pickle.dumps(caught.value))
    assert (type(copy), str(copy)) == (type(caught.value), says)


def test_all_mistakes_are_named_at_once(file):
    with pytest.raises(ConfigError) as caught:
        load_config(file, ["sed=1", "search.num_episodes=0", "training.patience=x"])
    lines = str(caught.value).splitlines()
    assert len(lines) == 3 and all(line.startswith(str(file)) for line in lines)


@pytest.mark.parametrize("name", ["budget.asked", "base.seed", "search.memory_weight.first"])
def test_a_dotted_name_below_a_field_of_several_kinds_is_named_as_it_stands(name):
    with pytest.raises(ConfigError, match=f"unknown field '{name}'"):
        parse_config({"dataset": {"sample": "movielens-latest-small"}, "budget": "10%", name: 1})


def test_a_missing_dataset_is_named():
    with pytest.raises(ConfigError, match="config: the field 'dataset' is missing; 'ciess-ray fields'"):
        parse_config({})


# What is tried is the want of one.
@pytest.mark.skipif(torch.cuda.is_available(), reason="there is a GPU")
def test_a_gpu_is_looked_for_where_the_training_runs(file):
    # A head node has none, and reads the configuration all the same.
    config = load_config(file, ["recommender.device=cuda"])
    with pytest.raises(ConfigError, match="PyTorch sees no GPU here"):
        search(config)


@pytest.mark.parametrize(
    ("content", "says"),
    [
        (b"", "expected fields such as 'dataset:'"),
        (b"- 1\n- 2\n", "expected fields such as 'dataset:'"),
        (b"just text", "not 'just text'"),
        (b"a: [1", "no valid YAML"),
        (b"\xff\xfe\x00", "cannot be read as text"),
        (
            b"seed: 0\nbudget: 10%\nseed: 1\n",
            "the key 'seed' stands twice, in line 1 and in line 3; keep one",
        ),
        (
            b"dataset: {sample: movielens-latest-small}\nsearch:\n  num_episodes: 7\n\n  num_episodes: 8\n",
            "the key 'num_episodes' stands twice, in line 3 and in line 5",
        ),
        (b"seed: " + b"9" * 5000, "line 1: '9{40}' is a whole number of more than 64 bits"),
        (b"# " + b"-" * 1_000_000, "more than 1,000,000 characters"),
    ],
    ids=lambda value: "" if isinstance(value, bytes) else value[:30],
)
def test_a_file_that_is_no_configuration_is_named(file, content, says):
    file.write_bytes(content)
    with pytest.raises(ConfigError, match=says) as caught:
        load_config(file)
    assert str(file) in str(caught.value)


def test_a_file_that_is_not_there_is_named(tmp_path):
    with pytest.raises(ConfigError, match="no.yaml: no such configuration; .*configs/"):
        load_config(tmp_path / "no.yaml")
    # A folder is one of data.
    assert load_config(tmp_path).dataset.path == tmp_path


def test_what_is_no_file_is_refused_and_not_waited_for(tmp_path):
    os.mkfifo(tmp_path / "pipe.yaml")
    for path in (tmp_path / "pipe.yaml", Path("/dev/zero")):
        with pytest.raises(ConfigError, match="it is no file"):
            load_config(path)
    with pytest.raises(ConfigError, match="cannot be read as text"):
        load_config(Path("a\0b"))


def test_numbers_with_an_exponent_are_numbers_wherever_they_stand(file):
    config = load_config(file, ["recommender.options.l2=1e-4", "agent.exploration.noise={sigma: 1E0}"])
    assert config.recommender.options == {"l2": 0.0001} and config.agent.exploration["noise"] == {
        "sigma": 1.0
    }
    file.write_text(file.read_text() + "recommender: {options: {l2: 1e-4}}\n")
    assert load_config(file).recommender.options == {"l2": 0.0001}


def test_an_override_takes_the_place_of_a_dotted_name():
    values = {"set": {"search.num_episodes": 6, "agent": {"gamma": 0.5}}}
    put_overrides(values, ["set.search.num_episodes=3", "set.agent.gamma=1e-1", "set.agent.hiddens=1"])
    assert values == {"set": {"search.num_episodes": 3, "agent": {"gamma": 0.1, "hiddens": 1}}}


def test_the_sweep_that_comes_along_loads():
    plan = SweepPlan.load(next(path for path in CONFIGS if path.stem == "quickstart-sweep"))
    assert len(plan.trials) == 12 and plan.trials[0].config.search.supernet_kept_ratios == (0.033, 0.27)


def test_the_sweep_of_streams_that_comes_along_loads():
    plan = SweepPlan.load(next(path for path in CONFIGS if path.stem == "stream-sweep"))
    assert len(plan.trials) == 6 and plan.trials[0].config.segments.new_entities == 1700


@pytest.mark.parametrize(
    "path",
    [path for path in CONFIGS if "sweep" not in path.stem and "comparison" not in path.stem],
    ids=lambda path: path.stem,
)
def test_the_configurations_that_come_along_load(path):
    config = (load_stream_config if "stream" in path.stem else load_config)(path)
    # What a file says is what the fields are called: nothing in it is overridden by a default.
    given = yaml.safe_load(path.read_text())
    assert set(given) <= config.model_fields_set


@pytest.mark.parametrize(
    "path", [path for path in CONFIGS if "comparison" in path.stem], ids=lambda path: path.stem
)
def test_the_comparisons_that_come_along_load(path):
    plan = ComparisonPlan.load(path)
    methods = len(plan.config.methods)
    num_budgets, num_seeds = (len(plan.config.space[name]) for name in ("budget", "seed"))
    # The full size is one cell for all budgets.
    per_seed = (methods - 1) * num_budgets + 1 + len(plan.config.yardsticks)
    assert len(plan.cells) == per_seed * num_seeds and plan.config.yardsticks


def test_every_field_is_listed_with_a_meaning():
    rows = list(field_table())
    names = [name for name, _, _ in rows]
    assert len(set(names)) == len(names) > 40
    assert {"budget", "seed", "dataset.path", "search.num_episodes", "agent.exploration"} <= set(names)
    assert all(default and meaning for _, default, meaning in rows)
    sections = {name.split(".")[0] for name in names}
    assert sections == set(RunConfig.model_fields)
    assert ("search.num_episodes", "30", "M; 30 in CIESS") in rows


@pytest.mark.parametrize(
    "options", ["{num_layers: two}", "{num_layers: 2.5}", "{l2: true}", "{init_std: -1}"]
)
def test_an_option_of_the_wrong_kind_is_refused(tmp_path, options):
    file = tmp_path / "run.yaml"
    file.write_text("dataset: {path: log.parquet}\n", encoding="utf-8")
    with pytest.raises(ConfigError, match="must be a number like"):
        load_config(file, [f"recommender.options={options}"])


def test_the_home_folder_in_a_data_path(monkeypatch):
    monkeypatch.setenv("HOME", "/somewhere")
    config = RunConfig.model_validate({"dataset": {"path": "~/log.csv"}})
    assert str(config.dataset.path) == "/somewhere/log.csv"
