#!/usr/bin/env bash
# What train.sh has trained, on the paper's benchmarks: avg@32 of AIME and AMC, avg@1 of the others,
# with one GPU. A killed evaluation goes on when this is given again.
#
#   CUDA_VISIBLE_DEVICES=0 experiments/profiles/paper/evaluate.sh MODEL METHOD [published|coded]
#
# BENCHMARKS a comma list                                  (the paper's eight)
# CLUSTER    what upge plan was told of the machine        (cluster.yaml)
# OUT        as train.sh had it                            (runs/paper)
# PYTHON     the interpreter                               (python)
set -euo pipefail

here=$(dirname "${BASH_SOURCE[0]}")
if [ $# -lt 2 ]; then
    sed -n '2,/^set/{/^#/p}' "${BASH_SOURCE[0]}" >&2
    exit 2
fi
model=$1 method=$2 settings=${3:-published}
python=${PYTHON:-python} out=${OUT:-runs/paper}
benchmarks=aime24,aime25,amc23,math500,minerva,olympiadbench,arc_challenge,gpqa_diamond

run=$out/$model-$settings-$method.yaml
[ -f "$run" ] || { echo "$run: is not there; train.sh writes it, run that first" >&2; exit 2; }

# Named after a hash of the run, which upge train knows.
folder=$("$python" -m upge.cli train "$run" --out "$out" --dry-run |
    sed -n 's/^# key .*; results go to //p')

# Nothing else is on the GPU.
share=$(sed -n 's/^evaluator_memory: *\([0-9.]*\).*/\1/p' "${CLUSTER:-$here/cluster.yaml}")
export UPGE_VLLM_MEMORY=${UPGE_VLLM_MEMORY:-${share:-0.9}}

exec "$python" -m upge.cli evaluate "$folder" --benchmark "${BENCHMARKS:-$benchmarks}" \
    --backend vllm --out "$out/evaluations/$(basename "$folder")"
