# A bare machine needs make, git and python3 (3.11 or newer, with venv); everything else is made here.
PYTHON ?= python3
VENV   := .venv
PY     := $(VENV)/bin/python
PIP    := $(PY) -m pip --disable-pip-version-check install --quiet

.DEFAULT_GOAL := help
.PHONY: help run demo test test-services test-gpu gpu-table quantile-table lint fix bench check lock screenshots clean

help: ## Show this list
	@awk -F':.*## ' '/^[a-z-]+:.*## /{printf "  make %-14s %s\n", $$1, $$2}' $(MAKEFILE_LIST)

$(VENV)/bin/python:
	@$(PYTHON) -c 'import sys; sys.exit(sys.version_info < (3, 11))' || \
		{ echo "make: $$($(PYTHON) --version) found, Python 3.11 or newer needed; write: make PYTHON=/path/to/python3.11 run" >&2; exit 2; }
	@$(PYTHON) -m venv $(VENV) || \
		{ rm -rf $(VENV); echo "make: python3 has no venv module; write: apt-get install python3-venv" >&2; exit 2; }

$(VENV)/.ready: requirements.txt | $(VENV)/bin/python
	@echo "installing what the product needs (about 300 MB, once) ..."
	@$(PIP) --require-hashes -r requirements.txt
	@touch $@

$(VENV)/.dev-ready: requirements-dev.txt | $(VENV)/bin/python
	@echo "installing what the tests need ..."
	@$(PIP) --require-hashes -r requirements-dev.txt
	@touch $@ $(VENV)/.ready

run: $(VENV)/.ready ## Collect from this machine and show it on http://127.0.0.1:8501
	@PATH="$(CURDIR)/$(VENV)/bin:$$PATH" deploy/run-both run

demo: $(VENV)/.ready ## Show a living synthetic fleet; needs neither Docker nor a GPU
	@AIFLEET_DATA_DIR="$${AIFLEET_DATA_DIR:-data/demo}" PATH="$(CURDIR)/$(VENV)/bin:$$PATH" deploy/run-both demo

test: $(VENV)/.dev-ready ## Run every test; what this machine lacks is listed at the end
	@$(PY) -m pytest

test-services: ## Install what the tests on real parts need (Debian packages, as root)
	apt-get update -qq
	DEBIAN_FRONTEND=noninteractive apt-get install -y -qq --no-install-recommends \
		docker.io iptables busybox-static prometheus chromium fonts-dejavu-core gcc libc6-dev openssl python3-venv

test-gpu: $(VENV)/.dev-ready ## Run the tests that need a real NVIDIA GPU
	@$(PY) -m pytest --gpu -m gpu

gpu-table: $(VENV)/.dev-ready ## Print the GPU scenarios: case, expected, got (needs gcc)
	@$(PY) -m tests.fakes.nvml_table

quantile-table: $(VENV)/.dev-ready ## Hold every stored percentile against the raw durations of a real trace
	@$(PY) -m tests.queries.trace_latency

lint: $(VENV)/.dev-ready ## Format check, lint, types, import direction
	@$(PY) -m ruff format --check .
	@$(PY) -m ruff check .
	@$(VENV)/bin/basedpyright
	@$(VENV)/bin/lint-imports

fix: $(VENV)/.dev-ready ## Apply the safe part of the lint
	@$(PY) -m ruff check --fix .
	@$(PY) -m ruff format .

bench: $(VENV)/.dev-ready ## Measure (root, dockerd and Chromium as for the tests); prints one JSON object a benchmark
	@for name in docker_sweep cycle_cpu nvml_cycle prometheus_poll live_tick store_ingest queries latency posture memory; do $(PY) -m bench.$$name || exit 1; done

check: lint test ## What CI runs
	@$(PY) -m collectors check-config --config fleet.example.toml >/dev/null

screenshots: $(VENV)/.dev-ready ## Take the pictures of the documentation again
	@FLEET_SCREENSHOTS=docs/images $(PY) -m pytest tests/browser

lock: $(VENV)/.dev-ready ## Pin requirements*.in again, with hashes
	@$(PIP) uv==0.13.9
	@for name in requirements requirements-dev; do \
		$(VENV)/bin/uv pip compile -q --universal --python-version 3.11 --generate-hashes --no-emit-index-url \
			--custom-compile-command "make lock" $$name.in -o $$name.txt; done

clean: ## Remove the virtual environment and caches; the data folder stays
	rm -rf $(VENV) .pytest_cache .ruff_cache .import_linter_cache .hypothesis
