# quickstart: fine-tune a real pretrained model on this machine. test: the test suite. Both install what they need, once.
# test-xla: the tests on XLA's CPU device, in an environment of its own, since torch_xla fixes the version of torch (7 GB).
PYTHON ?= python3
VENV := .venv
BIN := $(VENV)/bin

.PHONY: quickstart test test-xla lint types docs format clean

quickstart: $(VENV)/.installed-offline
	$(BIN)/python cli.py fit --config configs/quickstart.yaml

test: $(VENV)/.installed-test
	$(BIN)/python -m pytest -q -n 2 --dist worksteal

test-xla: $(VENV)-xla/.installed
	PJRT_DEVICE=CPU $(VENV)-xla/bin/python -m pytest -q -m xla tests/optimizers/test_on_xla.py \
		tests/lightning_modules/test_closures_on_xla.py

lint: $(VENV)/.installed-dev
	$(BIN)/ruff check .
	$(BIN)/ruff format --check .

types: $(VENV)/.installed-dev
	$(BIN)/mypy

docs: $(VENV)/.installed-docs
	$(BIN)/sphinx-build -W docs docs/_build

format: $(VENV)/.installed-dev
	$(BIN)/ruff check --fix .
	$(BIN)/ruff format .

clean:
	rm -rf $(VENV) $(VENV)-xla runs build docs/_build *.egg-info

$(VENV)-xla/.installed:
	$(PYTHON) -m venv $(VENV)-xla
	$(VENV)-xla/bin/python -m pip install --quiet torch==2.9.0 torch_xla==2.9.0 -e . pytest pytest-timeout hypothesis
	touch $@

$(BIN)/python:
	@$(PYTHON) -c 'import sys; sys.exit(sys.version_info < (3, 11) and "linetune needs Python 3.11 or newer; name one: make PYTHON=python3.12 ...")'
	$(PYTHON) -m venv $(VENV)

$(VENV)/.installed-%: pyproject.toml constraints.txt | $(BIN)/python
	$(BIN)/python -m pip install --quiet --disable-pip-version-check -c constraints.txt -e ".[$*]"
	touch $@
