"""Runs the stages of a config: python -m sage_jax.main --config configs/quickstart.py [--config.field=value ...]."""

from __future__ import annotations

import os
import shlex
import sys
from collections.abc import Callable, Sequence
from typing import TYPE_CHECKING

from sage_jax.errors import UserError
from sage_jax.process.allocator import compute_on_calling_thread, restart_with_huge_pages
from sage_jax.process.libraries import quieten_libraries, settle_libraries

# Nothing heavy here: until a signal is handled, it ends the program without a word.
from sage_jax.process.shortages import told
from sage_jax.process.signals import Interrupted, StopSignals
from sage_jax.process.standard_streams import run_with_any_output

if TYPE_CHECKING:
    from sage_jax.config import Config


def main(arguments: Sequence[str]) -> int:
    """Builds the config and runs its stages.

    Returns:
      Exit status: 0 when done, or stopped where it can go on; 2 for a fault that the user can mend, told in one
      message; 130 when aborted.
    """
    if {"-h", "--help"} & set(arguments):
        from sage_jax.config.command_line import USAGE

        print(USAGE)
        return 0

    def read() -> Config:
        from sage_jax.config.command_line import read_config

        return read_config(arguments)

    return _run(read, ["python", "-m", "sage_jax.main", *arguments])


def run_program(config: Config, command: Sequence[str]) -> int:
    """Runs the stages of a config as a program does, with signals and messages.

    Args:
      command: The command line that goes on after a stop.

    Returns:
      Exit status, as `main`.
    """
    return _run(lambda: config, command)


def _run(read: Callable[[], Config], command: Sequence[str]) -> int:
    go_on = f"To go on: {shlex.join(command)}"
    with StopSignals() as signals:
        try:
            with told():
                return _run_stages(read, signals)
        except UserError as error:
            return _failed(error)
        except Interrupted as interrupted:
            print(f"{interrupted}\n{go_on}", file=sys.stderr)
        except KeyboardInterrupt:
            print(f"aborted; finished stages, checkpoints, scores and inspected images stay\n{go_on}", file=sys.stderr)
            return 130
    return 0


def _run_stages(read: Callable[[], Config], signals: StopSignals) -> int:
    quieten_libraries()
    config = read()
    # After the checks: these imports take seconds.
    from sage_jax.process.several import as_lost_process, join_processes
    from sage_jax.stages.stages import run_stages

    settle_libraries()
    if os.environ.get("SAGE_JAX_DISTRIBUTED") == "1":
        join_processes()
    compute_on_calling_thread()
    signals.renew()
    try:
        run_stages(config)
    except UserError:
        raise
    except Exception as error:
        lost = as_lost_process(error)
        if lost is None:
            raise
        raise lost from error
    return 0


def _failed(error: Exception) -> int:
    print(f"error: {error}", file=sys.stderr)
    if "jax" in sys.modules:
        from sage_jax.process.several import leave_if_several

        leave_if_several()
    return 2


def _program() -> int:
    restart_with_huge_pages()
    return main(sys.argv[1:])


if __name__ == "__main__":
    sys.exit(run_with_any_output(_program))
