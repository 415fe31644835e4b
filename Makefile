# make run                     set-up and the whole chain with params/quick.yaml
# make run RECIPE=params/tiny.yaml SET="train.steps=2000 data.n=500"
# make run RECIPE=params/mnist.yaml SMOKE=1        a few steps and images: does the recipe run to the end?
# make run SEEDS="0 1 2"       three trainings on the same images; the comparison shows mean and spread
# make run PROFILE=profiles/slurm SEEDS="0 1 2"        the same as jobs of a cluster: docs/cluster.md
# make test                    set-up and every test
RECIPE ?= params/quick.yaml
SET    ?=
SMOKE  ?=
# many runs: training seeds; what is kept of sample.methods, by generator and by name. RECIPE may name several files
SEEDS      ?=
GENERATORS ?=
SAMPLERS   ?=
# which runs `make compare` reads, the first is the base; FRESH=1 takes nothing from other runs
RUNS  ?=
FRESH ?=
# where: jobs at a time here, or a cluster's profile such as profiles/slurm; SPREAD= makes each step one job
CORES   ?= 2
PROFILE ?=
SPREAD  ?= 1
TORCH  ?= cpu
PYTHON ?= python3
KNOWN := RECIPE SET SMOKE SEEDS GENERATORS SAMPLERS RUNS FRESH CORES PROFILE SPREAD TORCH PYTHON
GIVEN := $(foreach name,$(.VARIABLES),$(if $(findstring command line,$(origin $(name))),$(name)))
UNKNOWN := $(filter-out $(KNOWN) LENSNB_% MALLOC_% MAKE%,$(GIVEN))
ifneq ($(UNKNOWN),)
$(error $(firstword $(UNKNOWN)): no such variable; known are $(KNOWN); a key of the recipe goes into SET, as in SET="train.steps=10")
endif
REFERENCE := params/$(if $(filter cpu,$(TORCH)),reference-cpu,gpu).yaml
# one thread on each core; a file stays on one core, where its fixtures are
PYTEST := pytest -n 2 --dist loadfile --no-loadscope-reorder
COPIES := $(patsubst notebooks/%,lab/%,$(wildcard notebooks/*.ipynb))
BIN    := $(CURDIR)/.venv/bin
export PATH := $(BIN):$(PATH)
export LENSNB_RECIPE := $(RECIPE)
export LENSNB_SET := $(SET)
export LENSNB_SMOKE := $(SMOKE)
export LENSNB_SEEDS := $(SEEDS)
export LENSNB_GENERATORS := $(GENERATORS)
export LENSNB_SAMPLERS := $(SAMPLERS)
export LENSNB_FRESH := $(if $(filter-out 0,$(FRESH)),1,0)
export LENSNB_SPREAD := $(if $(SPREAD),1,0)
export LENSNB_CORES := $(CORES)
export LENSNB_PROFILE := $(PROFILE)
# glibc gives big blocks back to the system and faults them in again at each step: keeping them trains 15 % faster
export MALLOC_MMAP_MAX_ ?= 0
export MALLOC_TRIM_THRESHOLD_ ?= 100000000000

.PHONY: run compare test fast chain coverage lab report trust reference bench notebooks docs mutants lock clean

run: .venv/ready-$(TORCH)              ## the chain: data, train, sample, evaluate, compare, report
	lensnb run

compare: .venv/ready-$(TORCH)          ## finished runs beside each other: make compare RUNS="quick longer"
	lensnb compare $(RUNS)

test: .venv/ready-$(TORCH)             ## lint, types, and every test: units, the tiny chain, the committed notebooks
	ruff check && ruff format --check && mypy lensnb && lint-imports --no-cache
	$(PYTEST)

coverage: .venv/ready-$(TORCH)         ## every test, and the lines of the package that none of them reaches
	$(PYTEST) --cov=lensnb --cov-report=term-missing:skip-covered

fast: .venv/ready-$(TORCH)             ## lint, types and the quick unit tests
	ruff check && ruff format --check && mypy lensnb && lint-imports --no-cache
	$(PYTEST) -q -m "not slow and not chain" tests/test_*.py tests/networks tests/runs tests/recipes

chain: .venv/ready-$(TORCH)            ## train the quick run anew, to its end: do the committed notebooks come out again? half an hour
	pytest -m chain tests/test_notebooks.py

lab: .venv/ready-$(TORCH) $(COPIES)    ## explore in JupyterLab: copies in lab/, so that the committed notebooks stay clean
	jupyter trust notebooks/*.ipynb $(COPIES)
	jupyter lab lab/00_start.ipynb

# a copy is renewed when its notebook is; what you changed in it is kept as lab/<name>.ipynb~
lab/%.ipynb: notebooks/%.ipynb
	mkdir -p lab
	if [ -f $@ ]; then mv $@ $@~; fi
	cp $< $@

report: .venv/ready-$(TORCH)           ## the executed notebooks of a run as a web site: outputs/<run>/report/index.html
	lensnb run --step report

trust: .venv/ready-$(TORCH)            ## sign executed notebooks that were copied from another machine
	find outputs notebooks -name '*.ipynb' -not -path '*/.ipynb_checkpoints/*' -exec jupyter trust {} +

notebooks: run                ## refresh the committed notebooks from the quick run, unless they are not true a second time
	python -m tools.publish_notebooks

reference: .venv/ready-$(TORCH)        ## train the reference anew: weights to lensnb/weights/, results to outputs/reference/
	lensnb run $(REFERENCE)
	python -m tools.ship_reference $(REFERENCE)

bench: run                    ## figures of speed, memory and quality, printed
	for script in $(filter-out benchmarks/search.py,$(wildcard benchmarks/*.py)); do PYTHONPATH=. python $$script || exit 1; done

docs: .venv/ready-$(TORCH)             ## the documentation as a web site: site/index.html
	NO_MKDOCS_2_WARNING=1 mkdocs build --strict

mutants: .venv/ready-$(TORCH)          ## plant faults in the numerical core, 40 in each module: do the tests see them? minutes
	python -m tools.mutants

lock:                         ## compile requirements.lock from pyproject.toml (with uv); torch stands in requirements/
	echo 'torch ; sys_platform == "never"' > .override
	uv pip compile pyproject.toml --universal --python-version 3.11 --all-extras --override .override --no-annotate --no-header -q -o requirements.lock
	sed -i "/'never'/d" requirements.lock && rm .override

clean:                        ## remove the environment and every run but the reference
	rm -rf .venv .snakemake site outputs/.measured $(filter-out outputs/reference/,$(wildcard outputs/*/))

.venv/ready-$(TORCH): pyproject.toml requirements.lock requirements/torch-$(TORCH).txt
	$(PYTHON) -c 'import sys; v = sys.version_info; sys.exit(None if v >= (3, 11) else "lensnb needs Python 3.11 or newer; found %d.%d: call make with PYTHON=python3.12" % v[:2])'
	$(PYTHON) -m venv .venv
	pip install --quiet -r requirements/torch-$(TORCH).txt
	pip install --quiet -r requirements.lock
	pip install --quiet --no-deps --editable .
	touch $@
