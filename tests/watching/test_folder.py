"""Looking at a folder: new files that lie still, the oldest first, until they are done."""

from __future__ import annotations

import os
from pathlib import Path

import pytest

from sage_jax.watching.folder import WatchedFolder, stamp_of


class Clock:
    now = 0.0

    def __call__(self) -> float:
        return self.now


def names(folder: WatchedFolder) -> list[bytes]:
    return [file.name for file in folder.look()]


def test_a_file_settles_and_is_given_until_it_is_done(tmp_path: Path) -> None:
    clock = Clock()
    folder = WatchedFolder(tmp_path, {}, 2.0, clock)
    path = tmp_path / "a.png"
    path.write_bytes(b"1")
    assert names(folder) == []
    clock.now = 1.9
    assert names(folder) == []
    clock.now = 2.0
    assert names(folder) == [b"a.png"] == names(folder)
    (file,) = folder.look()
    assert file.stamp == stamp_of(path.stat()) and folder.age(file) == 2.0
    folder.done(file.name, file.stamp)
    assert names(folder) == []
    path.write_bytes(b"12")
    assert names(folder) == []
    clock.now = 4.0
    assert names(folder) == [b"a.png"]


@pytest.mark.parametrize("change", ["size", "time"])
def test_a_change_of_size_or_of_time_begins_the_wait_anew(tmp_path: Path, change: str) -> None:
    clock = Clock()
    folder = WatchedFolder(tmp_path, {}, 2.0, clock)
    path = tmp_path / "a.png"
    path.write_bytes(b"1")
    state = path.stat()
    names(folder)
    clock.now = 1.5
    if change == "size":
        path.write_bytes(b"12")
        os.utime(path, ns=(state.st_atime_ns, state.st_mtime_ns))
    else:
        os.utime(path, ns=(state.st_atime_ns, state.st_mtime_ns + 1))
    names(folder)
    clock.now = 3.0
    assert names(folder) == []
    clock.now = 3.5
    assert names(folder) == [b"a.png"]


def test_only_shown_images_count_in_all_subfolders_and_the_oldest_comes_first(tmp_path: Path) -> None:
    for age, name in enumerate(("b/deep/x.JPG", "a.png", "z.tiff", "b/y.webp")):
        (tmp_path / name).parent.mkdir(parents=True, exist_ok=True)
        (tmp_path / name).write_bytes(b"1")
        os.utime(tmp_path / name, (age, age))
    for name in (".a.png", "a.png.part", "notes.txt", ".cache/a.png"):
        (tmp_path / name).parent.mkdir(parents=True, exist_ok=True)
        (tmp_path / name).write_bytes(b"1")
    (tmp_path / "link").symlink_to(tmp_path / "b")
    (tmp_path / "gone.png").symlink_to(tmp_path / "nothing")
    assert names(WatchedFolder(tmp_path, {}, 0.0)) == [b"b/deep/x.JPG", b"a.png", b"z.tiff", b"b/y.webp"]


def test_what_was_dealt_with_before_is_passed_over_as_long_as_it_is_the_same(tmp_path: Path) -> None:
    path = tmp_path / "a.png"
    path.write_bytes(b"1")
    assert names(WatchedFolder(tmp_path, {b"a.png": stamp_of(path.stat())}, 0.0)) == []
    assert names(WatchedFolder(tmp_path, {b"a.png": "1 1"}, 0.0)) == [b"a.png"]


def test_a_folder_that_is_gone_is_said_and_forgets_nothing(tmp_path: Path) -> None:
    folder = WatchedFolder(tmp_path / "images", {}, 0.0)
    with pytest.raises(OSError):
        folder.look()
    (tmp_path / "images").mkdir()
    (tmp_path / "images" / "a.png").write_bytes(b"1")
    (file,) = folder.look()
    folder.done(file.name, file.stamp)
    (tmp_path / "images").rename(tmp_path / "away")
    with pytest.raises(OSError):
        folder.look()
    (tmp_path / "away").rename(tmp_path / "images")
    assert names(folder) == []
