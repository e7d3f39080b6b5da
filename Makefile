# `make demo` and `make test` need Python 3.10 or newer and make, nothing else: they set up .venv themselves.
PYTHON ?= python3
VENV := .venv
BIN := $(VENV)/bin
DEMO := outputs/shapes_demo
DEMO_DATA := outputs/shapes_data

.PHONY: demo test test-oldest bench-quick lint docs clean

# uv installs in a fraction of pip's time; where it cannot (it does not read pip's settings), pip does.
$(VENV)/installed: setup.py
	@echo "Setting up $(VENV): this downloads a few GB of packages."
	$(PYTHON) -m venv $(VENV)
	$(BIN)/python -m pip install --quiet --disable-pip-version-check uv
	$(BIN)/uv pip install --quiet --python $(BIN)/python --editable .[dev] \
		|| $(BIN)/python -m pip install --disable-pip-version-check --editable .[dev]
	touch $@

demo: $(VENV)/installed
	$(BIN)/python -m training_eomt.shapes $(DEMO_DATA) --image-size 192 --num-train 1200 --num-validation 100 --num-test 8
	$(BIN)/python run_segmentation.py --recipe recipes/shapes_demo.yaml --overwrite_output_dir \
		--train_data $(DEMO_DATA)/train --validation_data $(DEMO_DATA)/validation --predict_data $(DEMO_DATA)/test \
		--output_dir $(DEMO) --do_train --do_eval --do_predict

# With what is optional for users, except what needs a GPU. A process per core, with one thread each.
PYTEST := -m pytest --numprocesses auto --dist worksteal
OPTIONAL := .[app,docs,quantization,onnx,openvino,executorch,coreml,serving]

test: export OMP_NUM_THREADS := 1
test: $(VENV)/installed
	$(BIN)/uv pip install --quiet --python $(BIN)/python --editable "$(OPTIONAL)" \
		|| $(BIN)/python -m pip install --quiet --disable-pip-version-check --editable "$(OPTIONAL)"
	$(BIN)/python $(PYTEST)

# The lower bounds of setup.py, all of them at once.
test-oldest: export OMP_NUM_THREADS := 1
test-oldest:
	$(PYTHON) -m venv --clear .venv-oldest
	.venv-oldest/bin/python -m pip install --quiet --disable-pip-version-check uv
	.venv-oldest/bin/uv pip install --quiet --python .venv-oldest/bin/python --resolution lowest-direct --editable .[test]
	.venv-oldest/bin/python $(PYTEST)

# Ratios to Transformers' own class beside the committed ones, in two minutes.
bench-quick: $(VENV)/installed
	$(BIN)/python benchmarks/quick.py

lint: $(VENV)/installed
	$(BIN)/ruff check .
	$(BIN)/ruff format --check .
	$(BIN)/mypy

# The site, into site/: every link is checked, and every name in the reference. `mkdocs serve` shows it as you write.
docs: export NO_MKDOCS_2_WARNING := 1
docs: $(VENV)/installed
	$(BIN)/uv pip install --quiet --python $(BIN)/python --editable ".[docs]" \
		|| $(BIN)/python -m pip install --quiet --disable-pip-version-check --editable ".[docs]"
	$(BIN)/mkdocs build --strict

clean:
	rm -rf $(VENV) .venv-oldest outputs site
