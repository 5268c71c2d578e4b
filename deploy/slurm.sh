#!/bin/bash
# A run on several hosts by Slurm. Submit it from the folder in which the run is to lie, on a file system that
# all hosts share:
#
#     sbatch --nodes=2 deploy/slurm.sh train codec data.path=sentences.jsonl trainer.max_minutes=60
#     sbatch --nodes=2 deploy/slurm.sh resume last
#
# Slurm signals the run before its time is up; it saves, ends with 130, and the same line with `resume last`
# goes on, also on another number of hosts.
#SBATCH --job-name=tinsmith
#SBATCH --ntasks-per-node=1
#SBATCH --cpus-per-task=8
#SBATCH --time=04:00:00
#SBATCH --signal=TERM@120
#SBATCH --output=tinsmith-%j.log
set -euo pipefail

NPROC=${NPROC:-${SLURM_GPUS_ON_NODE:-1}}   # processes on each host: one for each GPU
PORT=$((20000 + SLURM_JOB_ID % 20000))
HEAD=$(scontrol show hostnames "$SLURM_JOB_NODELIST" | head -n 1)

export NPROC PORT HEAD
# The number of a host is known only on it, hence the inner shell; "$@" passes the words on as they are.
exec srun --kill-on-bad-exit=1 bash -c \
    'exec tinsmith "$@" --nproc "$NPROC" --hosts "$SLURM_NNODES" --host-rank "$SLURM_NODEID" --head "$HEAD:$PORT"' \
    tinsmith "$@"
