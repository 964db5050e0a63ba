# Every target sets up what it needs; `make help` lists them.
PYTHON ?= python3
VENV ?= .venv
BIN = $(VENV)/bin

.DEFAULT_GOAL := help
.PHONY: help setup demo test test-browser check format docs bench lock clean

help:  ## list the targets
	@grep -hE '^[a-z-]+:.*## ' $(MAKEFILE_LIST) | sed -E 's/^([a-z-]+):.*## (.*)/  make \1\t\2/' | expand -t 22

setup:  ## make the virtual environment (all other targets do it too)
	@$(PYTHON) scripts/setup_env.py $(VENV)

demo: setup  ## generate an apparel retailer's data and watch it flow from landing to gold
	@$(BIN)/apparel demo

test: setup  ## run the test suite: no root, no browser, no Java
	@$(BIN)/python -m pytest
	@echo "left out of this run: benchmarks (make bench), the browser suite (make test-browser), soak and Spark (not in this release)"

test-browser: setup  ## walk the pages in a real browser (needs chromium: apt-get install chromium)
	@$(BIN)/python -m pip install -q --disable-pip-version-check --group browser
	@LAKELET_BROWSER_TESTS=1 $(BIN)/python -m pytest tests/browser

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
