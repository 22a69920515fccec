"""Inspection of a folder of image files from end to end, as a user runs it: start, files, tiles, model, maps, report.

    python -m bench.inspect_folder --size small --images 16 --rows 8 --questions 5 --work FOLDER

A process of its own runs the stage `inspect` of `python -m sage_jax.main` over the files: `--warmup` times before, the
first of which compiles, then `--repeats` times that count. `bench/peer/inspect_folder.py` asks transformers the same of
the same files and weights. Beyond answers this side scores and maps each image beside a reference, and writes rows,
overlay pictures and the HTML report.

FOLDER is made once and kept: drawn images, a good reference, a run whose `base` has taken one step from random weights,
its tokenizer (of the drawn data's words, fewer than the size's vocabulary) and its export. With `--ask in_turn` the
questions about an image are a conversation; `together` asks each for itself, as the peer's prompts do.
"""

from __future__ import annotations

import argparse
import dataclasses
import json
import resource
import statistics
import subprocess
import sys
import time
from pathlib import Path
from typing import Any, Final

import ml_collections

from bench.measure import busy_seconds, parser, say
from bench.sizes import SIZES
from sage_jax.config import (
    Config,
    DataConfig,
    EvaluateConfig,
    ExportConfig,
    InspectConfig,
    TextConfig,
    TrainConfig,
    to_config_dict,
)
from sage_jax.data.adpl.preferences import INSPECTION_QUESTION
from sage_jax.data.sources.generated import draw
from sage_jax.process.files import replace_file

ROOT: Final = Path(__file__).parents[1]
FURTHER: Final = (
    "Where in the picture is the defect?",
    "What kind of defect is it?",
    "How does the part differ from a good one?",
    "What would the defect do to the part in use?",
)
"""Asked beside whether there is a defect."""

COLUMNS: Final = 2
"""Tiles along the side of an image, where the size has more than one; the thumbnail comes beside them."""


def make_config(size_name: str, work: str) -> ml_collections.ConfigDict:
    """The run in a work folder: a model of the size's layers and widths, trained for one step."""
    size, folder = SIZES[size_name], Path(work)
    layers = max(size.model.vit.num_layers, size.model.decoder.num_layers)
    return to_config_dict(
        Config(
            run_dir=str(folder / "run"),
            stages="prepare,base,export",
            data=DataConfig(cache_dir=str(folder / "cache"), num_train=64, num_test=8),
            text=TextConfig(
                vocab_size=size.vocab_size,
                max_facts=3,
                max_fact_tokens=64,
                max_answer_tokens=96,
                buckets=(192, 384, 480, 576, 672, 768),
            ),
            model=dataclasses.replace(size.model, max_tiles=min(size.tiles, COLUMNS**2), scan_unroll=layers),
            base=TrainConfig(
                steps=1,
                batch_size=2,
                warmup_steps=0,
                freeze=("fusion/", "fact_encoder/"),
                questions="description",
                questions_per_image=1,
            ),
            evaluate=EvaluateConfig(max_new_tokens=size.new_tokens),
            inspect=InspectConfig(stage="base", category="hex nut"),
            export=ExportConfig(stage="base", folder=str(folder / "export"), dtype="float32"),
        )
    )


def image_px(size_name: str) -> int:
    """Side of an image file, px."""
    size = SIZES[size_name]
    return size.model.vit.tile_px * (1 if size.tiles == 1 else COLUMNS)


def prepare(size_name: str, work: Path, images: int) -> Path:
    """Makes what is missing in the work folder; the folder of so many images."""
    folder = work / f"images_{images}"
    if not folder.is_dir():
        drawn = list(draw(DataConfig(num_train=images, num_test=1, image_px=image_px(size_name)), "train", 0))
        good = next(image for image in drawn if not image.defects)
        replace_file(work / "good.png", good.test_image)
        for number, image in enumerate(drawn):
            replace_file(work / f".images_{images}" / f"{number:04}.png", image.test_image)
        (work / f".images_{images}").rename(folder)
    if not (work / "export").is_dir():
        lines = ("from bench.inspect_folder import make_config", "", "", "def get_config():")
        made = f"    return make_config({size_name!r}, {str(work)!r})"
        replace_file(work / "config.py", "\n".join((*lines, made, "")))
        _main(work)
    return folder


def inspect(work: Path, images: Path, questions: tuple[str, ...], options: argparse.Namespace) -> dict[str, Any]:
    """One inspection in a process of its own: its seconds from start to end, and what it says of its stage."""
    output = work / "inspected"
    start = time.perf_counter(), _children_seconds(), busy_seconds()
    _main(
        work,
        "--config.stages=inspect",
        f"--config.inspect.images={images}",
        f"--config.inspect.references={work / 'good.png'}",
        f"--config.inspect.questions={questions[1:]!r}",
        f"--config.inspect.ask={options.ask}",
        f"--config.inspect.output={output}",
        f"--config.evaluate.batch_size={options.rows}",
    )
    wall, own, busy = (
        after - before
        for after, before in zip((time.perf_counter(), _children_seconds(), busy_seconds()), start, strict=True)
    )
    rows = (output / "inspection.jsonl").read_text(encoding="utf-8").splitlines()
    assert len(rows) == options.images and all(json.loads(row)["overlay"] for row in rows)
    stage = json.loads((work / "run" / "summary.json").read_text(encoding="utf-8"))["stages"]["inspect"]
    others = max(0.0, (busy - own) / wall)
    return {"process_seconds": wall, "process_cpu_seconds": own, "others_cores": others, **stage}


def _main(work: Path, *overrides: str) -> None:
    """Runs the program on the work folder's config; ends with its message where it fails."""
    command = [sys.executable, "-m", "sage_jax.main", "--config", str(work / "config.py"), *overrides]
    done = subprocess.run(command, cwd=ROOT, capture_output=True, text=True, check=False)
    if done.returncode:
        sys.exit(f"error: {' '.join(command)} ended with status {done.returncode}:\n{done.stderr[-2000:]}")


def _children_seconds() -> float:
    used = resource.getrusage(resource.RUSAGE_CHILDREN)
    return used.ru_utime + used.ru_stime


def asked(count: int) -> tuple[str, ...]:
    """The questions about each image, whether there is a defect first."""
    return (INSPECTION_QUESTION, *FURTHER)[:count]


def main() -> None:
    """Measures and prints."""
    found = parser(__doc__)
    found.add_argument("--work", type=Path, required=True, help="folder that is made once and kept")
    found.add_argument("--images", type=int, default=32)
    found.add_argument("--rows", type=int, default=8, help="images at once")
    found.add_argument("--questions", type=int, choices=range(1, 2 + len(FURTHER)), default=5)
    found.add_argument("--ask", choices=["in_turn", "together"], default="together")
    options = found.parse_args()
    size = dataclasses.replace(SIZES[options.size], tiles=1 if SIZES[options.size].tiles == 1 else COLUMNS**2 + 1)
    work = options.work.expanduser().resolve() / options.size
    images, questions = prepare(options.size, work, options.images), asked(options.questions)
    runs = [inspect(work, images, questions, options) for _ in range(options.warmup + options.repeats)]
    counted = runs[options.warmup :]
    middle = {name: round(statistics.median(run[name] for run in counted), 3) for name in counted[0]}
    say(
        "inspect_folder",
        options,
        size,
        images=options.images,
        rows=options.rows,
        questions=options.questions,
        ask=options.ask,
        new_tokens=size.new_tokens,
        first_process_seconds=round(runs[0]["process_seconds"], 3),
        **{name: value for name, value in middle.items() if name != "images"},
        n=len(counted),
        images_per_s=round(options.images / middle["seconds"], 4),
        process_images_per_s=round(options.images / middle["process_seconds"], 4),
        images_per_cpu_s=round(options.images / middle["process_cpu_seconds"], 4),
    )


if __name__ == "__main__":
    main()
