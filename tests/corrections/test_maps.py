"""Maps of kept inspections: found by what they are of, small, and whole or told as damaged."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest

from sage_jax.corrections.entries import CorrectionFault
from sage_jax.corrections.maps import keep, kept_map
from sage_jax.corrections.store import CorrectionStore
from tests.support.corrected import finding


def test_a_map_comes_back_to_a_grey_level_by_its_image_references_and_model(tmp_path: Path) -> None:
    store = CorrectionStore(tmp_path)
    given = np.random.default_rng(0).random((30, 40), np.float32) * 1.4 - 0.2
    entry = store.inspection(keep(store, finding(model="one"), given))
    found = kept_map(store, entry.image, entry.references, "one")
    assert found is not None and found.shape == (30, 40)
    np.testing.assert_allclose(found / 255.0, np.clip(given, 0, 1), atol=0.51 / 255)
    assert kept_map(store, entry.image, entry.references, "two") is None
    assert kept_map(store, entry.image, (), "one") is None


def test_a_large_map_is_kept_small_with_its_mean(tmp_path: Path) -> None:
    store = CorrectionStore(tmp_path)
    given = np.random.default_rng(0).random((1024, 2048), np.float32)
    entry = store.inspection(keep(store, finding(), given))
    found = kept_map(store, entry.image, entry.references, entry.model)
    assert found is not None and found.shape == (256, 512)
    np.testing.assert_allclose(found[0, 0] / 255.0, given[:4, :4].mean(), atol=0.01)


def test_an_inspection_without_a_reference_has_no_map(tmp_path: Path) -> None:
    store = CorrectionStore(tmp_path)
    entry = store.inspection(keep(store, finding(references=()), None))
    assert kept_map(store, entry.image, entry.references, entry.model) is None
    assert store.counts().inspections == 1


def test_a_damaged_map_is_told_with_its_path(tmp_path: Path) -> None:
    store = CorrectionStore(tmp_path)
    entry = store.inspection(keep(store, finding(), np.zeros((4, 4), np.float32)))
    (path,) = (tmp_path / "maps").rglob("*.png")
    path.write_bytes(b"no picture")
    with pytest.raises(CorrectionFault, match=path.name):
        kept_map(store, entry.image, entry.references, entry.model)
