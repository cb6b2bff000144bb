# Every target sets up what it needs, says what it does and how long it took, and may be run again at any time.
# Slow results (built programs, images, wheels) are cached outside the tree: EDGEWARD_CACHE, else ~/.cache/edgeward.

SHELL := /bin/bash
.DEFAULT_GOAL := help
PYTHON ?= python3
CLUSTER ?= embedded
NAME ?= edgeward
VENV := .venv
RUN := PYTHONPATH=.:operator:edge-runtime $(VENV)/bin/python
PYTEST := $(VENV)/bin/python -m pytest
STEP := @bash tests/step.sh
# What a control plane without nodes needs; a cluster with nodes and the image builder ask for the rest themselves.
PLANE_PACKAGES := openssl prometheus prometheus-node-exporter

.PHONY: help
help: ## this list
	@grep -hE '^[a-z0-9-]+:.*## ' $(MAKEFILE_LIST) | sed -E 's/:[^#]*## /\t/' | awk -F'\t' '{printf "  make %-18s %s\n", $$1, $$2}'

$(VENV)/.installed: requirements/dev.txt
	$(STEP) "virtual environment" bash tests/venv.sh $(VENV) $(PYTHON) requirements/dev.txt
	@touch $@

.PHONY: venv
venv: $(VENV)/.installed ## the Python environment, from hash-pinned requirements

.PHONY: demo
demo: venv ## the whole story on an embedded real cluster (CLUSTER=current IMAGE=... for your own)
	$(STEP) "demo" env $(RUN) -m tests.demo up --cluster $(CLUSTER) --name $(NAME) $(if $(IMAGE),--image $(IMAGE))

.PHONY: demo-clean
demo-clean: venv ## remove what the demo added (CLUSTER=current), or the embedded cluster
	$(STEP) "demo-clean" env $(RUN) -m tests.demo clean --cluster $(CLUSTER) --name $(NAME)

.PHONY: test
test: test-unit test-integration test-e2e ## unit, integration and end-to-end tests
	@echo "all tests passed"

.PHONY: test-unit
test-unit: venv ## pure code, in seconds
	$(STEP) "unit tests" $(PYTEST) tests/unit -q -n auto

.PHONY: test-integration
test-integration: venv ## against a real API server, etcd, scheduler and Prometheus
	$(STEP) "Debian packages" env $(RUN) -m tests.cluster packages $(PLANE_PACKAGES)
	$(STEP) "programs for the tests" env $(RUN) -m tests.cluster build control-plane kwok helm
	$(STEP) "integration tests" $(PYTEST) tests/integration -q -m "not full" -n 2 --dist loadfile

.PHONY: test-e2e
test-e2e: venv ## on the embedded real cluster: the demo's story as assertions
	$(STEP) "Debian packages" env $(RUN) -m tests.cluster packages node
	$(STEP) "programs for the tests" env $(RUN) -m tests.cluster build control-plane node helm metrics-server
	$(STEP) "images" env $(RUN) -m tests.cluster images
	$(STEP) "models" env $(RUN) -m tests.demo models
	$(STEP) "end-to-end tests" $(PYTEST) tests/e2e -q -m "not full"

.PHONY: test-properties
test-properties: venv ## property tests with many examples, drawn anew: half an hour
	$(STEP) "properties, many examples" env HYPOTHESIS_PROFILE=full $(PYTEST) tests/unit -q -n auto --timeout 3600

.PHONY: test-full
test-full: venv ## what is heavier, with the default time limits
	$(STEP) "Debian packages" env $(RUN) -m tests.cluster packages $(PLANE_PACKAGES)
	$(STEP) "programs for the tests" env $(RUN) -m tests.cluster build
	$(STEP) "images" env $(RUN) -m tests.cluster images
	$(STEP) "full tests" $(PYTEST) tests -q -m full --timeout 3600

.PHONY: lint
lint: venv ## style, types, import layers, drift of generated files
	$(STEP) "ruff" $(VENV)/bin/ruff check .
	$(STEP) "formatting" $(VENV)/bin/ruff format --check .
	$(STEP) "types" $(VENV)/bin/mypy
	$(STEP) "import layers" env PYTHONPATH=operator:edge-runtime $(VENV)/bin/lint-imports --no-logo
	$(STEP) "generated files" env $(RUN) -m edgeward.api.crdgen crds --reference docs/api.md --check
	$(STEP) "benchmark page" env $(RUN) -m tests.bench.page --check
	$(STEP) "lock files" bash tests/locks.sh $(VENV) --check

.PHONY: format
format: venv ## rewrite the sources in the project's style
	@$(VENV)/bin/ruff check -q --fix . ; $(VENV)/bin/ruff format .

.PHONY: crds
crds: venv ## write crds/, the chart's copy and docs/api.md from the models
	@$(RUN) -m edgeward.api.crdgen crds --reference docs/api.md
	@mkdir -p charts/edgeward/files/crds && cp crds/*.yaml charts/edgeward/files/crds/

.PHONY: locks
locks: venv ## compile requirements/*.txt anew from requirements/*.in
	@bash tests/locks.sh $(VENV)

.PHONY: cluster
cluster: venv ## start the embedded cluster (NAME=edgeward)
	$(STEP) "cluster $(NAME)" env $(RUN) -m tests.cluster up --name $(NAME)

.PHONY: cluster-down
cluster-down: venv ## end it and remove everything it made
	$(STEP) "cluster $(NAME) down" env $(RUN) -m tests.cluster down --name $(NAME)

.PHONY: image
image: venv ## build the operator's and the runtime's image
	$(STEP) "images" env $(RUN) -m tests.cluster images $(if $(BASE),--base $(BASE))

.PHONY: bench
bench: bench-main bench-placement bench-runtime ## all figures

.PHONY: bench-main
bench-main: venv ## the main job's figures, into tests/bench/results/main.json
	$(STEP) "Debian packages" env $(RUN) -m tests.cluster packages $(PLANE_PACKAGES)
	$(STEP) "programs for the bench" env $(RUN) -m tests.cluster build control-plane kwok
	$(STEP) "bench main" env $(RUN) -m tests.bench.main

.PHONY: bench-placement
bench-placement: venv ## the planner's figures, into tests/bench/results/placement.json
	$(STEP) "bench placement" env $(RUN) -m tests.bench.bench_placement

.PHONY: bench-placement-live
bench-placement-live: venv ## the whole operator's placement figures, 25 minutes, into tests/bench/results/placement-live.json
	$(STEP) "Debian packages" env $(RUN) -m tests.cluster packages $(PLANE_PACKAGES)
	$(STEP) "programs for the bench" env $(RUN) -m tests.cluster build control-plane kwok
	$(STEP) "bench placement, the whole operator" env $(RUN) -m tests.bench.placement_live

.PHONY: bench-runtime
bench-runtime: venv ## the runtime's figures, MLServer's and KServe's beside them, half an hour, into tests/bench/results/runtime.json
	$(STEP) "Debian packages" env $(RUN) -m tests.cluster packages node
	$(STEP) "bench runtime" env $(RUN) -m tests.bench.bench_runtime
	$(STEP) "benchmark page" env $(RUN) -m tests.bench.page

.PHONY: bench-release
bench-release: venv ## a release's bytes and seconds, and 500 sites that come and go, into tests/bench/results/release.json; as root, for the shaped link
	$(STEP) "Debian packages" env $(RUN) -m tests.cluster packages node $(PLANE_PACKAGES)
	$(STEP) "programs for the bench" env $(RUN) -m tests.cluster build control-plane kwok
	$(STEP) "bench release" env $(RUN) -m tests.bench.bench_release
	$(STEP) "benchmark page" env $(RUN) -m tests.bench.page

.PHONY: clean
clean: ## remove what was built inside the tree
	rm -rf $(VENV) build dist *.egg-info edge-runtime/*.egg-info .mypy_cache .ruff_cache .hypothesis .import_linter_cache
	find . -name __pycache__ -type d -prune -exec rm -rf {} +
