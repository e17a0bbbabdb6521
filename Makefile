# Everything a newcomer needs: `make demo` runs the main job, `make test` the tests; both set up .venv first.
PYTHON ?= python3
VENV := .venv
BIN := $(VENV)/bin
STAMP := $(VENV)/.installed

.PHONY: help setup check format test slow features-test numerics bench films docs audit-packages demo clean
.DEFAULT_GOAL := help

help:  ## list the targets
	@grep -hE '^[a-z-]+:.*##' $(MAKEFILE_LIST) | awk -F ':.*## ' '{printf "make %-14s %s\n", $$1, $$2}'

# torch comes first and pinned: asked for by another package alone, pip may take gigabytes of CUDA.
$(STAMP): pyproject.toml constraints.txt
	test -x $(BIN)/python || $(PYTHON) -m venv $(VENV)
	$(BIN)/python -m pip install --quiet --disable-pip-version-check -c constraints.txt torch
	$(BIN)/python -m pip install --quiet --disable-pip-version-check -c constraints.txt -e '.[dev]'
	touch $(STAMP)

setup: $(STAMP)  ## build .venv with every pinned package

check: $(STAMP)  ## format, lint, types and floors
	$(BIN)/ruff format --check .
	$(BIN)/ruff check .
	$(BIN)/mypy
	$(BIN)/lint-imports

format: $(STAMP)  ## write the format that `check` wants
	$(BIN)/ruff format .
	$(BIN)/ruff check --fix .

# A process per core, one thread each; a file's tests stay together, since they share what they build.
test: export OMP_NUM_THREADS = 1
test: $(STAMP)  ## the tests, and which of them took longest
	$(BIN)/pytest --numprocesses auto --dist loadfile --durations=25

slow: $(STAMP)  ## the proofs that take minutes: kill tests, long chains
	$(BIN)/pytest -m slow

# Beside the other packages and not among them: MONAI imports transformers wherever it finds it.
FEATURES := $(VENV)/features

features-test: $(STAMP)  ## the tests of dinov2, rad-dino and clip, which `test` skips: they need transformers
	test -d $(FEATURES) || $(BIN)/python -m pip install --quiet --disable-pip-version-check -c constraints.txt --no-deps --target $(FEATURES) transformers tokenizers regex
	PYTHONPATH=$(FEATURES) $(BIN)/pytest tests/metrics/test_vision_transformers.py

numerics: export XRAYGEN_MEASURED = $(VENV)/measured.txt
numerics: $(STAMP)  ## measure how far xraygen is from every reference, into docs/concepts/numerics.md
	rm -f $(XRAYGEN_MEASURED)
	$(BIN)/pytest --quiet tests/diffusion tests/parity tests/interop
	$(BIN)/python docs/measure_numerics.py $(XRAYGEN_MEASURED)

bench: $(STAMP)  ## time every part against other libraries, then ingest and distances at larger sizes
	$(BIN)/xraygen benchmark speed
	$(BIN)/python docs/bench_ingest.py
	$(BIN)/python docs/bench_audit.py

FILMS := $(or $(XRAYGEN_FILMS),../shared/data)

films: $(STAMP)  ## measure the figures about real films, in an hour; the tables go to stdout
	$(BIN)/python docs/measure_near_duplicates.py $(FILMS)
	$(BIN)/python docs/measure_text.py $(FILMS)
	$(BIN)/python docs/measure_polarity.py $(FILMS)
	$(BIN)/python docs/measure_resizing.py $(FILMS)
	$(BIN)/python docs/measure_collections.py $(FILMS) --out .films

docs: export NO_MKDOCS_2_WARNING = 1
docs: $(STAMP)  ## build the documentation site into site/, strictly; open site/index.html
	$(BIN)/mkdocs build --strict

PIP_AUDIT := $(VENV)/pip-audit

audit-packages: $(STAMP)  ## ask PyPI for known vulnerabilities of the required packages; needs the network
	test -x $(PIP_AUDIT)/bin/pip-audit || ($(PYTHON) -m venv $(PIP_AUDIT) && $(PIP_AUDIT)/bin/python -m pip install --quiet pip-audit==2.10.1)
	$(BIN)/python docs/list_packages.py --form pins > $(PIP_AUDIT)/required.txt
	$(PIP_AUDIT)/bin/pip-audit --strict --requirement $(PIP_AUDIT)/required.txt --no-deps --disable-pip

DEMO := demo
SEEDS := 0-255

demo: export XRAYGEN_CACHE = $(DEMO)/cache
demo: $(STAMP)  ## phantom -> ingest -> train -> generate -> interpolate -> audit, in 10 to 20 minutes on two cores
	$(BIN)/xraygen phantom $(DEMO)/films --count 1200 --size 128
	$(BIN)/xraygen ingest $(DEMO)/films --out $(DEMO)/dataset --size 32 --labels $(DEMO)/films/labels.csv --split 0.65,0.05,0.3
	$(BIN)/xraygen train --config phantom-32 --data $(DEMO)/dataset --out $(DEMO)/run
	$(BIN)/xraygen train --config phantom-32 --data $(DEMO)/dataset --out $(DEMO)/untrained-run --set train.max_steps=0
	$(BIN)/xraygen generate $(DEMO)/run --out $(DEMO)/synthetic --seeds $(SEEDS) --steps 25
	$(BIN)/xraygen generate $(DEMO)/untrained-run --out $(DEMO)/untrained --seeds $(SEEDS) --steps 25
	$(BIN)/xraygen interpolate $(DEMO)/run $(DEMO)/films/patient-0001/image-0.dcm $(DEMO)/films/patient-0002/image-0.dcm --out $(DEMO)/path --sampler ddim
	$(BIN)/xraygen audit --real $(DEMO)/dataset --synthetic $(DEMO)/synthetic --beside $(DEMO)/untrained --out $(DEMO)/report

clean:  ## remove what the targets made
	rm -rf $(VENV) .films demo site build dist *.egg-info
