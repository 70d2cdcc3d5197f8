# Every target sets itself up in .venv; nothing outside this folder changes. Neither a GPU nor a compiler is needed.
PYTHON ?= $(shell for p in python3.11 python3.12 python3; do \
	$$p -c 'import ensurepip, sys; sys.exit(sys.version_info < (3, 11))' 2>/dev/null && echo $$p && break; done)
BIN := .venv/bin
INSTALL := $(BIN)/python -m pip install --disable-pip-version-check -c constraints.txt
STAMP := .venv/.mmsnn-installed

# each worker runs whole files, so that what a file prepares is prepared once
PYTEST := $(BIN)/python -m pytest --numprocesses auto --dist loadfile

.PHONY: test test-fast demo lint docs

test: $(STAMP)
	$(PYTEST) tests

test-fast: $(STAMP)
	$(PYTEST) tests -m 'not (slow or configs or kernels or processes or scorecard or tools)'

demo: $(STAMP)
	$(BIN)/python demo/digits_demo.py

docs: $(STAMP)
	NO_MKDOCS_2_WARNING=1 $(BIN)/mkdocs build

lint: $(STAMP)
	$(BIN)/ruff check .
	$(BIN)/ruff format --check .
	$(BIN)/mypy

$(BIN)/python:
	@test -n "$(PYTHON)" || { echo 'No Python 3.11 or newer with venv found: make PYTHON=/path/to/python'; exit 1; }
	$(PYTHON) -m venv .venv

# mmsnn itself is compiled last, because that needs torch; without a compiler it goes on in plain PyTorch.
# opencv comes twice, and the variant that draws windows wants system libraries which servers lack.
$(STAMP): $(BIN)/python setup.py pyproject.toml constraints.txt $(wildcard mmsnn/ops/csrc/*)
	@echo 'mmsnn: installing torch, OpenMMLab and their kin into .venv: some gigabytes to download, once'
	$(INSTALL) setuptools -e '.[demo,dev]'
	@echo "mmsnn: compiling the neurons' kernels: a minute or two, and more where nvcc and an NVIDIA driver are, for CUDA's"
	$(INSTALL) --no-build-isolation --no-deps -e .
	$(BIN)/python -c 'import cv2' || $(INSTALL) --force-reinstall --no-deps opencv-python-headless
	touch $@
