# Every target sets up .venv by itself. `make demo` and `make test` are all that a newcomer needs.
PYTHON ?= $(shell command -v python3.11 || command -v python3)
BIN := .venv/bin
READY := .venv/.ready
PIP := $(BIN)/python -m pip install -qq --disable-pip-version-check --constraint constraints.txt

export HF_HUB_OFFLINE := 1
export TOKENIZERS_PARALLELISM := false

.PHONY: help setup demo test lint slow docs wheel clean

help:
	@echo "make demo   load three trained checkpoints, prove them against the reference, complete a prompt"
	@echo "make test   style, types and the fast tests"
	@echo "make slow   the slow tests"
	@echo "make docs   write the generated documents anew"
	@echo "make wheel  build the wheel into dist/"
	@echo "make clean  remove what was built, .venv included"

setup: $(READY)

# The published configs lie in a package of many dependencies, none of which is needed: it stays out of the way.
# torch comes first, alone and pinned, so that nothing else decides which build of it is taken.
$(READY): pyproject.toml constraints.txt
	@test -n "$(PYTHON)" || { echo "Python 3.11 or newer is needed (make PYTHON=/path/to/python3.11 ...)" >&2; exit 1; }
	@$(PYTHON) -c 'import sys; sys.exit(sys.version_info < (3, 11))' \
	  || { echo "$(PYTHON) is older than Python 3.11 (make PYTHON=/path/to/python3.11 ...)" >&2; exit 1; }
	@echo "Setting up .venv (some minutes the first time)"
	@test -x $(BIN)/python || $(PYTHON) -m venv .venv
	@echo "  torch"
	@$(PIP) torch
	@echo "  nexus-universal and its tools"
	@$(PIP) --editable '.[dev]'
	@echo "  published configs for the tests"
	@$(PIP) --no-deps --upgrade --target .venv/published aiconfigurator-core
	@touch $@

demo: $(READY)
	@$(BIN)/python examples/demo.py

lint: $(READY)
	@echo "ruff check"
	@$(BIN)/ruff check --quiet .
	@echo "ruff format"
	@$(BIN)/ruff format --check .
	@echo "pyright"
	@$(BIN)/pyright

# Two workers of one thread each: more threads than cores make every small product slower.
test: lint
	OMP_NUM_THREADS=1 $(BIN)/python -m pytest -q -n 2 -m "not slow and not torchao"

slow: $(READY)
	OMP_NUM_THREADS=1 $(BIN)/python -m pytest -q -n 2 -m slow

docs: $(READY)
	@$(BIN)/python scripts/generate_docs.py

wheel: $(READY)
	@rm -rf dist
	@$(BIN)/python -m build --wheel --outdir dist . >.build.log 2>&1 || { cat .build.log >&2; exit 1; }
	@rm -f .build.log
	@ls dist

clean:
	rm -rf .venv build dist *.egg-info .pytest_cache .hypothesis .ruff_cache .coverage .coverage.*
