#!/usr/bin/env bash
# One run of the paper's profile on one node: plan, doctor, train. Run it again to resume a killed run.
#
#   LAUNCH=ddp.yaml experiments/profiles/paper/train.sh MODEL METHOD [published|coded]
#
# LAUNCH  Accelerate's configuration: a file of experiments/launch, or a path (fsdp2.yaml)
# LAUNCH_OPTIONS more options of accelerate launch, as --num_processes 16     (none)
# STEPS   which of them                                    (plan doctor train)
# ASSUME  what upge plan assumes                           (assumptions.yaml)
# OUT     where run folders go                             (runs/paper)
# PYTHON  the interpreter                                  (python)
set -euo pipefail

here=$(dirname "${BASH_SOURCE[0]}")
if [ $# -lt 2 ]; then
    sed -n '2,/^set/{/^#/p}' "${BASH_SOURCE[0]}" >&2
    exit 2
fi
model=$1 method=$2 settings=${3:-published}
python=${PYTHON:-python} out=${OUT:-runs/paper} steps=" ${STEPS:-plan doctor train} "
launch_file=${LAUNCH:-fsdp2.yaml}
[ -f "$launch_file" ] || launch_file=$here/../../launch/$launch_file
launch=("$python" -m accelerate.commands.launch --config_file "$launch_file" ${LAUNCH_OPTIONS:-})

run=$out/$model-$settings-$method.yaml
assume=${ASSUME:-$here/assumptions.yaml}
# vLLM takes the share of memory that the plan counts on.
share=$(sed -n 's/^sampler_memory: *\([0-9.]*\).*/\1/p' "$assume")
export UPGE_VLLM_MEMORY=${UPGE_VLLM_MEMORY:-${share:-0.3}}

# As many GPUs as the launcher will start processes.
processes=$(sed -n 's/.*--num_processes[ =]*\([0-9]\{1,\}\).*/\1/p' <<< "${LAUNCH_OPTIONS:-}")

# Each step refuses at once what a later one would fail at after hours.
if [[ $steps == *" plan "* ]]; then
    mkdir -p "$out"
    "$python" -m experiments.profiles.paper config "$model" "$method" --settings "$settings" > "$run"
    "$python" -m upge.cli plan "$run" --launch "$launch_file" ${processes:+--gpus "$processes"} \
        --assume "$assume"
fi
if [[ $steps == *" doctor "* ]]; then
    "${launch[@]}" -m upge.cli doctor
fi
if [[ $steps == *" train "* ]]; then
    "${launch[@]}" -m upge.cli train "$run" --out "$out"
fi
