# Everything here works on a fresh clone: each target does its own set-up, once.
SHELL := /bin/bash
.SHELLFLAGS := -eu -o pipefail -c
.DEFAULT_GOAL := help
.DELETE_ON_ERROR:
# What CI installs must be there before the rest looks for it.
.NOTPARALLEL:

VENV := .venv
BIN := $(VENV)/bin
DONE := $(VENV)/.done
PIP := $(BIN)/python -m pip --disable-pip-version-check --quiet
NODE := tests/real/node
# What an installation depends on; a change of one of these repeats it.
BUILD := pyproject.toml requirements/build.txt
SAY = printf '\033[1m==> %s\033[0m\n'

.PHONY: help
help: ## List what make can do
	@awk -F ':.*## ' '/^[a-z-]+:.*## / { printf "  make %-18s %s\n", $$1, $$2 }' $(MAKEFILE_LIST)

.PHONY: install
install: $(DONE)/runtime ## Install the command: .venv/bin/livekit-pool
	@$(SAY) "ready: $(BIN)/livekit-pool"

.PHONY: install-firestore
install-firestore: $(DONE)/firestore ## Install the command with the store firestore://
	@$(SAY) "ready: $(BIN)/livekit-pool"

.PHONY: install-dev
install-dev: $(DONE)/dev ## Install what development and the tests need

.PHONY: demo
demo: $(DONE)/demo livekit-server ## Show it: three LiveKit servers, a call, and the active one killed
	@$(SAY) "running the demo"
	@$(BIN)/livekit-pool demo

# In a worker of pytest-xdist, as LiveKit's SDK can crash the process it is in: tests/conftest.py.
.PHONY: test
test: ci-setup $(DONE)/dev node-packages livekit-server ## Run all tests (ARGS="-k name" for some)
	@$(SAY) "running the tests"
	@$(BIN)/python -m pytest -n 1 $(ARGS)

.PHONY: check
check: $(DONE)/dev ## Check format, lint, types and the direction of imports
	@$(SAY) "checking the format"; $(BIN)/ruff format --check .
	@$(SAY) "linting"; $(BIN)/ruff check .
	@$(SAY) "checking types"; $(BIN)/mypy
	@$(SAY) "checking imports"; $(BIN)/lint-imports --no-logo

.PHONY: format
format: $(DONE)/dev ## Format the code and mend what the linter can mend
	@$(BIN)/ruff check --fix --exit-zero --quiet .
	@$(BIN)/ruff format .

.PHONY: bench
bench: $(DONE)/dev livekit-server ## Measure speed, memory and gaps, and print the tables
	@$(SAY) "measuring"
	@$(BIN)/python -m bench $(ARGS)

.PHONY: lock
lock: $(DONE)/dev ## Choose the newest allowed versions again and pin them with hashes
	@$(SAY) "pinning requirements/*.txt"
	@compile() { $(BIN)/uv pip compile --quiet --universal --python-version 3.11 --generate-hashes \
		--no-header --no-annotate "$$@"; }; \
	compile --upgrade pyproject.toml --all-extras --group dev -o requirements/dev.txt; \
	compile pyproject.toml --extra demo -c requirements/dev.txt -o requirements/demo.txt; \
	compile pyproject.toml --extra firestore -c requirements/dev.txt \
		-o requirements/firestore.txt; \
	compile pyproject.toml -c requirements/dev.txt -o requirements/runtime.txt; \
	compile --upgrade --group build -o requirements/build.txt

.PHONY: clean
clean: ## Remove what make made here (the cached LiveKit server stays)
	@rm -rf $(VENV) $(NODE)/node_modules dist .mypy_cache .ruff_cache .pytest_cache \
		.import_linter_cache .hypothesis
	@find src tests -name __pycache__ -prune -exec rm -rf {} +

# ---- set-up, each once ----------------------------------------------------------------------

$(DONE)/venv:
	@python=; \
	for candidate in python3.11 python3 python3.12 python3.13 python3.14; do \
		if "$$candidate" -c 'import sys; sys.exit(sys.version_info < (3, 11))' 2>/dev/null; then \
			python=$$candidate; break; \
		fi; \
	done; \
	if [ -z "$$python" ]; then \
		echo "Python 3.11 or newer is missing: install it with" \
			"'sudo apt-get install python3.11 python3.11-venv'." >&2; exit 1; \
	fi; \
	if ! "$$python" -c 'import ensurepip, venv' 2>/dev/null; then \
		echo "Python's venv module is missing: install it with" \
			"'sudo apt-get install $$python-venv'." >&2; exit 1; \
	fi; \
	$(SAY) "making a virtual environment in $(VENV) with $$("$$python" --version)"; \
	"$$python" -m venv --clear $(VENV)
	@mkdir -p $(DONE) && touch $@

# Editable, so that a pull needs no new installation unless the pins changed.
INSTALL = $(PIP) install --require-hashes -r requirements/build.txt -r requirements/$(1).txt && \
	$(PIP) install --no-deps --no-build-isolation --editable . && touch $(DONE)/$(1)

# A larger set holds the smaller ones at the same versions, and so counts for them too.
$(DONE)/runtime: requirements/runtime.txt $(BUILD) | $(DONE)/venv
	@$(SAY) "installing the pinned packages (requirements/runtime.txt)"
	@$(call INSTALL,runtime)

$(DONE)/demo: requirements/demo.txt $(BUILD) | $(DONE)/venv
	@$(SAY) "installing the pinned packages (requirements/demo.txt)"
	@$(call INSTALL,demo) && touch $(DONE)/runtime

$(DONE)/firestore: requirements/firestore.txt $(BUILD) | $(DONE)/venv
	@$(SAY) "installing the pinned packages (requirements/firestore.txt)"
	@$(call INSTALL,firestore) && touch $(DONE)/runtime

$(DONE)/dev: requirements/dev.txt $(BUILD) | $(DONE)/venv
	@$(SAY) "installing the pinned packages (requirements/dev.txt)"
	@$(call INSTALL,dev) && touch $(DONE)/runtime $(DONE)/demo $(DONE)/firestore

# Finds a LiveKit server, or builds one into the user's cache, or says what is missing.
.PHONY: livekit-server
livekit-server: $(DONE)/runtime
	@$(SAY) "looking for a LiveKit server"
	@$(BIN)/python -m livekit_pool.local

# The tests that need these packages are skipped, visibly, where there is no npm.
.PHONY: node-packages
node-packages:
	@if ! command -v npm >/dev/null; then \
		$(SAY) "no npm here: tests with Chromium and Node will be skipped"; \
	elif ! cmp -s $(NODE)/package-lock.json $(NODE)/node_modules/.installed; then \
		$(SAY) "installing the pinned npm packages ($(NODE)/package-lock.json)"; \
		(cd $(NODE) && npm ci --no-audit --no-fund --ignore-scripts --loglevel=error); \
		cp $(NODE)/package-lock.json $(NODE)/node_modules/.installed; \
	fi

# Only in CI, where the machine is ours: elsewhere installing packages is the user's business.
.PHONY: ci-setup
ci-setup:
	@if [ -n "$${CI:-}" ] && [ "$$(id -u)" = 0 ] && command -v apt-get >/dev/null; then .ci/setup; fi
