# make demo   certify saved models on handwritten digits        make test   all tests
# make lint   style                                             make fuzz   random networks against oracles
# `make test SEED=random` draws other examples than the last run did.
# Each does its own set-up first, in .venv.

PYTHON ?= python3
OUT ?= demo
SIZE ?= 20000
SEED ?= 0
JOBS ?= 2
BIN := .venv/bin

.PHONY: setup demo test lint fuzz clean

setup: .venv/ready

.venv/ready: pyproject.toml setup.py constraints.txt $(wildcard certify/native/*.cpp certify/native/*.h certify/native/*.inl)
	$(PYTHON) -m venv .venv
	$(BIN)/pip install --quiet --disable-pip-version-check -c constraints.txt torch==2.13.0
	$(BIN)/pip install --quiet --disable-pip-version-check -c constraints.txt -e '.[dev]'
	touch $@

demo: setup
	$(BIN)/certify demo --out $(OUT)

test: setup
	$(BIN)/python -m pytest -n 2 --hypothesis-seed=$(SEED)

lint: setup
	$(BIN)/ruff check .
	$(BIN)/ruff format --check .

fuzz: setup
	$(BIN)/python -m tests.fuzz --size $(SIZE) --seed $(SEED) --jobs $(JOBS)

clean:
	rm -rf .venv build dist *.egg-info .pytest_cache .ruff_cache .hypothesis demo
