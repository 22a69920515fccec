"""Inspection of a user's images: every image gets a row, whatever is wrong with it, and the report stands alone."""

from __future__ import annotations

import dataclasses
import io
import re
import shutil
from pathlib import Path

import numpy as np
import pytest
from PIL import Image
from tiny_run import CONFIG, TinyRun, read_jsonl, run_main

from sage_jax.command_line import read_config
from sage_jax.config import ConfigError, DataConfig
from sage_jax.data.facts import load_vocabulary
from sage_jax.data.generator import draw
from sage_jax.data.images import SUFFIXES
from sage_jax.data.preferences import make_records
from sage_jax.data.records import AnnotatedImage
from sage_jax.inspection import References, find_images, read_subjects, sample_subjects
from sage_jax.run_config import InspectConfig

FIELDS = {"image", "category", "verdict", "score", "reason", "boxes", "overlay", "truth", "error"}
SCRIPT = "<script>alert(1)<&.png"


def drawn() -> list[AnnotatedImage]:
    data = DataConfig(num_train=6, num_test=1, image_px=40)
    return list(draw(data, "train", 5))


@pytest.fixture(scope="module")
def photographs(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A user's folder: images in subfolders, one broken, one with a name that is code; and references beside it."""
    folder = tmp_path_factory.mktemp("photographs")
    images = drawn()
    names = ["images/gear/a.png", "images/b.PNG", f"images/{SCRIPT}", "references/a.png", "references/zzz.png"]
    for name, image in zip(names, images, strict=False):
        (folder / name).parent.mkdir(parents=True, exist_ok=True)
        (folder / name).write_bytes(image.test_image)
    (folder / "images" / "broken.jpg").write_bytes(images[0].test_image[:90])
    (folder / "images" / "._b.png").write_bytes(b"left by a Mac")
    (folder / "images" / "notes.txt").write_text("# first\nb.PNG\n\nnot_there.png\n", encoding="utf-8")
    (folder / "empty").mkdir()
    return folder


@pytest.fixture(scope="module")
def inspected(tiny_run: TinyRun, photographs: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The results for the folder, one-shot, from a run folder alone: its data set is not there."""
    folder = tmp_path_factory.mktemp("inspected")
    shutil.copytree(tiny_run.run_dir, folder / "run")
    shutil.copytree(tiny_run.folder / "compiled", folder / "compiled")
    run_main(
        folder,
        "--config.stages=inspect",
        f"--config.inspect.images={photographs / 'images'}",
        f"--config.inspect.references={photographs / 'references'}",
        "--config.inspect.map_threshold=0.0",
    )
    return folder


def test_inspection_of_ones_own_images_needs_no_data_set(inspected: Path) -> None:
    assert not (inspected / "cache").exists()


def test_every_image_of_a_folder_has_one_row_with_all_fields(inspected: Path, photographs: Path) -> None:
    rows = read_jsonl(inspected / "run" / "inspect" / "inspection.jsonl")
    assert {Path(row["image"]).name for row in rows} == {"a.png", "b.PNG", "broken.jpg", SCRIPT}
    for row in rows:
        assert row.keys() == FIELDS
        assert Path(row["image"]).is_relative_to(photographs)
        if row["verdict"] == "unreadable":
            continue
        assert row["verdict"] == ("defective" if row["score"] >= 0.5 else "good")
        assert row["error"] is None and row["truth"] is None
        for box in row["boxes"]:
            assert 0 <= box["left"] < box["right"] <= 40 and 0 <= box["top"] < box["bottom"] <= 40
    assert {Path(row["image"]).name: row["category"] for row in rows}["a.png"] == "gear"


def test_a_broken_image_gets_a_row_that_says_so(inspected: Path) -> None:
    (row,) = (r for r in read_jsonl(inspected / "run" / "inspect" / "inspection.jsonl") if r["verdict"] == "unreadable")
    assert row["image"].endswith("broken.jpg")
    assert row["score"] is None and row["overlay"] is None
    assert "broken.jpg" in row["error"]
    assert "broken.jpg" in (inspected / "run" / "inspect" / "report.html").read_text(encoding="utf-8")


def test_overlays_are_pictures_that_open(inspected: Path) -> None:
    rows = read_jsonl(inspected / "run" / "inspect" / "inspection.jsonl")
    overlays = [row["overlay"] for row in rows if row["verdict"] != "unreadable"]
    assert len(overlays) == 3 and None not in overlays
    for path in overlays:
        with Image.open(path) as image:
            image.load()
            assert image.format == "PNG" and min(image.size) >= 256


def test_the_report_is_one_file_that_needs_no_other(inspected: Path) -> None:
    page = (inspected / "run" / "inspect" / "report.html").read_text(encoding="utf-8")
    assert re.findall(r"https?://", page) == []
    targets = re.findall(r"""(?:src|href)\s*=\s*["']([^"']*)""", page)
    assert len(targets) == 3 * 3  # test, reference and map of three readable images
    assert all(target.startswith("data:image/png;base64,") for target in targets)


def test_a_file_name_is_text_in_the_report(inspected: Path) -> None:
    page = (inspected / "run" / "inspect" / "report.html").read_text(encoding="utf-8")
    assert "<script>alert(1)" not in page
    assert "&lt;script&gt;alert(1)&lt;&amp;.png" in page


def test_the_sample_of_test_records_shows_good_and_defective(tiny_run: TinyRun) -> None:
    rows = read_jsonl(tiny_run.run_dir / "inspect" / "inspection.jsonl")
    assert sorted(row["truth"] for row in rows) == ["defective", "defective", "good", "good"]


def test_images_are_named_by_file_folder_or_list(photographs: Path) -> None:
    images = photographs / "images"
    assert find_images(str(images / "b.PNG")) == [images / "b.PNG"]
    assert [path.name for path in find_images(str(images))] == [SCRIPT, "b.PNG", "broken.jpg", "a.png"]
    assert find_images(str(images / "notes.txt")) == [images / "b.PNG", images / "not_there.png"]


@pytest.mark.parametrize("name", ["missing", "missing.png", "missing.txt"])
def test_a_path_that_is_not_there_is_an_error(photographs: Path, name: str) -> None:
    with pytest.raises(ConfigError, match=f"inspect.images = .*{name}.*: no such file or folder"):
        find_images(str(photographs / name))
    with pytest.raises(ConfigError, match=f"inspect.references = .*{name}.*: no such file or folder"):
        References(str(photographs / name))


def test_a_folder_or_list_without_images_is_an_error(photographs: Path, tmp_path: Path) -> None:
    with pytest.raises(ConfigError, match="no image in it; known suffixes: " + ", ".join(SUFFIXES[:2])):
        find_images(str(photographs / "empty"))
    with pytest.raises(ConfigError, match="inspect.references = .*: no image in it"):
        References(str(photographs / "empty"))
    (tmp_path / "list.txt").write_text("# nothing\n")
    with pytest.raises(ConfigError, match="no image in it"):
        find_images(str(tmp_path / "list.txt"))
    (tmp_path / "list.txt").write_bytes(b"\xff\xfe\x00")
    with pytest.raises(ConfigError, match="no list of paths in UTF-8"):
        find_images(str(tmp_path / "list.txt"))


def test_a_reference_is_the_file_of_the_same_name_else_the_first_else_none(photographs: Path) -> None:
    folder = photographs / "references"
    first, last = (str(folder / name) for name in ("a.png", "zzz.png"))

    def chosen(references: str, image: str) -> str | None:
        found = References(references).of(Path(image))
        return None if found is None else found[0]

    assert chosen(str(folder), "x/zzz.png") == last
    assert chosen(str(folder), "x/other.png") == first
    assert chosen(last, "x/a.png") == last
    assert chosen("", "x/a.png") is None


def test_a_reference_that_serves_many_images_is_read_once(photographs: Path) -> None:
    references = References(str(photographs / "references" / "a.png"))
    contents = [found[1] for name in ("x.png", "y.png") if (found := references.of(Path(name)))]
    assert len(contents) == 2 and contents[0] is contents[1]


def test_what_cannot_be_read_says_why_and_the_rest_is_read(photographs: Path) -> None:
    config = InspectConfig(images=str(photographs / "images" / "notes.txt"))
    good, missing = read_subjects(config, load_vocabulary())
    assert good.record is not None and good.record.reference_image is None and good.error == ""
    assert missing.record is None and "not_there.png: cannot be read: No such file" in missing.error
    broken = dataclasses.replace(config, references=str(photographs / "images" / "broken.jpg"))
    assert all(subject.record is None for subject in read_subjects(broken, load_vocabulary()))
    assert "reference" in read_subjects(broken, load_vocabulary())[0].error


def test_a_file_name_that_is_no_text_is_shown_all_the_same(tmp_path: Path) -> None:
    buffer = io.BytesIO()
    Image.fromarray(np.zeros((8, 8, 3), np.uint8)).save(buffer, "PNG")
    Path(str(tmp_path) + "/\udcff.png").write_bytes(buffer.getvalue())
    (subject,) = read_subjects(InspectConfig(images=str(tmp_path)), load_vocabulary())
    assert subject.record is not None
    assert subject.path.encode() and subject.path.endswith("\ufffd.png")


def test_the_category_is_the_configs_or_a_known_folder(photographs: Path) -> None:
    images = str(photographs / "images" / "gear" / "a.png")
    (named,) = read_subjects(InspectConfig(images=images, category="pill"), load_vocabulary())
    (found,) = read_subjects(InspectConfig(images=images), load_vocabulary())
    assert (named.category, found.category) == ("pill", "gear")
    (other,) = read_subjects(InspectConfig(images=str(photographs / "images" / "b.PNG")), load_vocabulary())
    assert other.category == "part"


def test_the_sample_takes_distinct_images_and_fills_up_from_either_side() -> None:
    vocabulary = load_vocabulary()
    kinds = read_config(["--config", str(CONFIG)]).data.pair_types
    records = [
        record
        for index, image in enumerate(drawn())
        for record in make_records(image, vocabulary, pair_types=kinds, records=2, index=index, seed=0)
    ]
    assert len(records) == 12
    four = sample_subjects(records, 4)
    assert sorted(bool(subject.record and subject.record.anomalous) for subject in four) == [False, False, True, True]
    assert len({subject.record.image_id for subject in sample_subjects(records, 99) if subject.record}) == 6
    defective = [record for record in records if record.anomalous]
    assert len(sample_subjects(defective, 2)) == 2
