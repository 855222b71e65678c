# Every target sets up what it needs: a virtual environment in .venv with the versions of constraints.txt.
PYTHON ?= python3
VENV := .venv
BIN := $(VENV)/bin
EXTRA ?= cpu
VERSION := $(shell sed -n 's/^version = "\(.*\)"/\1/p' pyproject.toml)

.DEFAULT_GOAL := help
.PHONY: help serve test test-slow mutants lint format train bench image chart

help: ## list the targets
	@grep -E '^[a-z-]+:.*##' Makefile | sed -E 's/:.*## /\t/'

# One stamp file an environment: serving needs no torch, everything else does.
$(VENV)/.serve: pyproject.toml constraints.txt
	test -x $(BIN)/python || $(PYTHON) -m venv $(VENV)
	$(BIN)/pip install --quiet --disable-pip-version-check --constraint constraints.txt --editable '.[cpu]'
	touch $@

$(VENV)/.dev: pyproject.toml constraints.txt
	test -x $(BIN)/python || $(PYTHON) -m venv $(VENV)
	$(BIN)/pip install --quiet --disable-pip-version-check --constraint constraints.txt --editable '.[cpu,train,dev]'
	touch $@ $(VENV)/.serve

serve: $(VENV)/.serve ## serve the shipped models on http://127.0.0.1:8080
	$(BIN)/kotae serve

test: $(VENV)/.dev ## run all tests but the slow ones
	$(BIN)/pytest -n auto --dist loadfile -m 'not slow and not serial' --cov --cov-report= --cov-fail-under=0
	$(BIN)/pytest -m 'serial and not slow' --cov --cov-append --cov-report=term:skip-covered

test-slow: $(VENV)/.dev ## soak, fuzz and chaos
	$(BIN)/pytest -m slow

mutants: $(VENV)/.dev ## change the code and see whether a test fails; MODULE=path for one module, SAMPLE=count
	$(BIN)/python -m tests.mutants $(MODULE) $(if $(SAMPLE),--sample $(SAMPLE))

lint: $(VENV)/.dev ## check style and types
	$(BIN)/ruff check .
	$(BIN)/ruff format --check .
	$(BIN)/mypy

format: $(VENV)/.dev ## fix style
	$(BIN)/ruff check --fix .
	$(BIN)/ruff format .

train: $(VENV)/.dev ## train, evaluate and export the shipped models again
	$(BIN)/kotae-train build digits
	$(BIN)/kotae-train data package-descriptions build/debian
	$(BIN)/kotae-train build languages
	$(BIN)/kotae-train build descriptions
	$(BIN)/kotae-train data wallpapers runs/wallpapers
	$(BIN)/kotae-train build digit-scenes
	$(BIN)/kotae-train build spoken-commands
	$(BIN)/kotae-train build keywords

image: ## build the container image; EXTRA=gpu or tensorrt for NVIDIA
	docker build --build-arg EXTRA=$(EXTRA) --build-arg VERSION=$(VERSION) \
	  --build-arg REVISION=$$(git rev-parse HEAD) -t kotae:$(VERSION)$(if $(filter-out cpu,$(EXTRA)),-$(EXTRA)) .

chart: $(VENV)/.dev ## render and check the chart, its rules and dashboards
	$(BIN)/pytest -m 'not slow' tests/deploy

bench: $(VENV)/.dev ## measure the service on this machine
	$(BIN)/python -m benchmarks
