# make demo | test | check | bench | lock: everything happens in .venv, which the first of them makes.
PYTHON ?= python3
BIN := .venv/bin
export PIP_DISABLE_PIP_VERSION_CHECK := 1

.PHONY: demo test test-slow test-hosts test-all chaos bench check format lock clean

.venv/installed: pyproject.toml constraints.txt
	$(PYTHON) -c 'import sys; sys.exit("rfray needs Python 3.11 or newer; make PYTHON=python3.12 …") if sys.version_info < (3, 11) else None'
	$(PYTHON) -m venv .venv
	$(BIN)/pip install --quiet --constraint constraints.txt --editable '.[dev]'
	touch $@

demo: .venv/installed  ## a sweep, an ensemble and a leaderboard from the built-in data, in minutes
	$(BIN)/rfray tune experiments/quickstart.yaml
	$(BIN)/rfray ensemble runs/quickstart

test: .venv/installed  ## all but the slow tests
	$(BIN)/pytest -m 'not slow'

test-slow: .venv/installed  ## those alone
	$(BIN)/pytest -m slow

test-hosts: .venv/installed  ## of those, a cluster on hosts of our own: root, and Debian's openssh-server rsync iproute2
	$(BIN)/pytest -rsP tests/test_on_premises.py

test-all: test test-slow  ## both

chaos: .venv/installed  ## kill drivers, trials and nodes of real sweeps; SEEDS=5 orders of it
	$(BIN)/python -m tests.chaos --seeds $(or $(SEEDS),5)

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

lock:  ## write constraints.txt anew, from the newest versions that pyproject.toml allows
	rm -rf build/lock && $(PYTHON) -m venv build/lock
	build/lock/bin/pip install --quiet --editable '.[dev,mlflow,aws,gcp]'
	{ sed '/^[^#]/,$$d' constraints.txt; build/lock/bin/pip freeze --exclude-editable; } > build/constraints.txt
	mv build/constraints.txt constraints.txt

clean:
	rm -rf .venv build runs
