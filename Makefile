# Set-up happens once, in .venv, with pinned versions; every target below sets itself up first.
PYTHON ?= python3
BIN := .venv/bin
STAMP := .venv/.ready
export PATH := $(CURDIR)/$(BIN):$(PATH)
export HF_HUB_OFFLINE = 1
export FLWR_TELEMETRY_ENABLED = 0
export ORT_DISABLE_TELEMETRY = 1

.PHONY: setup demo test lint type imports proto requirements bench clean

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

bench: setup  ## every benchmark; each prints JSON
	@for script in benchmarks/*.py; do echo "== $$script"; $(BIN)/python "$$script" || exit 1; done

clean:  ## remove what was built; .venv stays
	rm -rf build dist .pytest_cache .mypy_cache .ruff_cache .hypothesis .import_linter_cache
