"""Output files and folders that are there whole or not at all."""

from __future__ import annotations

import errno
import os
from collections.abc import Iterator
from pathlib import Path

import pytest

from sage_jax.process.files import locked, new_folder, remove_leftovers, replace_file, temporary_prefix


def test_file_is_replaced_whole_and_its_folder_made(tmp_path: Path):
    path = tmp_path / "a" / "b.txt"
    replace_file(path, "µ first, long content")
    replace_file(path, "second")
    assert path.read_text(encoding="utf-8") == "second"
    assert [item.name for item in path.parent.iterdir()] == ["b.txt"]
    assert path.stat().st_mode & 0o444 == 0o444


def test_failed_write_leaves_the_old_file_and_nothing_beside_it(tmp_path: Path, monkeypatch: pytest.MonkeyPatch):
    path = tmp_path / "b.txt"
    replace_file(path, b"old")

    def fail(*_: object) -> None:
        raise OSError("disk full")

    monkeypatch.setattr(os, "replace", fail)
    with pytest.raises(OSError, match="disk full"):
        replace_file(path, b"new")
    assert path.read_bytes() == b"old"
    assert [item.name for item in tmp_path.iterdir()] == ["b.txt"]


def test_content_may_come_in_parts_and_one_that_fails_leaves_the_old_file(tmp_path: Path):
    path = tmp_path / "b.txt"
    replace_file(path, (f"µ{number}\n" for number in range(3)))
    assert path.read_text(encoding="utf-8") == "µ0\nµ1\nµ2\n"
    with pytest.raises(ZeroDivisionError):
        replace_file(path, (f"{1 // number}\n" for number in (1, 0)))
    assert path.read_text(encoding="utf-8") == "µ0\nµ1\nµ2\n"
    assert [item.name for item in tmp_path.iterdir()] == ["b.txt"]


def test_a_folder_is_there_whole_or_not_at_all(tmp_path: Path) -> None:
    with new_folder(tmp_path / "deep" / "out") as folder:
        (folder / "a.txt").write_text("a")
        assert not (tmp_path / "deep" / "out").exists()
    assert (tmp_path / "deep" / "out" / "a.txt").read_text() == "a"
    assert (tmp_path / "deep" / "out").stat().st_mode & 0o777 == 0o755
    with pytest.raises(RuntimeError, match="broken"):
        with new_folder(tmp_path / "other") as folder:
            (folder / "a.txt").write_text("a")
            raise RuntimeError("broken")
    assert [path.name for path in tmp_path.iterdir()] == ["deep"]
    with pytest.raises(FileExistsError):
        with new_folder(tmp_path / "deep" / "out"):
            pass
    with pytest.raises(FileExistsError):
        with new_folder(tmp_path / "raced"):
            (tmp_path / "raced").mkdir()


def test_a_folder_is_held_by_one_and_let_go_at_the_end(tmp_path: Path):
    with locked(tmp_path / "run"), pytest.raises(BlockingIOError), locked(tmp_path / "run"):
        pass
    with locked(tmp_path / "run"):
        pass


def test_what_killed_writes_left_is_removed_and_nothing_else(tmp_path: Path) -> None:
    kept = ["report.html", ".lock", ".hidden", "a.b.c", "inner/.config.json", "inner/x.12345678"]
    kept += [".env.required", ".bashrc.original", ".git/config.lock.abcdefgh"]  # of a folder that holds more than a run
    left = [f"{temporary_prefix('report.html')}ab12_xyz", f"inner/{temporary_prefix('summary.json')}00000000"]
    left += [f"inner/{temporary_prefix('tokenizer')}abcdefgh/tokenizer.json"]
    for name in (*kept, *left):
        (tmp_path / name).parent.mkdir(parents=True, exist_ok=True)
        (tmp_path / name).write_text("x")
    remove_leftovers(tmp_path)
    found = {str(path.relative_to(tmp_path)) for path in tmp_path.rglob("*") if path.is_file()}
    assert found == set(kept)
    remove_leftovers(tmp_path / "none")


def test_a_write_that_is_killed_leaves_what_is_removed(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(os, "replace", lambda *given: os._exit(9))
    child = os.fork()
    if child == 0:
        replace_file(tmp_path / "report.html", "half")
    os.waitpid(child, 0)
    assert len(list(tmp_path.iterdir())) == 1
    remove_leftovers(tmp_path)
    assert not list(tmp_path.iterdir())


@pytest.mark.parametrize("umask", (0o022, 0o077, 0o002))
def test_files_and_folders_have_the_permissions_that_the_umask_leaves(tmp_path: Path, umask: int) -> None:
    before = os.umask(umask)
    try:
        replace_file(tmp_path / "a.json", "{}")
        replace_file(tmp_path / "a.json", "[]")
        with new_folder(tmp_path / "out") as folder:
            replace_file(folder / "b.json", "{}")
    finally:
        os.umask(before)
    modes = {path.name: path.stat().st_mode & 0o777 for path in tmp_path.rglob("*")}
    assert modes == {"a.json": 0o666 & ~umask, "out": 0o777 & ~umask, "b.json": 0o666 & ~umask}


def test_a_failed_write_names_the_file(tmp_path: Path) -> None:
    def parts() -> Iterator[str]:
        yield "a"
        raise OSError(errno.ENOSPC, "No space left on device")

    with pytest.raises(OSError, match="No space left") as told:
        replace_file(tmp_path / "b.txt", parts())
    assert told.value.filename == str(tmp_path / "b.txt")
