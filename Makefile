# make help lists the targets. No target is an absolute path, so that make works in a path with spaces.
SHELL := /bin/bash
.SHELLFLAGS := -euo pipefail -c
.DEFAULT_GOAL := help
.DELETE_ON_ERROR:

PY := .venv/bin/python
JOBS ?= 3

# An environment matches one pyproject.toml, its locks and one path: only an edited or moved checkout is installed again.
KEY := $(shell { cat pyproject.toml $(wildcard locks/*.txt); pwd; } | cksum | tr ' ' -)
PROGRAM := .venv/program-$(KEY)
DEVELOPMENT := .venv/development-$(KEY)
PEERS := .venv/peers-$(KEY)

.PHONY: help dev demo test test-all lint format lock bench soak chaos fuzz mutants clean

help: ## Show this list
	@awk -F ':.*## ' '/^[a-z-]+:.*## / {printf "  make %-8s %s\n", $$1, $$2}' Makefile

dev: $(DEVELOPMENT) ## Create the development environment in .venv

demo: $(PROGRAM) ## Run the example plan on this repository, with an embedded stack
	@echo "== coord run examples/repo-checkup.yaml"
	@COORD_HOME="$${COORD_HOME:-$$PWD/.coord/demo}" $(PY) -m coordination.cli run examples/repo-checkup.yaml

test: $(DEVELOPMENT) ## Run the quick tests, on SQLite, PostgreSQL and Redis (ARGS=… goes to pytest, JOBS=3 processes)
	@echo "== pytest, the quick tests, $(JOBS) processes"
	@$(PY) -m pytest -n $(JOBS) --dist worksteal -m "not full" $(ARGS)

test-all: $(DEVELOPMENT) ## Run all tests, on both kinds of database
	@echo "== pytest, $(JOBS) processes"
	@$(PY) -m pytest -n $(JOBS) --dist worksteal $(ARGS)

lint: $(DEVELOPMENT) ## Check style, format, types and import contracts
	@echo "== ruff check"
	@$(PY) -m ruff check .
	@echo "== ruff format --check"
	@$(PY) -m ruff format --check .
	@echo "== mypy"
	@$(PY) -m mypy
	@# Without the cache: it keeps old imports of a file after other files are added or removed.
	@echo "== import contracts"
	@$(PY) -c 'from importlinter.cli import lint_imports_command as main; main()' --no-logo --no-cache

format: $(DEVELOPMENT) ## Format the code and fix what ruff can fix
	@$(PY) -m ruff format .
	@$(PY) -m ruff check --fix .

# The resolver has its own environment, so that a machine needs only pip. The development lock is resolved first and
# constrains the others, so that every package has the same version in all of them.
lock: | $(PY) ## Resolve the dependencies of pyproject.toml into locks/ (ARGS=--upgrade takes the newest versions)
	@echo "== installing the resolver into .venv-lock"
	@$(PY) -m venv --clear .venv-lock
	@$(PY) -c 'import tomllib; print(*tomllib.load(open("pyproject.toml", "rb"))["dependency-groups"]["lock"], sep="\n")' > .venv-lock/resolver.in
	@$(PY) -c 'import tomllib; print(*tomllib.load(open("pyproject.toml", "rb"))["build-system"]["requires"], sep="\n")' > .venv-lock/build.in
	@.venv-lock/bin/python -m pip install --quiet --disable-pip-version-check --requirement .venv-lock/resolver.in
	$(call resolve,development,pyproject.toml --group dev)
	$(call resolve,program,pyproject.toml --constraint locks/development.txt)
	$(call resolve,runtime,pyproject.toml --extra chat --extra flower --constraint locks/development.txt)
	$(call resolve,bench,--group bench --constraint locks/development.txt)
	$(call resolve,build,.venv-lock/build.in --constraint locks/development.txt)

bench: $(PEERS) ## Measure everything and compare it with other systems (ARGS=--quick for a trial, ARGS=hops for a part)
	@echo "== benchmarks"
	@$(PY) -m benchmarks $(ARGS)

soak: $(DEVELOPMENT) ## Run mixed work for an hour with a fault every 20 s, and report what grows (MINUTES=60, ARGS="--store sqlite")
	@echo "== soak"
	@$(PY) -m tests.soak --minutes $(or $(MINUTES),60) $(ARGS)

chaos: $(DEVELOPMENT) ## Inject faults into a whole stack by a seeded schedule and check its promises (SEED=1 MINUTES=3, ARGS="--store postgresql")
	@echo "== chaos"
	@$(PY) -m tests.chaos --seed $(or $(SEED),1) --minutes $(or $(MINUTES),3) $(ARGS)

fuzz: $(DEVELOPMENT) ## Send random inputs to reports, messages and names by a seed (SEED=1 INPUTS=10000, ARGS="--target names")
	@echo "== fuzz"
	@$(PY) -m tests.fuzz --seed $(or $(SEED),1) --inputs $(or $(INPUTS),10000) $(ARGS)

mutants: $(DEVELOPMENT) ## Apply every mutant in tests/mutants to a copy and check that a test detects it (ARGS="--tier quick", ARGS=money)
	@echo "== mutants"
	@$(PY) -m tests.mutants $(ARGS)

clean: ## Remove the environment, caches and the demo's data
	rm -rf .venv .venv-lock .coord/demo build dist .pytest_cache .mypy_cache .ruff_cache .hypothesis .import_linter_cache *.egg-info
	find . -name __pycache__ -type d -not -path './.git/*' -prune -exec rm -rf {} +

# A .venv without its Python (a dangling link) counts as missing and is created again.
$(PY):
	@candidates=(python3 python3.13 python3.12 python3.11 python); \
	if [ -n "$${PYTHON:-}" ]; then candidates=("$$PYTHON"); fi; \
	for candidate in "$${candidates[@]}"; do \
	    if "$$candidate" -c 'import sys; sys.exit(not (3, 11) <= sys.version_info < (3, 14))' 2>/dev/null; \
	    then found=$$candidate; break; fi; \
	done; \
	if [ -z "$${found:-}" ]; then \
	    echo "No Python 3.11, 3.12 or 3.13 among: $${candidates[*]}. Install one, or name it: make $(MAKECMDGOALS) PYTHON=/path/to/python3.12" >&2; exit 2; \
	fi; \
	echo "== environment: .venv with $$("$$found" --version)"; \
	{ "$$found" -m venv --clear --without-pip .venv && $(PY) -c "$$UNPACK_PIP"; } || { \
	    rm -rf .venv; \
	    echo "This Python cannot create environments. On Debian and Ubuntu: apt-get install python3-venv" >&2; exit 2; }

# Unpacks the pip that comes with Python: installing it takes seconds, mostly for compiling.
define UNPACK_PIP
import ensurepip, pathlib, subprocess, sys, sysconfig, zipfile
folders = pathlib.Path(ensurepip.__file__).parent / "_bundled", pathlib.Path(sysconfig.get_config_var("WHEEL_PKG_DIR") or "/")
wheels = [wheel for folder in folders for wheel in folder.glob("pip-*.whl")]
if wheels:
    zipfile.ZipFile(wheels[0]).extractall(sysconfig.get_path("purelib"))
else:
    subprocess.run([sys.executable, "-m", "ensurepip"], check=True, stdout=subprocess.DEVNULL)
endef
export UNPACK_PIP

# Uses uv if it is installed (seconds instead of half a minute); its index settings may differ from pip's, so pip is the
# fallback. Whatever index serves a package, its hash must be in the lock.
define install
	@if command -v uv >/dev/null && uv pip install --quiet --python $(PY) $(1); then :; else $(PY) -m pip install --quiet --disable-pip-version-check $(1); fi
endef

# The project is built with the locked setuptools that was just installed: an isolated build would fetch another one. Most
# modules of the packages are never imported, so they are compiled on import.
$(PROGRAM): | $(PY)
	@echo "== installing coordination and what it needs into .venv (once)"
	$(call install,--no-compile --require-hashes --requirement locks/build.txt --requirement locks/program.txt)
	$(call install,--no-compile --no-deps --no-build-isolation --editable .)
	@rm -f .venv/program-*; touch $@

$(DEVELOPMENT): $(PROGRAM)
	@echo "== installing the tools for tests and lint into .venv (once; about half a minute)"
	$(call install,--require-hashes --requirement locks/development.txt)
	@$(PY) -m compileall -q coordination workers
	@rm -f .venv/development-*; touch $@

$(PEERS): $(DEVELOPMENT)
	@echo "== installing the systems that the benchmarks measure beside us into .venv"
	$(call install,--require-hashes --requirement locks/bench.txt)
	@rm -f .venv/peers-*; touch $@

# One resolution for every Python and platform: if they need different versions, the lines have markers. No index address
# is written, since a hash identifies a package wherever it comes from.
define resolve
	@echo "== locks/$(1).txt"
	@UV_PYTHON_DOWNLOADS=never .venv-lock/bin/python -m uv pip compile --quiet --universal --python-version 3.11 --generate-hashes \
	    --no-emit-index-url --no-emit-find-links --no-annotate --custom-compile-command "make lock" $(ARGS) \
	    --output-file locks/$(1).txt $(2)
endef
