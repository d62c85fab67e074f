#!/usr/bin/env bash
# One run of the paper's profile on one node: plan, doctor, train. A killed run goes on when this is
# given again.
#
#   LAUNCH=ddp.yaml experiments/profiles/paper/train.sh MODEL METHOD [published|coded]
#
# LAUNCH  Accelerate's configuration: of experiments/launch, or a path (fsdp2.yaml)
# LAUNCH_OPTIONS further ones, as --num_processes 16         (none)
# STEPS   which of them                                    (plan doctor train)
# CLUSTER what upge plan is told of the machine            (cluster.yaml)
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
cluster=${CLUSTER:-$here/cluster.yaml}
# What the plan counts on is what vLLM takes.
share=$(sed -n 's/^sampler_memory: *\([0-9.]*\).*/\1/p' "$cluster")
export UPGE_VLLM_MEMORY=${UPGE_VLLM_MEMORY:-${share:-0.3}}

# As many GPUs as the launcher will start processes.
processes=$(sed -n 's/.*--num_processes[ =]*\([0-9]\{1,\}\).*/\1/p' <<< "${LAUNCH_OPTIONS:-}")

# Each refuses, with one sentence, what the next would fail at after hours.
if [[ $steps == *" plan "* ]]; then
    mkdir -p "$out"
    "$python" -m experiments.profiles.paper config "$model" "$method" --settings "$settings" > "$run"
    "$python" -m upge.cli plan "$run" --cluster "$cluster" --launch "$launch_file" \
        ${processes:+--gpus "$processes"} --assume "$here/assumptions.yaml"
fi
if [[ $steps == *" doctor "* ]]; then
    "${launch[@]}" -m upge.cli doctor
fi
if [[ $steps == *" train "* ]]; then
    "${launch[@]}" -m upge.cli train "$run" --out "$out"
fi
