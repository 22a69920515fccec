"""A folder of images to inspect with the tiny run's model, and the results of a whole inspection."""

from __future__ import annotations

import shutil

import pytest

from tests.support.inspection_work import MANY, Work
from tests.support.photographs import drawn
from tests.support.tiny_run import TinyRun, run_main


@pytest.fixture(scope="module")
def work(tiny_run: TinyRun, tmp_path_factory: pytest.TempPathFactory) -> Work:
    folder = tmp_path_factory.mktemp("work")
    shutil.copytree(tiny_run.run_dir, folder / "run", ignore=shutil.ignore_patterns("inspect"))
    images = drawn()
    (folder / "images").mkdir()
    for index in range(MANY):
        content = images[index % len(images)].test_image
        (folder / "images" / f"{index:02}.png").write_bytes(content[:90] if index == 3 else content)
    (folder / "good.png").write_bytes(next(image.test_image for image in images if not image.defects))
    return Work(folder)


@pytest.fixture(scope="module")
def whole(work: Work) -> dict[str, bytes]:
    """What a run leaves that nobody stopped."""
    run_main(work.folder, *work.fields)
    files = work.files()
    shutil.rmtree(work.output)
    return files
