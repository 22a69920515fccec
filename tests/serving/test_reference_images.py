"""References of a service: by name, by folder, by the name of an image; read again when they change."""

from __future__ import annotations

from pathlib import Path

import pytest

from sage_jax.config import ConfigError
from sage_jax.serving.faults import RequestFault
from sage_jax.serving.reference_images import ReferenceImages


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    for name in ("a.png", "b.png", "caps/1.png", "caps/2.png"):
        (tmp_path / name).parent.mkdir(exist_ok=True)
        (tmp_path / name).write_bytes(name.encode())
    return tmp_path


def test_names_are_paths_below_the_folder_and_folders(folder: Path) -> None:
    images = ReferenceImages(str(folder))
    assert images.names == ["a.png", "b.png", "caps", "caps/1.png", "caps/2.png"]
    assert [each.path for each in images.named("caps", 4)] == ["caps/1.png", "caps/2.png"]
    assert [each.path for each in images.named("caps", 1)] == ["caps/1.png"]
    assert images.named("b.png", 1)[0].image == b"b.png"
    for name in ("../a.png", "/etc/passwd", "", str(folder / "a.png")):
        with pytest.raises(RequestFault, match="none of the name") as raised:
            images.named(name, 1)
        assert raised.value.status == 422


def test_an_image_has_those_of_its_name_or_the_first(folder: Path) -> None:
    images = ReferenceImages(str(folder))
    for name, number, wanted in (
        ("b.png", 1, ["b.png"]),
        ("caps.jpg", 2, ["caps/1.png", "caps/2.png"]),
        ("other.png", 2, ["a.png", "b.png"]),
        ("", 1, ["a.png"]),
    ):
        assert [each.path for each in images.for_image(name, number)] == wanted
    assert [each.path for each in ReferenceImages(str(folder / "b.png")).first(3)] == ["b.png"]
    assert ReferenceImages("").names == [] and ReferenceImages("").first(1) == ()


def test_a_file_that_changes_is_read_again_and_one_that_goes_is_told(folder: Path) -> None:
    images = ReferenceImages(str(folder))
    assert images.named("a.png", 1)[0].image == b"a.png"
    (folder / "a.png").write_bytes(b"another part")
    assert images.named("a.png", 1)[0].image == b"another part"
    (folder / "a.png").unlink()
    with pytest.raises(RequestFault, match="reference a.png: cannot be read") as raised:
        images.named("a.png", 1)
    assert raised.value.status == 500 and str(folder) not in str(raised.value)


def test_a_folder_without_an_image_is_told_at_the_start(tmp_path: Path) -> None:
    with pytest.raises(ConfigError, match="no image in it"):
        ReferenceImages(str(tmp_path))
