#!/usr/bin/env bash
# One machine, all its devices, one process:
#   launch/local.sh configs/quickstart.py [--config.field=value ...]
# PYTHON names the interpreter; without it, the environment in .venv or else python3.
set -euo pipefail
: "${1:?name a config file, such as configs/quickstart.py}"
cd "$(dirname "${BASH_SOURCE[0]}")/.."
default=python3
if [[ -x .venv/bin/python ]]; then default=.venv/bin/python; fi
exec "${PYTHON:-$default}" -m sage_jax.main --config "$@"
