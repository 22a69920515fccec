"""MANTA's images: categories below their domains, kinds without places where there is no mask, and what is told."""

from __future__ import annotations

from pathlib import Path

import pytest

from sage_jax.config import DataConfig
from sage_jax.data.sources import folders
from sage_jax.data.sources.manta_images import MantaFolders
from tests.support.public_sets import label_folders, manta, mask, picture

MAIZE = "ImageData/agriculture/maize"


def test_a_category_is_known_by_the_names_of_its_images_or_by_its_splits(tmp_path: Path) -> None:
    manta(tmp_path)
    label_folders(tmp_path, "pill", ("crack",))
    layout = MantaFolders()
    assert layout.fits(tmp_path / MAIZE)
    assert not layout.fits(tmp_path / "pill") and not layout.fits(tmp_path) and not layout.fits(tmp_path / "none")
    (tmp_path / "pill/test-pixel").mkdir()
    assert layout.fits(tmp_path / "pill")


def test_masks_are_found_in_the_splits_folder_or_the_categorys_and_others_have_a_kind_alone(tmp_path: Path) -> None:
    manta(tmp_path)
    picture(tmp_path / MAIZE / "test/holes/agriculture_maize_9.png")
    mask(tmp_path / MAIZE / "ground_truth/holes/agriculture_maize_9_mask.png")
    mask(tmp_path / MAIZE / "test-pixel/mask/nobody.png")
    layout = MantaFolders()
    entries = layout.entries(tmp_path, MAIZE)
    (own,) = (entry for entry in entries if entry.label == "holes")
    assert own.masks == (f"{MAIZE}/ground_truth/holes/agriculture_maize_9_mask.png",)
    told = list(layout.left_out(tmp_path, MAIZE, entries))
    assert len(told) == 2 and "nobody.png: is the mask of no image" in told[0] and "3 of 7 defective images" in told[1]


def test_images_in_no_folder_and_the_lack_of_good_ones_are_faults(tmp_path: Path) -> None:
    manta(tmp_path)
    here, layout = tmp_path / MAIZE, MantaFolders()
    assert not list(layout.faults(here, layout.entries(tmp_path, MAIZE)))
    picture(here / "test/agriculture_maize_stray.png")
    (fault,) = layout.faults(here, layout.entries(tmp_path, MAIZE))
    assert "stray" in fault.file and fault.cure == "move it to test/good or test/<defect>"
    for path in (here / "train/good").iterdir():
        path.unlink()
    assert "has no good image" in next(layout.faults(here, layout.entries(tmp_path, MAIZE))).problem


def test_held_out_categories_are_called_by_their_own_names(tmp_path: Path) -> None:
    manta(tmp_path)
    data = DataConfig(source="mvtec", root=str(tmp_path), num_train=0, num_test=0, held_out=("maize",))
    categories = {
        split: {getattr(item, "category", "") for item in folders.read_images(data, split, 0)}
        for split in ("train", "test")
    }
    assert categories == {"train": {"soybean", "nut"}, "test": {"maize"}}
    bad = DataConfig(source="mvtec", root=str(tmp_path), num_train=0, num_test=0, held_out=("wheat",))
    with pytest.raises(folders.FolderLayoutError, match="no category 'wheat'; it has maize, nut, soybean"):
        list(folders.read_images(bad, "train", 0))


def test_what_lies_beside_the_categories_of_a_domain_is_told(tmp_path: Path) -> None:
    manta(tmp_path)
    picture(tmp_path / "ImageData/agriculture/spare/0.png")
    data = DataConfig(source="mvtec", root=str(tmp_path), num_train=0, num_test=0)
    assert sum("spare: 1 images are not read" in each for each in folders.left_out(data)) == 1
