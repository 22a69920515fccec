"""Runs the stages of a config: python -m sage_jax.main --config configs/quickstart.py [--config.field=value ...]."""

from __future__ import annotations

import os
import shlex
import sys
from collections.abc import Sequence

# Nothing heavy here: until a signal is handled, it ends the program without a word.
from sage_jax.errors import ConfigError, UserError
from sage_jax.process.allocator import compute_on_calling_thread, restart_with_huge_pages
from sage_jax.process.signals import Interrupted, StopSignals


def main(arguments: Sequence[str]) -> int:
    """Builds the config and runs its stages.

    Returns:
      Exit status: 0 when done, or stopped where it can go on; 2 for what the user can mend, told in one message; 130
      when aborted.
    """
    go_on = f"To go on: {shlex.join(['python', '-m', 'sage_jax.main', *arguments])}"
    with StopSignals() as signals:
        try:
            return _run(arguments, signals)
        except Interrupted as interrupted:
            print(f"{interrupted}\n{go_on}", file=sys.stderr)
        except KeyboardInterrupt:
            print(f"aborted; finished stages, checkpoints, scores and inspected images stay\n{go_on}", file=sys.stderr)
            return 130
    return 0


def _run(arguments: Sequence[str], signals: StopSignals) -> int:
    from absl import flags, logging

    from sage_jax.config.command_line import USAGE, read_config

    if {"-h", "--help"} & set(arguments):
        print(USAGE)
        return 0
    try:
        config = read_config(arguments)
    except ConfigError as error:
        return _failed(error)
    from sage_jax.stages.stages import run_stages  # after the checks: its imports take seconds

    logging.set_verbosity(logging.WARNING)
    flags.FLAGS(["sage_jax"])  # none are defined here, but Grain's worker processes want them parsed
    if os.environ.get("SAGE_JAX_DISTRIBUTED") == "1":
        import jax

        try:
            jax.distributed.initialize()
        except (RuntimeError, ValueError) as error:
            return _failed(ConfigError(f"SAGE_JAX_DISTRIBUTED=1, but the processes do not find each other: {error}"))
    compute_on_calling_thread()
    signals.renew()
    try:
        run_stages(config)
    except UserError as error:
        return _failed(error)
    return 0


def _failed(error: Exception) -> int:
    print(f"error: {error}", file=sys.stderr)
    return 2


if __name__ == "__main__":
    restart_with_huge_pages()
    sys.exit(main(sys.argv[1:]))
