# Each target first sets up what it needs in .venv, once, and again when the requirements change.
# Needs: Linux, Python 3.10 to 3.13 (another one than python3: make PYTHON=python3.12 …), make.

PYTHON ?= python3
VENV := .venv
PEERS := .venv-peers
RUN := $(VENV)/bin/python
PIP := $(RUN) -m pip --disable-pip-version-check install --quiet
# Two processes; the one that is done first takes tests over from the other.
PYTEST := $(RUN) -m pytest -n 2 --dist worksteal

export TF_CPP_MIN_LOG_LEVEL ?= 3

.PHONY: help demo test test-slow test-series test-all lint bench export-all tables clean

help:
	@echo "make demo      train on scanned digits, export to every format, prove and compare the artifacts"
	@echo "               (another network: make demo ARCH=resnest29_cifar)"
	@echo "make test      the checks of every network and program (about 20 minutes)"
	@echo "make test-all  the same and the long ones: large networks in double precision, runs killed at twenty moments"
	@echo "make lint      style and types"
	@echo "make bench     speed and memory beside stock Keras, timm, ONNX Runtime and OpenVINO (two hours or more; 2 GB)"
	@echo "make export-all  every network in every format, and the table of what their proofs measured (a night)"
	@echo "make tables    bring what is generated from the registry up to date, after adding a network"
	@echo "make clean     remove what these targets made"

demo: $(VENV)/demo.done
	$(RUN) -m training.demo $(if $(ARCH),--arch $(ARCH))

test: $(VENV)/dev.done
	$(PYTEST) -m "not slow and not series"

test-slow: $(VENV)/dev.done
	$(PYTEST) -m slow

test-series: $(VENV)/dev.done
	$(PYTEST) -m series

test-all: test test-slow test-series

lint: $(VENV)/dev.done
	$(RUN) -m ruff check .
	$(RUN) -m ruff format --check .
	$(RUN) -m mypy

# Interrupted, it goes on where it was with HOURS=24: what was measured within so many hours is left alone.
bench: $(VENV)/dev.done $(PEERS)/done
	$(RUN) -m benchmarks.run all $(if $(HOURS),--newer $(HOURS))
	$(RUN) -m docs.tables

# Interrupted, it goes on where it was; with FRESH=1 it starts over.
export-all: $(VENV)/dev.done
	$(RUN) -m benchmarks.exports $(if $(FRESH),--fresh)

tables: $(VENV)/dev.done
	$(RUN) -m docs.tables

clean:
	rm -rf $(VENV) $(PEERS) build dist runs *.egg-info .pytest_cache .ruff_cache .mypy_cache
	find . -name __pycache__ -type d -prune -exec rm -rf {} +

$(VENV)/made:
	@$(PYTHON) -c 'import sys; sys.exit(None if sys.version_info >= (3, 10) else "$(PYTHON) is Python %d.%d; 3.10 or later is needed: make PYTHON=…" % sys.version_info[:2])'
	$(PYTHON) -m venv --clear $(VENV)
	touch $@

$(VENV)/demo.done: $(VENV)/made pyproject.toml setup.py
	@echo "Installing TensorFlow and the exporters into $(VENV): some minutes, 2 to 3 GB."
	$(PIP) --editable '.[train,export,images]'
	touch $@

# PyTorch is for comparisons only and has no extra: its usual wheel brings gigabytes of CUDA. The CPU build is taken where
# the machine's package index offers it; without it the tests and benchmarks that need it say that they are skipped.
$(VENV)/dev.done: $(VENV)/demo.done
	$(PIP) --editable '.[dev]'
	$(PIP) --editable '.[keras-hub]' 2>/dev/null || echo "KerasHub cannot be installed here: its tests are skipped."
	$(PIP) --editable '.[serving]' 2>/dev/null || echo "KServe cannot be installed here: its tests are skipped."
	$(PIP) 'torch==2.13.0+cpu' 2>/dev/null || echo "No CPU build of PyTorch here: what compares with it is skipped."
	touch $@

# PyTorch, timm, ONNX Runtime and OpenVINO, in an environment of their own, pinned.
$(PEERS)/done: $(VENV)/dev.done benchmarks/peers.txt
	$(RUN) -m benchmarks.peers
