# make quickstart   set up .venv, then run the main job on a corpus that needs no download
# make test         set up .venv, then check style and run the tests
# make lint         check style only
# make clean        remove what the above made, except for runs/

PYTHON ?= python3
PROCESSES ?= $(shell nproc 2>/dev/null || echo 2)
BIN := .venv/bin

.PHONY: quickstart test lint clean

quickstart: .venv/installed
	$(BIN)/python experiments/quickstart.py --workdir runs/quickstart

test: lint
	JAX_PLATFORMS=cpu $(BIN)/python -m pytest --numprocesses $(PROCESSES)

lint: .venv/installed
	$(BIN)/ruff check

.venv/installed: requirements.txt pyproject.toml
	test -x $(BIN)/pip || $(PYTHON) -m venv .venv
	@echo "Installing the requirements into .venv, which takes a few minutes."
	$(BIN)/python -m pip install --quiet --disable-pip-version-check --editable '.[dev]'
	touch $@

clean:
	rm -rf .venv .cache .pytest_cache .ruff_cache build *.egg-info
	find . -name __pycache__ -type d -prune -exec rm -rf {} +
