PYTHON ?= python3
VENV := .venv
BIN := $(VENV)/bin
STAMP := $(VENV)/installed

RLIABLE := .venv-rliable

.PHONY: venv test rliable lint wheel demo clean

venv: $(STAMP)

$(STAMP): pyproject.toml constraints.txt
	$(PYTHON) -c 'import sys; sys.exit("llmo needs Python 3.11 or newer" if sys.version_info < (3, 11) else 0)'
	$(PYTHON) -m venv $(VENV)
	$(BIN)/python -m pip install -q -c constraints.txt hatchling editables
	$(BIN)/python -m pip install -q -c constraints.txt --no-build-isolation -e '.[dev,own,privacy,ray,rivals,tune]'
	touch $(STAMP)

test: venv
	$(BIN)/python -m pytest

rliable: $(RLIABLE)/installed
	PYTHONPATH=. $(RLIABLE)/bin/python -m pytest -q -c tests/rliable/pytest.ini tests/rliable

$(RLIABLE)/installed: tests/rliable/constraints.txt
	$(PYTHON) -m venv $(RLIABLE)
	$(RLIABLE)/bin/python -m pip install -q -c tests/rliable/constraints.txt rliable pytest
	touch $@

lint: venv
	$(BIN)/ruff check .
	$(BIN)/ruff format --check .
	$(BIN)/mypy

wheel: venv
	$(BIN)/python -m build --wheel --no-isolation

demo: venv
	$(BIN)/llmo demo --out runs/demo --resume

clean:
	rm -rf $(VENV) $(RLIABLE) build dist .mypy_cache .pytest_cache .ruff_cache
