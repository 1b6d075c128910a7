# make demo | test | check | bench | lock: everything happens in .venv, which the first of them makes.
PYTHON ?= python3
BIN := .venv/bin
export PIP_DISABLE_PIP_VERSION_CHECK := 1

.PHONY: demo test test-slow test-hosts test-lowest test-newest test-all chaos fuzz bench check format lock clean

.venv/installed: pyproject.toml constraints.txt
	$(PYTHON) -c 'import sys; sys.exit("rfray needs Python 3.11 or newer; make PYTHON=python3.12 …") if sys.version_info < (3, 11) else None'
	$(PYTHON) -m venv .venv
	$(BIN)/pip install --quiet --constraint constraints.txt --editable '.[dev]'
	touch $@

demo: .venv/installed  ## a sweep, an ensemble and a leaderboard from the built-in data, in minutes
	$(BIN)/rfray tune experiments/quickstart.yaml
	$(BIN)/rfray ensemble runs/quickstart

test: .venv/installed  ## all but the slow tests
	$(BIN)/pytest -m 'not slow' --durations=30

test-slow: .venv/installed  ## those alone
	$(BIN)/pytest -m slow --durations=30

test-hosts: .venv/installed  ## of those, a cluster on hosts of our own: root, and Debian's openssh-server rsync iproute2
	$(BIN)/pytest -rsP tests/test_on_premises.py

test-lowest: build/lowest/installed  ## the search and the quickstart with the lowest versions that pyproject.toml allows
	$(call with_versions,lowest)

test-newest: build/newest/installed  ## the same with the newest
	$(call with_versions,newest)

# what depends on Ray, torch, timm and optuna most: the search, and a sweep from its file to its leaderboard
with_versions = build/$(1)/bin/pip list 2> /dev/null | grep -E "^(ray|torch|timm|optuna|numpy|pandas) " && \
	build/$(1)/bin/pytest -m 'not slow' tests/tuning && \
	build/$(1)/bin/rfray tune experiments/quickstart.yaml --run build/$(1)/quickstart --fresh && \
	build/$(1)/bin/rfray ensemble build/$(1)/quickstart

build/lowest/installed: pyproject.toml constraints-lowest.txt
	$(PYTHON) -m venv build/lowest
	build/lowest/bin/pip install --quiet --constraint constraints-lowest.txt --editable '.[test]'
	touch $@

build/newest/installed: pyproject.toml
	$(PYTHON) -m venv build/newest
	build/newest/bin/pip install --quiet --upgrade --editable '.[test]'
	touch $@

test-all: .venv/installed  ## all, in one process: they share what is slow to start
	$(BIN)/pytest --durations=30

chaos: .venv/installed  ## kill drivers, trials and nodes of real sweeps; SEEDS=5 orders of it
	$(BIN)/python -m tests.chaos --seeds $(or $(SEEDS),5)

fuzz: .venv/installed  ## damaged images, records, sweep files, tables and requests; for MINUTES=5, each time from another seed
	$(BIN)/python -m tests.fuzz --minutes $(or $(MINUTES),5)

bench: .venv/installed  ## speed against plain Ray Tune and bare decoding; into benchmarks/README.md
	$(BIN)/python -m benchmarks

check: .venv/installed  ## lint, types, import contracts
	$(BIN)/ruff check .
	$(BIN)/ruff format --check .
	$(BIN)/mypy
	$(BIN)/lint-imports

format: .venv/installed  ## mend what ruff can mend
	$(BIN)/ruff check --fix .
	$(BIN)/ruff format .

lock:  ## write constraints.txt and constraints-lowest.txt anew, from the newest and the lowest versions that are allowed
	rm -rf build/lock && $(PYTHON) -m venv build/lock
	build/lock/bin/pip install --quiet --editable '.[dev,mlflow,aws,gcp]'
	{ sed '/^[^#]/,$$d' constraints.txt; build/lock/bin/pip freeze --exclude-editable; } > build/constraints.txt
	mv build/constraints.txt constraints.txt
	build/lock/bin/pip install --quiet uv
	{ sed '/^[^#]/,$$d' constraints-lowest.txt; build/lock/bin/uv pip compile --quiet pyproject.toml --extra test \
	  --resolution lowest-direct --python-version 3.11 --no-header --no-annotate; } > build/constraints.txt
	mv build/constraints.txt constraints-lowest.txt

clean:
	rm -rf .venv build runs
