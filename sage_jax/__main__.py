"""The command `sage-jax`, as `python -m sage_jax`."""

import sys

from sage_jax.cli import program

if __name__ == "__main__":
    sys.exit(program())
