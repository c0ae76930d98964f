# make setup | demo | test | bench | lint
# Another interpreter: make setup PYTHON=/path/to/python3.12
# More cores: make test WORKERS=8, each takes about 2 GB

SHELL := /bin/bash
.DEFAULT_GOAL := help
.PHONY: help setup demo test bench lint

VENV := .venv
BIN := $(VENV)/bin
STAMP := $(VENV)/.installed
EXTRAS := speech,dev,build
WORKERS ?= 2
PYTHON ?=

help:
	@echo "make setup   install everything into $(VENV)"
	@echo "make demo    a speaking avatar from a public-domain portrait, in out/demo"
	@echo "make test    the tests"
	@echo "make bench   the speed measurements"
	@echo "make lint    format, lint and type checks"

setup: $(STAMP)

$(STAMP): pyproject.toml constraints.txt
	@set -euo pipefail; \
	new_enough='import sys; sys.exit(sys.version_info < (3, 11))'; \
	if ! { [ -x $(BIN)/python ] && $(BIN)/python -c "$$new_enough" 2>/dev/null; }; then \
		chosen=''; \
		for candidate in $(if $(PYTHON),$(PYTHON),python3.11 python3 python3.12 python3.13 python); do \
			if command -v "$$candidate" >/dev/null && "$$candidate" -c "$$new_enough" 2>/dev/null; then \
				chosen="$$candidate"; break; \
			fi; \
		done; \
		if [ -z "$$chosen" ]; then \
			echo "Python 3.11 or newer is needed, and none was found" \
				"(python3 is $$(python3 --version 2>&1 || echo missing))." \
				"Install it, or name it: make setup PYTHON=/path/to/python3.11" >&2; \
			exit 1; \
		fi; \
		echo "Making $(VENV) with $$("$$chosen" --version)"; \
		"$$chosen" -m venv --clear $(VENV); \
	fi
	$(BIN)/python -m pip install --quiet --disable-pip-version-check -e ".[$(EXTRAS)]" -c constraints.txt
	@# without what it depends on: its torchvision is 8 MB of which nothing is used
	$(BIN)/python -m pip install --quiet --disable-pip-version-check --no-deps \
		spandrel einops -c constraints.txt
	@# one process fills librosa's cache of machine code: several at once can mix theirs and crash
	@# (https://github.com/numba/numba/issues/10128)
	$(BIN)/python -c "from librosa import beat; from librosa.core import audio, pitch"
	@touch $(STAMP)

demo: setup
	$(BIN)/python -m avatar.demo --out out/demo

# a file's tests share what they made, so files are what the workers are given
test: setup
	OMP_NUM_THREADS=1 $(BIN)/python -m pytest -n $(WORKERS) --dist loadfile

bench: setup
	$(BIN)/python -m pytest tests/benchmarks -m "" -s --override-ini "python_files=bench_*.py test_*.py"
	$(BIN)/python tests/benchmarks/bench_raster.py --memory

lint: setup
	$(BIN)/ruff format --check .
	$(BIN)/ruff check .
	$(BIN)/mypy --strict
