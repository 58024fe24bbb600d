# Everything below needs Python >= 3.11 and make, nothing else.
PYTHON ?= python3
BIN := .venv/bin
# Modules stay compiled whatever the caller's shell says: many tests start a process of their own.
export PYTHONDONTWRITEBYTECODE =
# Tests run in two processes: a thread of BLAS for each.
test slow: export OPENBLAS_NUM_THREADS = 1

.PHONY: demo test slow check bench docs lock clean

demo: .venv/ready
	$(BIN)/marglik fit examples/sleepstudy.csv "Reaction ~ Days + (Days | Subject)" --plot sleepstudy.png

test: .venv/ready
	$(BIN)/python -m pytest -n 2

slow: .venv/ready
	$(BIN)/python -m pytest -n 2 -m slow

check: .venv/ready
	$(BIN)/ruff check .
	$(BIN)/ruff format --check .
	$(BIN)/mypy
	$(BIN)/python -m pytest tests/test_architecture.py

bench: .venv/ready
	$(BIN)/python -m benchmarks

docs: .venv/ready
	$(BIN)/python -m sphinx -W --keep-going -b html docs docs/_build/html

.venv/ready: requirements/dev.txt pyproject.toml
	$(PYTHON) -c 'import sys; assert sys.version_info >= (3, 11), "marglik needs Python 3.11 or newer; try make PYTHON=python3.12"'
	$(PYTHON) -m venv .venv
	$(BIN)/python -m pip install --quiet --requirement requirements/dev.txt
	$(BIN)/python -m pip install --quiet --no-deps --no-build-isolation --editable .
	touch $@

# Renews the pinned versions; run it by hand, read the difference, commit it.
lock:
	uv pip compile --quiet --universal --python-version 3.11 --no-header --no-annotate --no-emit-index-url --no-emit-find-links --all-extras --group dev --output-file requirements/dev.txt pyproject.toml
	uv pip compile --quiet --universal --python-version 3.11 --no-header --no-annotate --no-emit-index-url --no-emit-find-links --output-file requirements/core.txt pyproject.toml

clean:
	rm -rf .venv docs/_build
