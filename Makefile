# People, pre-commit and CI all come through these targets. `make` alone lists them.
# Another Python: make demo PYTHON=python3.12 · pip's own options: PIP_ARGS="..." · pytest's: PYTEST_ARGS="-k topk"
# The attacks take ATTACK_SEED, ATTACK_MINUTES and ATTACK_ARGS from the environment (scripts/attack.py).

PYTHON ?= python3
VENV ?= .venv
PIP_ARGS ?=
PYTEST_ARGS ?=

BIN := $(if $(filter Windows_NT,$(OS)),Scripts,bin)
EXE := $(if $(filter Windows_NT,$(OS)),.exe)
PY := $(VENV)/$(BIN)/python$(EXE)
PIP := -m pip --disable-pip-version-check install $(PIP_ARGS)
PYTEST := -m pytest -n auto --maxprocesses 4 --dist loadfile --no-loadscope-reorder
INSTALL := $(PY) $(PIP) -c constraints.txt

# Processes that the tests start, and the next run, find bytecode even where the environment forbids writing it.
test newest lowest attack thorough clients: export PYTHONDONTWRITEBYTECODE :=

.DEFAULT_GOAL := help
.PHONY: help demo test newest lowest attack thorough clients check fix docs tutorials docs-site dist mcpb bench

help:
	@echo "make demo    set up and run the main job on a real model: read features, explain, steer"
	@echo "make test    set up and run the tests"
	@echo "make newest  the tests on the newest versions of everything, in build/newest"
	@echo "make lowest  the tests on the lowest versions that pyproject.toml allows, in build/lowest"
	@echo "make attack  an hour of attacks; continues where it stopped, and writes docs/attack.md"
	@echo "make thorough  every family of models with every kind of SAE, and the like: what the slow tests try apart"
	@echo "make clients fetch the real clients and validators (1.5 GB, needs npm) and run them against the server"
	@echo "make check   linters, formatting, types, import rules, generated files"
	@echo "make fix     let the linter and the formatter fix what they can"
	@echo "make docs    rebuild the generated pages of docs/, and skills/ from SKILL.md and skill/"
	@echo "make tutorials  run the notebooks of docs/tutorials again and store what they print"
	@echo "make docs-site  the manual as pages, in build/site; needs no torch"
	@echo "make dist    the packages for the index, in dist"
	@echo "make mcpb    the bundle for Claude Desktop, in build/saescope.mcpb"
	@echo "make bench   every benchmark that has a target, in a table beside the last (BENCH_ARGS, PEER_PYTHON)"

demo: $(VENV)/.run
	@$(VENV)/$(BIN)/saescope demo

test: $(VENV)/.test
	@$(PY) scripts/prepare_model.py
	@$(PY) $(PYTEST) $(PYTEST_ARGS)

# What pip, pipx and uvx install: the newest versions that pyproject.toml allows, whatever constraints.txt pins.
newest:
	@rm -rf build/newest
	@$(PYTHON) -m venv build/newest
	@build/newest/$(BIN)/python $(PIP) -q --upgrade pip
	@build/newest/$(BIN)/python $(PIP) -q -e ".[all]" --group test
	@build/newest/$(BIN)/python scripts/prepare_model.py
	@build/newest/$(BIN)/python $(PYTEST) $(PYTEST_ARGS)

# Only uv resolves to the lowest versions. UV_TORCH_BACKEND=cpu takes the CPU build of torch. What they say of each other's future is not our fault.
lowest:
	@rm -rf build/lowest
	@$(PYTHON) -m venv build/lowest
	@build/lowest/$(BIN)/python $(PIP) -q --upgrade uv
	@build/lowest/$(BIN)/uv pip install -q --python build/lowest/$(BIN)/python --resolution lowest-direct -e ".[all]" --group test
	@build/lowest/$(BIN)/python scripts/prepare_model.py
	@build/lowest/$(BIN)/python $(PYTEST) -W ignore::DeprecationWarning $(PYTEST_ARGS)

attack: $(VENV)/.test
	@$(PY) scripts/prepare_model.py
	@$(PY) scripts/attack.py

thorough: $(VENV)/.test
	@$(PY) scripts/prepare_model.py
	@$(PY) $(PYTEST) -m thorough $(PYTEST_ARGS)

clients: $(VENV)/.test
	@$(PY) scripts/prepare_model.py
	@sh scripts/get_clients.sh
	@$(PY) -m pytest -m clients -rs $(PYTEST_ARGS)

check: $(VENV)/.dev
	$(PY) -m ruff check
	$(PY) -m ruff format --check
	$(PY) -m pyright --pythonpath $(PY)
	$(VENV)/$(BIN)/lint-imports
	$(PY) scripts/build_reference.py --check
	$(PY) scripts/build_library_page.py --check
	$(PY) scripts/build_settings.py --check
	$(PY) scripts/build_skill.py --check

fix: $(VENV)/.dev
	$(PY) -m ruff check --fix
	$(PY) -m ruff format

docs: $(VENV)/.run
	$(PY) scripts/build_reference.py
	$(PY) scripts/build_library_page.py
	$(PY) scripts/build_settings.py
	$(PY) scripts/build_skill.py

tutorials: $(VENV)/.dev
	@$(PY) scripts/prepare_model.py
	$(PY) scripts/build_tutorials.py

# Griffe reads the sources: neither torch nor saescope itself is installed for it.
docs-site: build/manual/.ready
	build/manual/$(BIN)/python -m mkdocs build --strict --quiet

dist: build/packing/.ready
	build/packing/$(BIN)/python -m build --outdir dist

mcpb:
	$(PYTHON) scripts/build_mcpb.py

bench: $(VENV)/.test
	@$(PY) scripts/prepare_model.py
	$(PY) -m benchmarks $(BENCH_ARGS)

# Each stamp is a set of packages on top of the one before; it is old when the manifest or a pin changes.
$(VENV)/.run: pyproject.toml constraints.txt | $(PY)
	@PY="$(PY)" PIP_ARGS="$(PIP_ARGS)" sh scripts/announce_downloads.sh
	@$(INSTALL) pip
	@$(INSTALL) -e .
	@touch $@

$(VENV)/.test: $(VENV)/.run
	@$(INSTALL) -e ".[all]" --group test
	@touch $@

$(VENV)/.dev: $(VENV)/.test
	@echo "Installing the linters: about 80 MB, once."
	@$(INSTALL) --group dev
	@touch $@

build/manual/.ready: pyproject.toml constraints.txt
	@$(PYTHON) -m venv build/manual
	@build/manual/$(BIN)/python $(PIP) -q -c constraints.txt pip
	@build/manual/$(BIN)/python $(PIP) -q -c constraints.txt --group docs
	@touch $@

build/packing/.ready:
	@$(PYTHON) -m venv build/packing
	@build/packing/$(BIN)/python $(PIP) -q build
	@touch $@

$(PY):
	@command -v $(PYTHON) >/dev/null || { echo "There is no $(PYTHON) here. Install Python 3.11 or newer, or name one: make PYTHON=/path/to/python3.12 ..." >&2; exit 1; }
	@$(PYTHON) -c 'import sys; sys.exit(sys.version_info < (3, 11))' || { echo "saescope needs Python 3.11 or newer; $(PYTHON) is $$($(PYTHON) -V 2>&1). Name a newer one: make PYTHON=python3.12 ..." >&2; exit 1; }
	@$(PYTHON) -m venv $(VENV) || { rm -rf $(VENV); echo "$(PYTHON) cannot make a virtual environment (on Debian and Ubuntu: sudo apt install python3-venv)." >&2; exit 1; }
