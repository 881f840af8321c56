# The targets of this repository. `make` or `make help` lists them.
SHELL := bash
.SHELLFLAGS := -euo pipefail -c
.DEFAULT_GOAL := help
.DELETE_ON_ERROR:
MAKEFLAGS += --no-builtin-rules

BIN := .venv/bin
PYTHON := $(BIN)/python
TYPED := imsd plugins clients tests
# Two workers: the suite is made for small machines and gains little from more.
WORKERS ?= 2
FUZZ_SECONDS ?= 60

.PHONY: help
help:  ## List the targets
	@echo "imsd: an open Image Management Service"
	@echo
	@awk -F ':.*## ' '/^[a-z-]+:.*## / { printf "  make %-8s %s\n", $$1, $$2 }' $(MAKEFILE_LIST)
	@echo
	@echo "Start with 'make demo'. The first target that needs it makes .venv; nothing is installed outside"
	@echo "the repository, except Debian packages when a target is run by root."

.venv/.installed: pyproject.toml constraints.txt
	@.ci/make_venv.sh

.PHONY: demo
demo: .venv/.installed  ## Show what imsd does on a real Debian disk (IMAGE=path: on your own)
	@tests/demo/demo.sh $(if $(IMAGE),"$(IMAGE)")

.PHONY: run
run: .venv/.installed  ## Start a daemon in .cache/run, in the foreground
	@mkdir -p .cache/run
	@echo "In another terminal:  export IMSD_ADDRESS=unix:$(CURDIR)/.cache/run/imsd.sock PATH=$(CURDIR)/$(BIN):\$$PATH"
	@exec $(BIN)/imsd serve --state-dir .cache/run/state --listen "unix:$(CURDIR)/.cache/run/imsd.sock"

.PHONY: test
test: .venv/.installed  ## Run all tests (ARGS="-k word" narrows)
	@.ci/install_packages.sh tests
	@$(PYTHON) -m pytest -n $(WORKERS) --dist worksteal --color=no $(ARGS)

.PHONY: lint
lint: .venv/.installed  ## Check style, types, contract, layers and documentation
	@echo "ruff check"; $(BIN)/ruff check --quiet .
	@echo "ruff format"; $(BIN)/ruff format --quiet --diff .
	@echo "mypy --strict"; $(BIN)/mypy --no-error-summary $(TYPED)
	@echo "buf lint"; cd proto && ../$(BIN)/buf lint
	@echo "generated code"; .ci/check_generated.sh
	@echo "layers and documentation"; $(PYTHON) -m pytest -q --color=no -p no:randomly tests/contract

.PHONY: proto
proto: .venv/.installed  ## Generate the Python code of the wire contract
	@.ci/generate.sh .

.PHONY: bench
bench: .venv/.installed  ## Measure against other tools and write BENCHMARKS.md (long; ARGS="--only qcow2")
	@.ci/install_packages.sh bench || echo "Going on: a missing tool shows as 'not available'."
	@$(PYTHON) -m tests.benchmark.bench $(ARGS)

.PHONY: fuzz
fuzz: .venv/.installed  ## Feed damaged files to every reader, guided by coverage (FUZZ_SECONDS=60 each)
	@.ci/install_packages.sh tests
	@targets=$$($(PYTHON) tests/fuzz/coverage_fuzz.py --list); for target in $$targets; do \
	    $(PYTHON) tests/fuzz/coverage_fuzz.py "$$target" --seconds $(FUZZ_SECONDS); \
	done

.PHONY: lock
lock: .venv/.installed  ## Renew constraints.txt with the newest versions that pyproject.toml allows
	@.ci/lock.sh

.PHONY: clean
clean:  ## Remove everything that was made: environment, caches, demo disks
	rm -rf .venv .cache build .mypy_cache .ruff_cache .pytest_cache .hypothesis *.egg-info
	find . -name __pycache__ -type d -prune -exec rm -rf {} +
