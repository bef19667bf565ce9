PYTHON ?= python3
VENV := .venv
BIN := $(VENV)/bin
PINS := .ci/constraints.txt
TEST_EXTRAS := dev,models
PIP_INSTALL := $(BIN)/python -m pip install --disable-pip-version-check -c $(PINS)

.DELETE_ON_ERROR:
.PHONY: lab test docs dist lowest lint clean

lab: $(VENV)/.lab
	$(BIN)/mixlab lab

test: $(VENV)/.dev chromium lint
	$(BIN)/python -m pytest -n 2 --dist worksteal
	.ci/other-cpus $(BIN)/python

docs: $(VENV)/.dev
	$(BIN)/python -m tests.docs build/docs

dist: $(VENV)/.created
	.ci/dist $(BIN)/python

# In an environment of its own, with the lowest versions that pyproject.toml allows. They warn of what their own
# dependencies have deprecated since.
lowest:
	$(MAKE) VENV=build/lowest PINS=.ci/lowest.txt TEST_EXTRAS=dev test-lowest

.PHONY: test-lowest
test-lowest: $(VENV)/.dev
	$(BIN)/python -m pytest -n 2 --dist worksteal -m "not browser and not models" -W ignore::DeprecationWarning

lint: $(VENV)/.dev
	$(BIN)/ruff check .
	$(BIN)/ruff format --check .
	$(BIN)/mypy

clean:
	rm -rf $(VENV) .mypy_cache .pytest_cache .ruff_cache .hypothesis build dist
	find . -name __pycache__ -type d -prune -exec rm -rf {} +

$(VENV)/.created:
	@command -v $(PYTHON) >/dev/null || { echo "mixlab needs Python 3.11 or newer, and '$(PYTHON)' is not on PATH; install it, or run: make PYTHON=/path/to/python3" >&2; exit 1; }
	@$(PYTHON) -c 'import sys; v = sys.version.split()[0]; sys.exit(0 if sys.version_info >= (3, 11) else f"mixlab needs Python 3.11 or newer, and $(PYTHON) is {v}; run: make PYTHON=/path/to/a/newer/python3")'
	$(PYTHON) -m venv $(VENV)
	touch $@

# torch goes first and alone: its pin decides which build is taken before anything else can ask for another.
$(VENV)/.torch: $(VENV)/.created $(PINS)
	$(PIP_INSTALL) torch
	touch $@

$(VENV)/.lab: $(VENV)/.torch pyproject.toml
	$(PIP_INSTALL) -e '.[lab]'
	touch $@

$(VENV)/.dev: $(VENV)/.torch pyproject.toml
	$(PIP_INSTALL) -e '.[$(TEST_EXTRAS)]'
	touch $@ $(VENV)/.lab

# The browser tests drive Debian's chromium, or a Chrome that is there already.
.PHONY: chromium
chromium:
	@command -v chromium || command -v chromium-browser || command -v google-chrome || .ci/install-chromium
