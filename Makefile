# The verbs of the project; CI calls nothing else. All set-up goes into .venv, by itself.

PYTHON ?= python3
VENV := .venv
BIN := $(VENV)/bin
LOCK = $(BIN)/uv pip compile -q --universal --no-strip-extras --generate-hashes --no-header --no-emit-index-url --no-emit-find-links --python-version 3.11
# The tests wait a third of their time: more processes than the two cores of CI.
WORKERS ?= 3

.PHONY: run test test-newest install install-server lint fix bench profile docs-check test-backends test-browser test-contract test-servers test-witness screenshots vendor lock coverage clean

run: install-server
	$(BIN)/local-video-server serve --samples $(ARGS)

test: install
	$(BIN)/python -m pytest -n $(WORKERS) --dist worksteal $(ARGS)

# The same tests again, for what they leave out: tracing takes nearly as long as they do.
coverage: install
	$(BIN)/python -m pytest -q -n $(WORKERS) --dist worksteal --cov --cov-report=term --cov-report=json:var/coverage.json $(ARGS)
	$(BIN)/python tools/coverage_floor.py var/coverage.json

# With the newest OpenTelemetry, in an environment of its own: make test-newest PYTHON=python3.13
test-newest:
	$(MAKE) install VENV=var/newest
	var/newest/bin/python -m pip install -q --disable-pip-version-check --no-deps --require-hashes -r requirements/newest.lock
	var/newest/bin/python -m pytest -n $(WORKERS) --dist worksteal $(ARGS)

install: $(VENV)/.dev vendor
install-server: $(VENV)/.server vendor

$(BIN)/python:
	$(PYTHON) tools/check_python.py
	$(PYTHON) -m venv $(VENV)

$(VENV)/.server: requirements/server.lock pyproject.toml | $(BIN)/python
	$(BIN)/python -m pip install -q --disable-pip-version-check --require-hashes -r requirements/server.lock
	$(BIN)/python -m pip install -q --disable-pip-version-check --no-deps --no-build-isolation -e .
	touch $@

$(VENV)/.dev: requirements/dev.lock pyproject.toml | $(BIN)/python
	$(BIN)/python -m pip install -q --disable-pip-version-check --require-hashes -r requirements/dev.lock
	$(BIN)/python -m pip install -q --disable-pip-version-check --no-deps --no-build-isolation -e .
	touch $(VENV)/.server $@

vendor: | $(BIN)/python
	@command -v npm >/dev/null || $(BIN)/python -m pip install -q --disable-pip-version-check --require-hashes -r requirements/node.lock || true
	@$(BIN)/python tools/vendor.py || echo "without the browser libraries the admin pages reload as a whole" >&2

lint: install
	$(BIN)/ruff check .
	$(BIN)/ruff format --check .
	$(BIN)/mypy

fix: install
	$(BIN)/ruff check --fix .
	$(BIN)/ruff format .

screenshots: install
	$(BIN)/python tools/screenshots.py

docs-check: install
	$(BIN)/python -m pytest -q -p no:randomly tests/docs

bench: install
	$(BIN)/python -m benchmarks $(ARGS)

profile: install
	$(BIN)/python -m benchmarks profile $(ARGS)

test-contract: install
	$(BIN)/python -m pytest tests/contract $(ARGS)

test-backends: install
	$(BIN)/python -m pip install -q --disable-pip-version-check --require-hashes -r requirements/backends.lock || true
	$(BIN)/python tools/backends.py
	$(BIN)/python -m pytest tests/backends $(ARGS)

test-servers: install
	$(BIN)/python -m pytest -n 2 --dist worksteal tests/servers tests/benchmarks $(ARGS)

test-witness: install
	WITNESS_REQUESTS=10000 PARITY_REQUESTS=10000 $(BIN)/python -m pytest -n 2 --dist worksteal \
	  tests/integration/telemetry/test_fan_out_witness.py tests/integration/telemetry/test_parity.py $(ARGS)

test-browser: install
	$(BIN)/python -m pytest tests/e2e $(ARGS)

lock: install
	$(LOCK) pyproject.toml --extra server requirements/build.in requirements/dev.in -o requirements/dev.lock
	$(LOCK) pyproject.toml --extra server requirements/build.in -c requirements/dev.lock -o requirements/server.lock
	$(LOCK) --no-deps --prerelease=allow requirements/newest.in -o requirements/newest.lock
	$(LOCK) requirements/node.in -o requirements/node.lock
	$(LOCK) --prerelease=allow requirements/backends.in -c requirements/dev.lock -o requirements/backends.lock

clean:
	rm -rf $(VENV) build dist var .coverage* .hypothesis .mypy_cache .pytest_cache .ruff_cache
