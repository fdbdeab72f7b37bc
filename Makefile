# make demo | test | test-fast | wheel | clean
# Another interpreter: make test PYTHON=python3.12. A CPU-only torch: PIP_EXTRA_INDEX_URL=https://download.pytorch.org/whl/cpu make demo

PYTHON ?= python3
VENV ?= .venv
BIN := $(VENV)/bin
INSTALL := $(BIN)/python -m pip install --quiet --disable-pip-version-check -c constraints.txt

# Both workers of pytest must name the tests alike, also those named after a set.
export PYTHONHASHSEED := 0

# Shapes and types in the signatures of the models, checked at every call: three times as slow, so in part of the tests.
# tests/conftest.py marks these tests, and each runs in one of the two passes.
SHAPES := -m shapes --jaxtyping-packages=hrm.core.layers,hrm.core.recurrence,hrm.core.halting,hrm.puzzles.model,hrm.text.model,beartype.beartype tests/core tests/text/model tests/puzzles/training

.PHONY: demo test test-fast wheel clean

demo: $(VENV)/base
	$(BIN)/hrm demo

test: $(VENV)/dev
	$(BIN)/ruff check
	$(BIN)/ruff format --check
	$(BIN)/pyright --pythonpath $(BIN)/python
	$(BIN)/lint-imports
	$(BIN)/pytest -n 2 --dist worksteal -m "not shapes"
	$(BIN)/pytest -n 2 --dist loadfile -q $(SHAPES)

test-fast: $(VENV)/dev
	$(BIN)/pytest -n 2 --dist loadfile -m "not slow" -q

wheel: $(VENV)/dev
	$(BIN)/python -m build --no-isolation

# The stamps say that an install is done; it is repeated when the pins or the dependencies change.
$(VENV)/base: pyproject.toml constraints.txt
	@echo "installing into $(VENV): a minute, longer where torch comes with CUDA"
	$(PYTHON) -m venv $(VENV)
	$(INSTALL) -e .
	@touch $@

$(VENV)/dev: pyproject.toml constraints.txt
	@echo "installing into $(VENV): a minute, longer where torch comes with CUDA"
	$(PYTHON) -m venv $(VENV)
	$(INSTALL) -e ".[dev]"
	@$(INSTALL) -e ".[gym]" >/dev/null 2>&1 || echo "Reasoning Gym needs a C compiler and Python's headers: its tests skip"
	@touch $@ $(VENV)/base

clean:
	rm -rf $(VENV) build dist .hypothesis .import_linter_cache .pytest_cache .ruff_cache
	find src tests benchmarks examples -name __pycache__ -type d -prune -exec rm -rf {} +
