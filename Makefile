# Every target sets up what it needs; `make help` lists them.
PYTHON ?= python3
VENV ?= .venv
SPARK_VENV ?= .venv-spark
BIN = $(VENV)/bin
FEATURES = LAKELET_ENGINE_RESULTS=1 $(BIN)/python -m pytest -m feature tests/contract tests/behaviour

ON_SPARK = tests/e2e/test_apparel_on_spark.py tests/e2e/test_spark_dies_while_writing.py tests/e2e/test_local_spark.py

.DEFAULT_GOAL := help
.PHONY: help setup demo test test-spark test-object-stores test-sail test-spark-compare test-browser check format docs screenshots bench soak compare-spark-cdc lock clean

help:  ## list the targets
	@grep -hE '^[a-z-]+:.*## ' $(MAKEFILE_LIST) | sed -E 's/^([a-z-]+):.*## (.*)/  make \1\t\2/' | expand -t 22

setup:  ## make the virtual environment (all other targets do it too)
	@$(PYTHON) scripts/setup_env.py $(VENV)

demo: setup  ## generate an apparel retailer's data and watch it flow from landing to gold
	@$(BIN)/apparel demo

test: setup  ## run the test suite: no root, no browser, no Java
	@$(BIN)/python -m pytest -n 2 --dist loadfile
	@echo "left out of this run: benchmarks (make bench), servers elsewhere (make test-sail, make test-spark), Azure's and Google's storage (make test-object-stores), Apache Spark's rows (make test-spark-compare), the browser suite (make test-browser), the long soak (make soak)"

test-spark-compare: setup  ## run the same files and streams through Apache Spark; needs Java 17
	@test -n "$(SPARK_PYTHON)" || $(PYTHON) scripts/setup_spark.py $(SPARK_VENV)
	@LAKELET_SPARK_PYTHON=$(or $(SPARK_PYTHON),$(abspath $(SPARK_VENV)/bin/python)) $(BIN)/python -m pytest tests/spark

test-browser: setup  ## walk the pages in a real browser (needs chromium: apt-get install chromium)
	@$(BIN)/python -m pip install -q --disable-pip-version-check 'pip>=25.1'
	@$(BIN)/python -m pip install -q --disable-pip-version-check --group browser
	@LAKELET_BROWSER_TESTS=1 $(BIN)/python -m pytest tests/browser

screenshots: setup  ## take the pictures of the pages anew (needs chromium)
	@$(BIN)/python -m pip install -q --disable-pip-version-check 'pip>=25.1'
	@$(BIN)/python -m pip install -q --disable-pip-version-check --group browser
	@$(BIN)/python scripts/take_screenshots.py

test-sail: setup  ## run the tests of every feature embedded, on a Sail server, and on one in cluster mode (10 minutes)
	@for engine in sail sail-server sail-cluster; do echo $$engine; LAKELET_TEST_ENGINE=$$engine $(FEATURES) || exit 1; done

test-spark: setup  ## run them, and the flagship, on Apache Spark with Delta Lake (an hour): needs Java 17, downloads 560 MB once
	@$(BIN)/lakelet spark up --port 15002 --object-store s3
	@LAKELET_TEST_ENGINE=sc://127.0.0.1:15002 $(FEATURES) $(ON_SPARK) --timeout 600 ; code=$$? ; $(BIN)/lakelet spark down ; exit $$code

test-object-stores: setup  ## run the tests of object stores on Azure's and Google's, on Spark too: needs npm, Go, openssl and Java 17
	@$(BIN)/python -m tests.object_stores

check: setup  ## lint, format, types, layers
	@$(BIN)/ruff check .
	@$(BIN)/ruff format --check .
	@$(BIN)/mypy
	@$(BIN)/lint-imports

format: setup  ## format the code
	@$(BIN)/ruff check --fix -q . ; $(BIN)/ruff format .

docs: setup  ## write the generated reference pages and the outputs of the notebook anew
	@$(BIN)/python scripts/generate_reference.py
	@$(BIN)/python scripts/run_notebook.py

bench: setup  ## measure, the peers too, and write docs/benchmarks.md (80 minutes; Java 17 for Spark)
	@$(BIN)/python -m benchmarks.run && $(BIN)/python -m benchmarks.alone && $(BIN)/python -m benchmarks.peers.run

soak: setup  ## kill generator and pipeline again and again (KILLS=100 MINUTES=10), compare with an oracle, write docs/reliability.md
	@PYTHONPATH=. $(BIN)/python -m benchmarks.soak --kills $(or $(KILLS),100) --minutes $(or $(MINUTES),10) --report

compare-spark-cdc: setup  ## compare AUTO CDC with Apache Spark's own: needs a Java 17 JDK, downloads 600 MB once
	@$(PYTHON) scripts/setup_spark.py $(SPARK_VENV)-cdc cdc
	@$(BIN)/python -m tests.spark.compare_auto_cdc $(abspath $(SPARK_VENV)-cdc)

lock: setup  ## write requirements.lock anew from pyproject.toml
	@$(BIN)/python -m pip install -q uv && $(BIN)/uv pip compile pyproject.toml --group dev --universal --python-version 3.11 \
		--generate-hashes --no-header --no-annotate --no-emit-index-url --no-emit-find-links -q -o requirements.lock

clean:  ## remove the environment and the demo's data
	@rm -rf $(VENV) apparel-data
