"""The peer's benchmark with another number of tiles an image.

    python bench/peer_tiles.py --peer PEER_BENCH.py --tiles 7 --size small --what dpo --groups 1 --variant trl

Arguments but the first two are the peer's own.
"""

from __future__ import annotations

import argparse
import os
import runpy
import sys
from typing import Any


def main() -> None:
    """Runs the peer's main program on the changed size."""
    found = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    found.add_argument("--peer", required=True)
    found.add_argument("--tiles", type=int, required=True)
    options, rest = found.parse_known_args()
    peer: dict[str, Any] = runpy.run_path(options.peer)
    if any(os.environ.get(name) != value for name, value in peer["MALLOC"].items()):
        # The peer would do the same, with its own arguments alone.
        os.execve(sys.executable, [sys.executable, *sys.argv], {**os.environ, **peer["MALLOC"]})
    for size in peer["SIZES"].values():
        size["tiles"] = options.tiles
    sys.argv = [options.peer, *rest]
    peer["main"]()


if __name__ == "__main__":
    main()
