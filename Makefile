# Every target sets up what it needs; `make help` lists them.
PYTHON ?= python3
VENV ?= .venv
BIN = $(VENV)/bin
SPARK_SUITES = tests/contract/test_cluster_writes.py tests/contract/test_engine.py tests/e2e/test_apparel_on_spark.py

.DEFAULT_GOAL := help
.PHONY: help setup demo test test-spark check format docs bench lock clean

help:  ## list the targets
	@grep -hE '^[a-z-]+:.*## ' $(MAKEFILE_LIST) | sed -E 's/^([a-z-]+):.*## (.*)/  make \1\t\2/' | expand -t 22

setup:  ## make the virtual environment (all other targets do it too)
	@$(PYTHON) scripts/setup_env.py $(VENV)

demo: setup  ## generate an apparel retailer's data and watch it flow from landing to gold
	@$(BIN)/apparel demo

test: setup  ## run the test suite: no root, no browser, no Java
	@$(BIN)/python -m pytest
	@echo "left out of this run: benchmarks (make bench), Spark (make test-spark), soak and browser suites (not in this release)"

test-spark: setup  ## the engine's contract, and the flagship, on Apache Spark with Delta Lake: needs Java 17, downloads 450 MB once
	@$(BIN)/lakelet spark up --port 15002
	@LAKELET_TEST_ENGINE=sc://127.0.0.1:15002 $(BIN)/python -m pytest $(SPARK_SUITES) ; code=$$? ; $(BIN)/lakelet spark down ; exit $$code

check: setup  ## lint, format, types, layers
	@$(BIN)/ruff check .
	@$(BIN)/ruff format --check .
	@$(BIN)/mypy
	@$(BIN)/lint-imports

format: setup  ## format the code
	@$(BIN)/ruff check --fix -q . ; $(BIN)/ruff format .

docs: setup  ## write the generated reference pages anew
	@$(BIN)/python scripts/generate_reference.py

bench: setup  ## measure, and write docs/benchmarks.md
	@$(BIN)/python -m benchmarks.run

lock: setup  ## write requirements.lock anew from pyproject.toml
	@$(BIN)/python -m pip install -q uv && $(BIN)/uv pip compile pyproject.toml --group dev --universal --python-version 3.11 \
		--generate-hashes --no-header --no-annotate --no-emit-index-url --no-emit-find-links -q -o requirements.lock

clean:  ## remove the environment and the demo's data
	@rm -rf $(VENV) apparel-data
