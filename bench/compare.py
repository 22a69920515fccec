"""Ours and the peer's benchmarks alternately, pair by pair, and the ratios of their figures.

    pip install -r requirements-peer.txt
    python -m bench.compare --size small edpo_trl

The peer, transformers and TRL in torch on the same layers, widths and data, is `bench/peer/`. Without names, the
comparisons of the size run: `tiny` and `small` on a CPU, `1b` and `8b` on a GPU. Each pair runs both sides one after
the other, each in a process of its own; a ratio has its median, least and most over pairs. Lines with `others_cores`
above 0.1 tell that something else was running. `--peer-python` names the interpreter of another environment for the
peer: jax and torch for one GPU may not install together.
"""

from __future__ import annotations

import argparse
import json
import os
import statistics
import subprocess
import sys
import tempfile
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Final

from bench.measure import read_lines
from bench.peer.allocator import MALLOC

ROOT: Final = Path(__file__).parents[1]
CPU_SIZES: Final = ("tiny", "small")
GPU_SIZES: Final = ("tiny", "1b", "8b")
"""Sizes of the comparisons on a GPU; `tiny` shows on any machine that they run."""


@dataclass(frozen=True)
class Figure:
    """A figure that both measurements have.

    Attributes:
      name: Quantity with its unit.
      ours, theirs: Name of the figure on either side.
      bar: Ratio ours / theirs to reach, or to stay under where `less` is set.
      scale: Factor that brings theirs to our unit.
    """

    name: str
    ours: str
    theirs: str
    bar: float
    scale: float = 1.0
    less: bool = False


@dataclass(frozen=True)
class Comparison:
    """One of our benchmarks beside one of the peer's.

    Attributes:
      ours, theirs: Module below `bench` and below `bench.peer`, with its arguments.
      figures: Compared figures.
      sizes: Sizes that it is meant for.
      in_folder: Whether both sides need a work folder of images, model and export.
    """

    ours: str
    theirs: str
    figures: tuple[Figure, ...]
    sizes: tuple[str, ...] = CPU_SIZES
    in_folder: bool = False


QUESTIONS: Final = "edpo_step --questions 5 --remat full"
MEMORY: Final = Figure("peak memory", "peak_memory_gb", "peak_memory_gb", 0.4, less=True)
TOKENS: Final = Figure("tokens/s", "tokens_per_s", "tokens_per_s", 1.0)
DECODED: Final = (
    Figure("decode tokens/s", "decode_tokens_per_s", "decode_tokens_per_s", 2.0),
    Figure("tokens/s with prefill", "tokens_per_s", "tokens_per_s", 1.2),
)
INSPECTED: Final = (
    Figure("images/s of the stage, over loading, reading and answering", "images_per_s", "images_per_s", 3.0),
    Figure("images/s with start", "process_images_per_s", "process_images_per_s", 3.0),
)
NEW_TOKENS: Final = 64
"""Tokens of each answer that both sides generate."""


def _edpo(variant: str, bar: float, *more: Figure, ours: str = QUESTIONS, tiles: int = 0) -> Comparison:
    """Five questions of one image; the peer repeats the image for each answer, so that one question tells its rate."""
    rate = Figure("questions/s", "questions_per_s", "questions_per_s", bar)
    tiled = f" --tiles {tiles}" if tiles else ""
    return Comparison(f"{ours}{tiled}", f"dpo --questions 1 --variant {variant}{tiled}", (rate, *more))


def _edpo_gpu(checkpointing: str, bar: float) -> Comparison:
    """LoRA of rank 16 on one question of four answers, the reference computed in each step on both sides."""
    figures = Figure("questions/s", "questions_per_s", "questions_per_s", bar)
    ours = "edpo_step --questions 1 --lora 16 --remat full --reference step"
    theirs = f"dpo --questions 1 --variant loop --lora 16 --freeze-vision{checkpointing}"
    return Comparison(ours, theirs, (figures,), GPU_SIZES)


COMPARISONS: Final = {
    "edpo_trl": _edpo("trl", 8.0, MEMORY),
    "edpo_trl_reference": _edpo("trl", 8.0, ours=f"{QUESTIONS} --reference step"),
    "edpo_tiles": _edpo("trl", 10.0, tiles=7),
    "edpo_loop": _edpo("loop --freeze-vision", 5.0),
    "edpo_shared": _edpo("shared --freeze-vision", 1.4),
    "forward": Comparison("forward --rows 4", "forward --rows 4", (TOKENS,)),
    "sfe": Comparison("sfe_step --rows 4", "sft --rows 4", (TOKENS,)),
    "generate": Comparison("generate --rows 8", "generate --rows 8", DECODED),
    "inspection": Comparison(
        "inspect_throughput --images 16 --rows 8 --questions 5",
        "generate --rows 8",
        (Figure("images/s at 5 questions each", "images_per_s", "tokens_per_s", 3.0, scale=1 / (5 * NEW_TOKENS)),),
    ),
    "inspection_folder": Comparison(
        "inspect_folder --images 32 --rows 8 --questions 5",
        "inspect_folder --images 32 --rows 8 --questions 5",
        INSPECTED,
        in_folder=True,
    ),
    "inspection_in_turn": Comparison(
        "inspect_folder --images 32 --rows 8 --questions 5 --ask in_turn",
        "inspect_folder --images 32 --rows 8 --questions 5",
        INSPECTED,
        in_folder=True,
    ),
    "facts_and_questions": Comparison(
        "generate --rows 1 --questions 5 --facts 64",
        "generate --rows 1",
        (Figure("seconds over six calls", "seconds", "seconds", 0.4, scale=6.0, less=True),),
    ),
    "gpu_edpo": _edpo_gpu("", 1.0),
    "gpu_edpo_checkpointing": _edpo_gpu(" --gradient-checkpointing", 1.0),
    "gpu_edpo_questions": Comparison(
        "edpo_step --questions 5 --lora 16 --remat full",
        "dpo --questions 1 --variant loop --lora 16 --freeze-vision --gradient-checkpointing",
        (Figure("questions/s", "questions_per_s", "questions_per_s", 5.0),),
        GPU_SIZES,
    ),
    "gpu_sft": Comparison(
        "sfe_step --rows 4 --remat dots", "sft --rows 4 --gradient-checkpointing", (TOKENS,), ("tiny", "1b")
    ),
    "gpu_generate": Comparison(
        "generate --rows 1 --weights bfloat16",
        "generate --rows 1",
        (Figure("decode tokens/s", "decode_tokens_per_s", "decode_tokens_per_s", 1.0),),
        GPU_SIZES,
    ),
    "gpu_generate_64": Comparison(
        "generate --rows 64 --weights bfloat16",
        "generate --rows 64",
        (Figure("decode tokens/s", "decode_tokens_per_s", "decode_tokens_per_s", 1.0),),
        GPU_SIZES,
    ),
}


def names_of(size: str) -> list[str]:
    """The comparisons that run at a size where none is named."""
    return [name for name, each in COMPARISONS.items() if size in each.sizes and name.startswith("gpu_") == _gpu(size)]


def _gpu(size: str) -> bool:
    return size not in CPU_SIZES


def main() -> None:
    """Runs the comparisons and prints both sides' lines and one line a ratio."""
    found = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    found.add_argument("names", nargs="*", metavar="COMPARISON", help=f"of {', '.join(COMPARISONS)}")
    found.add_argument("--size", choices=[*CPU_SIZES, "1b", "8b"], default="tiny")
    found.add_argument("--pairs", type=int, default=3)
    found.add_argument("--repeats", type=int, default=3, help="measurements of a run")
    found.add_argument("--warmup", type=int, default=1)
    found.add_argument("--peer-python", default=sys.executable, help="interpreter that has torch, transformers and TRL")
    found.add_argument("--work", type=Path, help="folder of images, model and export, kept; left out, a temporary one")
    options = found.parse_args()
    names = options.names or names_of(options.size)
    for name in names:
        if name not in COMPARISONS:
            found.error(f"there is no comparison {name}; there are {', '.join(COMPARISONS)}")
        if options.size not in COMPARISONS[name].sizes:
            found.error(f"{name} is of the sizes {', '.join(COMPARISONS[name].sizes)}, not {options.size}")
    missing = missing_packages(options.peer_python, names)
    if missing:
        sys.exit(
            f"error: {options.peer_python} has no {', '.join(missing)}: pip install -r requirements-peer.txt, or name "
            "the peer's interpreter with --peer-python"
        )
    with tempfile.TemporaryDirectory() as folder:
        for name in names:
            compare(name, options, options.work or Path(folder))


def missing_packages(python: str, names: list[str]) -> list[str]:
    """Packages that the comparisons need of the peer's interpreter and that it does not have."""
    theirs = " ".join(COMPARISONS[name].theirs for name in names)
    needed = ["torch", "transformers"]
    needed += ["trl", "datasets"] if "--variant trl" in theirs else []
    needed += ["peft"] if "--lora" in theirs else []
    asks = "import importlib.util, sys; print(*(n for n in sys.argv[1:] if importlib.util.find_spec(n) is None))"
    return subprocess.run([python, "-c", asks, *needed], capture_output=True, text=True, check=True).stdout.split()


def compare(name: str, options: argparse.Namespace, work: Path) -> None:
    """Runs the pairs of a comparison and prints their lines and ratios."""
    comparison = COMPARISONS[name]
    given = ["--size", options.size, "--repeats", str(options.repeats), "--warmup", str(options.warmup)]
    given += ["--work", str(work)] if comparison.in_folder else []
    pairs = []
    for _ in range(options.pairs):
        ours = run([sys.executable, "-m", *f"bench.{comparison.ours}".split(), *given], {})
        theirs = run([options.peer_python, "-m", *f"bench.peer.{comparison.theirs}".split(), *given], MALLOC)
        pairs.append((ours, theirs))
    for figure in comparison.figures:
        print(json.dumps(ratio(name, options.size, figure, pairs)), flush=True)


def run(command: list[str], environment: dict[str, str]) -> dict[str, Any]:
    """Runs a benchmark of one measurement, prints its line and returns it; ends the program where there is none.

    Args:
      environment: Variables that its process has beside those of this one.
    """
    done = subprocess.run(
        command, cwd=ROOT, env={**os.environ, **environment}, capture_output=True, text=True, check=False
    )
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
