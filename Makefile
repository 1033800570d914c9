# Targets explain themselves: `make` prints them. PROFILE names a file in params/.
PROFILE ?= quick
PYTHON ?= python3
BIN := .venv/bin
READY := .venv/.ready
# The files of tests that take longest go first, so that neither of the two processes waits for the other at the end.
LONG := notebooks reliability training
.DEFAULT_GOAL := help
.PHONY: help report results plan test torture lint serve notebooks bench lock clean

help:  ## print this list
	@grep -hE '^[a-z]+:.*##' $(MAKEFILE_LIST) | awk -F ':.*## ' '{printf "  make %-10s %s\n", $$1, $$2}'

$(READY): requirements.lock pyproject.toml
	@$(PYTHON) -c 'import sys; v = sys.version_info[:2]; sys.exit(None if (3, 11) <= v <= (3, 13) else f"python3 is {v[0]}.{v[1]}; needed: 3.11 to 3.13 (make PYTHON=python3.12 ...)")'
	$(PYTHON) -m venv .venv
	$(BIN)/pip install --quiet --no-compile --disable-pip-version-check --no-deps --require-hashes -r requirements.lock
	$(BIN)/pip install --quiet --disable-pip-version-check --no-deps --no-build-isolation -e .
	@touch $@

report: $(READY)  ## run the study and build its report (PROFILE=quick: made-up slices; PROFILE=figshare: real ones)
	@$(BIN)/python -m btlib study params/$(PROFILE).yaml

plan: $(READY)  ## print what `make report` would do, and how long the fits will take
	@$(BIN)/python -m btlib study params/$(PROFILE).yaml --dry-run

results: $(READY)  ## make reports/figshare/README.md and its figures anew from the kept tables (PROFILE=another: of another)
	@$(BIN)/python -m btlib results $(if $(filter file,$(origin PROFILE)),figshare,$(PROFILE))

serve: $(READY)  ## serve the report on http://localhost:8000 (PORT=8001: elsewhere)
	@$(BIN)/python -m btlib serve $(PROFILE) --port $(or $(PORT),8000)

test: $(READY)  ## run all tests
	$(BIN)/python -m pytest -n 2 --dist loadfile --no-loadscope-reorder $(LONG:%=tests/test_%.py) tests

torture: $(READY)  ## kill, fuzz, fill and repeat for hours; writes reports/reliability.md (LINES="kill_fit memory" SEED=1: some of it)
	$(BIN)/python benchmarks/torture.py $(LINES) --seed $(or $(SEED),0) $(if $(N),--n $(N)) $(if $(TINY),--tiny)

lint: $(READY)  ## check style; notebooks must be stored without outputs
	$(BIN)/ruff check .
	$(BIN)/ruff format --check .
	$(BIN)/nbstripout --verify --keep-id notebooks/*.ipynb

notebooks: $(READY)  ## open copies of the notebooks (notebooks/copies) in JupyterLab
	@$(BIN)/python -m btlib lab

bench: $(READY)  ## measure speed and cost, each as a ratio within one run; writes reports/bench.md
	$(BIN)/python -m benchmarks bench

# rfc3987-syntax, which checks addresses that nothing here has, builds 38 parsers in every process that opens a notebook.
lock: $(READY)  ## pin every package anew, for Linux and macOS
	$(BIN)/pip install --quiet uv
	$(BIN)/uv pip compile pyproject.toml --all-extras --universal --generate-hashes --python-version 3.11 --no-header -o requirements.lock --upgrade --quiet \
		--no-emit-package rfc3987-syntax --no-emit-package lark

clean:  ## remove fitted models, caches and reports made here; downloaded data stay
	rm -rf runs data/.cache data/phantom_a data/phantom_b reports/*/notebooks reports/*/html .snakemake
	@git clean -fdXq -- reports/*/figures 2>/dev/null || true
