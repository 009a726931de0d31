PYTHON ?= python3
BIN := .venv/bin
RUN := .venv/.run
DEV := .venv/.dev

# Every test that starts a process of ours would compile all of it again.
unexport PYTHONDONTWRITEBYTECODE

.PHONY: demo test check format soak bench lock clean

# Settle sample orders that lie in files; shows a summary and where the dead letters are.
demo: $(RUN)
	@rm -rf .demo && mkdir .demo
	@$(BIN)/stream-runner run --until-caught-up config/quickstart.yaml --app-dir config/quickstart --log-level error
	@echo "dead letters: .demo/dead-letters.jsonl, $$(wc -l < .demo/dead-letters.jsonl) lines"

# Everything, on real servers that the suite installs and starts itself; says at the end what it had to skip.
test: check
	.ci/components
	.ci/tests

# The fast loop: format, lint, types, import contracts, files, core and engine tests.
check: $(DEV)
	$(BIN)/ruff format --check .
	$(BIN)/ruff check .
	$(BIN)/lint-imports
	$(BIN)/mypy
	$(BIN)/python -m pytest -q tests/test_house.py tests/core tests/engine

format: $(DEV)
	$(BIN)/ruff format .
	$(BIN)/ruff check --fix .

# The long versions: full outages, 100,000 records, more seeds.
soak: $(DEV)
	.ci/components
	STREAM_RUNNER_E2E_SCALE=full STREAM_RUNNER_SIMULATION_SEEDS=2000 $(BIN)/python -m pytest -q --timeout=1800 tests/engine tests/e2e

# Ratios against the bare client loops, in one run each.
bench: $(DEV)
	.ci/components
	$(BIN)/python -m benchmarks
	$(BIN)/python -m benchmarks.redis

# Anew from pyproject.toml; the locks name every package with its hashes.
lock: $(DEV)
	$(BIN)/uv pip compile pyproject.toml $(LOCK) -o requirements.lock
	$(BIN)/uv pip compile pyproject.toml --group dev $(LOCK) -o .ci/requirements-dev.lock

LOCK := --extra build -q --generate-hashes --no-emit-index-url --no-header --no-annotate --universal --python-version 3.11

$(RUN): requirements.lock pyproject.toml
	@test -x $(BIN)/python || $(PYTHON) -m venv .venv
	@$(BIN)/python -m pip install -q --disable-pip-version-check --require-hashes -r requirements.lock
	@$(BIN)/python -m pip install -q --disable-pip-version-check --no-deps --no-build-isolation -e .
	@touch $@

$(DEV): $(RUN) .ci/requirements-dev.lock
	@$(BIN)/python -m pip install -q --disable-pip-version-check --require-hashes -r .ci/requirements-dev.lock
	@touch $@

clean:
	rm -rf .venv .demo build *.egg-info
