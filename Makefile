# make demo    install into .venv and train a small model with fused kernels
# make check   what CI runs: format, lint, types, documentation, tests
# make docs    build the documentation into site/
# make gpu     measure on an NVIDIA GPU, 100 minutes; without one, say why not
# make help    this list

PYTHON ?= python3
VENV ?= .venv
# Two workers suit the smallest machines this is tested on.
JOBS ?= 2

BIN := $(VENV)/bin
PIP := $(BIN)/python -m pip --disable-pip-version-check install --quiet
# A stamp per set of extras: newer than pyproject.toml, it means that there is nothing to install.
DEMO_STAMP := $(VENV)/.lowgrad-demo
TEST_STAMP := $(VENV)/.lowgrad-test

.PHONY: help demo test check lint docs format bench gpu clean

help:
	@sed -n 's/^# \(make .*\)/\1/p' Makefile

demo: $(DEMO_STAMP)
	@$(BIN)/lowgrad demo

test: $(TEST_STAMP)
	@$(BIN)/python -m pytest -q -n $(JOBS)

lint: $(TEST_STAMP)
	@$(BIN)/ruff format --check .
	@$(BIN)/ruff check .
	@$(BIN)/mypy

docs: $(TEST_STAMP)
	@NO_MKDOCS_2_WARNING=1 $(BIN)/mkdocs build --strict --quiet --site-dir site

# One make after the other, so that the tests' closing line is the last, also under `make -j`.
check:
	@$(MAKE) --no-print-directory lint
	@$(MAKE) --no-print-directory docs
	@$(MAKE) --no-print-directory test

format: $(TEST_STAMP)
	@$(BIN)/ruff format .
	@$(BIN)/ruff check --fix .

bench: $(TEST_STAMP)
	@$(BIN)/lowgrad bench

# Slices: .venv/bin/python -m benchmarks.gpu --part NAME; --list names them.
gpu: $(TEST_STAMP)
	@$(BIN)/python -m benchmarks.gpu

clean:
	rm -rf $(VENV) build dist out site *.egg-info .mypy_cache .pytest_cache .ruff_cache .hypothesis
	find . -name __pycache__ -type d -prune -exec rm -rf {} +

$(BIN)/python:
	@$(PYTHON) -c 'import sys; v = sys.version_info[:2]; (3, 10) <= v <= (3, 13) or \
	  sys.exit("lowgrad needs Python 3.10 to 3.13, not %d.%d: make PYTHON=python3.12 ..." % v)'
	@$(PYTHON) -m venv $(VENV)

$(DEMO_STAMP): pyproject.toml | $(BIN)/python
	@echo "installing lowgrad[demo] into $(VENV)"
	@$(PIP) --editable '.[demo]'
	@touch $@

$(TEST_STAMP): pyproject.toml | $(BIN)/python
	@echo "installing lowgrad[test,demo,report,docs] into $(VENV)"
	@$(PIP) --editable '.[test,demo,report,docs]'
	@touch $@ $(DEMO_STAMP)
