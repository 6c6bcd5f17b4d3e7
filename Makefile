# The two commands: `make demo` and `make test`. Everything else is for developers.
PYTHON ?= $(shell command -v python3.11 || command -v python3)
VERSION := $(shell $(PYTHON) -c 'import sys; print("%d.%d" % sys.version_info[:2])')
VENV := .venv-$(VERSION)
BIN := $(VENV)/bin

.PHONY: help demo test lint advisories types layers unit fuzz secure watchers smooth faults machines mutants storm deploys endurance bench openapi lock wheel clean

help: ## Show this list
	@grep -hE '^[a-z]+:.*## ' $(MAKEFILE_LIST) | sed -E 's/:.*## /\t/' | expand -t 12

demo: $(VENV)/installed ## Repair the findings of 250 tenants on real servers, then serve (ARGS=--no-serve ends instead)
	$(BIN)/opsplane demo $(ARGS)

test: lint types layers unit ## Run everything that CI runs

lint: $(VENV)/installed ## Check style, formatting, and for code that bandit calls unsafe
	$(BIN)/ruff check .
	$(BIN)/ruff format --check .
	$(BIN)/bandit --quiet --recursive --configfile pyproject.toml src

advisories: $(VENV)/installed ## Look for known vulnerabilities in what is installed (needs the network)
	$(BIN)/pip-audit --strict --requirement requirements.lock --require-hashes

types: $(VENV)/installed ## Check types, tests included
	$(BIN)/mypy

layers: $(VENV)/installed ## Check that imports point one way
	$(BIN)/lint-imports

JOBS ?= 2
unit: $(VENV)/installed ## Run the tests, two files at a time (ARGS="-k name" picks some, JOBS=0 is one process)
	$(BIN)/python -m $(if $(filter 0,$(JOBS)),pytest,tests.again) -n $(JOBS) --dist loadfile $(ARGS)

REQUESTS ?= 20000
fuzz: $(VENV)/installed ## Ask both planes what schemathesis makes of their contracts (REQUESTS=20000, ARGS="--seed 7")
	$(BIN)/python -m tests.fuzz --requests $(REQUESTS) $(ARGS)

SECURE := audit_chain audit_spool shut_out login_flood on_the_wire
secure: $(VENV)/installed ## Play the campaigns of docs/security.md at their full length
	TAMPERINGS=1000 AUDIT_FAILURES=1000 TOTP_ROUNDS=500 TIMING_SAMPLES=500 \
		$(BIN)/pytest -s -q --timeout 3600 $(SECURE:%=tests/integration/test_%.py) $(ARGS)

STEPS ?= 20000
machines: $(VENV)/installed ## Do anything in any order against models of runs and of the API (STEPS=20000, ARGS="--hypothesis-seed=7")
	MACHINE_STEPS=$(STEPS) $(BIN)/pytest -s tests/faults/test_run_machine.py tests/faults/test_http_machine.py $(ARGS)

WATCHERS ?= 200
watchers: $(VENV)/installed ## Measure how soon so many watchers see what a run has committed (WATCHERS=200)
	$(BIN)/python -m tests.load.watchers --watchers $(WATCHERS) $(ARGS)

smooth: $(VENV)/installed ## Look whether pages with 5,000 tenants and 10,000 runs are smooth (needs chromium)
	$(BIN)/python -m tests.load.smooth $(ARGS)

SEEDS ?= 500
LANES ?= 6
faults: $(VENV)/installed ## Play seeded schedules of faults on real processes (SEEDS=500 LANES=6, ARGS="--seed 7"); goes on where it was left
	$(BIN)/python -m tests.faults --seeds $(SEEDS) --lanes $(LANES) $(ARGS)

ROUNDS ?= 200
storm: $(VENV)/installed ## Race 16 starts at once (ROUNDS=10000, ARGS="--pooler --results FILE")
	$(BIN)/python -m tests.faults.storm --rounds $(ROUNDS) $(ARGS)

deploys: $(VENV)/installed ## Kill deploy hooks at random (ARGS="--rounds 50 --first 1")
	$(BIN)/python -m tests.faults.deploys $(ARGS)

mutants: $(VENV)/installed ## Take each guard away in turn; a named test must notice (ARGS="fence" picks some)
	$(BIN)/python -m tests.faults.mutants $(ARGS)

AMOUNT ?=
TRIAL ?= soak
endurance: $(VENV)/installed ## Try a promise that takes minutes (TRIAL=rolling, valkey, cancel or soak; AMOUNT=rounds or seconds)
	$(BIN)/python -m tests.faults.endurance $(TRIAL) $(if $(AMOUNT),--amount $(AMOUNT))

PARTS ?=
bench: $(VENV)/installed ## Measure side by side with a hand-written script (PARTS="backfill runs", PEERS=1, ARGS="--repeats 3 --results FILE")
	$(BIN)/python -m bench $(PARTS) $(if $(PEERS),--peers) $(ARGS)

openapi: $(VENV)/installed ## Write openapi/*.json anew
	$(BIN)/python -m opsplane.api.openapi

lock: $(VENV)/installed ## Resolve requirements.lock anew
	$(BIN)/python -m pip install --quiet uv
	$(BIN)/uv pip compile --quiet --universal --generate-hashes --python-version 3.11 --group dev \
		--no-emit-index-url --no-annotate --no-header pyproject.toml -o requirements.lock

wheel: $(VENV)/installed ## Build dist/opsplane-*.whl
	$(BIN)/python -m hatchling build -t wheel

clean: ## Remove environments and caches
	rm -rf .venv-* .mypy_cache .ruff_cache .pytest_cache .import_linter_cache .hypothesis dist

$(VENV)/installed: requirements.lock pyproject.toml
	@$(PYTHON) -c 'import sys; sys.exit(sys.version_info < (3, 11))' || \
		{ echo "opsplane needs Python 3.11 or newer; say which: make PYTHON=python3.12 $(MAKECMDGOALS)"; exit 1; }
	test -x $(BIN)/python || $(PYTHON) -m venv $(VENV)
	$(BIN)/python -m pip install --quiet --disable-pip-version-check --require-hashes -r requirements.lock
	$(BIN)/python -m pip install --quiet --disable-pip-version-check --no-deps --no-build-isolation -e .
	touch $@
