"""Whatever README.md, docs/ and cluster/README.md show is run, and whatever documents lead to is there.

Blocks of YAML and Python are read and run, and so are commands.

Where one would take minutes it goes as far as its work: files, fields, options and folders are read as
ever, and what trains or draws is not begun.
"""

import re
import shlex
import shutil
import sys
import tomllib
from collections.abc import Iterator
from functools import partial
from pathlib import Path

import numpy as np
import pytest

import ciess_ray
from ciess_ray.comparisons.config import ComparisonConfig
from ciess_ray.config.run import RunConfig
from ciess_ray.config.yaml_file import field_table, load_config
from ciess_ray.streaming.config import StreamConfig
from ciess_ray.sweeps.config import SweepConfig, SweepPlan

ROOT = Path(__file__).parents[2]
DOCUMENTS = [ROOT / "README.md", *sorted((ROOT / "docs").glob("*.md")), ROOT / "cluster" / "README.md"]
#: Documents whose links and paths are followed.
LINKING = [
    *DOCUMENTS,
    ROOT / "CONTRIBUTING.md",
    ROOT / "CHANGELOG.md",
    ROOT / "ciess_ray" / "td3" / "README.md",
    *sorted((ROOT / "results").glob("*.md")),
]
#: What the README may take, in bytes: a reader is to finish it.
MOST_README_BYTES = 12_000

#: First words of commands that are not run, and why.
NOT_RUN = {
    "git": "brings the repository that is here",
    "cd": "goes with it",
    "make": "installs, and runs the quick start, which takes minutes",
    "pip": "installs",
    "export": "sets what the commands after it read",
    "ray": "wants machines; what it submits is run",
    "docker": "wants Docker; what it runs in a container is run",
    "kubectl": "wants Kubernetes",
}
#: How blocks begin that show an output.
OUTPUTS = ("kept    R@20",)
#: What begins the work of a command, and takes minutes.
WORK = {
    "ciess_ray.searches.beginning": ("look_ahead",),
    "ciess_ray.searches.driver": ("search", "resume"),
    "ciess_ray.sweeps.driver": ("sweep", "resume_sweep", "check"),
    "ciess_ray.comparisons.driver": ("compare", "read_plan"),
    "ciess_ray.streaming.driver": ("run_stream", "resume_stream"),
    "ciess_ray.streaming.newcomers": ("append_newcomers",),
    "ciess_ray.report": ("write_report",),
}
#: What the searches of Python are cut to.
SHORT = {
    "recommender": {"max_embedding_size": 16, "device": "cpu"},
    "training": {"batch_size": 64, "max_batches": 20, "evaluate_every": 10},
    "search": {"num_episodes": 1, "episode_length": 2, "supernet_batches": 10, "num_candidates": 1},
    "agent": {"hiddens": [8], "updates_per_step": 1},
}
#: What its streams are.
SHORT_STREAM = {
    "recommender": {"max_embedding_size": 8, "device": "cpu"},
    "training": {"batch_size": 64, "batches": 2, "warm_batches": 1},
    "methods": ["equal sizes", "split"],
}
#: What a reader fills in.
PLACEHOLDERS = {"CONFIG": "configs/quickstart.yaml"}

TEXTS = {path.relative_to(ROOT).as_posix(): path.read_text(encoding="utf-8") for path in DOCUMENTS}


class Reached(BaseException):
    """A command has read all that it was given, and its work begins."""


def blocks(text: str, language: str) -> Iterator[str]:
    """The fenced blocks of a language."""
    for found, body in re.findall(r"^```(\w*)\n(.*?)^```$", text, re.M | re.S):
        if found == language:
            yield body


def commands(block: str) -> Iterator[list[str]]:
    """The commands of a block, in words; of one that shows a prompt and an output, those at the prompt."""
    lines = block.replace("\\\n", " ").splitlines()
    prompted = [line.removeprefix("$ ") for line in lines if line.startswith("$ ")]
    for line in prompted or lines:
        words = shlex.split(line, comments=True)
        while words:
            end = words.index("&&") if "&&" in words else len(words)
            command, words = words[:end], words[end + 1 :]
            while re.match(r"[A-Z_]+=", command[0]):
                command = command[1:]
            yield command


def spans(text: str) -> Iterator[str]:
    """What stands in a line as code, over the end of a line too."""
    without_blocks = re.sub(r"^```.*?^```$", "", text, flags=re.M | re.S)
    for span in re.findall(r"`([^`]+)`", without_blocks):
        yield " ".join(span.split())


@pytest.fixture(scope="module")
def result(make_result):
    """The folder of a search, with the ids that the documents name."""
    ids = np.array([17, 42, *range(1000, 1058)]), np.array([50, 296, *range(2000, 2038)])
    return make_result("lightgcn", ids)[0]


@pytest.fixture
def folder(tmp_path, monkeypatch, result):
    """A folder like the repository's, with the data, files and results that the documents name."""
    for name in ("configs", "cluster"):
        shutil.copytree(ROOT / name, tmp_path / name)
    shutil.copytree(result, tmp_path / "runs" / "quickstart")
    for name in ("small", "quickstart-sweep", "quickstart-comparison", "stream-sweep"):
        (tmp_path / "runs" / name).mkdir()
    for name in ("stream", "stream-quickstart"):
        stream = tmp_path / "runs" / name
        shutil.copytree(result, stream / "current" / "split")
        (stream / "stream.json").write_text("{}")
        (stream / "current" / "split" / "result.json").write_text('{"format": "ciess-ray stream result 1"}')
    rows = [
        f"c{number % 20},s{number**2 % 23},2024-{1 + number // 40:02}-{1 + number % 28:02}"
        for number in range(160)
    ]
    (tmp_path / "purchases.csv").write_text("\n".join(["customer,sku,date", *rows]) + "\n")
    # Files that a reader is to write, which documents name in their first line.
    for text in TEXTS.values():
        for block in (*blocks(text, "yaml"), *blocks(text, "python")):
            if name := re.match(r"# (\S+\.(?:yaml|py))\n", block):
                (tmp_path / name[1]).write_text(block)
    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr(sys, "path", [*sys.path, str(tmp_path)])
    yield tmp_path
    for written in tmp_path.glob("*.py"):
        sys.modules.pop(written.stem, None)


@pytest.fixture
def run(folder, run_cli, monkeypatch):
    """Runs a command in the folder, as far as its work; gives what it complained of, if it did."""

    def reached(*arguments, **options):
        raise Reached

    def run(words, inside="."):
        with monkeypatch.context() as patch:
            for module, names in WORK.items():
                for name in names:
                    patch.setattr(f"{module}.{name}", reached)
            patch.chdir(folder / inside)
            try:
                status, _, complaints = run_cli(*words)
            except Reached:
                return None
        return complaints if status else None

    return run


@pytest.mark.parametrize("document", TEXTS)
def test_every_command_is_run_as_far_as_its_work(document, run):
    for block in blocks(TEXTS[document], ""):
        if block.lstrip().startswith(OUTPUTS):
            continue
        for words in commands(block):
            assert words[0] == "ciess-ray" or words[0] in NOT_RUN, f"run it, or say why not: {words}"
            if "ciess-ray" not in words[:-1]:
                continue
            inside = words[words.index("--working-dir") + 1] if "--working-dir" in words else "."
            own = words[words.index("ciess-ray") + 1 :]
            # An image has the configurations at its root.
            own = [PLACEHOLDERS.get(word, word.removeprefix("/configs/")) for word in own]
            own = [f"configs/{word}" if word == "quickstart-sweep.yaml" else word for word in own]
            assert (complaints := run(own, inside)) is None, f"{shlex.join(words)}: {complaints}"


def test_every_block_of_yaml_is_a_configuration(folder):
    found = [block for text in TEXTS.values() for block in blocks(text, "yaml")]
    for number, block in enumerate(found):
        file = folder / "configs" / f"{number}.yaml"
        file.write_text(block)
        if "\nspace:" not in block:
            load_config(file)
            continue
        assert len(SweepPlan.load(file).trials) == 12
        # What is commented out works as well.
        drawn = "training.learning_rate: {loguniform: [1e-2, 1]}"
        commented = f"# {drawn}   with num_samples: 8"
        assert commented in block
        file.write_text(block.replace(commented, drawn) + "num_samples: 8\n")
        assert len(SweepPlan.load(file).trials) == 12 * 8


def test_every_block_of_python_runs(folder, ray_cluster, monkeypatch):
    for name, short in (("search", SHORT), ("stream", SHORT_STREAM)):
        monkeypatch.setattr(ciess_ray, name, partial(getattr(ciess_ray, name), **short))
    names = {"__name__": "my_recommender"}
    for document, text in TEXTS.items():
        for block in blocks(text, "python"):
            exec(compile(block, document, "exec"), names)
    assert names["item_ids"].shape == names["scores"].shape == (2, 20)


def test_there_are_no_other_blocks():
    fences = {fence for text in TEXTS.values() for fence in re.findall(r"^```(.+)$", text, re.M)}
    assert fences == {"yaml", "python", "text"}


@pytest.mark.parametrize("document", TEXTS)
def test_every_field_that_is_named_is_one(document):
    models = RunConfig, SweepConfig, ComparisonConfig, StreamConfig
    names = {name for model in models for name, _, _ in field_table(model)}
    sections = "|".join(sorted({name.split(".")[0] for name in names if "." in name}))
    for span in spans(TEXTS[document]):
        for word in re.findall(rf"(?<![\w./])(?:{sections})\.[a-z][\w.]*(?:=[^\s]+)?", span):
            name, is_set, _ = word.partition("=")
            if name.endswith(".py"):
                continue
            assert name in names or name.startswith("recommender.options."), f"{name} of `{span}` is no field"
            if is_set:
                overrides = ["dataset.sample=null", "dataset.path=a", word]
                load_config(ROOT / "configs" / "quickstart.yaml", overrides)


@pytest.mark.parametrize("document", TEXTS)
def test_every_option_that_is_named_is_one(document):
    from typer.main import get_command

    from ciess_ray.cli.main import app

    known = get_command(app)
    for span in spans(TEXTS[document]):
        first, *words = span.split()
        if first == "ciess-ray" and words:
            command = known.commands[words[0]]
            if hasattr(command, "commands"):
                command = command.commands[words[1]]
            options = {option for parameter in command.params for option in parameter.opts}
            assert {word for word in words if word.startswith("--")} <= options, span
        if first == "python" and words and words[0].startswith("benchmarks/"):
            script = (ROOT / words[0]).read_text(encoding="utf-8")
            for word in words[1:]:
                assert not word.startswith("--") or f'"{word}"' in script, f"{word} of `{span}`"
                assert not word.startswith("configs/") or (ROOT / word).exists(), f"{word} of `{span}`"


def name_of(document):
    return document.relative_to(ROOT).as_posix()


def anchors(text):
    """What GitHub calls the headings of a document."""
    without_blocks = re.sub(r"^```.*?^```$", "", text, flags=re.M | re.S)
    headings = re.findall(r"^#+ (.+)$", without_blocks, re.M)
    return {re.sub(r"[^\w\- ]", "", heading.lower()).replace(" ", "-") for heading in headings}


@pytest.mark.parametrize("document", LINKING, ids=name_of)
def test_every_link_leads_somewhere(document):
    text = document.read_text(encoding="utf-8")
    for target in re.findall(r"\]\(([^()\s]+)\)", text):
        if re.match(r"https?://", target):
            continue
        path, _, anchor = target.partition("#")
        there = (document.parent / path).resolve() if path else document
        assert there.is_relative_to(ROOT) and there.exists(), f"{target}: there is no such file"
        if anchor:
            assert anchor in anchors(there.read_text(encoding="utf-8")), f"{target}: no such heading"


@pytest.mark.parametrize(
    "document", [*DOCUMENTS, ROOT / "CONTRIBUTING.md", ROOT / "ciess_ray" / "td3" / "README.md"], ids=name_of
)
def test_every_path_that_is_named_is_there(document):
    for span in spans(document.read_text(encoding="utf-8")):
        for path in re.findall(r"(?<![\w./-])(?:ciess_ray|envs|benchmarks|tests|docs)/[\w./-]*", span):
            assert (ROOT / path).exists(), f"{path} of `{span}`"


def test_the_readme_is_read_to_its_end():
    assert (ROOT / "README.md").stat().st_size <= MOST_README_BYTES


class TestArchitecture:
    TEXT = (ROOT / "docs" / "architecture.md").read_text(encoding="utf-8")

    def test_the_picture_is_the_import_contract(self):
        (picture,) = blocks(self.TEXT, "text")
        floors = re.findall(r"^ *\d+ +(\w+(?: · \w+)*)", picture, re.M)
        contracts = tomllib.loads((ROOT / "pyproject.toml").read_text())["tool"]["importlinter"]["contracts"]
        layers = [layer for contract in contracts for layer in contract.get("layers", ())]
        kept = [re.findall(r"\.(\w+)", layer) for layer in layers if layer != "envs"]
        assert [floor.split(" · ") for floor in floors] == kept

    def test_it_names_every_room(self):
        rooms = [path.parent for path in (ROOT / "ciess_ray").glob("*/__init__.py")]
        assert rooms and all(re.search(rf"\b{room.name}\b", self.TEXT) for room in rooms)

    def test_every_file_on_the_way_is_there(self):
        files = re.findall(r"`([\w/]+/(?:\w+\.py)?)`", self.TEXT)
        assert len(files) > 30
        assert not [
            file for file in files if not any((ROOT / at / file).exists() for at in (".", "ciess_ray"))
        ]

    def test_what_is_added_goes_where_it_says(self):
        places = re.findall(r"`([\w/]+\.py)` \(([^)]*)\)", self.TEXT.split("## Where what is added goes")[1])
        assert len(places) > 9
        for path, names in places:
            for name in re.findall(r"`(\w+)`", names):
                assert re.search(rf"\b{name}\b", (ROOT / path).read_text()), f"{name} is not in {path}"
