# Set-up happens once, in .venv, with pinned versions; every target below sets itself up first.
PYTHON ?= python3
BIN := .venv/bin
STAMP := .venv/.ready
export PATH := $(CURDIR)/$(BIN):$(PATH)
export HF_HUB_OFFLINE = 1
export FLWR_TELEMETRY_ENABLED = 0
export ORT_DISABLE_TELEMETRY = 1

.PHONY: setup demo test lint type imports proto requirements bench bench-federation bench-privacy bench-report chaos clean

setup: $(STAMP)  ## make .venv with the pinned packages (once)

$(STAMP): requirements/dev.txt pyproject.toml
	@$(PYTHON) scripts/setup.py --venv .venv --requirements requirements/dev.txt
	@touch $@

demo: setup  ## a whole federation of four real shops on this machine
	@$(BIN)/python demo/run.py --out build/demo

test: setup  ## unit, contract, integration and end-to-end tests
	@$(BIN)/python -m pytest -q

lint: setup  ## style and formatting
	@$(BIN)/ruff check . && $(BIN)/ruff format --check .

type: setup  ## static types
	@$(BIN)/mypy

imports: setup  ## who may import whom
	@$(BIN)/lint-imports

proto: setup  ## regenerate the code of protos/
	@protos/generate.sh

requirements: setup  ## compile requirements/*.txt anew from pyproject.toml
	@$(BIN)/python scripts/compile_requirements.py

# Longer ones, with targets of their own.
ENGINE_BENCHMARKS := $(addprefix benchmarks/,__init__.py suite.py federation.py privacy.py chaos.py report.py)

bench: setup  ## every benchmark; each prints JSON
	@for script in $(filter-out $(ENGINE_BENCHMARKS),$(wildcard benchmarks/*.py)); do echo "== $$script"; \
		PYTHONPATH=. $(BIN)/python "$$script" || exit 1; done

bench-federation: setup  ## the federation engine beside its peers, into build/bench/federation.json
	@$(BIN)/python -m benchmarks.federation --out build/bench/federation.json

bench-privacy: setup  ## what privacy costs and how well it is checked, into build/bench/privacy.json
	@$(BIN)/python -m benchmarks.privacy --out build/bench/privacy.json

chaos: setup  ## 100 rounds of 8 clients while everything breaks, into build/bench/chaos.json
	@$(BIN)/python -m benchmarks.chaos --rounds 100 --clients 8 --out build/bench/chaos.json

bench-report: setup  ## the measured figures into docs/benchmarks.md
	@$(BIN)/python -m benchmarks.report

clean:  ## remove what was built; .venv stays
	rm -rf build dist .pytest_cache .mypy_cache .ruff_cache .hypothesis .import_linter_cache
