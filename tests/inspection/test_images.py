"""Images to inspect: which they are, what a broken one says, and how a changed one is known."""

from __future__ import annotations

import dataclasses
import io
import os
import tracemalloc
from collections.abc import Sequence
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from sage_jax.config import ConfigError, DataConfig, InspectConfig
from sage_jax.config.command_line import read_config
from sage_jax.data.adpl.facts import load_vocabulary
from sage_jax.data.adpl.preferences import make_records
from sage_jax.data.images import SUFFIXES, decode_rgb
from sage_jax.data.records import Record, Reference
from sage_jax.inspection.images import InputImage, References, SampleImages, UserImages, find_images
from tests.support.photographs import SCRIPT, drawn, write_photographs
from tests.support.tiny_run import CONFIG


@pytest.fixture(scope="module")
def photographs(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return write_photographs(tmp_path_factory.mktemp("photographs"))


def inputs(config: InspectConfig) -> list[InputImage]:
    images = UserImages(config, load_vocabulary())
    return [images.read(index) for index in range(len(images))]


def test_a_reference_is_registered_where_that_is_asked_for(tmp_path: Path) -> None:
    picture = np.full((96, 96, 3), 90, np.uint8)
    picture[30:60, 20:50], picture[50:70, 60:85] = (220, 40, 40), (30, 30, 200)
    for name, shift in (("good.png", 0), ("test/test.png", 6)):
        (tmp_path / name).parent.mkdir(exist_ok=True)
        Image.fromarray(np.roll(picture, shift, axis=0)).save(tmp_path / name)
    config = InspectConfig(images=str(tmp_path / "test"), references=str(tmp_path / "good.png"))
    apart = []
    for register in ("none", "rigid"):
        data = DataConfig(source="folder", root="x", register=register)
        record = UserImages(config, load_vocabulary(), data).read(0).record
        assert record is not None and record.reference_image is not None
        images = [decode_rgb(each, name="").astype(int) for each in (record.test_image, record.reference_image)]
        apart.append(np.abs(images[0] - images[1]).mean())
    assert apart[1] < 0.2 * apart[0]


def sampled(records: Sequence[Record], wanted: int) -> list[Record]:
    images = SampleImages(records, wanted)
    return [record for index in range(len(images)) if (record := images.read(index).record)]


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
        return found[0].path if found else None

    assert chosen(str(folder), "x/zzz.png") == last
    assert chosen(str(folder), "x/other.png") == first
    assert chosen(last, "x/a.png") == last
    assert chosen("", "x/a.png") is None


def test_images_without_a_reference_of_their_own_are_counted(photographs: Path) -> None:
    images = str(photographs / "images")

    def unmatched(references: str) -> str:
        return UserImages(InspectConfig(images=images, references=references), load_vocabulary()).unmatched()

    found = unmatched(str(photographs / "references"))
    assert found.startswith("3 of 4 images have no reference of their own name") and found.endswith("first: a.png")
    assert unmatched("") == unmatched(str(photographs / "references" / "a.png")) == ""
    assert unmatched(images) == ""


def test_a_reference_that_serves_many_images_is_read_once(photographs: Path) -> None:
    references = References(str(photographs / "references" / "a.png"))
    contents = [references.of(Path(name))[0].image for name in ("x.png", "y.png")]
    assert len(contents) == 2 and contents[0] is contents[1]


def test_what_cannot_be_read_says_why_and_the_rest_is_read(photographs: Path) -> None:
    config = InspectConfig(images=str(photographs / "images" / "notes.txt"))
    good, missing = inputs(config)
    assert good.record is not None and good.record.reference_image is None and good.error == ""
    assert missing.record is None and "not_there.png: cannot be read: No such file" in missing.error
    broken = dataclasses.replace(config, references=str(photographs / "images" / "broken.jpg"))
    assert all(input_image.record is None for input_image in inputs(broken))
    assert "reference" in inputs(broken)[0].error


def test_a_file_name_that_is_no_text_is_shown_all_the_same(tmp_path: Path) -> None:
    buffer = io.BytesIO()
    Image.fromarray(np.zeros((8, 8, 3), np.uint8)).save(buffer, "PNG")
    Path(str(tmp_path) + "/\udcff.png").write_bytes(buffer.getvalue())
    (input_image,) = inputs(InspectConfig(images=str(tmp_path)))
    assert input_image.record is not None
    assert input_image.path.encode() and input_image.path.endswith("\ufffd.png")


@pytest.mark.parametrize("encoding", ["utf-8-sig", "utf-16-le"])
def test_a_list_with_a_mark_or_nul_bytes_costs_no_more_than_its_own_lines(tmp_path: Path, encoding: str) -> None:
    (tmp_path / "a.png").write_bytes(drawn()[0].test_image)
    (tmp_path / "list.txt").write_bytes("a.png\n".encode(encoding) + b"\na.png\n")
    config = InspectConfig(images=str(tmp_path / "list.txt"), references=str(tmp_path / "a.png"))
    images = UserImages(config, load_vocabulary())
    assert len({images.key(index) + images.stamp(index) for index in range(len(images))}) == len(set(images._paths))
    found = [images.read(index) for index in range(len(images))]
    assert found[-1].record is not None
    if encoding == "utf-8-sig":
        assert [input_image.error for input_image in found] == ["", ""]
    else:
        assert found[0].record is None and found[0].path in found[0].error and "null byte" in found[0].error
        assert "\0" not in found[0].path


def test_what_lies_in_a_hidden_folder_is_no_image(tmp_path: Path) -> None:
    for name in ("a.png", ".ipynb_checkpoints/a-checkpoint.png", "b/.cache/c.png"):
        (tmp_path / name).parent.mkdir(parents=True, exist_ok=True)
        (tmp_path / name).write_bytes(drawn()[0].test_image)
    assert find_images(str(tmp_path)) == [tmp_path / "a.png"]


def test_the_category_is_the_configs_or_a_known_folder(photographs: Path) -> None:
    images = str(photographs / "images" / "gear" / "a.png")
    (named,) = inputs(InspectConfig(images=images, category="pill"))
    (found,) = inputs(InspectConfig(images=images))
    assert (named.category, found.category) == ("pill", "gear")
    (other,) = inputs(InspectConfig(images=str(photographs / "images" / "b.PNG")))
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
    four = sampled(records, 4)
    assert sorted(bool(record.anomalous) for record in four) == [False, False, True, True]
    assert len({record.image_id for record in sampled(records, 99)}) == 6
    defective = [record for record in records if record.anomalous]
    assert len(sampled(defective, 2)) == 2


def stamps(folder: Path) -> list[str]:
    config = InspectConfig(images=str(folder / "images"), references=str(folder / "references"))
    images = UserImages(config, load_vocabulary())
    return [images.stamp(index) for index in range(len(images))]


def test_a_stamp_changes_with_the_image_its_reference_and_leave_to_read(tmp_path: Path) -> None:
    first, second = (image.test_image for image in drawn()[:2])
    for name in ("images/a.png", "images/b.png", "references/a.png", "references/z.png"):
        (tmp_path / name).parent.mkdir(exist_ok=True)
        (tmp_path / name).write_bytes(first)
    before = stamps(tmp_path)
    assert stamps(tmp_path) == before
    (tmp_path / "images" / "a.png").write_bytes(second)
    changed = stamps(tmp_path)
    assert changed[0] != before[0] and changed[1] == before[1]
    os.utime(tmp_path / "references" / "a.png", ns=(1, 1))  # the reference of both: of one name, and the first
    assert stamps(tmp_path)[0] != changed[0] and stamps(tmp_path)[1] != changed[1]
    now = stamps(tmp_path)
    (tmp_path / "references" / "b.png").write_bytes(first)
    assert stamps(tmp_path)[0] == now[0] and stamps(tmp_path)[1] != now[1]


def test_an_image_keeps_its_key_when_others_come_before_it(tmp_path: Path) -> None:
    image = drawn()[0].test_image
    (tmp_path / "b.png").write_bytes(image)
    config = InspectConfig(images=str(tmp_path))
    key = UserImages(config, load_vocabulary()).key(0)
    (tmp_path / "a.png").write_bytes(image)
    images = UserImages(config, load_vocabulary())
    assert images.key(1) == key != images.key(0)


def test_a_reference_that_changes_is_read_again(tmp_path: Path) -> None:
    first, second = (image.test_image for image in drawn()[:2])
    (tmp_path / "good.png").write_bytes(first)
    references = References(str(tmp_path / "good.png"))
    assert references.of(Path("x.png")) == [Reference(first, str(tmp_path / "good.png"))]
    (tmp_path / "good.png").write_bytes(second)
    assert references.of(Path("x.png")) == [Reference(second, str(tmp_path / "good.png"))]


def test_several_references_are_those_of_the_images_name_or_the_folders_first(tmp_path: Path) -> None:
    content = drawn()[0].test_image
    for name in ("own/1.png", "own/2.png", "own/3.png", "other.png", "third.png"):
        (tmp_path / name).parent.mkdir(exist_ok=True)
        (tmp_path / name).write_bytes(content)

    def chosen(number: int, image: str) -> list[str]:
        paths = References(str(tmp_path), number).paths_of(Path(image))
        return [path.relative_to(tmp_path).as_posix() for path in paths]

    assert chosen(2, "x/own.jpg") == ["own/1.png", "own/2.png"]
    assert chosen(9, "x/own.jpg") == ["own/1.png", "own/2.png", "own/3.png"]
    assert chosen(2, "x/third.png") == ["third.png"]
    assert chosen(3, "x/unknown.png") == ["other.png", "own/1.png", "own/2.png"]
    assert chosen(9, "x/unknown.png") == ["other.png", "own/1.png", "own/2.png", "own/3.png", "third.png"]


def test_an_image_gets_as_many_references_as_the_model_was_trained_with_unless_told(tmp_path: Path) -> None:
    for name in ("test.png", "good/1.png", "good/2.png", "good/3.png"):
        (tmp_path / name).parent.mkdir(exist_ok=True)
        (tmp_path / name).write_bytes(drawn()[0].test_image)
    data = DataConfig(source="folder", root="x", num_references=2)
    for asked, expected in ((0, 2), (3, 3)):
        config = InspectConfig(
            images=str(tmp_path / "test.png"), references=str(tmp_path / "good"), num_references=asked
        )
        images = UserImages(config, load_vocabulary(), data)
        record = images.read(0).record
        assert record is not None and len(record.references) == expected
        stamp = images.stamp(0)
        (tmp_path / "good" / "2.png").write_bytes(drawn()[1].test_image)
        assert images.stamp(0) != stamp
        (tmp_path / "good" / "2.png").write_bytes(drawn()[0].test_image)


def test_references_of_many_images_do_not_pile_up(tmp_path: Path) -> None:
    image = drawn()[0].test_image
    for index in range(40):
        (tmp_path / f"{index}.png").write_bytes(image)
    references = References(str(tmp_path))
    tracemalloc.start()
    for index in range(40):
        references.of(Path(f"{index}.png"))
    held = tracemalloc.take_snapshot().filter_traces([tracemalloc.Filter(True, "*pathlib*")])
    tracemalloc.stop()
    assert sum(trace.size for trace in held.traces if trace.size >= len(image)) < 20 * len(image)
