"""The generator: determinism, splits, exact masks, visible defects and their places."""

from __future__ import annotations

import collections
import io
import itertools

import numpy as np
import pytest
from PIL import Image

from sage_jax.config import ConfigError, DataConfig
from sage_jax.data.adpl.preferences import PLACES, cell_of
from sage_jax.data.records import AnnotatedImage
from sage_jax.data.sources import generated
from sage_jax.data.sources.generated import CATEGORIES, DEFECT_TYPES, HELD_OUT, MASK_THRESHOLD, draw


def pixels(data: bytes | None) -> np.ndarray:
    assert data is not None
    with Image.open(io.BytesIO(data)) as image:
        return np.asarray(image)


@pytest.fixture(scope="module")
def images() -> list[AnnotatedImage]:
    return list(draw(DataConfig(num_train=300), "train", 3))


def test_an_image_depends_on_seed_split_and_index_only(images: list[AnnotatedImage]):
    again = list(itertools.islice(draw(DataConfig(num_train=40_000), "train", 3), 12))
    assert again == images[:12]
    other_seed = next(iter(draw(DataConfig(), "train", 4)))
    assert other_seed.test_image != images[0].test_image
    trained, tested = (generated._draw_image(0, CATEGORIES, False, 64, split, 3) for split in ("train", "test"))
    assert trained.test_image != tested.test_image
    assert len({image.test_image for image in images}) == len(images)


def test_ids_are_unique_and_named_after_their_split(images: list[AnnotatedImage]):
    assert [image.image_id for image in images[:2]] == ["train-000000", "train-000001"]
    assert len({image.image_id for image in images}) == len(images)


def test_held_out_categories_are_tested_and_never_trained_on(images: list[AnnotatedImage]):
    trained = {image.category for image in images}
    tested = {image.category for image in draw(DataConfig(num_test=60), "test", 0)}
    assert tested == set(HELD_OUT)
    assert trained == set(CATEGORIES) - set(HELD_OUT)
    chosen = DataConfig(num_test=20, num_train=20, held_out=("gear", "pill"))
    assert {image.category for image in draw(chosen, "test", 0)} <= {"gear", "pill"}
    assert not {image.category for image in draw(chosen, "train", 0)} & {"gear", "pill"}


def test_impossible_configs_name_the_field_and_the_cure():
    with pytest.raises(ConfigError, match=r"data\.held_out.*'waser'.*did you mean 'washer'"):
        next(iter(draw(DataConfig(held_out=("waser",)), "train", 0)))
    with pytest.raises(ConfigError, match="every category"):
        next(iter(draw(DataConfig(held_out=CATEGORIES), "train", 0)))
    with pytest.raises(ConfigError, match=r"data\.image_px = 8"):
        next(iter(draw(DataConfig(image_px=8), "train", 0)))
    with pytest.raises(ValueError, match="split 'val'"):
        next(iter(draw(DataConfig(), "val", 0)))


@pytest.mark.parametrize(("rate", "expected"), [(0.0, 0), (0.3, 12), (0.5, 20), (1.0, 40)])
def test_the_share_of_defective_images_is_exact(rate: float, expected: int):
    data = DataConfig(num_train=40, defect_rate=rate, image_px=32)
    flags = [bool(image.defects) for image in draw(data, "train", 1)]
    assert sum(flags) == expected
    if rate == 0.5:
        assert flags[::2] != [False] * 20 and flags[::2] != [True] * 20


def test_every_defect_type_and_both_counts_are_drawn(images: list[AnnotatedImage]):
    types = collections.Counter(defect.type for image in images for defect in image.defects)
    assert set(types) == set(DEFECT_TYPES)
    counts = collections.Counter(len(image.defects) for image in images if image.defects)
    assert set(counts) == {1, 2} and 0.1 < counts[2] / counts.total() < 0.3


def test_good_parts_have_an_empty_mask_and_boxes_bound_the_others(images: list[AnnotatedImage]):
    for image in images:
        mask = pixels(image.mask)
        assert mask.shape == (64, 64) and set(np.unique(mask)) <= {0, 255}
        if not image.defects:
            assert not mask.any()
            continue
        rows, columns = np.nonzero(mask)
        boxes = [defect.box for defect in image.defects]
        assert (columns.min(), rows.min()) == (min(b.left for b in boxes), min(b.top for b in boxes))
        assert (columns.max() + 1, rows.max() + 1) == (max(b.right for b in boxes), max(b.bottom for b in boxes))


def test_defects_cover_their_share_of_the_image(images: list[AnnotatedImage]):
    areas = [pixels(image.mask).mean() / 255 for image in images if len(image.defects) == 1]
    assert min(areas) >= generated.MIN_AREA and max(areas) <= generated.MAX_AREA


def pair_without_and_with(category: str, defect: str, seed: int) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """The same part photographed without and with a defect: only the defect differs, noise and light are the same."""
    product = generated._product(category, np.random.default_rng(seed))
    clean, _ = generated._photograph(category, product, [], 64, np.random.default_rng([seed, 1]))
    marked, masks = generated._photograph(category, product, [defect], 64, np.random.default_rng([seed, 1]))
    return clean.astype(np.float32), marked.astype(np.float32), masks[0]


@pytest.mark.parametrize("defect", DEFECT_TYPES)
def test_the_mask_holds_exactly_the_pixels_that_the_defect_changed(defect: str):
    for seed, category in enumerate(CATEGORIES):
        clean, marked, mask = pair_without_and_with(category, defect, seed)
        change = np.abs(marked - clean).max(axis=-1)
        assert change[~mask].max() <= 255 * MASK_THRESHOLD + 1.0
        unclipped = mask & (np.maximum(marked, clean).max(axis=-1) < 255) & (np.minimum(marked, clean).min(axis=-1) > 0)
        assert change[unclipped].min() >= 255 * MASK_THRESHOLD - 1.0


@pytest.mark.parametrize("category", CATEGORIES)
def test_defects_stand_out_from_the_nuisance_of_the_same_part(category: str):
    for seed, defect in enumerate(DEFECT_TYPES):
        clean, marked, mask = pair_without_and_with(category, defect, seed)
        contrast = np.abs(marked - clean).max(axis=-1)[mask].mean()
        flat = generated._dust_and_noise(64, np.random.default_rng(seed)) * 255
        assert contrast > 5 * np.abs(flat).max(axis=-1).mean()


def test_a_reference_differs_by_pose_and_light_but_is_the_same_product(images: list[AnnotatedImage]):
    same, other = [], []
    good = [image for image in images if not image.defects]
    by_category = {image.category: image for image in good}
    for image in good:
        test, reference = pixels(image.test_image).astype(float), pixels(image.reference_image).astype(float)
        assert not np.array_equal(test, reference)
        same.append(np.abs(test - reference).mean())
        other.append(np.abs(test - pixels(by_category[image.category].reference_image)).mean())
    assert np.median(same) < 0.6 * np.median(other)
    assert max(same) < 30


def test_defects_are_found_in_all_places(images: list[AnnotatedImage]):
    places = collections.Counter(cell_of(defect.box, 64, 64) for image in images for defect in image.defects)
    assert set(places) == set(PLACES)
    assert max(places.values()) < 0.3 * places.total()


@pytest.mark.parametrize("side", [16, 33, 128])
def test_any_side_can_be_drawn(side: int):
    data = DataConfig(num_train=6, image_px=side, defect_rate=1.0)
    for image in draw(data, "train", 0):
        assert pixels(image.test_image).shape == (side, side, 3)
        assert pixels(image.mask).any()


def test_parts_lie_within_a_pixel_of_the_middle_and_two_degrees_of_straight():
    product = generated._product("wood board", np.random.default_rng(2))
    offsets, turns = [], []
    for seed in range(40):
        picture, _ = generated._photograph("wood board", product, [], 64, np.random.default_rng(seed))
        part = np.abs(picture / 255.0 - product.belt).max(axis=-1) > 0.2
        rows, columns = np.nonzero(part)
        offsets.append((rows.mean() - 31.5, columns.mean() - 31.5))
        # The long axis of a board is the first principal axis of its pixels.
        axis = np.linalg.eigh(np.cov(np.stack([columns, rows])))[1][:, 1]
        turns.append(np.degrees(np.arctan(axis[1] / axis[0])))
    assert 0.35 < np.std(offsets) and np.abs(offsets).max() < 0.015 * 64 + 0.6
    assert 0.5 < np.std(turns) and np.abs(turns).max() < 3.0
