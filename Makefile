# Build, test and check kdmp.  `make help` lists the targets.
#
# Everything happens in .venv (made again when pyproject.toml changes) and in
# build/.  Needed from the system: see README.md.
#
# SPDX-License-Identifier: MIT

PYTHON ?= python3
VENV   := .venv
BIN    := $(VENV)/bin
PIP    := $(BIN)/python -m pip --disable-pip-version-check --quiet
READY  := $(VENV)/.ready
BUILT  := $(VENV)/.built
BENCH  := $(VENV)/.bench

SOURCES := setup.py $(wildcard csrc/*.[ch] csrc/*.inc csrc/python/*.[ch])

MINUTES ?= 5
PYTEST_ARGS ?=
CHECKS ?=
BENCH_ARGS ?=
FUZZ_ARGS ?=

.PHONY: help venv build demo test check bench coverage fuzz fuzz-corpus format clean
.DELETE_ON_ERROR:

help: ## List the targets
	@sed -n 's/^\([a-z-]*\):.*## /  \1: /p' $(MAKEFILE_LIST)

venv: $(READY) ## The virtual environment with the tools for tests and checks

$(READY): pyproject.toml
	@echo "setting up $(VENV)"
	@$(PYTHON) -m venv --clear $(VENV) || { \
	    echo "$(PYTHON) cannot make a virtual environment (Debian: apt install python3-venv)" >&2; \
	    exit 1; }
	@$(PIP) install --upgrade 'pip>=25.1' 'setuptools>=77'
	@$(PIP) install --group dev
	@touch $@

build: $(BUILT) ## The package installed in place, its extension compiled

$(BUILT): $(READY) $(SOURCES)
	@echo "building the extension"
	@if [ -e $@ ]; then $(BIN)/python setup.py --quiet build_ext --inplace; \
	else PYTHONWARNINGS=ignore $(PIP) install --no-build-isolation --no-deps --editable .; fi
	@touch $@

demo: $(BUILT) ## Open a small made-up dump: information, translation, reads, processes
	@$(BIN)/python tools/demo.py

test: $(BUILT) ## The test suite; PYTEST_ARGS='-k name'
	@$(BIN)/python -m pytest -n auto --dist loadfile $(PYTEST_ARGS)

check: $(BUILT) ## Sanitizers, C tests, fuzzing, symbols, lint, types; CHECKS='asan fuzz'
	@tools/check.sh $(CHECKS)

bench: $(BUILT) $(BENCH) ## Speed and memory beside other readers
	@$(BIN)/python -m benchmarks $(BENCH_ARGS)

$(BENCH): $(READY)
	@$(PIP) install --group bench
	@touch $@

coverage: $(BUILT) ## Lines of csrc that no test executes; each has its reason in tests/coverage.txt
	@tools/check.sh coverage

fuzz: $(BUILT) ## Fuzz each target for MINUTES; FUZZ_ARGS='open py-pe --jobs 1'
	@$(BIN)/python tests/fuzz/runfuzz.py --seconds $$(( $(MINUTES) * 60 )) $(FUZZ_ARGS)

fuzz-corpus: $(BUILT) ## Make tests/fuzz/corpus anew from what the fuzzers found (needs clang)
	@$(BIN)/python tests/fuzz/runfuzz.py --minimise $(FUZZ_ARGS)

format: $(READY) ## Format C and Python sources in place
	@$(BIN)/ruff check --quiet --fix . || true
	@$(BIN)/ruff format --quiet .
	@git ls-files -co --exclude-standard '*.c' '*.h' | xargs -r $(BIN)/clang-format -i

clean: ## Remove everything that was built, the environment too
	@rm -rf $(VENV) build dist *.egg-info .pytest_cache .mypy_cache .ruff_cache .hypothesis
	@find kdmp tests tools benchmarks -name __pycache__ -prune -exec rm -rf {} +
	@rm -f kdmp/*.so
