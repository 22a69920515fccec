"""The peer's benchmark as a module, for what is built on it."""

from __future__ import annotations

import os
import runpy
import sys
from typing import Any


def load_peer(path: str) -> dict[str, Any]:
    """The names of the peer's script, in a process whose allocator is tuned as the peer tunes its own.

    That is read at a program's start alone: where it is not yet so, this program starts again with its arguments.
    """
    peer = runpy.run_path(path)
    if any(os.environ.get(name) != value for name, value in peer["MALLOC"].items()):
        os.execve(sys.executable, [sys.executable, *sys.orig_argv[1:]], {**os.environ, **peer["MALLOC"]})
    return peer
