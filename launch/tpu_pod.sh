#!/usr/bin/env bash
# A TPU VM, slice or pod of Google Cloud that is already there:
#   TPU=name ZONE=us-east5-a launch/tpu_pod.sh configs/deeppcb.py [--config.field=value ...]
# Copies the working tree to ~/sage_jax on every worker, installs it, and runs the same command on all of them, one process
# a worker. A relative run_dir or data.cache_dir lies below ~/sage_jax on each worker's own disk: with several workers name
# folders that all of them see. PYTHON names the interpreter of a new environment there, 3.11 or later; else python3.
set -euo pipefail
: "${1:?name a config file, such as configs/deeppcb.py}" "${TPU:?name the TPU VM}" "${ZONE:?name its zone}"
cd "$(dirname "${BASH_SOURCE[0]}")/.."

on_every_worker() {
  gcloud compute tpus tpu-vm ssh "$TPU" --zone="$ZONE" --worker=all --command="$1"
}

python="$(printf %q "${PYTHON:-python3}")"
folder="$(mktemp -d)"
trap 'rm -rf "$folder"' EXIT
tar -czf "$folder/sage_jax.tar.gz" --exclude=./.git --exclude=./.venv --exclude=./runs .
gcloud compute tpus tpu-vm scp "$folder/sage_jax.tar.gz" "$TPU:" --zone="$ZONE" --worker=all
on_every_worker "set -e
mkdir -p sage_jax && tar -xzf sage_jax.tar.gz -C sage_jax && cd sage_jax
test -d .venv || $python -c 'import sys; sys.exit(sys.version_info < (3, 11) and \"needs Python 3.11, set PYTHON\")'
test -d .venv || $python -m venv .venv
.venv/bin/python -m pip install -q -c requirements.txt -e '.[tpu]'"

# %q: the worker's shell reads the arguments once more.
printf -v arguments ' %q' "$@"
on_every_worker "cd sage_jax && export SAGE_JAX_DISTRIBUTED=1 && exec .venv/bin/python -m sage_jax.main --config$arguments"
