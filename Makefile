# Two commands on a fresh machine: `make demo` and `make test`. Each prepares its own .venv (scripts/setup.sh).
#   make demo ARGS="train.steps=40"      make test ARGS="tests/geometry -k lift"

.PHONY: demo test lint types format docs clean venv help
.DEFAULT_GOAL := help

BIN := .venv/bin
ARGS ?=
JOBS ?= 2

help:      ## list these targets
	@grep -hE '^[a-z]+: .*##|^[a-z]+:  +##' Makefile | sed 's/:[^#]*## */\t/' | expand -t 12

demo:      ## collect, train, plan, evaluate, report: writes runs/demo
	@scripts/setup.sh
	@$(BIN)/liftwm demo $(ARGS)

test:      ## the whole test suite
	@scripts/setup.sh dev
	OMP_NUM_THREADS=1 $(BIN)/python -m pytest -q -n $(JOBS) $(ARGS)

lint:      ## ruff
	@scripts/setup.sh dev
	$(BIN)/ruff check .

types:     ## mypy over the three packages
	@scripts/setup.sh dev
	$(BIN)/mypy

format:    ## let ruff rewrite the code
	@scripts/setup.sh dev
	$(BIN)/ruff check --fix . && $(BIN)/ruff format .

docs:      ## regenerate docs/config.md and docs/cli.md
	@scripts/setup.sh dev
	$(BIN)/python docs/make_reference.py

venv:      ## .venv with everything for development
	@scripts/setup.sh dev

clean:     ## remove .venv, caches and build products; runs/ and data/ stay
	rm -rf .venv build dist .pytest_cache .ruff_cache .mypy_cache
	find . -name __pycache__ -type d -prune -exec rm -rf {} +
