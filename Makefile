# Works with GNU make 3.81 and later.
#
# Settings, on the command line or in the environment:
#   VENV    where the environment goes (a path without spaces); EXTRAS_VENV that of make test-extras
#   PYTHON  the Python it is made with, 3.11 or newer; the locks are for 3.11, under another one pip
#           takes the newest packages in the ranges of pyproject.toml
#   PYTHONS further Pythons for make test-matrix, which finds those on PATH by itself
#   OUT     where tables go
#   PROFILE cpu (the default), smoke, or for one GPU gpu, gpu-qwen2.5-0.5b, gpu-qwen2.5-1.5b: the scale
#           of the training runs
#   SEEDS   training runs a method, if not the profile's own number
#   RUNS    where run folders go
#   STAMP   1 draws captions, commits and seeds into figures
# On Linux pip takes torch with CUDA. Without a GPU the CPU build saves gigabytes:
#   PIP_EXTRA_INDEX_URL=https://download.pytorch.org/whl/cpu make test

VENV ?= .venv
EXTRAS_VENV ?= .venv-extras
OUT ?= paper_tables
PROFILE ?= cpu
SEEDS ?=
PYTHONS ?=
RUNS ?= runs
# A python3.11 on PATH may be a shim with nothing behind it, so it is asked to run.
PYTHON ?= $(shell if python3.11 -c '' >/dev/null 2>&1; then echo python3.11; else echo python3; fi)

python := "$(VENV)/bin/python"
pip_install := $(python) -m pip install -qq --disable-pip-version-check
one_thread := OMP_NUM_THREADS=1 MKL_NUM_THREADS=1

python_is = "$(PYTHON)" -c 'import sys; sys.exit(not sys.version_info[:2] $(1))' 2>/dev/null
require_python = $(call python_is,$(1)) || { \
	echo "UPGE needs Python $(2), which '$(PYTHON)' is not: name one with make PYTHON=/path/to/python3.11" >&2; exit 1; }

.DEFAULT_GOAL := help
.PHONY: help reproduce-table1 reproduce-table2 reproduce-table3 reproduce-table4 reproduce-table5 reproduce-table6 reproduce-audit reproduce-supply reproduce-figure3 pass-at-k reproduce report figures figure1 figure2 figure3 figure4 figure5 figure6 figure7 figure8 check-results bases check-resume claims conformance bias-variance test test-slow test-extras run-extras test-matrix lint format lock clean

help: ## List what make can do here
	@awk -F ':.*## ' '/^[a-z0-9-]+:.*## / { printf "  make %-18s %s\n", $$1, $$2 }' Makefile

reproduce-table1: $(VENV)/.stamp ## Derive and check Table 1 of the paper; results go to paper_tables/
	"$(VENV)/bin/upge" verify --out "$(OUT)"

# Tables and figures of a profile are made of its records, which are committed beside them. Those of
# smoke order nothing: they are made of the runs, and stay with them.
smoke := $(filter smoke,$(PROFILE))
records := $(if $(smoke),$(RUNS)/smoke,$(OUT)/records/$(PROFILE))
# The other profiles' lie beside those of cpu.
beside := $(if $(filter cpu,$(PROFILE)),,/$(PROFILE))
analyse = $(one_thread) $(python) -m analysis$(1)
make_of_records = $(call analyse) $(1) --records "$(records)" --out $(if $(smoke),"$(RUNS)/smoke/tables","$(OUT)$(beside)") \
	--figures $(if $(smoke),"$(RUNS)/smoke/figures","figures$(beside)") $(if $(STAMP),--stamp)

# The runs of a file of comparisons that are missing, and the records of each of its comparisons.
define compare
$(one_thread) $(python) -m experiments.compare $(1) --profile "$(PROFILE)" --out "$(RUNS)" $(if $(SEEDS),--seeds $(SEEDS))
$(if $(smoke),,$(call analyse,.keep_records) $(foreach name,$(2),"$(RUNS)/$(PROFILE)/$(name)") --out "$(OUT)/records")
endef

table3 := table3-weak table3-small
supply := supply-30 supply-100 supply-300 supply-900 supply-levels supply-families

reproduce-table2: $(VENV)/.stamp ## Train and compare HPT and its baselines (PROFILE=cpu: about 70 minutes on 2 cores; smoke: 2)
	$(call compare,table2,table2)
	$(call make_of_records,table2)

reproduce-table3: $(VENV)/.stamp ## The same on a weaker and on a smaller base model
	$(call compare,table3,$(table3))
	$(call make_of_records,table3)

reproduce-table4: $(VENV)/.stamp ## Count the problems that HPT, GRPO or LUFFY solves alone, in the runs of Table 2
	$(call make_of_records,table4)

reproduce-table5: $(VENV)/.stamp ## Compare what demonstrations of gated questions are trained with: off-policy RL, both or SFT
	$(call compare,table5,table5)
	$(call make_of_records,table5)

reproduce-table6: $(VENV)/.stamp ## Compare HPT's gates, from RL alone to SFT alone
	$(call compare,table6,table6)
	$(call make_of_records,table6)

reproduce-audit: $(VENV)/.stamp ## Audit SFT→RL: with and without two known faults, at equal steps and at equal compute
	$(call compare,audit,audit)
	$(call make_of_records,audit)

reproduce-supply: $(VENV)/.stamp ## Compare methods over the supply of demonstrations and over compute
	$(call compare,supply,$(supply))
	$(call make_of_records,supply)

reproduce-figure3: $(VENV)/.stamp ## Train SFT→GRPO and HPT for 50 passes over few questions, for Figures 3 and 4
	$(call compare,figure3,figure3)
	@$(MAKE) figure3 figure4

pass-at-k: $(VENV)/.stamp ## Sample 2,048 responses a problem from policies of Table 2's runs, for Figure 2
	$(one_thread) $(python) -m experiments.pass_at_k "$(RUNS)/$(PROFILE)/table2" --out "$(records)/pass_at_k" $(if $(smoke),--samples 64)
	@$(MAKE) figure2

# Figures are drawn of records, which are committed: that takes seconds and trains nothing.
figures := figure1 figure2 figure3 figure4 figure5 figure6 figure7 figure8

figures: $(VENV)/.stamp ## Draw Figures 1 to 8 of the paper, of the committed records
	@$(MAKE) --no-print-directory --keep-going $(figures)

figure1: $(VENV)/.stamp ## The four components, and what the rows of Table 1 and HPT take for them
	$(call make_of_records,figure1)

figure2: $(VENV)/.stamp ## pass@k of six policies
	$(call make_of_records,figure2)

figure3: $(VENV)/.stamp ## Accuracy of each question over 50 passes of GRPO after SFT
	$(call make_of_records,figure3)

figure4: $(VENV)/.stamp ## The difference of HPT to that
	$(call make_of_records,figure4)

figure5: $(VENV)/.stamp ## Validation accuracy over steps
	$(call make_of_records,figure5)

figure6: $(VENV)/.stamp ## Offline data ratio over steps, of HPT on several models and of LUFFY
	$(call make_of_records,figure6)

figure7: $(VENV)/.stamp ## Entropy and response length over steps
	$(call make_of_records,figure7)

figure8: $(VENV)/.stamp ## Reward and offline data ratio over steps, under three gates
	$(call make_of_records,figure8)

# One after the other, each leaving what is there already.
everything := reproduce-table1 reproduce-table2 reproduce-table3 reproduce-table4 reproduce-table5 reproduce-table6 \
	pass-at-k reproduce-figure3 reproduce-audit reproduce-supply bias-variance claims figures report

reproduce: $(VENV)/.stamp ## All tables, figures, studies and the report, each making only what is missing: hours
	@set -e; for target in $(everything); do $(MAKE) $$target; done

report: $(VENV)/.stamp ## Write report.html: all tables and figures, and where each number comes from, on one page
	$(call analyse,.report)

check-results: $(VENV)/.stamp ## Check that the committed tables and the numbers behind figures follow from the records, bit for bit
	$(call analyse,.check_results)

bases: $(VENV)/.stamp ## Pre-train the base models again, up to 10 minutes each; compare with those in the package
	$(one_thread) $(python) -m experiments.bases

check-resume: $(VENV)/.stamp ## Kill a training run 20 times and show that it ends with the same numbers
	$(one_thread) $(python) -m experiments.check_resume

conformance: $(VENV)/.stamp ## Read the losses that TRL, verl and eight others ship off their gradients; find planted faults
	$(one_thread) $(python) -m experiments.conformance --out "$(OUT)"

bias-variance: $(VENV)/.stamp ## Run the studies of exact bias and variance; results go to figures/bias_variance/
	$(one_thread) $(python) -m experiments.bias_variance $(if $(STAMP),--stamp)

claims: $(VENV)/.stamp ## Give a verdict on every claim of the paper's theory; results go to paper_tables/
	$(one_thread) $(python) -m experiments.claims --out "$(OUT)"

test: $(VENV)/.stamp ## Run the fast tests
	$(one_thread) $(python) -m pytest -q -n 2 --dist loadfile --timeout 900

test-slow: $(VENV)/.stamp ## Run all tests, the slow ones too
	$(one_thread) $(python) -m pytest -q -n 2 --dist loadfile --timeout 3600 -m ""

test-extras: ## Run the tests of optional stacks (vLLM on a CPU, DeepSpeed), in their own environment, .venv-extras
	@$(MAKE) --no-print-directory run-extras VENV="$(EXTRAS_VENV)" \
		nodeps="requirements-nodeps.lock requirements-extras.lock"

test-matrix: $(VENV)/.stamp ## Before a release: test the built wheel under the lowest and newest packages and other Pythons (hours, 10 GB)
	$(one_thread) $(python) -m experiments.matrix --out "$(OUT)" $(addprefix --python ,$(PYTHONS))

run-extras: $(VENV)/.stamp
	$(one_thread) $(python) -m pytest -q --timeout 3000 -m extras

lint: $(VENV)/.stamp ## Check formatting, style and types
	$(python) -m ruff format --check .
	$(python) -m ruff check .
	$(python) -m mypy

format: $(VENV)/.stamp ## Format the code and fix what can be fixed by itself
	$(python) -m ruff format .
	$(python) -m ruff check --fix .

# The environment, in two steps, so that editing pyproject.toml costs seconds and only a changed lock
# costs minutes. $(VENV)/.packages is a copy of the locks that were installed, written last: without
# it an install was interrupted and starts afresh. Only environments made here are ever cleared.

$(VENV)/.stamp: $(VENV)/.packages pyproject.toml
	@$(pip_install) --no-deps --no-build-isolation --editable .
	@touch "$@"

nodeps := requirements-nodeps.lock

$(VENV)/.packages: requirements.lock $(nodeps)
	@set -e; \
	if cat $^ | cmp -s - "$@"; then touch "$@"; exit 0; fi; \
	$(call require_python,>= (3, 11),3.11 or newer); \
	if [ -e "$(VENV)" ] && ! grep -q "^prompt = 'upge'" "$(VENV)/pyvenv.cfg" 2>/dev/null; then \
		echo "'$(VENV)' was not made by this Makefile: move it away, or choose another place with make VENV=…" >&2; \
		exit 1; \
	fi; \
	rm -f "$@"; \
	"$(PYTHON)" -m venv --clear --prompt upge "$(VENV)"; \
	if $(call python_is,== (3, 11)); then \
		echo "Installing the locked packages into $(VENV): 1 to 3 minutes, more while torch is downloaded."; \
		$(pip_install) -r requirements.lock; \
	else \
		echo "The locks are for Python 3.11: installing the newest packages that pyproject.toml allows into $(VENV)."; \
		$(pip_install) --editable '.[dev]'; \
	fi; \
	$(pip_install) --no-deps $(addprefix -r ,$(nodeps)); \
	$(pip_install) -r requirements-compiled.lock 2>/dev/null \
		|| echo "No C compiler: left out pycosat, without which reasoning-gym's problems can't be made."; \
	cat $^ > "$@"

lock: ## Update requirements.lock and environment.yml to pyproject.toml; UPGRADE=1 takes the newest of everything
	@set -e; \
	$(call require_python,== (3, 11),3.11); \
	echo "Resolving the dependencies in a scratch environment: 1 to 3 minutes."; \
	scratch=$$(mktemp -d); trap 'rm -rf "$$scratch"' EXIT INT TERM; \
	"$(PYTHON)" -m venv "$$scratch/venv"; \
	python="$$scratch/venv/bin/python"; \
	"$$python" -m pip install -qq --disable-pip-version-check $(if $(UPGRADE),,-c requirements.lock) --editable '.[dev]'; \
	"$$python" -m pip freeze --all --exclude pip --exclude upge > "$$scratch/frozen.txt"; \
	"$$python" -m pip install -qq --disable-pip-version-check --no-deps -r requirements-nodeps.lock; \
	"$$python" -c 'import verl.trainer.ppo.core_algos'; \
	grep '^#' requirements.lock > "$$scratch/lock"; \
	sed -e 's/+.*//' -e '/^nvidia-/d' -e '/^cuda-/d' -e '/^triton==/d' -e '/^reasoning-gym==/d' -e '/^pycosat==/d' "$$scratch/frozen.txt" >> "$$scratch/lock"; \
	sed '/- pip:/q' environment.yml > "$$scratch/environment"; \
	sed -n 's/^[^#]/      - &/p' "$$scratch/lock" >> "$$scratch/environment"; \
	cat "$$scratch/lock" > requirements.lock; \
	cat "$$scratch/environment" > environment.yml

clean: ## Remove caches and build outputs; the environment and runs/ stay
	rm -rf build dist *.egg-info .hypothesis .mypy_cache .pytest_cache .ruff_cache
	find . -name __pycache__ -not -path './.venv*' -prune -exec rm -rf {} +
