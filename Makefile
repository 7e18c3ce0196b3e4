# Two commands do all the set-up on a fresh machine with Python 3.11+: make demo, make test.
PYTHON ?= python3
VENV := .venv
BIN := $(VENV)/bin
# markers of tests that need more than `make install` brings
MORE := cluster or browser or latex or site
# packages of Debian that these tests need
DEBIAN := texlive-latex-base texlive-latex-recommended chromium

.PHONY: install demo test test-all quick lint types verify pytest docs picture site clean help

help:  ## list the targets
	@grep -hE '^[a-z-]+:.*##' $(MAKEFILE_LIST) | sed 's/:.*## /\t/' | sort

install: $(VENV)/.installed  ## make .venv with everything that `bench` needs

$(VENV)/.installed: pyproject.toml
	test -x $(BIN)/python || $(PYTHON) -m venv $(VENV)
	$(BIN)/python -m pip install --quiet --editable ".[robustbench]"
	touch $@

$(VENV)/.installed-test: $(VENV)/.installed
	$(BIN)/python -m pip install --quiet --editable ".[robustbench,test]"
	touch $@

$(VENV)/.installed-docs: $(VENV)/.installed
	$(BIN)/python -m pip install --quiet --editable ".[robustbench,docs]"
	touch $@

$(VENV)/.installed-all: $(VENV)/.installed-test $(VENV)/.installed-docs
	$(BIN)/python -m pip install --quiet --editable ".[robustbench,test,docs,ray,slurm]"
	touch $@

demo: install  ## train and attack the paper's methods on digits, make a report
	$(BIN)/bench run --seeds 0 --workers 2 --no-checks --results results/demo
	$(BIN)/bench report --results results/demo --reports reports/demo
	@echo "Open reports/demo/index.html"

test: lint types verify pytest  ## lint, types, pinned facts and the test suite

lint: $(VENV)/.installed-test  ## ruff, and which package may import which
	$(BIN)/ruff check .
	$(BIN)/ruff format --check .
	$(BIN)/lint-imports --no-cache

types: $(VENV)/.installed-test
	$(BIN)/mypy

verify: $(VENV)/.installed-test  ## methods and attacks do what results/pinned says
	$(BIN)/bench verify

pytest: $(VENV)/.installed-test
	$(BIN)/python -m pytest --numprocesses 2 -m "not ($(MORE))"

test-all: $(VENV)/.installed-all  ## the tests that `make test` leaves out; installs what they need
	dpkg -s $(DEBIAN) >/dev/null 2>&1 || { apt-get update -qq && apt-get install -y -qq --no-install-recommends $(DEBIAN); }
	$(BIN)/python -m pytest -m "$(MORE)"

quick: $(VENV)/.installed-test  ## the tests that take under a minute in all
	$(BIN)/python -m pytest --numprocesses 2 -m "not (slow or $(MORE))"

docs: $(VENV)/.installed  ## regenerate README's table and the pages made from records
	$(BIN)/python docs/generate.py

picture: $(VENV)/.installed-test  ## redraw README's picture of reports/digits/index.html
	$(BIN)/python docs/picture.py

site: $(VENV)/.installed-docs  ## build the documentation: site/index.html
	$(BIN)/python -m mkdocs build --strict

clean:  ## remove the environment and what the demo wrote
	rm -rf $(VENV) site results/demo reports/demo
