# `make serve` needs Python >= 3.11 only; everything is installed into folders of this checkout.
PYTHON ?= python3
# BentoML and Gradio report usage unless told not to, before they start.
export BENTOML_DO_NOT_TRACK = True
export GRADIO_ANALYTICS_ENABLED = False
export NO_MKDOCS_2_WARNING = 1
# Containers often forbid to keep bytecode. Then every process of the tests, and every server, compiles torch or BentoML again.
unexport PYTHONDONTWRITEBYTECODE

.PHONY: help serve browser test lint docs axe format students train-demo bench-serve tables clean

help: ## this list
	@grep -hE '^[a-z-]+:.*##' $(MAKEFILE_LIST) | sed -E 's/:.*##/\t/' | expand -t 14

serve: .venv-serve/installed ## HTTP service and demo on http://localhost:3000 (no torch)
	@if command -v npm >/dev/null; then $(MAKE) --no-print-directory browser || true; fi  # the page at /browser says how
	LEAP_ZOO_SERVE_ZOO=$${LEAP_ZOO_SERVE_ZOO-zoo} .venv-serve/bin/bentoml serve  # /zoo hands on this checkout's zoo

RUNTIME ?= serve/browser/runtime
browser: $(RUNTIME)/ort.wasm.bundle.min.js ## onnxruntime-web for the page at /browser, or in RUNTIME=FOLDER (needs npm)

# The WebAssembly is stored gzipped: the page unpacks it, so that any static host sends a third of the bytes. The module
# includes its loader; some hosts do not serve .mjs as a script.
ORT = $(RUNTIME)/npm/node_modules/onnxruntime-web/dist
$(RUNTIME)/ort.wasm.bundle.min.js: serve/browser/package.json serve/browser/SHA256SUMS
	@command -v npm >/dev/null || { echo "npm is missing: install Node.js (https://nodejs.org), which has it"; exit 1; }
	mkdir -p $(RUNTIME)/npm
	cp serve/browser/package.json $(RUNTIME)/npm
	npm install --prefix $(RUNTIME)/npm --no-package-lock --ignore-scripts --no-audit --no-fund --loglevel=error
	cd $(ORT) && sha256sum --quiet --check $(CURDIR)/serve/browser/SHA256SUMS
	gzip -nc $(ORT)/ort-wasm-simd-threaded.wasm > $(RUNTIME)/ort-wasm-simd-threaded.wasm.gz
	mv $(ORT)/ort.wasm.bundle.min.mjs $@
	rm -r $(RUNTIME)/npm

test: .venv/installed ## the whole test suite, on two processors
	.venv/bin/python -m pytest -n 2 --no-loadscope-reorder

lint: .venv/installed ## ruff, mypy, spelling and wording
	.venv/bin/ruff check .
	.venv/bin/ruff format --check .
	.venv/bin/mypy
	.venv/bin/codespell
	.venv/bin/python -m tools.words

docs: .venv-docs/installed ## the website, into site/: strict, with no asset from elsewhere
	.venv-docs/bin/mkdocs build

axe: docs .venv/installed ## WCAG A and AA on the website, and on a running service: make axe URL=http://localhost:3000
	.venv/bin/python -m tools.axe site $(URL)  # needs npm and chromium

format: .venv/installed ## let ruff fix what it can
	.venv/bin/ruff check --fix .
	.venv/bin/ruff format .

# The sets under PHOTOS are those of docs/data.md. Interrupted at any time, the same command continues.
RUNS ?= runs
# Sets and their weights: how often an epoch shows each photo of a set, on average.
MORE = imagenette224:.5 caltech101:1 grocery:.2 pacs:.3 textures:1 imagen:3 flickr8k:3 bsds500:3 mini84:.3 tiny64:.3
students: .venv/installed ## distill the students that ship: PHOTOS=folder TEACHER=file.safetensors; takes days
	for size in tiny nano micro; do \
	  begun=$$(test -e $(RUNS)/leap-$$size/recipe.yaml && echo --resume); \
	  test -e $(RUNS)/leap-$$size/metrics.json || OMP_NUM_THREADS=1 nice -n 15 .venv/bin/python -m train $$size \
	    teacher.checkpoint=$(TEACHER) data.train=$(PHOTOS)/imagenette/train data.val=$(PHOTOS)/imagenette/val \
	    data.store=$(RUNS)/photos data.weight=.05 \
	    "data.more=[$$(echo $(MORE) | sed -E 's|([^ :]+):([^ ]+)|{path: $(PHOTOS)/\1, weight: \2}|g; s|\} |}, |g')]" \
	    --out $(RUNS)/leap-$$size $$begun || exit; \
	done

train-demo: .venv/installed ## distill a student of handwritten digits, export it, classify with the file
	rm -rf runs/leap-digits
	.venv/bin/python -m train digits --out runs/leap-digits
	.venv/bin/python -m export runs/leap-digits --zoo zoo-out
	.venv/bin/python -m tools.classify_digits leap-digits --zoo zoo-out

bench-serve: .venv/installed ## cost and limits of serving, about fifteen minutes; see docs/serving.md
	.venv/bin/python -m tools.bench_serve
	.venv/bin/python -m tools.load_serve
	.venv/bin/python -m export.tables

tables: .venv/installed ## rewrite the generated tables of README and docs from cards and results
	.venv/bin/python -m export.tables

clean: ## remove environments and outputs
	rm -rf .venv .venv-serve .venv-docs runs zoo-out site

# Of 20,000 modules the tests import a part: these are compiled as they are imported, not all of them at once.
.venv/installed: pyproject.toml constraints.txt
	$(PYTHON) -m venv .venv
	.venv/bin/python -m pip install -q --no-compile -c constraints.txt torch torchvision
	.venv/bin/python -m pip install -q --no-compile -c constraints.txt -e ".[serve,train,export,openvino,sign,heic,qdrant,dev]"
	touch $@

.venv-serve/installed: pyproject.toml constraints.txt
	$(PYTHON) -m venv .venv-serve
	.venv-serve/bin/python -m pip install -q -c constraints.txt -e ".[serve]"
	touch $@

.venv-docs/installed: pyproject.toml constraints.txt
	$(PYTHON) -m venv .venv-docs
	.venv-docs/bin/python -m pip install -q --no-compile -c constraints.txt $$(.venv-docs/bin/python -c \
	  "import tomllib; print(*tomllib.load(open('pyproject.toml', 'rb'))['project']['optional-dependencies']['docs'])")
	touch $@
