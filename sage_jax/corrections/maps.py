"""Anomaly maps of kept inspections, as small pictures beside the store: what a person looks at beside the image."""

from __future__ import annotations

import hashlib
import io
from collections.abc import Sequence
from pathlib import Path
from typing import Final

import numpy as np
from PIL import Image

from sage_jax.axes import Float, UInt8
from sage_jax.corrections.entries import CorrectionFault, Finding
from sage_jax.corrections.store import CorrectionStore
from sage_jax.process.files import replace_file

_FOLDER: Final = "maps"
_MOST_PX: Final = 512
"""Longer side of a kept map: it is upsampled from the patches of the image, which are far fewer."""


def keep(store: CorrectionStore, finding: Finding, anomaly_map: Float[np.ndarray, "H W"] | None) -> int:
    """Keeps a finding with its anomaly map.

    Args:
      anomaly_map: 0 (like the reference) to 1; None without a reference.

    Returns:
      The id of the inspection; map and inspection are on the disk.

    Raises:
      CorrectionFault: The folder cannot be written.
    """
    if anomaly_map is not None:
        path = _path(store, _digest(finding.image), list(map(_digest, finding.references)), finding.model)
        values = (np.clip(anomaly_map, 0.0, 1.0) * 255.0).round().astype(np.uint8)
        picture = Image.fromarray(values)
        picture.thumbnail((_MOST_PX, _MOST_PX), Image.Resampling.BOX)
        buffer = io.BytesIO()
        picture.save(buffer, "PNG", compress_level=3)
        try:
            replace_file(path, buffer.getvalue())
        except OSError as error:
            raise CorrectionFault(f"{path}: cannot be written: {error.strerror or error}") from None
    return store.add_inspection(finding)


def kept_map(
    store: CorrectionStore, image: str, references: Sequence[str], model: str
) -> UInt8[np.ndarray, "h w"] | None:
    """The map of an inspection, 0 to 255 for 0 to 1, at most 512 px; None where none was kept.

    Args:
      image, references: Digests.
      model: Revision of the model.

    Raises:
      CorrectionFault: Its file is damaged.
    """
    path = _path(store, image, references, model)
    if not path.is_file():
        return None
    try:
        with Image.open(path, formats=("PNG",)) as picture:
            return np.asarray(picture.convert("L"))
    except Exception as error:  # damaged files make decoders raise almost anything
        raise CorrectionFault(f"{path}: damaged ({type(error).__name__}): delete it, or bring it back") from None


def _path(store: CorrectionStore, image: str, references: Sequence[str], model: str) -> Path:
    name = _digest("\n".join((image, *references, model)).encode())
    return store.folder / _FOLDER / name[:2] / f"{name}.png"


def _digest(content: bytes) -> str:
    return hashlib.sha256(content).hexdigest()
