# make demo   compare methods on this machine, then open the dashboard on 127.0.0.1:$(PORT)
# make test   ruff, mypy and the tests
# make nightly  faults planted in the kernels, each of which their tests must find
# make bench  the ratios of docs/results, and longatlas.bench's comparisons of the demo's methods
# make gpu    the kernels' tests on this machine's GPU, and their times beside their peers, as rows in $(OUT)/kernels.json
# make baseline  measures the baseline that is shipped with the package anew
# make screenshots  every page of the dashboard in both themes, in build/screenshots, and README's two in docs
# make picture      README's picture of the demo's results

PORT ?= 8501
VENV := .venv
BIN := $(VENV)/bin
RIGHT := import sys, venv, ensurepip; sys.exit(sys.version_info[:2] not in ((3, 11), (3, 12)))
PYTHON ?= $(firstword $(foreach p,python3 python3.12 python3.11,$(shell $(p) -c '$(RIGHT)' 2>/dev/null && echo $(p))))

.PHONY: demo test nightly bench gpu baseline picture screenshots clean

demo: $(VENV)/.installed
	@exec $(BIN)/longatlas demo --port $(PORT) $(if $(CORPUS),--corpus "$(CORPUS)")

test: $(VENV)/.installed
	$(BIN)/ruff check .
	$(BIN)/ruff format --check .
	$(BIN)/mypy
	OMP_NUM_THREADS=1 $(BIN)/pytest -n 2 --dist worksteal
	TRITON_INTERPRET=1 OMP_NUM_THREADS=1 $(BIN)/pytest -n 2 --dist worksteal tests/kernels

nightly: $(VENV)/.installed
	TRITON_INTERPRET=1 OMP_NUM_THREADS=1 $(BIN)/pytest -n 2 --dist worksteal -m nightly tests/kernels

bench: $(VENV)/.installed
	$(BIN)/pytest tests/benchmarks/test_targets.py --benchmark-only
	$(BIN)/pytest --pyargs longatlas.bench

# Installs nothing: a machine with a GPU has its own torch and triton.
GPU_PYTHON ?= $(if $(wildcard $(BIN)/python),$(BIN)/python,python3)
OUT ?= build/kernels
SECONDS_OF_TIMES ?= 170
gpu:
	PYTHONPATH=registry:plugins $(GPU_PYTHON) -m pytest tests/kernels -q -p no:cacheprovider -k "not compiled and not measuring"
	PYTHONPATH=registry:plugins $(GPU_PYTHON) -m longatlas.harness.bare docs/kernels.yaml --seconds $(SECONDS_OF_TIMES) --out $(OUT)/kernels.json

baseline: $(VENV)/.installed
	$(BIN)/longatlas run docs/baseline.yaml --store build/baseline.sqlite
	$(BIN)/longatlas run docs/baseline.yaml --heads 8 --head-size 64 --lengths 512,2048 --store build/baseline.sqlite
	$(BIN)/longatlas results import docs/results/cpu-2-cores/quality.json --store build/baseline.sqlite
	$(BIN)/python docs/make_baseline.py build/baseline.sqlite

picture: $(VENV)/.installed
	$(BIN)/python docs/make_picture.py

STORE ?=
screenshots: $(VENV)/.installed
	$(BIN)/python docs/make_screenshots.py --readme $(if $(STORE),--store "$(STORE)")

$(VENV)/.installed: pyproject.toml constraints.txt
	@test -n "$(PYTHON)" || { echo "longatlas needs Python 3.11 or 3.12 with venv and pip; install one, or name it: make PYTHON=/path/to/python3.12"; exit 1; }
	$(PYTHON) -m venv $(VENV)
	$(BIN)/python -m pip install --quiet --disable-pip-version-check --constraint constraints.txt --editable '.[dev]'
	@touch $@

clean:
	rm -rf $(VENV) build dist .mypy_cache .ruff_cache .pytest_cache
