# `make demo` and `make test` set everything up on a machine with Python and make alone.
PYTHON ?= python3
VENV ?= .venv
BIN := $(VENV)/bin
INSTALLED := $(VENV)/.installed

.DEFAULT_GOAL := help
OLDEST := torch==2.10.0 torchvision==0.25.0

.PHONY: help demo test test-slow test-browser test-release test-oldest check bench

help:
	@echo "make demo          train four small networks on handwritten digits and compare them"
	@echo "make test          run the test suite"
	@echo "make test-slow     run the tests marked slow: the whole zoo, the inductor compiler"
	@echo "make test-browser  open the pages in a real browser; installs chromium (Debian, as root)"
	@echo "make test-release  build the wheel and try it in an empty environment"
	@echo "make test-oldest   run the test suite with the oldest torch and torchvision that are declared"
	@echo "make bench         measure time, memory and exactness, and write docs/benchmarks.md; 20 minutes"
	@echo "make check         lint, format, types and import layers"

$(INSTALLED): pyproject.toml
	$(PYTHON) -c 'import sys; sys.exit(sys.version_info < (3, 10) and "make: shiftproof needs Python 3.10 or newer, got " + sys.version.split()[0] + "; run make PYTHON=/path/to/python3.10")'
	$(PYTHON) -m venv $(VENV)
	$(BIN)/python -m pip install --quiet --disable-pip-version-check --editable '.[dev]'
	@touch $@

demo: $(INSTALLED)
	$(BIN)/shiftproof demo

test: $(INSTALLED)
	$(BIN)/pytest -n 2 --dist worksteal -m "not slow and not release"

test-slow: $(INSTALLED)
	$(BIN)/pytest -m slow

# The browser comes from the system, its driver for Python into the environment.
test-browser: $(INSTALLED)
	{ command -v chromium && command -v chromedriver; } || { apt-get update && apt-get install -y chromium chromium-driver; }
	$(BIN)/python -m pip install --quiet --disable-pip-version-check 'selenium>=4.20'
	$(BIN)/pytest -m release tests/browser

test-release: $(INSTALLED) test-browser
	$(BIN)/pytest -m release --ignore tests/browser

# Its own environment: a minute, and the suite once more.  The versions are those of pyproject.toml.
test-oldest:
	$(PYTHON) -m venv $(VENV)-oldest
	$(VENV)-oldest/bin/python -m pip install --quiet --disable-pip-version-check --editable '.[dev]' $(OLDEST)
	$(VENV)-oldest/bin/pytest -n 2 --dist worksteal -m "not slow and not release"

check: $(INSTALLED)
	$(BIN)/ruff check .
	$(BIN)/ruff format --check .
	$(BIN)/mypy
	$(BIN)/lint-imports

bench: $(INSTALLED)
	$(BIN)/python -m benchmarks
	$(BIN)/python -m benchmarks.page
