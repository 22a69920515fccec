"""What the images of a calibration look like, kept in `familiarity.npz` of the run: others are called unsure."""

from __future__ import annotations

import contextlib
import dataclasses
import io
import json
from pathlib import Path
from typing import Any, Final

import numpy as np

from sage_jax.config import Config, ConfigError, InspectConfig
from sage_jax.data.images import remembered_rgb
from sage_jax.evaluation.evaluator import Evaluator
from sage_jax.inspection.batches import ImageBatch, read_ahead, read_batch, test_features, tile_features
from sage_jax.inspection.images import UserImages
from sage_jax.metrics.familiarity import Familiarity, Look, learn, look_at
from sage_jax.process.checksums import read_npz
from sage_jax.process.files import replace_file
from sage_jax.process.shortages import raise_if_lacking
from sage_jax.stages.folder import RunFolder
from sage_jax.stages.run import Stage

FILE: Final = "familiarity.npz"
_LEAST_IMAGES: Final = 4


def learn_familiarity(stage: Stage, evaluator: Evaluator, made_for: dict[str, Any], options: InspectConfig) -> bool:
    """Learns what the good images of a calibration look like, and writes it; removes an older one where none is asked.

    Args:
      made_for: The model, its stage and whether it compares with references.
      options: What was inspected; its rows are in `calibration/good` of the run.

    Returns:
      Whether it is there.
    """
    path, rate = stage.run.folder.path / FILE, stage.config.calibrate.unsure_rate
    rows = _map_medians(stage.run.folder.path / "calibration" / "good" / "inspection.jsonl")
    if rate == 0.0 or len(rows) < _LEAST_IMAGES:
        path.unlink(missing_ok=True)
        return False
    features, looks = _looks(stage, evaluator, options, rows)
    found = learn(features, looks, rate=rate)
    buffer = io.BytesIO()
    rest = {"middle": found.middle, "spread": found.spread, "limit": found.limit, "rate": found.rate}
    np.savez(buffer, bank=found.bank, rest=np.asarray(json.dumps({**rest, "made_for": made_for})))
    replace_file(path, buffer.getvalue())
    more = "" if found.rate <= rate + 1e-9 else f" ({rate:.2%} were asked for; {len(rows)} images promise no less)"
    stage.log.line(
        f"images unlike these are called unsure: {found.rate:.2%} or fewer of further good images like them, on average"
        f" over calibrations{more}"
    )
    return True


def familiarity_of(config: Config, evaluator: Evaluator, stage: str, *, with_reference: bool) -> Familiarity | None:
    """What the images look like that a model was calibrated on; None where that is not known, or of another model.

    Raises:
      ConfigError: The file is broken, or gone from a calibration that has one.
    """
    folder = RunFolder(Path(config.run_dir).expanduser())
    path, made = folder.path / FILE, {"stage": stage, "model": evaluator.digest(), "with_reference": with_reference}
    try:
        bank, about = read_npz(path, "bank", "rest")
        rest = json.loads(str(about))
        made_for = rest.pop("made_for")
        found = Familiarity(bank=bank, **rest)
    except FileNotFoundError:
        if _is_expected(folder, made):
            raise ConfigError(f"{path}: gone: bring it back from a copy, or calibrate again") from None
        return None
    except (OSError, ValueError, KeyError, TypeError) as error:
        raise_if_lacking(error, path)
        raise ConfigError(f"{path}: {error}: delete it, and calibrate again") from None
    return found if made_for == made else None


def _is_expected(folder: RunFolder, made_for: dict[str, Any]) -> bool:
    """Whether the calibration of a model says that it has learnt what images look like."""
    content = folder.read_calibration() or {}
    return bool(content.get("familiarity")) and {name: content.get(name) for name in made_for} == made_for


def _map_medians(path: Path) -> dict[str, float | None]:
    """Median of each readable image's anomaly map, by the image's path."""
    rows = [json.loads(line) for line in path.read_text(encoding="utf-8").splitlines()]
    return {row["image"]: row["map_median"] for row in rows if row["score"] is not None}


def _looks(
    stage: Stage, evaluator: Evaluator, options: InspectConfig, rows: dict[str, float | None]
) -> tuple[list[np.ndarray], list[Look]]:
    """Features and look of each readable image; its references are not read again."""
    images = UserImages(dataclasses.replace(options, references=""), stage.run.vocabulary)
    size = evaluator.rows(len(images))
    give, features, looks = test_features(evaluator, size), list[np.ndarray](), list[Look]()

    def read(indices: range) -> ImageBatch:
        return read_batch([images.read(index) for index in indices], evaluator, size)

    groups = [range(start, min(start + size, len(images))) for start in range(0, len(images), size)]
    with (
        stage.log.progress(len(images), unit="image") as advance,
        contextlib.closing(read_ahead(groups, read)) as batches,
    ):
        for done, batch in enumerate(batches, start=1):
            for _, records, trees in batch.trees:
                filled = give.put_into(trees)
                for row, record in enumerate(records):
                    if record.test_path in rows:
                        pixels = remembered_rgb(record.test_image, name=record.test_path, keep=False)
                        features.append(tile_features(filled, row))
                        looks.append(look_at(pixels, rows[record.test_path]))
            advance(min(done * size, len(images)))
    return features, looks
