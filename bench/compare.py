"""Ours and the peer's benchmarks alternately, pair by pair, and the ratios of their figures.

    python -m bench.compare --peer PEER_BENCH.py --size small --pairs 3 edpo_trl forward generate

PEER_BENCH.py measures transformers and TRL on the same layers, widths and data (it needs torch, transformers and TRL;
the supervised step of transformers is bench/peer_sft.py, built on it). Without names, all comparisons run. Each pair
runs both sides one after the other, each in a process of its own; a ratio has its median, least and most over pairs.
Lines with `others_cores` above 0.1 tell that something else was running.
"""

from __future__ import annotations

import argparse
import json
import statistics
import subprocess
import sys
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Final

from bench.measure import read_lines

ROOT: Final = Path(__file__).parents[1]


@dataclass(frozen=True)
class Figure:
    """What is compared of two measurements.

    Attributes:
      name: What it is.
      ours, theirs: Name of the figure on either side.
      scale: Factor that brings theirs to our unit.
      bar: What the ratio ours / theirs is to reach, or to stay under where `less` is set.
    """

    name: str
    ours: str
    theirs: str
    bar: float
    scale: float = 1.0
    less: bool = False


@dataclass(frozen=True)
class Comparison:
    """One of our benchmarks beside one of the peer's: their arguments and what is compared."""

    ours: str
    theirs: str
    figures: tuple[Figure, ...]


QUESTIONS: Final = "edpo_step --questions 5 --remat full"
MEMORY: Final = Figure("peak memory", "peak_memory_gb", "peak_rss_mb", 0.4, scale=1.048576e-3, less=True)


def _edpo(variant: str, bar: float, *figures: Figure, ours: str = QUESTIONS, tiles: int = 0) -> Comparison:
    """Five questions of one image; the peer repeats the image for each answer, so that one question tells its rate."""
    rate = Figure("questions/s", "questions_per_s", "groups_per_s", bar)
    theirs = f"--what dpo --groups 1 --variant {variant}"
    if tiles:
        ours, theirs = f"{ours} --tiles {tiles}", f"tiles {tiles} {theirs}"
    return Comparison(ours, theirs, (rate, *figures))


NEW_TOKENS: Final = 64
"""Tokens of each answer that both sides generate."""

COMPARISONS: Final = {
    "edpo_trl": _edpo("trl", 8.0, MEMORY),
    "edpo_trl_reference": _edpo("trl", 8.0, ours=f"{QUESTIONS} --reference step"),
    "edpo_tiles": _edpo("trl", 10.0, tiles=7),
    "edpo_loop": _edpo("loop --freeze-vision", 5.0),
    "edpo_shared": _edpo("shared --freeze-vision", 1.4),
    "forward": Comparison(
        "forward --rows 4", "--what forward --batch 4", (Figure("tokens/s", "tokens_per_s", "tokens_per_s", 1.0),)
    ),
    "sfe": Comparison("sfe_step --rows 4", "sft --rows 4", (Figure("tokens/s", "tokens_per_s", "tokens_per_s", 1.0),)),
    "generate": Comparison(
        "generate --rows 8",
        "--what generate --batch 8",
        (
            Figure("decode tokens/s", "decode_tokens_per_s", "decode_tokens_per_s", 2.0),
            Figure("tokens/s with prefill", "tokens_per_s", "tokens_per_s", 1.2),
        ),
    ),
    "inspection": Comparison(
        "inspect_throughput --images 16 --rows 8 --questions 5",
        "--what generate --batch 8",
        (Figure("images/s at 5 questions each", "images_per_s", "tokens_per_s", 3.0, scale=1 / (5 * NEW_TOKENS)),),
    ),
    "inspection_folder": Comparison(
        "inspect_folder --images 32 --rows 8 --questions 5",
        "inspect --images 32 --batch 8 --questions 5",
        (
            Figure("images/s of the stage, over loading, reading and answering", "images_per_s", "images_per_s", 3.0),
            Figure("images/s with start", "process_images_per_s", "process_images_per_s", 3.0),
        ),
    ),
    "inspection_in_turn": Comparison(
        "inspect_folder --images 32 --rows 8 --questions 5 --ask in_turn",
        "inspect --images 32 --batch 8 --questions 5",
        (
            Figure("images/s of the stage, over loading, reading and answering", "images_per_s", "images_per_s", 3.0),
            Figure("images/s with start", "process_images_per_s", "process_images_per_s", 3.0),
        ),
    ),
    "facts_and_questions": Comparison(
        "generate --rows 1 --questions 5 --facts 64",
        "--what generate --batch 1",
        (Figure("seconds over six calls", "seconds", "total_s", 0.4, scale=6.0, less=True),),
    ),
}


IN_FOLDER: Final = {"inspection_folder", "inspection_in_turn"}
"""Comparisons that need a work folder."""


def main() -> None:
    """Runs the comparisons and prints both sides' lines and one line a ratio."""
    found = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    found.add_argument("names", nargs="*", metavar="COMPARISON", help=f"of {', '.join(COMPARISONS)}")
    found.add_argument("--peer", type=Path, required=True)
    found.add_argument("--size", choices=["tiny", "small"], default="tiny")
    found.add_argument("--pairs", type=int, default=3)
    found.add_argument("--repeats", type=int, default=3, help="measurements of a run")
    found.add_argument("--warmup", type=int, default=1)
    found.add_argument(
        "--work", type=Path, help=f"folder of {', '.join(sorted(IN_FOLDER))}: images, model and export, kept"
    )
    options = found.parse_args()
    unknown = [name for name in options.names if name not in COMPARISONS]
    if unknown:
        found.error(f"there is no comparison {', '.join(unknown)}; there are {', '.join(COMPARISONS)}")
    if not options.peer.is_file():
        found.error(f"--peer: there is no file {options.peer}")
    in_folder = sorted(IN_FOLDER.intersection(options.names or COMPARISONS))
    if options.work is None and in_folder:
        found.error(f"{in_folder[0]} needs --work, a folder that is made once and kept")
    shared = ["--size", options.size, "--repeats", str(options.repeats), "--warmup", str(options.warmup)]
    for name in options.names or COMPARISONS:
        comparison = COMPARISONS[name]
        given = [*shared, "--work", str(options.work)] if name in IN_FOLDER else shared
        pairs = []
        for _ in range(options.pairs):
            ours = run([sys.executable, "-m", *_module(comparison.ours), *given])
            pairs.append((ours, run([sys.executable, *_peer(comparison.theirs, options.peer), *given])))
        for figure in comparison.figures:
            print(json.dumps(ratio(name, options.size, figure, pairs)), flush=True)


def _module(ours: str) -> list[str]:
    script, *arguments = ours.split()
    return [f"bench.{script}", *arguments]


def _peer(theirs: str, peer: Path) -> list[str]:
    if theirs.startswith("sft "):
        return ["-m", "bench.peer_sft", "--peer", str(peer), *theirs.split()[1:]]
    if theirs.startswith("inspect "):
        return ["-m", "bench.peer_inspect", "--peer", str(peer), *theirs.split()[1:]]
    if theirs.startswith("tiles "):
        return ["-m", "bench.peer_tiles", "--peer", str(peer), "--tiles", *theirs.split()[1:]]
    return [str(peer), *theirs.split()]


def run(command: list[str]) -> dict[str, Any]:
    """Runs a benchmark of one measurement, prints its line and returns it; ends the program where there is none."""
    done = subprocess.run(command, cwd=ROOT, capture_output=True, text=True, check=False)
    lines = read_lines(done.stdout.splitlines())
    if done.returncode or not lines:
        sys.exit(f"error: {' '.join(command)} ended with status {done.returncode}:\n{done.stderr[-2000:]}")
    print(json.dumps(lines[-1]), flush=True)
    return lines[-1]


def ratio(name: str, size: str, figure: Figure, pairs: list[tuple[dict[str, Any], dict[str, Any]]]) -> dict[str, Any]:
    """Ours over theirs, over the pairs."""
    each = [ours[figure.ours] / (theirs[figure.theirs] * figure.scale) for ours, theirs in pairs]
    middle = statistics.median(each)
    return {
        "comparison": name,
        "size": size,
        "figure": figure.name,
        "ratio": round(middle, 3),
        "ratio_min": round(min(each), 3),
        "ratio_max": round(max(each), 3),
        "pairs": len(each),
        "bar": f"{'<=' if figure.less else '>='} {figure.bar}",
        "met": middle <= figure.bar if figure.less else middle >= figure.bar,
    }


if __name__ == "__main__":
    main()
