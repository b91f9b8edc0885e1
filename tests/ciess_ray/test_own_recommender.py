"""A recommender of one's own: that of the documents, and ones that break a rule."""

import os
import pickle
import re
import subprocess
import sys
from pathlib import Path

import pytest
import torch
from torch import nn

from ciess_ray.config.data import load_interactions
from ciess_ray.config.yaml_file import parse_config
from ciess_ray.result import SearchResult
from ciess_ray.training.preparing import Preparation
from envs.data import generate_interactions
from envs.errors import ConfigError, RecommenderProtocolError, ResultError, UnknownNameError
from envs.recommenders import MF, check_recommender
from envs.recommenders.evaluation import evaluate
from envs.recommenders.protocol import check_protocol

DOCUMENT = Path(__file__).parents[2] / "docs" / "recommenders.md"
TINY = [
    "dataset.k_core=null",
    "budget=20%",
    "recommender.max_embedding_size=8",
    "recommender.device=cpu",
    "training.batch_size=256",
    "training.evaluate_every=10",
    "training.max_batches=20",
    "search.num_episodes=1",
    "search.episode_length=2",
    "search.batches_per_step=4",
    "search.supernet_batches=20",
    "search.num_candidates=1",
    "search.num_env_runners=1",
    "agent.hiddens=[8]",
    "agent.updates_per_step=1",
    "tracking.mlflow=false",
]


@pytest.fixture(scope="module")
def block():
    """The document's code blocks of a language on recommenders of one's own."""
    section = (
        DOCUMENT.read_text(encoding="utf-8").split("## Bring your own recommender\n")[1].split("\n## ")[0]
    )

    def find(language):
        blocks = re.findall(r"^```(\w*)\n(.*?)^```$", section, re.DOTALL | re.MULTILINE)
        (found,) = (content for kind, content in blocks if kind == language)
        return found

    return find


@pytest.fixture(scope="module")
def folder(block, tmp_path_factory):
    """Where the document's example was followed to the letter, with a tiny search."""
    folder = tmp_path_factory.mktemp("own")
    log = generate_interactions(60, 40, 900, seed=0, rank=4)
    rows = "".join(f"{user},{item}\n" for user, item in zip(log.user, log.item, strict=True))
    (folder / "purchases.csv").write_text(f"customer,sku\n{rows}")
    (folder / "my_recommender.py").write_text(block("python"))
    (folder / "my_run.yaml").write_text(block("yaml"))
    program, *arguments = block("").split()
    assert program == "ciess-ray"
    # Like the installed script, -P leaves the working directory out of Python's path.
    command = [sys.executable, "-P", "-c", "from ciess_ray.cli.main import main; main()", *arguments, *TINY]
    done = subprocess.run(
        command,
        cwd=folder,
        env=os.environ | {"RAY_ADDRESS": "local", "OMP_NUM_THREADS": "1"},
        capture_output=True,
        text=True,
        check=False,
    )
    assert done.returncode == 0, done.stdout + done.stderr
    return folder


@pytest.fixture
def importable(monkeypatch, tmp_path):
    """Makes files of a folder importable for one test."""
    monkeypatch.syspath_prepend(tmp_path)
    before = set(sys.modules)
    yield tmp_path
    for name in set(sys.modules) - before:
        file = getattr(sys.modules[name], "__file__", None)
        if file and Path(file).is_relative_to(tmp_path):
            del sys.modules[name]


class TestDocument:
    def test_the_code_is_short(self, block):
        assert len(block("python").splitlines()) <= 20

    def test_its_result_is_read_back_with_the_class_and_imports_nothing_by_itself(self, folder, monkeypatch):
        result = SearchResult.load(folder / "runs" / "mine")
        config = parse_config_of(result, folder, monkeypatch)
        for given in ((), (MF,)):
            with pytest.raises(
                ResultError,
                match="'my_recommender:MyRecommender', not .*call recommender.MyRecommender. on",
            ):
                result.recommender(*given)
        from my_recommender import MyRecommender

        recommender = result.recommender(MyRecommender, measured=True)
        assert recommender.l2 == 0.001 and recommender.item_bias.abs().max() > 0
        merged = load_interactions(config).merge_validation_into_training()
        metrics = evaluate(recommender, merged.train, merged.test).summary()
        assert metrics == pytest.approx(result.summary["methods"][2]["test"], rel=1e-5)

    def test_a_class_for_a_result_that_needs_none_is_refused(self, finished):
        _, result, _ = finished
        with pytest.raises(ResultError, match="'lightgcn', not MF; call recommender.. on the result.$"):
            result.recommender(MF)


def parse_config_of(result, folder, monkeypatch):
    monkeypatch.syspath_prepend(folder)
    monkeypatch.chdir(folder)
    assert "my_recommender" not in sys.modules
    return parse_config(result.summary["config"])


def test_a_fit_is_not_reused_once_the_code_is_another(make_config, importable):
    file = importable / "edited_recommender.py"
    code = "from envs.recommenders import MF\n\n\nclass Edited(MF):\n    pass\n"
    settings = {"training": {"max_batches": 20}, "cache": importable}
    made = []
    for content in (code, code, f"{code}\n\nEDITED = True\n"):
        file.write_text(content)
        sys.modules.pop("edited_recommender", None)
        config = make_config(
            importable / "out", recommender={"name": "edited_recommender:Edited"}, **settings
        )
        made.append(Preparation.full_size(config, load_interactions(config)).key)
    assert made[0] == made[1] != made[2]


class TestImportPath:
    @pytest.mark.parametrize(
        ("name", "says"),
        [
            ("no_such_module:A", "ModuleNotFoundError: No module named 'no_such_module'. Write .*PYTHONPATH"),
            ("envs.no_such:A", "ModuleNotFoundError: No module named 'envs.no_such'"),
            ("broken_module:A", "importing 'broken_module' failed with ZeroDivisionError: division"),
            ("needs_module:A", "importing 'needs_module' failed with ModuleNotFoundError.*'not_there'"),
            ("some_module:Other", "no class of that name which derives from .*; its recommenders: Own"),
            ("some_module:nn", "no class of that name which derives from .*; its recommenders: Own"),
            ("some_module:Alias", "no class of that name which derives from .*; its recommenders: Own"),
            (":A", "Write package.module:ClassName"),
            ("some_module:", "no class of that name"),
            (".some_module:A", "Write package.module:ClassName"),
        ],
    )
    def test_what_leads_nowhere_is_named_with_its_remedy(self, importable, name, says):
        (importable / "broken_module.py").write_text("1 / 0\n")
        (importable / "needs_module.py").write_text("import not_there\n")
        (importable / "some_module.py").write_text(
            "from torch import nn\nfrom envs.recommenders import MF\nclass Own(MF): pass\nAlias = Own\n"
        )
        with pytest.raises(ConfigError, match=f"^recommender '{re.escape(name)}': .*{says}|{says}"):
            check_recommender(name, {})

    def test_a_name_without_a_colon_is_one_of_the_table(self):
        with pytest.raises(UnknownNameError, match="Known: .*package.module:ClassName"):
            check_recommender("my_recommender.MyRecommender", {})

    def test_its_options_are_checked_like_any(self, importable):
        (importable / "some_module.py").write_text(
            "from envs.recommenders import MF\nclass Own(MF): pass\n", encoding="utf-8"
        )
        with pytest.raises(UnknownNameError, match="option of the recommender some_module:Own 'l3'"):
            check_recommender("some_module:Own", {"l3": 1})
        check_recommender("some_module:Own", {"l2": 1})

    def test_a_configuration_with_one_that_breaks_a_rule_is_refused(self, importable):
        (importable / "bad_module.py").write_text(
            "from envs.recommenders import MF\nclass Bad(MF):\n    def encode(self): return 1 / 0\n"
        )
        values = {"dataset": {"path": "nowhere.csv"}, "recommender": {"name": "bad_module:Bad"}}
        with pytest.raises(RecommenderProtocolError) as caught:
            parse_config(values, "run.yaml")
        message = str(caught.value)
        assert message.startswith("run.yaml: the recommender bad_module:Bad breaks the rule 'encode': Zero")
        assert "bad_module.py, line 3" in message
        assert str(pickle.loads(pickle.dumps(caught.value))) == message


class NoGenerator(MF):
    def __init__(self, train, sizes, device=None):
        super().__init__(train, sizes, generator=torch.Generator(), device=device)


class AnyOptions(MF):
    def __init__(self, train, sizes, **options):
        super().__init__(train, sizes, **options)


class TextOption(MF):
    def __init__(self, train, sizes, *, generator, device=None, kind="dot"):
        super().__init__(train, sizes, generator=generator, device=device)


class NoBase(MF):
    def __init__(self, train, sizes, *, generator, device=None):
        self.train_interactions = train


class OneTensor(MF):
    def encode(self):
        return self.table()


class ItemsFirst(MF):
    def encode(self):
        user, item = super().encode()
        return item, user


class AllColumns(MF):
    def score(self, encoded, users, items=None):
        return super().score(encoded, users)


class SortedColumns(MF):
    def score(self, encoded, users, items=None):
        return super().score(encoded, users, None if items is None else items.sort().values)


class DividesByDegree(MF):
    def __init__(self, train, sizes, *, generator, device=None):
        super().__init__(train, sizes, generator=generator, device=device)
        self.degree = torch.from_numpy(train.sum(axis=0))

    def encode(self):
        user, item = super().encode()
        return user, item * 0 / self.degree[:, None] + item


class KeepsScores(MF):
    def score(self, encoded, users, items=None):
        kept = self.__dict__.setdefault("kept", {})
        if items is not None:
            return super().score(encoded, users, items)
        return kept.setdefault(tuple(users.tolist()), super().score(encoded, users))


class Expanded(MF):
    def score(self, encoded, users, items=None):
        item = encoded[1].sum(dim=1) if items is None else encoded[1].sum(dim=1)[items]
        return item.expand(len(users), -1)


class OtherPairs(MF):
    def score_pairs(self, encoded, users, items):
        return 2 * super().score_pairs(encoded, users, items)


class PenaltyOfEach(MF):
    def penalty(self, encoded, users, items):
        return self.table().square().sum(dim=1)


class Reward(MF):
    def penalty(self, encoded, users, items):
        return -super().penalty(encoded, users, items)


class Detached(MF):
    def encode(self):
        return tuple(part.detach() for part in super().encode())


class ScoresWithoutGradient(MF):
    @torch.no_grad()
    def score(self, encoded, users, items=None):
        return super().score(encoded, users, items)


class Unmasked(MF):
    def encode(self):
        return self.table.weight[: self.num_users], self.table.weight[self.num_users :]


class UnmaskedValues(MF):
    def encode(self):
        total = self.table.weight.detach().sum()
        user, item = super().encode()
        return user, item * total


class OwnMask(MF):
    def __init__(self, train, sizes, *, generator, device=None):
        super().__init__(train, sizes, generator=generator, device=device)
        self.kept = self.table.mask.clone()

    def encode(self):
        table = self.table.weight * self.kept
        return table[: self.num_users], table[self.num_users :]


class DropsInEvaluation(MF):
    def encode(self):
        return tuple(nn.functional.dropout(part, 0.5) for part in super().encode())


class DropsGlobally(MF):
    def encode(self):
        return tuple(nn.functional.dropout(part, 0.5, self.training) for part in super().encode())


class DrawsGlobally(MF):
    def __init__(self, train, sizes, *, generator, device=None):
        super().__init__(train, sizes, generator=generator, device=device)
        self.output = nn.Linear(sizes.width, sizes.width)

    def encode(self):
        return tuple(self.output(part) for part in super().encode())


class HiddenTensor(MF):
    def __init__(self, train, sizes, *, generator, device=None):
        super().__init__(train, sizes, generator=generator, device=device)
        self.scale = torch.rand(sizes.width, generator=generator)

    def encode(self):
        user, item = super().encode()
        return user * self.scale, item


class TwoNames(MF):
    def __init__(self, train, sizes, *, generator, device=None):
        super().__init__(train, sizes, generator=generator, device=device)
        self.item_table = self.table


@pytest.mark.parametrize(
    ("recommender", "rule", "says"),
    [
        (NoGenerator, "constructor", "does not take 'generator'"),
        (AnyOptions, "constructor", "does not take 'generator'"),
        (TextOption, "constructor", "default of the option 'kind' is no number"),
        (NoBase, "constructor", "AttributeError.*super"),
        (OneTensor, "encode", "no two tensors"),
        (ItemsFirst, "encode", r"have \(9, 7\) rows, not \(7, 9\)"),
        (AllColumns, "score", r"3 users and 4 items the shape is \(3, 9\)"),
        (SortedColumns, "score", "other columns"),
        (DividesByDegree, "score", "NaN"),
        (KeepsScores, "score", "writing into the scores changes the recommender"),
        (Expanded, "score", "RuntimeError"),
        (OtherPairs, "score_pairs", "disagrees with score"),
        (PenaltyOfEach, "penalty", r"shape is \(16,\)"),
        (Reward, "penalty", "it is -"),
        (Detached, "gradient", "score_pairs has no gradient"),
        (ScoresWithoutGradient, "gradient", "score has no gradient"),
        (Unmasked, "gradient", "reaches beyond a row's size"),
        (UnmaskedValues, "embedding sizes", "beyond a row's size changes the scores"),
        (OwnMask, "embedding sizes", "table.mask_to"),
        (DropsInEvaluation, "evaluation is deterministic", "two scores differ"),
        (DropsGlobally, "one seed, one recommender", "differ in training"),
        (DrawsGlobally, "one seed, one recommender", "differ in output.weight"),
        (HiddenTensor, "save and load", "another instance .* scores differently"),
        (TwoNames, "save and load", "one tensor has two names"),
    ],
    ids=lambda value: value.__name__ if isinstance(value, type) else "",
)
def test_a_broken_recommender_is_refused_with_the_rule(recommender, rule, says):
    with pytest.raises(RecommenderProtocolError) as caught:
        check_recommender(recommender, {})
    message = str(caught.value)
    assert f":{recommender.__name__} breaks the rule '{rule}': " in message
    assert re.search(says, message), message


def test_the_check_leaves_no_trace_in_the_global_generator():
    class Fresh(MF):
        pass

    torch.manual_seed(0)
    expected = torch.rand(3)
    torch.manual_seed(0)
    check_protocol(Fresh)
    assert torch.equal(torch.rand(3), expected)
