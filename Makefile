# On a fresh machine: `make run`, then `make test`. Needs make and a Python of 3.11 to 3.13; everything else is installed.

PYTHON ?= $(firstword $(foreach name,python3.13 python3.12 python3.11 python3,$(if $(shell $(name) -c 'import sys; print(sys.version_info[:2] in [(3, n) for n in (11, 12, 13)] or "")' 2>/dev/null),$(name))))
BIN := .venv/bin
SAMPLE := sample/yellow_tripdata_2021-01.csv

.PHONY: run test test-cratedb test-slow lint format lock clean

run: .venv/.installed ## Load a generated month into DuckDB and show what became of it
	$(BIN)/taxi-elt sample
	$(BIN)/taxi-elt run --source $(SAMPLE)

# A CrateDB that lives for minutes: compiling its code to the last takes longer than running it.
test: export JAVA_TOOL_OPTIONS := -XX:TieredStopAtLevel=1

test: .venv/.installed ## Under ten minutes; what needs a CrateDB is skipped, loudly, where there is none
	$(BIN)/pytest -n 2 --dist loadgroup -m "not slow and not (cratedb and thorough)"

test-cratedb: .venv/.installed ## All that needs a CrateDB, at length; fails where there is none
	$(BIN)/pytest -m "cratedb and not slow" --require-cratedb

test-slow: .venv/.installed ## What takes minutes: a full-size month, crashes at every statement, readers who look on
	$(BIN)/pytest -m slow

lint: .venv/.installed
	$(BIN)/ruff check
	$(BIN)/ruff format --check
	$(BIN)/mypy
	$(BIN)/sqlfluff lint dbt_project

format: .venv/.installed
	$(BIN)/ruff check --fix
	$(BIN)/ruff format

lock: ## Pin every dependency for all supported Pythons; needs uv
	uv pip compile --universal --python-version 3.11 --generate-hashes --no-emit-index-url --no-annotate --no-strip-extras \
		--custom-compile-command "make lock" --extra dev --output-file requirements.lock pyproject.toml

.venv/.installed: requirements.lock pyproject.toml
	@test -n "$(PYTHON)" || { echo "taxi-elt needs Python 3.11, 3.12 or 3.13: install one, or name it with make PYTHON=…"; exit 1; }
	$(PYTHON) -m venv --clear .venv
	$(BIN)/pip install --quiet --disable-pip-version-check --require-hashes --requirement requirements.lock
	$(BIN)/pip install --quiet --disable-pip-version-check --no-deps --no-build-isolation --editable .
	@touch $@

clean:
	rm -rf .venv target logs sample reports
