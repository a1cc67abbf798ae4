# `make help` lists what there is. Every target sets up .venv first if it is missing or older than what it is made from.

PYTHON ?= python3
VENV := .venv
BIN := $(VENV)/bin
STAMP := $(VENV)/.complete
PATTERN = '$(subst ','\'',$(1))'
option = $(if $($(1)),--$(2) $(call PATTERN,$($(1))))
OPTIONS = $(call option,OUT,out) $(call option,EMBEDDER,embedder) $(call option,CONFIG,config) \
	$(call option,SCHEDULER,scheduler) $(call option,WORKERS,workers) $(call option,MIN_COSINE,min-cosine) \
	$(call option,STRICTNESS,strictness) $(ARGS)

.DEFAULT_GOAL := help
.PHONY: help setup dedup attack download clean-shards calibrate test lint format type bench lock clean

help: ## this list
	@awk -F ':.*## ' '/^[a-z-]+:.*## / {printf "  make %-12s %s\n", $$1, $$2}' $(MAKEFILE_LIST)
	@echo
	@echo "  make dedup takes SHARDS='shards/{00000..00009}.tar' OUT=runs/mine EMBEDDER= CONFIG=file.toml"
	@echo "  SCHEDULER=tcp://... WORKERS= MIN_COSINE= STRICTNESS= and ARGS='...' for any other option of \`dedup run\`;"
	@echo "  make calibrate takes the same, and TARGET_PRECISION=0.999"

setup: $(STAMP) ## the environment in .venv, with all that any target needs

$(STAMP): pyproject.toml constraints.txt
	@$(PYTHON) -c 'import sys; sys.exit(not (3, 10) <= sys.version_info[:2] <= (3, 13))' \
		|| { echo "Python 3.10 to 3.13 is needed, $(PYTHON) is $$($(PYTHON) --version); name one: make PYTHON=python3.12"; exit 1; }
	$(PYTHON) -m venv --clear $(VENV)
	$(BIN)/python -m pip install --quiet --disable-pip-version-check --constraint constraints.txt --editable '.[all]'
	@touch $(STAMP)

dedup: $(STAMP) ## clean SHARDS into OUT; without SHARDS a small real sample
ifeq ($(strip $(SHARDS)),)
	$(BIN)/dedup sample $(call option,OUT,out) $(call option,SCHEDULER,scheduler) $(call option,WORKERS,workers)
else
	$(BIN)/dedup run $(foreach pattern,$(SHARDS),$(call PATTERN,$(pattern))) $(OPTIONS)
endif

download: $(STAMP) ## download the list URLS into shards in OUT, by img2dataset; its options in ARGS='-- --timeout=5'
	$(BIN)/dedup download $(call PATTERN,$(URLS)) $(call option,OUT,out) $(ARGS)

clean-shards: $(STAMP) ## write shards of the run RUN without its removed samples into OUT
	$(BIN)/dedup clean $(call PATTERN,$(RUN)) $(call option,OUT,out) $(call option,SCHEDULER,scheduler) $(call option,WORKERS,workers) $(ARGS)

calibrate: $(STAMP) ## precision and recall on SHARDS with planted copies, reported in OUT; removes nothing
	$(BIN)/dedup calibrate $(foreach pattern,$(SHARDS),$(call PATTERN,$(pattern))) \
		$(call option,TARGET_PRECISION,target-precision) $(OPTIONS)

attack: $(STAMP) ## train models before and after cleaning and attack them, on images of the run RUN or embedded ones
	$(BIN)/dedup attack $(if $(RUN),$(call PATTERN,$(RUN))) $(call option,OUT,out) $(call option,PROFILE,profile) \
		$(call option,SCHEDULER,scheduler) $(call option,WORKERS,workers) $(ARGS)

test: $(STAMP) ## the test suite, notebooks included
	$(BIN)/python -m pytest -n auto
	$(BIN)/python -m pytest --nbmake --override-ini 'filterwarnings=' notebooks

lint: $(STAMP) ## ruff: lint and format
	$(BIN)/ruff check .
	$(BIN)/ruff format --check .

format: $(STAMP) ## let ruff format the code
	$(BIN)/ruff check --fix .
	$(BIN)/ruff format .

type: $(STAMP) ## mypy, strict
	$(BIN)/mypy

bench: $(STAMP) ## the figures in README.md, but for the attack's (make attack): PHOTOS=, CIFAR= and LOOKALIKES= are folders of shards
	$(BIN)/python -m pipelines.benchmark describe '$(PHOTOS)'
	$(BIN)/python -m pipelines.benchmark phash '$(PHOTOS)'
	$(BIN)/python -m pipelines.benchmark cifar '$(CIFAR)'
	$(BIN)/python -m pipelines.benchmark clean '$(PHOTOS)' '$(CIFAR)'
	$(BIN)/python -m pipelines.benchmark filter '$(CIFAR)'
	$(BIN)/python -m pipelines.benchmark search
	$(BIN)/python -m pipelines.benchmark peers '$(PHOTOS)'
	$(BIN)/python -m pipelines.benchmark calibration '$(PHOTOS)'
	$(BIN)/python -m pipelines.benchmark uniform '$(LOOKALIKES)'
	$(BIN)/python -m pipelines.benchmark mixed '$(PHOTOS)' '$(CIFAR)'
	$(BIN)/python -m pipelines.benchmark unseen '$(PHOTOS)'
	$(BIN)/python -m pipelines.benchmark collages '$(PHOTOS)'

lock: $(STAMP) ## choose new versions into constraints.txt
	$(BIN)/uv pip compile --quiet --universal --python-version 3.10 --all-extras --no-header --no-annotate --upgrade \
		pyproject.toml --output-file constraints.txt

clean: ## remove .venv and caches
	rm -rf $(VENV) .mypy_cache .ruff_cache .pytest_cache
