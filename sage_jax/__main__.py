"""The command `sage-jax`, as `python -m sage_jax`."""

import sys

from sage_jax.cli import main

if __name__ == "__main__":
    sys.exit(main())
