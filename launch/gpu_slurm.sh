#!/usr/bin/env bash
# A SLURM cluster of GPU nodes, from the repository root:
#   sbatch [--nodes=4 ...] launch/gpu_slurm.sh configs/deeppcb.py [--config.field=value ...]
# One process a GPU: tasks and GPUs of a node must be as many. No --gpus-per-task, since it hides a node's other GPUs from
# each process, while jax counts its local devices over all of them.
#SBATCH --job-name=sage_jax
#SBATCH --nodes=1
#SBATCH --gpus-per-node=8
#SBATCH --ntasks-per-node=8
#SBATCH --cpus-per-task=8
#SBATCH --time=24:00:00
#SBATCH --output=%x-%j.log
# Five minutes before the time is up the processes get SIGTERM, on which a run saves itself and ends.
#SBATCH --signal=TERM@300
set -euo pipefail
: "${1:?name a config file, such as configs/deeppcb.py}"
# SLURM runs a copy of this script from its own folder, so the repository is where sbatch was called.
cd "${SLURM_SUBMIT_DIR:-$PWD}"
default=python3
if [[ -x .venv/bin/python ]]; then default=.venv/bin/python; fi
export SAGE_JAX_DISTRIBUTED=1
exec srun --kill-on-bad-exit=1 "${PYTHON:-$default}" -m sage_jax.main --config "$@"
