# Everything a person or CI does here, by name. `make setup` runs by itself where it is needed.
PYTHON ?= python3
BIN = .venv/bin
READY = .venv/.ready

.PHONY: setup demo test check format bench soak reproduce docs clean

setup: $(READY)

$(READY): pyproject.toml constraints.txt
	$(PYTHON) -c 'import sys; sys.exit(sys.version_info < (3, 11) and "perdure needs Python 3.11 or newer: make setup PYTHON=python3.12")'
	$(PYTHON) -m venv .venv
	$(BIN)/python -m pip install --quiet --constraint constraints.txt torch
	$(BIN)/python -m pip install --quiet --constraint constraints.txt --editable '.[dev]'
	touch $(READY)

demo: $(READY)
	$(BIN)/python examples/demo.py

test: $(READY)
	$(BIN)/python -m pytest

check: $(READY)
	$(BIN)/ruff format --check .
	$(BIN)/ruff check .
	$(BIN)/mypy
	$(BIN)/python -m pytest tests/laws -k "finetune or packnet"

format: $(READY)
	$(BIN)/ruff format .
	$(BIN)/ruff check --fix .

bench: $(READY)
	$(BIN)/python -m bench

soak: $(READY)
	$(BIN)/python tests/learner/harness.py --kills 200 --out bench/history/soak.json

reproduce: $(READY)
	$(BIN)/perdure reproduce $(NAME) --run

docs: $(READY)
	$(BIN)/perdure reproduce --page docs/reproduction.md
	$(BIN)/perdure figure --page docs/figures.md

clean:
	rm -rf .venv runs .mypy_cache .ruff_cache .pytest_cache
