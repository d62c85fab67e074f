#!/usr/bin/env bash
# The same under SLURM, on one node or several; requeued when the time is up, and resumed.
#
#   sbatch --nodes 2 experiments/profiles/paper/slurm.sh MODEL METHOD [published|coded]
#
#SBATCH --job-name=upge-paper
#SBATCH --nodes=1
#SBATCH --ntasks-per-node=1
#SBATCH --gpus-per-node=8
#SBATCH --time=24:00:00
#SBATCH --signal=B:TERM@300
#SBATCH --requeue
#SBATCH --output=%x-%j.log
set -euo pipefail

# SLURM runs a copy of this file, so the repository is where sbatch was called.
train=experiments/profiles/paper/train.sh
[ -f "$train" ] || { echo "submit this from the repository's root" >&2; exit 2; }

nodes=${SLURM_JOB_NUM_NODES:-1} gpus=${SLURM_GPUS_ON_NODE:-8}
read -r address < <(scontrol show hostnames "$SLURM_JOB_NODELIST")
port=$((20000 + SLURM_JOB_ID % 20000))

trap 'scontrol requeue "$SLURM_JOB_ID"' TERM

# Once, before the nodes start: they share the disk, and all read the file that this writes.
processes="--num_machines $nodes --num_processes $((nodes * gpus))"
STEPS=plan LAUNCH_OPTIONS=$processes bash "$train" "$@"

# The rank is known on each node alone.
srun --kill-on-bad-exit=1 bash -c "
    export STEPS='doctor train' LAUNCH_OPTIONS=\"$processes --machine_rank \$SLURM_NODEID \
        --main_process_ip $address --main_process_port $port\"
    exec bash $train $(printf '%q ' "$@")" &
wait $!
