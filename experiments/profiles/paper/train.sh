#!/usr/bin/env bash
# One run of the paper's profile on one node: plan, doctor, train. A killed run goes on when this is
# given again.
#
#   LAUNCH=ddp.yaml experiments/profiles/paper/train.sh MODEL METHOD [published|coded]
#
# LAUNCH  Accelerate's configuration: of experiments/launch, or a path (fsdp2.yaml)
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
python=${PYTHON:-python} out=${OUT:-runs/paper}
launch_file=${LAUNCH:-fsdp2.yaml}
[ -f "$launch_file" ] || launch_file=$here/../../launch/$launch_file
launch=("$python" -m accelerate.commands.launch --config_file "$launch_file" ${LAUNCH_OPTIONS:-})

mkdir -p "$out"
run=$out/$model-$settings-$method.yaml
"$python" -m experiments.profiles.paper config "$model" "$method" --settings "$settings" > "$run"

cluster=${CLUSTER:-$here/cluster.yaml}
# What the plan counts on is what vLLM takes.
share=$(sed -n 's/^sampler_memory: *\([0-9.]*\).*/\1/p' "$cluster")
export UPGE_VLLM_MEMORY=${UPGE_VLLM_MEMORY:-${share:-0.3}}

# Each refuses, with one sentence, what the next would fail at after hours.
"$python" -m upge.cli plan "$run" --cluster "$cluster" \
    --assume "$here/assumptions.yaml"
"${launch[@]}" -m upge.cli doctor
"${launch[@]}" -m upge.cli train "$run" --out "$out"
