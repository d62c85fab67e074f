#!/usr/bin/env bash
# A run of train.sh on the paper's benchmarks, on one GPU: avg@32 on AIME and AMC, avg@1 on the others.
# Run it again to resume a killed evaluation.
#
#   CUDA_VISIBLE_DEVICES=0 experiments/profiles/paper/evaluate.sh MODEL METHOD [published|coded]
#
# BENCHMARKS a comma list                                  (the paper's eight)
# OUT        where train.sh put the run                    (runs/paper)
# PYTHON     the interpreter                               (python)
set -euo pipefail

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
export UPGE_VLLM_MEMORY=${UPGE_VLLM_MEMORY:-0.9}

exec "$python" -m upge.cli evaluate "$folder" --benchmark "${BENCHMARKS:-$benchmarks}" \
    --backend vllm --out "$out/evaluations/$(basename "$folder")"
