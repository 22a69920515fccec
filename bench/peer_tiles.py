"""The peer's benchmark with another number of tiles an image.

    python -m bench.peer_tiles --peer PEER_BENCH.py --tiles 7 --size small --what dpo --groups 1 --variant trl

Arguments but the first two are the peer's own.
"""

from __future__ import annotations

import argparse
import sys

from bench.peer import load_peer


def main() -> None:
    """Runs the peer's main program on the changed size."""
    found = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    found.add_argument("--peer", required=True)
    found.add_argument("--tiles", type=int, required=True)
    options, rest = found.parse_known_args()
    peer = load_peer(options.peer)
    for size in peer["SIZES"].values():
        size["tiles"] = options.tiles
    sys.argv = [options.peer, *rest]
    peer["main"]()


if __name__ == "__main__":
    main()
