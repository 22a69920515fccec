"""The anomaly map: tokens laid over the image, and drawn finer by the pixels of a registered pair."""

from __future__ import annotations

import dataclasses
from typing import Any

import numpy as np
import pytest
from scipy import ndimage

from sage_jax.config import Config, FusionConfig, ModelConfig, VitConfig
from sage_jax.data.images import encode_png
from sage_jax.data.records import Record, Reference
from sage_jax.evaluation.baselines import difference_map, difference_peak
from sage_jax.evaluation.maps import anomaly_map

SIDE = 4
"""Tokens along a side of the one tile."""
RECORD = Record("r", "i", b"", None, "part", "standard comparison", (), (), (), None, (), None, "", "")


def make_config(*, similarity: Any = "aligned", map_detail: Any = "pixels") -> Config:
    vit = VitConfig(tile_px=32, patch_px=4)
    model = ModelConfig(vit=vit, fusion=FusionConfig(similarity=similarity))
    assert model.tokens_per_tile == SIDE**2
    base = Config(model=model)
    return dataclasses.replace(base, evaluate=dataclasses.replace(base.evaluate, map_detail=map_detail))


def make_pair(height: int, width: int, *, seed: int = 0) -> tuple[Record, np.ndarray]:
    """A record with one bright square of a token's half in the lower right token, and its mask."""
    reference = np.random.default_rng(seed).integers(90, 110, (height, width, 3), dtype=np.uint8)
    test, mask = reference.copy(), np.zeros((height, width), bool)
    mask[height * 13 // 16 : height * 15 // 16, width * 13 // 16 : width * 15 // 16] = True
    test[mask] = 250
    record = dataclasses.replace(RECORD, test_image=encode_png(test), reference_image=encode_png(reference))
    return record, mask


def lower_right(value: float) -> np.ndarray:
    similarity = np.ones(SIDE**2, np.float32)
    similarity[-1] = 1.0 - value
    return similarity


@pytest.mark.parametrize("how", [{"similarity": "max"}, {"map_detail": "tokens"}])
def test_the_map_is_one_minus_similarity_where_the_tokens_lie(how: dict[str, str]) -> None:
    record, _ = make_pair(32, 48)
    found = anomaly_map(record, lower_right(0.75), make_config(**how))
    assert found.image.shape == (32, 48, 3) and found.values is found.tokens
    assert found.tokens.shape == (32, 48) and found.tokens[28, 42] == found.tokens.max()
    assert found.tokens.max() == pytest.approx(0.75, abs=1e-5) and found.tokens[0, 0] == pytest.approx(0.0, abs=1e-6)


def test_pixels_draw_it_finer_as_the_geometric_mean_of_tokens_nearby_and_difference() -> None:
    record, mask = make_pair(64, 96)
    found = anomaly_map(record, lower_right(0.75), make_config())
    nearby = ndimage.maximum_filter(found.tokens, (16, 24), mode="nearest")
    expected = np.sqrt(nearby * difference_map(record) / 255.0)
    np.testing.assert_allclose(found.values, expected, atol=1e-6)
    assert found.values.dtype == np.float32 and 0.0 <= found.values.min() and found.values.max() <= 1.0
    inside, around = found.values[mask], found.values[np.logical_xor(ndimage.binary_dilation(mask, iterations=5), mask)]
    assert np.median(inside) > 2.5 * np.median(around), "a token is wider than the defect"
    coarse = anomaly_map(record, lower_right(0.75), make_config(map_detail="tokens")).values
    far = np.logical_not(ndimage.binary_dilation(mask, iterations=5))
    assert (coarse[far] > np.median(coarse[mask])).mean() > 0.0 and not (found.values[far] > np.median(inside)).any()


def test_where_tokens_are_alike_a_difference_shows_little_and_without_one_nothing() -> None:
    record, mask = make_pair(64, 64)
    whole = anomaly_map(record, np.ones(SIDE**2, np.float32), make_config())
    np.testing.assert_array_equal(whole.values, 0.0)
    same = dataclasses.replace(record, test_image=record.reference_image or b"")
    np.testing.assert_array_equal(anomaly_map(same, lower_right(0.9), make_config()).values, 0.0)
    alone = dataclasses.replace(record, reference_image=None)
    found = anomaly_map(alone, np.ones(SIDE**2, np.float32), make_config())
    assert found.values is found.tokens


def test_of_several_references_the_nearest_counts_at_each_pixel() -> None:
    record, _ = make_pair(64, 64)
    further = dataclasses.replace(record, further_references=(Reference(record.test_image, "the same"),))
    assert anomaly_map(record, lower_right(0.9), make_config()).values.max() > 0.5
    np.testing.assert_array_equal(anomaly_map(further, lower_right(0.9), make_config()).values, 0.0)


def test_large_images_are_compared_at_a_bounded_size() -> None:
    record, mask = make_pair(1536, 2048)
    found = anomaly_map(record, lower_right(0.9), make_config())
    assert found.values.shape == found.tokens.shape == (1536, 2048)
    same = dataclasses.replace(record, test_image=record.reference_image or b"")
    assert difference_peak(same) == 0.0 and not anomaly_map(same, lower_right(0.9), make_config()).values.any()
    small, _ = make_pair(768, 1024)
    alike = np.abs(anomaly_map(small, lower_right(0.9), make_config()).values[::4, ::4] - found.values[::8, ::8])
    assert np.median(found.values[mask]) > 0.7 and np.quantile(alike, 0.99) < 0.1


@pytest.mark.parametrize("map_detail", ["tokens", "pixels"])
def test_registered_pairs_have_the_largest_difference_beside(map_detail: str) -> None:
    record, _ = make_pair(64, 64)
    found = anomaly_map(record, lower_right(0.9), make_config(map_detail=map_detail))
    assert found.apart == pytest.approx(float(difference_map(record).max()) / 255.0) == difference_peak(record)
    assert anomaly_map(record, lower_right(0.9), make_config(similarity="max")).apart is None
    alone = dataclasses.replace(record, reference_image=None)
    assert anomaly_map(alone, np.ones(SIDE**2, np.float32), make_config()).apart is None
