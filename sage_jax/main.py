"""Runs the stages of a config: python -m sage_jax.main --config configs/quickstart.py [--config.field=value ...]."""

from __future__ import annotations

import os
import shlex
import sys
from collections.abc import Sequence

import jax
from absl import app, flags, logging
from ml_collections import config_flags

from sage_jax.config import ConfigError, from_config_dict

_CONFIG = config_flags.DEFINE_config_file("config", help_string="Experiment file, such as configs/quickstart.py.")


def main(argv: Sequence[str]) -> int | None:
    """Builds the config and runs its stages."""
    if len(argv) > 1:
        raise app.UsageError(f"unexpected argument {argv[1]!r}: options begin with --config")
    logging.set_verbosity(logging.WARNING)
    config = from_config_dict(_CONFIG.value)
    from sage_jax.stages import Interrupted, run_stages  # after the checks: its imports take seconds

    if os.environ.get("SAGE_JAX_DISTRIBUTED") == "1":
        jax.distributed.initialize()
    try:
        run_stages(config)
    except Interrupted as interrupted:
        command = shlex.join(["python", "-m", "sage_jax.main", *sys.argv[1:]])
        print(f"{interrupted}\nTo go on: {command}", file=sys.stderr)
        return 0


if __name__ == "__main__":
    flags.mark_flag_as_required("config")
    app.run(main)
