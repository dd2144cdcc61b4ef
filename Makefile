# Two commands for a newcomer: `make demo` and `make test`. Both set up .venv on first use.
PYTHON ?= python3
BIN := .venv/bin
# A file a worker, in conftest's order. Bytecode is written, since many tests start processes.
PYTEST := PYTHONDONTWRITEBYTECODE= $(BIN)/pytest -n 2 --dist loadfile --no-loadscope-reorder

.PHONY: demo test quick lint results docs bench clean

demo: .venv/.installed
	$(BIN)/kdlora demo

test: .venv/.installed-dev
	$(PYTEST)

# Before each commit: style, and the tests that train nothing.
quick: .venv/.installed-dev
	$(BIN)/ruff check .
	$(BIN)/ruff format --check .
	$(PYTEST) -m "not slow"

lint: .venv/.installed-dev
	$(BIN)/ruff check .
	$(BIN)/ruff format --check .
	$(BIN)/mypy
	$(BIN)/lint-imports

# The pages of docs/results, from the stored records of their studies.
results: .venv/.installed
	$(BIN)/python scripts/make_results.py
	$(BIN)/python -m benchmarks page > /dev/null

# The documentation as a site that needs no network: build/site/index.html.
docs: .venv/.installed-dev
	$(BIN)/pip install --quiet --disable-pip-version-check -c constraints.txt -e ".[docs]"
	NO_MKDOCS_2_WARNING=1 $(BIN)/mkdocs build --quiet

# kdlora beside its peers, in turns: about an hour on a quiet machine.
bench: .venv/.installed
	$(BIN)/python -m benchmarks speed

.venv/.python:
	@$(PYTHON) -c 'import sys; sys.exit(sys.version_info < (3, 11))' || \
	  { echo "kdlora needs Python 3.11 or newer; try: make PYTHON=python3.11 demo"; exit 1; }
	$(PYTHON) -m venv .venv
	@touch $@

.venv/.installed: .venv/.python pyproject.toml constraints.txt
	$(BIN)/pip install --quiet --disable-pip-version-check -c constraints.txt -e ".[train]"
	@touch $@

.venv/.installed-dev: .venv/.installed
	$(BIN)/pip install --quiet --disable-pip-version-check -c constraints.txt -e ".[dev]"
	@touch $@

clean:
	rm -rf .venv build dist src/*.egg-info
