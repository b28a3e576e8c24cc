# `make demo` and `make test` do the whole set-up in .venv first.
#   EXTRA=gpu   installs TensorFlow with CUDA in place of the CPU build
PYTHON ?= python3
EXTRA ?= cpu
VENV := .venv
BIN := $(VENV)/bin
export TF_CPP_MIN_LOG_LEVEL ?= 2

PYTEST := $(BIN)/python -m pytest -n 2 --dist loadfile
# What depends on how a processor rounds is run as on three of them, the last in part.
NUMERIC := tests/ops tests/layers tests/attractors \
  $(addprefix tests/models/test_,$(addsuffix .py,architectures forms input_gradients logits outputs))

.PHONY: help demo test test-all lint docs docs-test format benchmarks saved-models clean

help:
	@echo "make demo        train, trap, attack and defend a classifier; write a report"
	@echo "make test        run the tests but for long proofs"
	@echo "make test-all    run all tests, with coverage, as on several processors"
	@echo "make lint        run ruff and mypy"
	@echo "make docs        build the documentation into site/, all links checked"
	@echo "make docs-test   run what the documentation shows"
	@echo "make benchmarks  measure speed and memory"
	@echo "make saved-models  train and export the shipped models; DATA_DIR=, VERSION="

demo: $(VENV)/.package
	$(BIN)/python recipes/quickstart.py

test: $(VENV)/.dev
	$(PYTEST) -m "not slow" $(COVERAGE)

test-all: $(VENV)/.dev
	$(MAKE) test COVERAGE="--cov=keras_traps --cov-report="
	$(PYTEST) -m slow --cov=keras_traps --cov-append --cov-report=term:skip-covered \
	  --cov-fail-under=90
	ONEDNN_MAX_CPU_ISA=AVX2 $(PYTEST) -m "not slow" $(NUMERIC)
	TF_ENABLE_ONEDNN_OPTS=0 $(PYTEST) -m "not slow" tests/ops tests/layers

lint: $(VENV)/.dev
	$(BIN)/ruff check .
	$(BIN)/ruff format --check .
	$(BIN)/mypy keras_traps recipes tests benchmarks docs

# Not --quiet: what is not said is not counted, and strict would let broken links pass.
docs: $(VENV)/.dev
	NO_MKDOCS_2_WARNING=1 $(BIN)/mkdocs build --clean

docs-test: $(VENV)/.dev
	$(PYTEST) $(addprefix tests/test_,$(addsuffix .py, \
	  docs documented_commands documented_examples guides quickstart readme site))

format: $(VENV)/.dev
	$(BIN)/ruff check --fix .
	$(BIN)/ruff format .

benchmarks: $(VENV)/.dev
	$(BIN)/python -m benchmarks.qim
	$(BIN)/python -m benchmarks.overhead
	$(BIN)/python -m benchmarks.luring --steps=100
	$(BIN)/python -m benchmarks.serving
	$(BIN)/python -m benchmarks.serving_load \
	  --model_base_path=saved_models/digits_attractors

# The key of the shipped models is no secret: they are there to try serving with.
SHIPPED := --public_key=0 --made_by="make saved-models"
saved-models: $(VENV)/.package
	$(BIN)/python recipes/train.py --dataset=digits --overwrite \
	  --output=runs/saved_models/digits.keras
	$(BIN)/python recipes/export.py --dataset=digits $(SHIPPED) $(VERSION:%=--version=%) \
	  --model=runs/saved_models/digits.keras \
	  --directory=saved_models/digits_attractors
	rm -rf runs/saved_models/copies
	$(BIN)/python recipes/copies.py make --dataset=digits --public_key=0 \
	  --model=runs/saved_models/digits.keras --name=alice,bob --save \
	  --workdir=runs/saved_models/copies
	cp runs/saved_models/copies/registry.json saved_models/digits_copies/
	for name in alice bob; do \
	  cp runs/saved_models/copies/$$name-*.keras saved_models/digits_copies/$$name.keras; \
	done
	$(BIN)/python recipes/train.py --dataset=mnist --overwrite --epochs=4 \
	  $(DATA_DIR:%=--data_dir=%) --output=runs/saved_models/mnist.keras
	$(BIN)/python recipes/export.py --dataset=mnist $(SHIPPED) $(VERSION:%=--version=%) \
	  $(DATA_DIR:%=--data_dir=%) --model=runs/saved_models/mnist.keras \
	  --directory=saved_models/mnist_attractors

$(VENV)/.package: pyproject.toml setup.py
	$(PYTHON) -m venv $(VENV)
	$(BIN)/pip install --quiet --editable ".[$(EXTRA)]"
	touch $@

$(VENV)/.dev: $(VENV)/.package
	$(BIN)/pip install --quiet --editable ".[$(EXTRA),serving,dev]"
	$(BIN)/pip install --quiet --no-deps "tensorflow-serving-api>=2.21,<2.22"
	touch $@

clean:
	rm -rf $(VENV) build dist runs site *.egg-info .mypy_cache .pytest_cache .ruff_cache
