# make test and make demo set everything up by themselves: Python 3.11 or newer is all that has to be there.
# make test takes the tests of a few seconds at most, make check the others.

PYTHON ?= python3
VENV := .venv
STAMP := $(VENV)/.installed
WORKERS := -n auto --maxprocesses 4

.PHONY: install test check demo lint types docs

install: $(STAMP)

$(STAMP): pyproject.toml constraints.txt
	@$(PYTHON) -c 'import sys; sys.exit(sys.version_info < (3, 11) and "Python 3.11 or newer is needed: make PYTHON=python3.11 ...")'
	test -x $(VENV)/bin/pip || $(PYTHON) -m venv $(VENV)
	$(VENV)/bin/pip install --disable-pip-version-check -c constraints.txt -e '.[test,docs]'
	@touch $@

test: install
	$(VENV)/bin/python -m pytest $(WORKERS) -m "not slow"

check: install
	$(VENV)/bin/python -m pytest $(WORKERS) -m slow

demo: install
	$(VENV)/bin/mlclf demo --out runs/demo

lint: install
	$(VENV)/bin/ruff check .
	$(VENV)/bin/ruff format --check .

types: install
	$(VENV)/bin/mypy

docs: install
	NO_MKDOCS_2_WARNING=1 $(VENV)/bin/python -m mkdocs build --strict --quiet
