"""What a run learns from corrections of images with a shifted look: verdicts there, and on its old test set.

    python -m bench.learn_from_corrections --run runs/deeppcb --work learnt

Of each test image, and with `--references-too` of its reference, the script makes a shifted copy: turned by quarters,
then by some degrees, and brightened, as under another lamp or in another holder. The run inspects `--corrections` of
them, an operator corrects each from the ground truth (verdict, kind, and place as a box or a cell), and `sage-jax
learn` makes a version. Verdicts are then compared on all other shifted images, which nobody corrected, and on the test
set as it was. Beside them on the same images: one answer to all; the old model, and the absolute difference in equal
light, each with the threshold that fits the corrections best. Each seed draws other images to correct, another replay
and another order of training.

Options behind `--` are fields of the config: `-- --learn.steps 60`. The run itself is only read. Prints a line of JSON
for each seed, then one with means and extremes.
"""

from __future__ import annotations

import argparse
import dataclasses
import json
import random
import shutil
import subprocess
import sys
import time
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any

import jax
import numpy as np
from PIL import Image

import sage_jax
from sage_jax.corrections.entries import finding_of
from sage_jax.corrections.store import CorrectionStore, store_of
from sage_jax.data import store as stored
from sage_jax.data.adpl.preferences import cell_of
from sage_jax.data.images import encode_png, remembered_rgb
from sage_jax.data.records import Box, Defect, Record
from sage_jax.evaluation.baselines import difference_map
from sage_jax.stages.open_model import config_of
from sage_jax.stages.run import Run
from sage_jax.stages.versions import read_report, use_version, version_folder

_NOT_COPIED = shutil.ignore_patterns(
    "checkpoints", "corrections", "versions", "reference_logps", "tensorboard", "predictions", "inspect", "evaluations"
)
REPORTED = ("corrections_held_out", "corrections_kind", "test_verdicts", "test_kind", "test_place")


def main() -> None:
    """Prints what each seed found, and all together."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--run", required=True, help="a trained run")
    parser.add_argument("--work", required=True, help="a folder for copies of it")
    parser.add_argument("--corrections", type=int, default=40, help="images that the operator corrects")
    parser.add_argument("--seeds", type=int, nargs="+", default=[0, 1, 2])
    parser.add_argument("--gain", type=float, default=1.4, help="contrast of the shifted look")
    parser.add_argument("--offset", type=float, default=40.0, help="grey levels added after it")
    parser.add_argument(
        "--quarters", type=int, default=0, help="quarter turns, counter-clockwise, of references as well"
    )
    parser.add_argument("--degrees", type=float, default=3.0, help="turn of the test image after them")
    parser.add_argument("--references-too", action="store_true", help="references have the shifted look as well")
    parser.add_argument("fields", nargs="*", help="behind --: options of sage-jax learn")
    options = parser.parse_args()
    found = [one_seed(options, seed) for seed in options.seeds]
    for each in found:
        print(json.dumps(each))
    print(json.dumps({"name": "all seeds", "device": jax.devices()[0].device_kind} | summed(found)))


def one_seed(options: argparse.Namespace, seed: int) -> dict[str, Any]:
    """Corrects, learns and compares, in a copy of the run."""
    folder = Path(options.work) / f"seed_{seed}"
    shutil.rmtree(folder, ignore_errors=True)
    shutil.copytree(options.run, folder, ignore=_NOT_COPIED)
    records = list(distinct(stored.open_split(Run(config_of(folder)).prepared, "test")))
    look = Look(options.gain, options.offset, options.quarters, options.degrees, options.references_too)
    shown = [look.of(record) for record in records]
    random.Random(seed).shuffle(shown)
    corrected, others = shown[: options.corrections], shown[options.corrections :]
    wrong = correct(folder, store_of(folder), corrected)
    truth = [bool(record.anomalous) for record in others]
    before, scores = verdicts(folder, others)
    rivals = {
        "one answer to all": max(np.mean(truth), 1.0 - np.mean(truth)),
        "old model, threshold of the corrections": refitted(verdicts(folder, corrected)[1], corrected, scores, truth),
        "difference, threshold of the corrections": refitted(
            [differing(record) for record in corrected], corrected, [differing(record) for record in others], truth
        ),
    }
    began = time.perf_counter()
    command = [sys.executable, "-m", "sage_jax", "learn", "--model", str(folder), "--seed", str(seed)]
    subprocess.run([*command, *options.fields], check=True, stdout=sys.stderr)
    minutes = (time.perf_counter() - began) / 60
    use_version(folder, 1)
    after, _ = verdicts(folder, others)
    report = read_report(version_folder(folder, 1))
    measures = {name: report["measures"][name] for name in REPORTED if name in report["measures"]}
    return {
        "name": f"seed {seed}",
        "corrected": len(corrected),
        "of them wrong": wrong,
        "shifted images": len(others),
        "shifted before": float(np.mean(before)),
        "shifted after": float(np.mean(after)),
        "rivals": {name: round(float(share), 4) for name, share in rivals.items()},
        "minutes": minutes,
        "offered": report["offered"],
    } | {name: [each["before"]["value"], each["after"]["value"]] for name, each in measures.items()}


def summed(found: Sequence[dict[str, Any]]) -> dict[str, list[float]]:
    """Mean, least and most over the seeds: points gained on shifted images and on the old test set, and minutes."""
    values = {
        "shifted, points": [100 * (each["shifted after"] - each["shifted before"]) for each in found],
        "old test, points": [100 * (each["test_verdicts"][1] - each["test_verdicts"][0]) for each in found],
        "minutes": [each["minutes"] for each in found],
    }
    return {name: [float(np.mean(each)), min(each), max(each)] for name, each in values.items()}


def distinct(records: Sequence[Record]) -> Iterator[Record]:
    """One record of each image with a reference."""
    seen: set[str] = set()
    for index in range(len(records)):
        record = records[index]
        if record.image_id not in seen and record.reference_image is not None:
            seen.add(record.image_id)
            yield record


@dataclasses.dataclass(frozen=True)
class Look:
    """How images look that the run was not trained on.

    Attributes:
      gain, offset: Of grey values.
      quarters: Quarter turns, counter-clockwise, of image and references.
      degrees: Turn of the image after them; its references are not turned.
      references_too: Whether references have the grey values as well.
    """

    gain: float
    offset: float
    quarters: int
    degrees: float
    references_too: bool

    def of(self, record: Record) -> Record:
        """The record in this look; its defects' boxes turn by quarters, and stay where they are in the last degrees."""
        height, width = remembered_rgb(record.test_image, name=record.test_path, keep=False).shape[:2]
        defects = tuple(Defect(each.type, turned(each.box, width, height, self.quarters)) for each in record.defects)
        reference = self._turned(record.reference_image or b"", 0.0)
        return Record(
            **{name: getattr(record, name) for name in record.__dataclass_fields__}
            | {
                "test_image": encode_png(self._lit(self._turned(record.test_image, self.degrees))),
                "reference_image": encode_png(self._lit(reference) if self.references_too else reference),
                "further_references": (),
                "defects": defects,
            }
        )

    def _turned(self, content: bytes, degrees: float) -> np.ndarray:
        pixels = np.rot90(remembered_rgb(content, name="image", keep=False), self.quarters)
        picture = Image.fromarray(np.ascontiguousarray(pixels))
        ground = tuple(int(value) for value in np.median(pixels, axis=(0, 1)))
        return np.asarray(picture.rotate(degrees, Image.Resampling.BILINEAR, fillcolor=ground))

    def _lit(self, pixels: np.ndarray) -> np.ndarray:
        return np.clip(pixels * self.gain + self.offset, 0, 255).astype(np.uint8)


def turned(box: Box, width: int, height: int, quarters: int) -> Box:
    """A box of an image of this size as it lies after quarter turns counter-clockwise, as `np.rot90` makes them."""
    for _ in range(quarters % 4):
        box = Box(box.top, width - box.right, box.bottom, width - box.left)
        width, height = height, width
    return box


def correct(folder: Path, store: CorrectionStore, records: Sequence[Record]) -> int:
    """Inspects the images and corrects each as an operator would, by the ground truth; gives the wrong verdicts."""
    inspector, wrong = sage_jax.load(folder), 0
    threshold = inspector.threshold(with_reference=True).value
    for index, record in enumerate(records):
        references = [record.reference_image or b""]
        found = inspector.inspect(record.test_image, references, category=record.category)
        kept = finding_of(found, record.test_image, references, threshold=threshold, model="run", source="bench")
        number, true = store.add_inspection(kept), "defective" if record.anomalous else "good"
        wrong += found.verdict != true
        if not record.defects:
            store.correct(number, "operator", right=found.verdict == "good", verdict="good")
            continue
        largest = max(
            record.defects, key=lambda each: (each.box.right - each.box.left) * (each.box.bottom - each.box.top)
        )
        size = remembered_rgb(record.test_image, name=record.test_path, keep=False).shape
        cell = cell_of(largest.box, size[1], size[0])
        place: dict[str, Any] = {"box": largest.box} if index % 2 else {"cell": cell}
        store.correct(number, "operator", verdict="defective", kind=largest.type, **place)
    return wrong


def verdicts(folder: Path, records: Sequence[Record]) -> tuple[list[bool], list[float]]:
    """Whether the verdict on each image is right, an unsure one is not; and the scores."""
    inspector = sage_jax.load(folder)
    found, scores = [], []
    for record in records:
        said = inspector.inspect(record.test_image, [record.reference_image or b""], category=record.category)
        found.append(said.verdict == ("defective" if record.anomalous else "good"))
        scores.append(np.nan if said.score is None else said.score)
    return found, scores


def differing(record: Record) -> float:
    """Largest absolute difference to the reference, which is first given the image's mean and deviation of grey."""
    test, reference = (
        remembered_rgb(each or b"", name="image", keep=False).astype(np.float32)
        for each in (record.test_image, record.reference_image)
    )
    lit = (reference - reference.mean()) * test.std() / max(float(reference.std()), 1e-6) + test.mean()
    lit = encode_png(np.clip(lit + 0.5, 0, 255).astype(np.uint8))
    return float(difference_map(dataclasses.replace(record, reference_image=lit)).max())


def refitted(
    known: Sequence[float], corrected: Sequence[Record], scores: Sequence[float], truth: Sequence[bool]
) -> float:
    """Share of right verdicts by the threshold that is right most often on the corrected images, the middle of ties."""
    labels = np.array([bool(record.anomalous) for record in corrected])
    ordered = np.unique(known)
    between = [ordered[0] - 1.0, *((ordered[1:] + ordered[:-1]) / 2), ordered[-1] + 1.0]
    right = np.array([np.mean((np.array(known) >= each) == labels) for each in between])
    best = np.flatnonzero(right == right.max())
    return float(np.mean((np.array(scores) >= between[best[len(best) // 2]]) == np.array(truth)))


if __name__ == "__main__":
    main()
