# One word for everything. Each target sets up what it needs; `make` alone lists them.

PYTHON ?= python3
BIN := .venv/bin
STAMP := .venv/.installed
PEERS := .venv-peers/.installed
BENCHMARKS := transform capture calibration training export check start compile
ZOO := .zoo/packages/.installed
PIP := $(BIN)/python -m pip --disable-pip-version-check --quiet

.DEFAULT_GOAL := help
.PHONY: help setup test quick fuzz fuzz-compiler check format demo bench gpu compat bench-quality bench-compiled bench-placement exports compiled zoo docs site package clean

help:  ## List the targets
	@awk -F ':.*## ' '/^[a-z-]+:.*## / { printf "make %-15s %s\n", $$1, $$2 }' $(MAKEFILE_LIST)

setup: $(STAMP)  ## Create .venv and install the library with everything it can use

$(STAMP): pyproject.toml constraints.txt
	@echo "Setting up .venv (the first time takes some minutes)"
	@test -x $(BIN)/pip || $(PYTHON) -m venv .venv
	@$(PIP) install --constraint constraints.txt --editable '.[all,rtx,dev,docs]'
	@touch $@

# The tests start a hundred processes: bytecode is kept for them, whatever the environment says.
test quick: export PYTHONDONTWRITEBYTECODE :=

# One torch thread for each of the two workers: more threads than cores make the tests slower. A
# file stays on one worker, which makes the models and files that its tests share once.
test: $(STAMP)  ## Run the tests, on two cores
	@OMP_NUM_THREADS=1 $(BIN)/python -m pytest -n 2 --dist loadscope

quick: $(STAMP)  ## Run a fast part of the tests, about a minute on two cores
	@OMP_NUM_THREADS=1 $(BIN)/python -m pytest -n 2 --dist loadscope -q -m "not slow"

fuzz: $(STAMP)  ## Draw 2,000 random networks of all operations, and as many of the patterns
	@FUZZ_GRAPHS=2000 OMP_NUM_THREADS=1 $(BIN)/python -m pytest -n 2 --hypothesis-seed=$${SEED:-0} \
		tests/graph/test_random_operations.py tests/rewrite/test_random_graphs.py

fuzz-compiler: $(STAMP)  ## Compare check and explain with the compiler on 1,000 random files, some minutes
	@FUZZ_FILES=$${FUZZ_FILES:-1000} OMP_NUM_THREADS=1 $(BIN)/python -m pytest --hypothesis-seed=$${SEED:-0} \
		tests/tensorrt/rules/test_fuzz_compiler.py

check: $(STAMP)  ## Check format, lint and types
	@$(BIN)/ruff format --check .
	@$(BIN)/ruff check .
	@$(BIN)/mypy

format: $(STAMP)  ## Format the code and fix what can be fixed
	@$(BIN)/ruff format .
	@$(BIN)/ruff check --fix .

demo: $(STAMP)  ## Train, deploy to INT8 and check four models, one of them a detector
	@$(BIN)/python -m examples.demo

bench: $(STAMP)  ## Measure the speed and memory of every stage, against bars
	@missed=; for name in $(BENCHMARKS); do echo "== $$name"; \
		$(BIN)/python benchmarks/$$name.py || missed="$$missed $$name"; done; \
		test -z "$$missed" || { echo "bars not met:$$missed"; exit 1; }

gpu: $(STAMP)  ## Check and measure everything on one GPU, eight minutes; says so where there is none
	@$(BIN)/python benchmarks/gpu.py

compat: $(STAMP)  ## Run tests of torch.compile and capture on the oldest torch, 2.11 and the newest, where CPU builds are offered
	@OMP_NUM_THREADS=1 $(BIN)/python benchmarks/compat.py

bench-quality: $(STAMP) $(PEERS)  ## Compare the accuracy with other tools, hours; writes docs/quality.md, goes on
	@OMP_NUM_THREADS=1 $(BIN)/python -m benchmarks.quality

# The CPU build of torch first, where the index has one: the tools would take the one for CUDA.
$(PEERS): benchmarks/quality/peers.txt
	@echo "Setting up .venv-peers with the other tools"
	@test -x .venv-peers/bin/pip || $(PYTHON) -m venv .venv-peers
	@.venv-peers/bin/python -m pip --disable-pip-version-check --quiet install 'torch==2.13.0'
	@.venv-peers/bin/python -m pip --disable-pip-version-check --quiet install --requirement $<
	@touch $@

exports: $(STAMP)  ## Export 25 models in two precisions, and write docs/exports.md; goes on where it stopped
	@OMP_NUM_THREADS=1 $(BIN)/python -m benchmarks.exports

compiled: $(STAMP) $(ZOO)  ## Compile a file for each rule and models in three kinds of numbers; goes on where it stopped
	@OMP_NUM_THREADS=1 $(BIN)/python -m benchmarks.compiled_rules
	@PYTHONPATH=.zoo/packages OMP_NUM_THREADS=1 $(BIN)/python -m benchmarks.compiled

bench-compiled: $(STAMP) $(PEERS) $(ZOO)  ## Compile INT8 files of this library and of other tools, an hour; goes on where it stopped
	@PYTHONPATH=.zoo/packages OMP_NUM_THREADS=1 $(BIN)/python -m benchmarks.compiled_peers

bench-placement: $(STAMP) $(PEERS)  ## Tune ten models beside other tools, an hour or two, and write docs/placement.md; goes on where it stopped
	@OMP_NUM_THREADS=1 $(BIN)/python -m benchmarks.placement

zoo: $(STAMP) $(ZOO)  ## Run every model of the zoo, an hour or two, and write docs/zoo.md; goes on where it stopped
	@PYTHONPATH=.zoo/packages OMP_NUM_THREADS=1 $(BIN)/python -m benchmarks.zoo

$(ZOO): benchmarks/zoo/packages.txt
	@$(PIP) install --no-deps --upgrade --target .zoo/packages --requirement $<
	@touch $@

docs: $(STAMP)  ## Write the generated pages of docs/ anew
	@$(BIN)/python docs/generate.py

# Every page, link and anchor, and every public name in the reference.
site: $(STAMP)  ## Build the site of docs/ into site/
	@NO_MKDOCS_2_WARNING=1 $(BIN)/python -m mkdocs build --strict --quiet

package: $(STAMP)  ## Build wheel and sdist, and try them with each extra in a clean environment
	@$(BIN)/python .ci/package.py

clean:  ## Remove .venv and all caches
	@rm -rf .venv .venv-peers .venv-compat site .mypy_cache .ruff_cache .pytest_cache .hypothesis
