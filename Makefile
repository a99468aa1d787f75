# One entry point for people and for CI. Every target sets up what it needs; the second time that takes no time.

PYTHON ?= python3
# Where torch comes from. Empty: the CPU build, from pip's own sources if they have it, else from PyTorch's index.
# For a GPU: make clean; make setup TORCH_INDEX=https://download.pytorch.org/whl/cu130
TORCH_INDEX ?=

SHELL := /bin/bash
.SHELLFLAGS := -euo pipefail -c
.DEFAULT_GOAL := help
BIN := .venv/bin
STAMP := .venv/.stamp
PIP := $(BIN)/python -m pip -qq --disable-pip-version-check
CONSTRAINTS := constraints/constraints.txt
CPU_INDEX := https://download.pytorch.org/whl/cpu

# pip does not compile (a quarter of its time); each module is compiled when first imported, even where the machine's
# default is not to keep that.
export PYTHONDONTWRITEBYTECODE :=
INSTALL := install --no-compile

.PHONY: help setup demo test chaos check results bench docs clean

help:  ## this list
	@awk -F ':.*## ' '/^[a-z]+:.*## / {printf "make %-6s %s\n", $$1, $$2}' Makefile

setup: $(STAMP)  ## virtual environment in .venv: pinned packages, weights and data by hash (PYTHON=..., TORCH_INDEX=...)

demo: setup  ## fine-tune the default federation on real data; prints where its report is
	$(BIN)/fogtune run

test: setup  ## all tests, two at a time: where one waits for Ray, the other computes
	$(BIN)/pytest -n 2 --dist loadgroup --no-loadscope-reorder

chaos: setup  ## kill processes of all kinds at random, twenty a game, and compare bits (FOGTUNE_CHAOS=games)
	FOGTUNE_CHAOS=$${FOGTUNE_CHAOS:-1} $(BIN)/pytest tests/pipelines/test_chaos.py tests/actors/test_machines.py

check: setup  ## lint, format, types, import contracts, generated docs
	$(BIN)/ruff check .
	$(BIN)/ruff format --check .
	$(BIN)/mypy
	$(BIN)/lint-imports
	@$(BIN)/fogtune config reference | diff -u docs/configuration.md - \
	  || { echo "docs/configuration.md is not what the code says; run make docs"; exit 1; }

results: setup  ## the tables of docs/results.md and docs/pareto.md (two and a half hours)
	$(BIN)/python benchmarks/accuracy.py --out docs/results.md
	$(BIN)/python benchmarks/pareto.py --out docs/pareto.md

bench: setup  ## the tables of docs/benchmarks.md (an hour and a half; needs wrk)
	$(BIN)/python benchmarks/training/measure.py --out docs/benchmarks.md
	$(BIN)/python benchmarks/serving/measure.py --out docs/benchmarks.md

docs: setup  ## write the generated pages of docs/
	$(BIN)/fogtune config reference > .venv/configuration.md
	mv .venv/configuration.md docs/configuration.md

clean:  ## remove the environment, caches and build outputs; runs/ stays
	rm -rf .venv .cache .mypy_cache .ruff_cache .pytest_cache .import_linter_cache .hypothesis build dist src/*.egg-info
	find . -name __pycache__ -prune -exec rm -rf {} +

$(STAMP): pyproject.toml $(wildcard constraints/*.txt)
	@$(PYTHON) -c 'import sys; sys.exit(sys.version_info < (3, 11))' \
	  || { echo "$(PYTHON) is older than Python 3.11; give a newer one: make setup PYTHON=python3.12"; exit 1; }
	@echo "setting up .venv (about a minute)"
	@rm -f $@
	@$(PYTHON) -m venv .venv
	@$(PIP) $(INSTALL) -c $(CONSTRAINTS) --upgrade pip setuptools
ifeq ($(TORCH_INDEX),)
	@$(PIP) $(INSTALL) --no-deps -r constraints/torch-cpu.txt 2> /dev/null \
	  || $(PIP) $(INSTALL) --no-deps --index-url $(CPU_INDEX) -r constraints/torch-cpu.txt
else
	@$(PIP) $(INSTALL) --no-deps --index-url $(TORCH_INDEX) -c $(CONSTRAINTS) torch
endif
	@$(PIP) $(INSTALL) --no-build-isolation -c $(CONSTRAINTS) -e '.[dev]'
	@$(PIP) $(INSTALL) --no-deps --require-hashes -r constraints/assets.txt
	@touch $@
