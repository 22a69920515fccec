"""What the images of a calibration look like, kept in `familiarity.npz` of the run: others are called unsure."""

from __future__ import annotations

import contextlib
import dataclasses
import io
import json
from pathlib import Path
from typing import Any, Final

import numpy as np

from sage_jax.config import Config, ConfigError
from sage_jax.evaluation.evaluator import Evaluator
from sage_jax.inspection.batches import read_ahead
from sage_jax.inspection.images import Images
from sage_jax.inspection.looks import look_of
from sage_jax.metrics.familiarity import Familiarity, learn
from sage_jax.metrics.image_look import Look
from sage_jax.process.checksums import read_npz
from sage_jax.process.files import replace_file
from sage_jax.process.shortages import raise_if_lacking
from sage_jax.process.stop_request import stop_if_asked
from sage_jax.stages.folder import RunFolder
from sage_jax.stages.run import Stage

FILE: Final = "familiarity.npz"
_ARRAYS: Final = ("bank", "mean", "deviation")
_FORMAT: Final = 2
"""1, which said nothing of itself, had patches of the model's own."""
_LEAST_IMAGES: Final = 4


def learn_familiarity(stage: Stage, made_for: dict[str, Any], images: Images) -> bool:
    """Learns what the good images of a calibration look like, and writes it; removes an older one where none is asked.

    Args:
      made_for: The model, its stage and whether it compares with references.
      images: The good images, with their references.

    Returns:
      Whether it is there.
    """
    path, rate = stage.run.folder.path / FILE, stage.config.calibrate.unsure_rate
    looks = _looks(stage, images) if rate else []
    if len(looks) < _LEAST_IMAGES:
        path.unlink(missing_ok=True)
        return False
    found = learn(looks, rate=rate)
    buffer = io.BytesIO()
    arrays = {name: getattr(found, name) for name in _ARRAYS}
    rest = {field.name: getattr(found, field.name) for field in dataclasses.fields(found) if field.name not in arrays}
    np.savez(buffer, **arrays, rest=np.asarray(json.dumps({**rest, "format": _FORMAT, "made_for": made_for})))
    replace_file(path, buffer.getvalue())
    more = "" if found.rate <= rate + 1e-9 else f" ({rate:.2%} were asked for; {len(looks)} images promise no less)"
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
        (about,) = read_npz(path, "rest")
        rest = json.loads(str(about))
        if rest.pop("made_for") != made:
            return None
        if rest.pop("format", None) != _FORMAT:
            raise ValueError("it was written by an earlier version")
        categories = tuple(rest.pop("categories"))
        arrays = dict(zip(_ARRAYS, read_npz(path, *_ARRAYS), strict=True))
        return Familiarity(**arrays, categories=categories, **rest)
    except FileNotFoundError:
        if _is_expected(folder, made):
            raise ConfigError(f"{path}: gone: bring it back from a copy, or calibrate again") from None
        return None
    except (OSError, ValueError, KeyError, TypeError) as error:
        raise_if_lacking(error, path)
        raise ConfigError(f"{path}: {error}: calibrate again") from None


def _is_expected(folder: RunFolder, made_for: dict[str, Any]) -> bool:
    """Whether the calibration of a model says that it has learnt what images look like."""
    content = folder.read_calibration() or {}
    return bool(content.get("familiarity")) and {name: content.get(name) for name in made_for} == made_for


def _looks(stage: Stage, images: Images) -> list[Look]:
    """The look of each readable image.

    Raises:
      Interrupted: A signal has come.
    """
    shrink_px, looks = stage.config.data.shrink_px, list[Look]()

    def look(index: int) -> Look | None:
        record = images.read(index).record
        return None if record is None else look_of(record, shrink_px)

    with (
        stage.log.progress(len(images), unit="image") as advance,
        contextlib.closing(read_ahead(range(len(images)), look)) as found,
    ):
        for done, each in enumerate(found, start=1):
            stop_if_asked("stage calibrate stopped; the rows of its inspection are saved")
            looks += [] if each is None else [each]
            advance(done)
    return looks
