"""Runs the stages of a config: python -m sage_jax.main --config configs/quickstart.py [--config.field=value ...]."""

from __future__ import annotations

import os
import shlex
import signal
import sys
from collections.abc import Sequence

from absl import flags, logging

from sage_jax.command_line import USAGE, read_config
from sage_jax.config import ConfigError


def main(arguments: Sequence[str]) -> int:
    """Builds the config and runs its stages.

    Returns:
      Exit status: 0 when done, or stopped where it can go on; 2 for what the user can mend, told in one message; 130
      when aborted.
    """
    if {"-h", "--help"} & set(arguments):
        print(USAGE)
        return 0
    try:
        config = read_config(arguments)
    except ConfigError as error:
        return _failed(error)
    from sage_jax.stages import USER_ERRORS, Interrupted, run_stages  # after the checks: its imports take seconds

    logging.set_verbosity(logging.WARNING)
    flags.FLAGS(["sage_jax"])  # none are defined here, but Grain's worker processes want them parsed
    if os.environ.get("SAGE_JAX_DISTRIBUTED") == "1":
        import jax

        try:
            jax.distributed.initialize()
        except (RuntimeError, ValueError) as error:
            return _failed(ConfigError(f"SAGE_JAX_DISTRIBUTED=1, but the processes do not find each other: {error}"))
    go_on = f"To go on: {shlex.join(['python', '-m', 'sage_jax.main', *arguments])}"
    try:
        run_stages(config)
    except Interrupted as interrupted:
        print(f"{interrupted}\n{go_on}", file=sys.stderr)
    except KeyboardInterrupt:
        print(f"aborted; finished stages, checkpoints, scores and inspected images stay\n{go_on}", file=sys.stderr)
        return 130
    except USER_ERRORS as error:
        return _failed(error)
    return 0


def _failed(error: Exception) -> int:
    print(f"error: {error}", file=sys.stderr)
    return 2


if __name__ == "__main__":
    signal.signal(signal.SIGTERM, signal.default_int_handler)  # as Ctrl-C, also where no training step runs
    sys.exit(main(sys.argv[1:]))
