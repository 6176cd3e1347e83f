# Two commands set everything up on a fresh machine: `make figures` and `make test`.
PYTHON ?= python3
SCALE  ?= quick
JOBS   ?= 2
BIN    := .venv/bin

.PHONY: venv data figures reference test test-fast torture lab lint bench clean

venv: .venv/installed

.venv/installed: pyproject.toml
	$(PYTHON) -m venv .venv
	$(BIN)/python -m pip install --quiet --upgrade pip
	$(BIN)/python -m pip install --quiet --no-compile -e '.[dev]'
# on all cores, where pip takes one; a few templates are no Python
	$(BIN)/python -m compileall -qq -j $(JOBS) .venv/lib || true
	touch $@

figures: venv
	$(BIN)/python -m sfolib figures --scale $(SCALE) --jobs $(JOBS)

# real Fashion-MNIST: Debian's package, or torchvision's download
data: venv
	apt-get install -y dataset-fashion-mnist || $(BIN)/python -c \
	  "from torchvision.datasets import FashionMNIST as D; D('data', download=True)"

reference: venv
	$(BIN)/python -m sfolib reference

# a thread a worker: threads of several wait for each other's cores (595 s in place of 397 on two)
ONE := OMP_NUM_THREADS=1

test: venv
	$(BIN)/ruff check .
	$(BIN)/ruff format --check .
	$(ONE) $(BIN)/python -m pytest -n $(JOBS) --dist loadfile --no-loadscope-reorder --durations 20

# between two edits: what most changes break, in under a minute; `make test` before a commit
FAST := schedules problems/test_specs.py problems/test_datasets.py training/test_records.py training/test_run.py \
  analysis/test_claims.py theory/test_bounds.py theory/test_local.py _utils/test_errors.py

test-fast: venv
	$(BIN)/ruff check .
	$(ONE) $(BIN)/python -m pytest -q -n $(JOBS) --ignore tests/schedules/test_clients.py \
	  $(wildcard $(addprefix tests/,$(FAST)))

torture: venv
	$(BIN)/python tests/torture.py kill 200
	$(BIN)/python tests/torture.py input 20000

lab: venv
# notebooks are committed without outputs, whatever was run in them
	git config filter.nbstripout.clean '$(BIN)/nbstripout --keep-id' || true
	$(BIN)/jupyter lab --notebook-dir notebooks

lint: venv
	$(BIN)/ruff check --fix .

bench: venv
	$(BIN)/python -m benchmarks

clean:
	rm -rf figures/runs figures/executed .pytest_cache .ruff_cache
