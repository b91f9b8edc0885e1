# A fresh machine with Python 3.11 or newer needs nothing else:
#   make demo    install into .venv and run the quick start
#   make test    install into .venv and run every check
#   make bench   measure the base recommenders and write results/bench.json and .png, about ten minutes;
#                ML1M=ml-1m.parquet GOWALLA=gowalla.parquet name the data, synthetic data of the same shape
#                takes the place of what is not named; BENCH_ARGS=--quick only shows that it runs
# PYTHON chooses the interpreter, PIP_ARGS is handed to pip.
PYTHON ?= python3
PIP_ARGS ?=
ML1M ?=
GOWALLA ?=
BENCH_ARGS ?=
VENV := .venv
BIN := $(VENV)/bin

# Ray starts many processes; where no byte code is kept, each of them compiles PyTorch, Ray and MLflow anew.
unexport PYTHONDONTWRITEBYTECODE

# Ray's usage report is not wanted.
export RAY_USAGE_STATS_ENABLED ?= 0

# Small nets gain nothing by a second thread, and beside other work threads wait for each other.
demo pytest: export OMP_NUM_THREADS ?= 1

.PHONY: demo test check lint pytest format bench clean

demo: $(VENV)/.installed
	$(BIN)/ciess-ray search configs/quickstart.yaml --budget 10% --output runs/quickstart --overwrite

test: check

# Side by side: the linters have one core to themselves for half a minute and leave the other idle.
check: $(VENV)/.installed
	$(MAKE) --jobs 2 lint pytest

lint: $(VENV)/.installed
	$(BIN)/ruff format --check .
	$(BIN)/ruff check .
	$(BIN)/mypy
	$(BIN)/lint-imports

# Three processes for two cores: tests that kill and resume often wait.
pytest: $(VENV)/.installed
	$(BIN)/pytest -n 3 --dist worksteal

format: $(VENV)/.installed
	$(BIN)/ruff format .
	$(BIN)/ruff check --fix .

# Without implicit, which is not built for every machine, the bench leaves that comparison out and says so.
bench: $(VENV)/.installed
	-$(BIN)/python -m pip install --quiet $(PIP_ARGS) --editable '.[bench]'
	$(BIN)/python benchmarks/recommenders.py $(if $(ML1M),--ml-1m "$(ML1M)") $(if $(GOWALLA),--gowalla "$(GOWALLA)") $(BENCH_ARGS)

$(VENV)/.installed: pyproject.toml
	test -x $(BIN)/python || $(PYTHON) -m venv $(VENV)
# The pip that comes with Python may be one that takes twice as long to find what fits.
	-$(BIN)/python -m pip install --quiet $(PIP_ARGS) --upgrade pip
# Byte code of everything takes as long again; Python makes it of what is imported.
	$(BIN)/python -m pip install --quiet --no-compile $(PIP_ARGS) --editable '.[datasets,test]'
	touch $@

clean:
	rm -rf $(VENV) build *.egg-info .mypy_cache .ruff_cache .pytest_cache .import_linter_cache .hypothesis
