# make demo   the main job on an embedded default: export, verify, refine a real frame
# make test   the test suite
# Each makes its own virtual environment in .venv; Python >= 3.10 and make are all it takes.

PYTHON ?= python3
BIN := .venv/bin
READY := .venv/ready
RTX := .venv/tensorrt-rtx
COREML := .venv/coreml

.PHONY: demo test test-slow test-device lint clean

$(READY): pyproject.toml constraints.txt
	@$(PYTHON) -c 'import sys; sys.exit(sys.version_info < (3, 10))' || \
		{ echo "Python >= 3.10 is needed, $(PYTHON) is older: make PYTHON=python3.11 $(MAKECMDGOALS)"; exit 1; }
	$(PYTHON) -m venv .venv
	$(BIN)/python -m pip install --quiet --disable-pip-version-check -c constraints.txt -e '.[export,cpu,dev]'
	@touch $@

# TensorRT for RTX builds engines without a GPU; not every machine can have it, and its tests are skipped without it.
$(RTX): $(READY)
	@$(BIN)/python -m pip install --quiet --disable-pip-version-check -c constraints.txt -e '.[tensorrt-rtx]' \
		&& touch $@ || echo "TensorRT-RTX cannot be installed here; tests that need it are skipped"

# Core ML packages are made and interpreted on any machine that has coremltools.
$(COREML): $(READY)
	@$(BIN)/python -m pip install --quiet --disable-pip-version-check -c constraints.txt -e '.[coreml]' \
		&& touch $@ || echo "coremltools cannot be installed here; tests that need it are skipped"

demo: $(READY)
	$(BIN)/cdm-export demo -o demo_output

# Two at a time: most of the time is processes that start and import. One thread each for PyTorch: threads of two
# processes that wait for each other on two cores cost more than they bring. In the order of names, so that the few
# long files are not all left for the end.
test: $(RTX) $(COREML)
	OMP_NUM_THREADS=1 $(BIN)/python -m pytest -n 2 --dist loadfile --no-loadscope-reorder --durations=30 -m 'not slow and not gpu and not mac'

# Minutes of compute, gigabytes of memory: large models, every camera size, races of INT8.
test-slow: $(RTX) $(COREML)
	$(BIN)/python -m pytest -m slow

# A Jetson's view of us: base dependencies + onnxruntime, on every Python of PYTHONS that is here.
test-device: $(READY)
	parity_tests/device_environment.sh

lint: $(RTX) $(COREML)
	$(BIN)/ruff check .
	$(BIN)/ruff format --check .
	$(BIN)/mypy
	$(BIN)/lint-imports

clean:
	rm -rf .venv demo_output
