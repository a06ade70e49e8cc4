# Everything runs in .venv, made on first use from pyproject.toml.
PYTHON ?= python3
VENV := .venv
BIN := $(VENV)/bin
ARGS ?=

LOCK = $(BIN)/uv pip compile --quiet --universal --python-version 3.11 --generate-hashes --no-annotate --no-header \
  --no-emit-index-url --no-emit-find-links

.PHONY: install serve test test-all lint fuzz lock sbom bench bench-engine bench-onion bench-shards lqs bench-signals bench-promise bench-profile bench-loop soak

$(VENV)/installed: pyproject.toml
	$(PYTHON) -c 'import sys; sys.exit("Python 3.11 or newer is needed") if sys.version_info < (3, 11) else None'
	test -x $(BIN)/python || $(PYTHON) -m venv $(VENV)
	@echo "installing into $(VENV) ..."
	$(BIN)/python -m pip install --quiet --disable-pip-version-check -e .
	touch $@

$(VENV)/installed-dev: $(VENV)/installed
	$(BIN)/python -m pip install --quiet --disable-pip-version-check -e '.[dev]'
	touch $@

install: $(VENV)/installed-dev          ## .venv with the package and what tests need

serve: $(VENV)/installed                ## install, fetch the core model, serve on 127.0.0.1:8080
	@exec $(BIN)/gateway serve $(ARGS)

# Bytecode is kept, whatever the environment says: many tests start the command anew. Three processes are for two cores:
# tests wait, for timeouts and for servers to start, a quarter of their time.
test: install                           ## the suite, with the real core model
	PYTHONDONTWRITEBYTECODE= $(BIN)/python -m pytest -n 3 --dist loadscope --no-loadscope-reorder $(ARGS)

test-all: install                       ## and what takes longer
	$(BIN)/python -m pytest -m '' $(ARGS)

lint: install                           ## style, types, import layers
	$(BIN)/ruff check .
	$(BIN)/ruff format --check .
	$(BIN)/mypy
	$(BIN)/lint-imports

$(VENV)/installed-%: $(VENV)/installed-dev
	$(BIN)/python -m pip install --quiet --disable-pip-version-check -e '.[$*]'
	touch $@

fuzz: $(VENV)/installed-fuzz            ## each target of fuzz/ for SECONDS (60), or those that TARGETS names
	$(BIN)/python -m fuzz $(TARGETS) $(if $(SECONDS),--seconds $(SECONDS)) $(ARGS)

lock: $(VENV)/installed-release         ## what is installed, with hashes; ARGS=--upgrade for what is newest
	$(LOCK) $(ARGS) pyproject.toml --extra postgres --extra redis -o requirements.lock
	$(LOCK) $(ARGS) pyproject.toml --extra dev -c requirements.lock -o requirements-dev.lock

sbom: $(VENV)/installed-release         ## dist/sbom.json: the locked packages as CycloneDX
	mkdir -p dist
	$(BIN)/cyclonedx-py requirements requirements.lock --pyproject pyproject.toml \
	  --output-format JSON --output-reproducible --output-file dist/sbom.json

bench: install                          ## how fast it is, beside nginx and its peers: docs/performance.md
	@$(BIN)/python -m bench load $(ARGS)

bench-engine: install                   ## the core model behind the gateway, and by itself
	@$(BIN)/python -m bench engine $(ARGS)

bench-onion: install                    ## loads, swaps and restores: the pool, and llama-server's router mode
	@$(BIN)/python -m bench onion $(ARGS)

soak: install                           ## everything at once for MINUTES (30): nothing may leak, get lost or stay behind
	@$(BIN)/python -m bench soak --minutes $(or $(MINUTES),30) $(ARGS)

lqs: install                            ## what the core model answers of a workload, at a certified quality
	@$(BIN)/python -m bench lqs $(if $(WORKLOAD),--workload $(WORKLOAD)) $(if $(DOCUMENTS),--documents $(DOCUMENTS)) \
	  $(if $(OUT),--out $(OUT)) $(if $(FROZEN),--frozen $(FROZEN)) $(ARGS)

bench-loop: install                     ## the learning loop on one example; wants the extra train
	@$(BIN)/python -m bench loop $(ARGS)

bench-shards: install                   ## finding shards among many: time and memory
	@$(BIN)/python -m bench shards $(ARGS)

bench-signals: install                  ## what a decision costs: rules, semantic routes, the learned router
	@$(BIN)/python -m bench signals $(ARGS)

bench-promise: install                  ## by simulation: does a certified threshold keep its promise, and see a drift
	@$(BIN)/python -m bench promise $(ARGS)

bench-profile: install                  ## where the gateway spends its time: .bench/profile.svg
	@$(BIN)/python -m bench profile $(ARGS)
