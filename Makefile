# The commands people and CI type. `make run` and `make test` set everything up by themselves.
SHELL := /bin/bash
PYTHON ?= python3
BIN := .venv/bin
ARGS ?=
# Two files at a time, one a core, in the order they are named: those of e2e take longest.
TWO := -n 2 --dist loadfile --no-loadscope-reorder
test test-fast: export PYTHONHASHSEED := 0
# Also where the environment says otherwise: asserts rewritten once serve both processes and the next run.
test test-fast: export PYTHONDONTWRITEBYTECODE :=

.DEFAULT_GOAL := help
.PHONY: help run run-entry test test-fast fuzz check format lock demo bench bench-engine need-npm setup setup-serve setup-dev

help:  ## list the commands
	@grep -hE '^[a-z-]+:.*##' $(MAKEFILE_LIST) | sed -E 's/:[^#]*## /\t/' | expand -t 14

setup:
	@$(PYTHON) scripts/install.py

setup-serve:
	@$(PYTHON) scripts/install.py --serve

setup-dev:
	@$(PYTHON) scripts/install.py --serve --dev

run: setup-serve  ## start a peer that serves the embedded model, API at http://localhost:8080/v1
	@exec $(BIN)/mcd run --cpu $(ARGS)

run-entry: setup  ## start a peer without a model; compiles nothing
	@exec $(BIN)/mcd run $(ARGS)

need-npm:
	@command -v npm >/dev/null || { echo "error: no npm, which brings the js-libp2p node that our tests talk to;" \
		"on Debian or Ubuntu run: apt-get install npm" >&2; exit 1; }

test: need-npm setup-dev  ## set everything up and run every test
	$(BIN)/pytest $(TWO) -m "not timed" tests/e2e tests/integration tests/unit tests/property tests/conformance
	$(BIN)/pytest -m timed $$(grep -rl --include='test_*.py' mark.timed tests)

test-fast: setup-dev  ## the tests that touch no network: a minute
	$(BIN)/pytest $(TWO) tests/unit tests/property tests/conformance

fuzz: setup-dev  ## the property tests with draws nobody has seen, again and again until one fails or Ctrl-C
	while $(BIN)/pytest -q -n 2 -m hypothesis --hypothesis-profile=fuzz tests; do :; done

check: setup-dev  ## style, types, import contracts, specs covered by tests, generated files up to date
	$(BIN)/ruff format --check .
	$(BIN)/ruff check .
	$(BIN)/mypy
	$(BIN)/lint-imports
	$(BIN)/python scripts/extract_messages.py --check
	$(BIN)/python scripts/make_vectors.py --check
	$(BIN)/python scripts/make_mcs1_vectors.py --check
	$(BIN)/python scripts/make_exchange_vectors.py --check
	$(BIN)/python scripts/draw_states.py --check
	$(BIN)/python scripts/cli_help.py --check
	$(BIN)/python scripts/model_table.py --check
	$(BIN)/python scripts/spec_coverage.py

format: setup-dev  ## rewrite the code in the house style
	$(BIN)/ruff format .
	$(BIN)/ruff check --fix .

lock: setup-dev  ## resolve requirements/*.in anew
	$(BIN)/python scripts/lock.py

demo: setup-dev  ## three real peers: stream through an entry, kill the provider, ask again
	@$(BIN)/python -m scripts.demo

bench: setup-dev  ## every benchmark: ratios against a peer in the same run
	@$(BIN)/python -m tests.bench

bench-engine: setup-dev  ## our engine against llama.cpp's own server, up to six minutes
	@$(BIN)/python -m tests.bench.engine $(ARGS)
