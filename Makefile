# One command each; .ci/run calls the same ones. Needs Python 3.10 or newer with venv, and make.
#
# Everything comes from the Python package index. `make check` runs pyright, a node program: the wheel of
# pyright bundles its JavaScript, and the extra pyright[nodejs] brings node itself as a wheel, so neither a
# system node nor the npm registry is used.

PYTHON ?= python3
PYTEST_ARGS ?=

BIN := .venv/bin
# An installed set of packages is a stamp that is older than pyproject.toml when it must be looked at again.
# pip then adds what is missing and leaves what fits: nothing is upgraded on the way.
TRAIN := .venv/.installed-train
DEV := .venv/.installed-dev

.DELETE_ON_ERROR:
.PHONY: help demo test check build clean

help:
	@echo "make demo   draw a mixed line, train, export, stream, write demo/report.html"
	@echo "make test   run the tests"
	@echo "make check  ruff, mypy, pyright, and what the wheel holds"
	@echo "make build  sdist and wheel into dist/"
	@echo "make clean  remove .venv and everything that was built"

demo: $(TRAIN)
	$(BIN)/cada-edge demo --out demo

# First, file by file on all cores, what no other load disturbs, in one thread each; then what measures time.
test: $(DEV)
ifeq ($(strip $(PYTEST_ARGS)),)
	OMP_NUM_THREADS=1 $(BIN)/pytest -m "not alone" -n auto --maxprocesses 4 --dist loadfile
	$(BIN)/pytest -m alone
else
	$(BIN)/pytest $(PYTEST_ARGS)
endif

check: $(DEV)
	$(BIN)/ruff check .
	$(BIN)/ruff format --check .
	$(BIN)/mypy
	PYRIGHT_PYTHON_IGNORE_WARNINGS=1 $(BIN)/pyright --pythonpath $(BIN)/python
	$(BIN)/pytest -q tests/test_packaging.py

# The wheel is built from the sdist, so that no left-over of an earlier build gets in.
build: $(DEV)
	rm -rf dist
	$(BIN)/python -m build --no-isolation

# demo/ and runs/ hold results: they stay.
clean:
	rm -rf .venv build dist *.egg-info .mypy_cache .ruff_cache .pytest_cache .coverage
	find cada_edge trainer export runtime benchmarks tests -name __pycache__ -type d -prune -exec rm -rf {} +

# pip, not python, is the proof of a whole environment: without python3-venv Debian leaves one that has no pip.
$(BIN)/pip:
	@$(PYTHON) -c 'import sys; sys.exit(sys.version_info < (3, 10))' \
		|| { echo "$(PYTHON) is missing or older than 3.10; name another: make PYTHON=python3.11 ..." >&2; exit 1; }
	$(PYTHON) -m venv .venv \
		|| { echo "No virtual environment was made. On Debian and Ubuntu: apt-get install python3-venv" >&2; exit 1; }

$(DEV): pyproject.toml | $(BIN)/pip
	$(BIN)/python -m pip install --disable-pip-version-check -e '.[dev]'
	@touch $@

# [dev] holds [train]: with a fresh stamp of it there is nothing to do.
$(TRAIN): pyproject.toml | $(BIN)/pip
	@test $(DEV) -nt pyproject.toml \
		|| $(BIN)/python -m pip install --disable-pip-version-check -e '.[train]'
	@touch $@
