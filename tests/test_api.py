"""The Python API: the same results as the stages, one compilation a shape, and one clear error for bad input."""

from __future__ import annotations

import errno
import json
import os
import shutil
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from PIL import Image

import sage_jax
from sage_jax.config import InspectConfig
from sage_jax.data.images import decode_rgb, encode_png
from sage_jax.inspection import given
from sage_jax.training import finished
from tests.support.photographs import drawn
from tests.support.tiny_internvl import save_internvl, torch_internvl
from tests.support.tiny_run import CONFIG, ROOT, TinyRun, read_jsonl
from tests.support.tiny_tokenizers import qwen_tokenizer


@pytest.fixture(scope="module")
def run_folder(tiny_run: TinyRun, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A copy of the tiny run, for exports and inspections that write into it."""
    return Path(shutil.copytree(tiny_run.run_dir, tmp_path_factory.mktemp("api") / "run"))


@pytest.fixture(scope="module")
def inspector(run_folder: Path) -> sage_jax.Inspector:
    return sage_jax.load(run_folder)


@pytest.fixture(scope="module")
def pictures() -> list[np.ndarray]:
    """Six photographs of one size."""
    return [decode_rgb(image.test_image, name="") for image in drawn()]


def assert_same(one: sage_jax.Inspection, other: sage_jax.Inspection, atol: float = 1e-6) -> None:
    assert (one.verdict, one.reason, one.answers) == (other.verdict, other.reason, other.answers)
    np.testing.assert_allclose(np.asarray(one.score), np.asarray(other.score), atol=atol)
    np.testing.assert_allclose(np.asarray(one.boxes), np.asarray(other.boxes), atol=atol)
    assert (one.anomaly_map is None) == (other.anomaly_map is None)
    if one.anomaly_map is not None:
        np.testing.assert_allclose(one.anomaly_map, np.asarray(other.anomaly_map), atol=atol)


def test_the_package_imports_at_once_and_lists_its_names() -> None:
    program = (
        "import time; start = time.perf_counter(); import sage_jax, sys; print(time.perf_counter() - start);"
        "print(sorted({'jax', 'flax', 'numpy', 'transformers'} & set(sys.modules)));"
        "print(sorted(set(sage_jax.__all__) - set(dir(sage_jax)))); print(sage_jax.__version__)"
    )
    ended = subprocess.run([sys.executable, "-c", program], cwd=ROOT, capture_output=True, text=True, check=True)
    seconds, heavy, hidden, version = ended.stdout.splitlines()
    assert float(seconds) < 0.3 and (heavy, hidden) == ("[]", "[]") and version[0].isdigit()
    for name in sage_jax.__all__:
        assert getattr(sage_jax, name)
    with pytest.raises(AttributeError, match="no attribute 'nothing'"):
        getattr(sage_jax, "no" + "thing")


def test_every_kind_of_image_gives_the_same_finding(
    inspector: sage_jax.Inspector, pictures: list[np.ndarray], tmp_path: Path
) -> None:
    content = encode_png(pictures[0])
    path = tmp_path / "a.png"
    path.write_bytes(content)
    (tmp_path / "good.png").write_bytes(encode_png(pictures[1]))
    found = inspector.inspect(pictures[0], references=[pictures[1]])
    for image in (path, str(path), content, Image.fromarray(pictures[0])):
        assert_same(inspector.inspect(image, references=tmp_path / "good.png"), found)
    assert found.image == "image" and inspector.inspect(path).image == str(path)
    grey = pictures[0][..., 0]
    assert_same(inspector.inspect(grey), inspector.inspect(np.repeat(grey[..., None], 3, axis=2)))


@pytest.mark.parametrize("one_shot", [True, False])
def test_a_further_image_of_the_same_size_compiles_nothing(
    one_shot: bool, inspector: sage_jax.Inspector, pictures: list[np.ndarray], compilations: list[str]
) -> None:
    inspector.inspect(pictures[0], pictures[1] if one_shot else None)
    compilations.clear()
    found = [inspector.inspect(image, pictures[3] if one_shot else None) for image in pictures[2:]]
    assert compilations == [] and len(found) == 4
    next(inspector.inspect_many(pictures[:2], pictures[3] if one_shot else None, batch_size=8))
    compilations.clear()
    assert len(list(inspector.inspect_many(pictures * 2, pictures[3] if one_shot else None, batch_size=8))) == 12
    assert compilations == []


def test_many_come_in_order_as_one_by_one_and_a_bad_one_costs_itself(
    inspector: sage_jax.Inspector, pictures: list[np.ndarray]
) -> None:
    given: list[Any] = [pictures[0], b"no image", *pictures[2:5]]
    found = list(inspector.inspect_many(given, pictures[1], questions=["Where is it?"], batch_size=2))
    assert [one.verdict == "unreadable" for one in found] == [False, True, False, False, False]
    assert found[1].score is None and "is no image" in found[1].error and "is no image" in str(found[1])
    for image, one in zip(given, found, strict=True):
        if one.score is not None:
            assert_same(one, inspector.inspect(image, pictures[1], questions=["Where is it?"]), atol=1e-5)
            assert one.answers[0][0] == "Where is it?"


def test_an_endless_stream_is_read_no_further_than_a_batch_ahead(
    inspector: sage_jax.Inspector, pictures: list[np.ndarray]
) -> None:
    read = 0

    def endless() -> Iterator[np.ndarray]:
        nonlocal read
        while True:
            read += 1
            yield pictures[read % 6]

    stream = inspector.inspect_many(endless(), pictures[0], batch_size=8)
    for _ in range(3):
        next(stream)
    assert read <= 3 * 8
    del stream


def test_of_several_references_each_patch_is_compared_with_its_best(
    inspector: sage_jax.Inspector, pictures: list[np.ndarray], monkeypatch: pytest.MonkeyPatch
) -> None:
    apart = [np.asarray(inspector.inspect(pictures[0], reference).anomaly_map) for reference in pictures[1:4]]
    together = inspector.inspect(pictures[0], pictures[1:4])
    assert together.num_references == 3
    lowest = np.min(apart, axis=0)
    assert (np.asarray(together.anomaly_map) <= lowest + 1e-4).all()
    assert np.asarray(together.anomaly_map).max() > 1e-3
    same = inspector.inspect(pictures[0], [pictures[2], pictures[0]])
    np.testing.assert_allclose(np.asarray(same.anomaly_map), 0.0, atol=1e-4)
    encoded: list[int] = []
    monkeypatch.setattr(given, "encode_png", lambda pixels: encoded.append(1) or encode_png(pixels))
    (many, *_) = inspector.inspect_many(pictures[:3], pictures[1:4], batch_size=2)
    assert len(encoded) == 3 + 3  # each reference once, whatever the number of images
    assert_same(many, together, atol=1e-5)


def test_results_are_those_of_the_stage_on_the_same_files(
    inspector: sage_jax.Inspector, run_folder: Path, pictures: list[np.ndarray], tmp_path: Path
) -> None:
    (tmp_path / "images").mkdir()
    for number, image in enumerate(pictures[1:]):
        (tmp_path / "images" / f"{number}.png").write_bytes(encode_png(image))
    good = tmp_path / "good.png"
    good.write_bytes(encode_png(pictures[0]))
    config = inspector.config
    options = InspectConfig(
        images=str(tmp_path / "images"),
        references=str(good),
        output=str(tmp_path / "found"),
        questions=("Where is it?",),
    )
    sage_jax.train(config, stages="inspect", inspect=options)
    rows = read_jsonl(tmp_path / "found" / "inspection.jsonl")
    paths = sorted((tmp_path / "images").iterdir())
    found = list(inspector.inspect_many(paths, good, questions=["Where is it?"]))
    for path, row, one in zip(paths, rows, found, strict=True):
        assert (row["image"], row["verdict"], row["reason"]) == (str(path), one.verdict, one.reason)
        assert row["score"] == pytest.approx(one.score, abs=1e-6) and row["reference"] == one.reference == str(good)
        assert [tuple(turn.values()) for turn in row["follow_ups"]] == list(one.answers)
        assert [tuple(box.values())[:4] for box in row["boxes"]] == [box[:4] for box in one.boxes]
        assert one.save_overlay(tmp_path / "o" / "overlay.png").read_bytes() == Path(row["overlay"]).read_bytes()


def test_a_finding_prints_well_and_has_no_overlay_without_a_reference(
    inspector: sage_jax.Inspector, pictures: list[np.ndarray], tmp_path: Path
) -> None:
    found = inspector.inspect(pictures[0], pictures[1], questions=["How bad is it?"])
    text = str(found)
    assert found.verdict in text and f"{found.score:.3f}" in text and found.reason in text
    assert "How bad is it?" in text and "compared with reference" in text and "array" not in text + repr(found)
    found.save_overlay(tmp_path / "deep" / "o.png")
    with Image.open(tmp_path / "deep" / "o.png") as drawn_overlay:
        assert drawn_overlay.width >= 256
    alone = inspector.inspect(pictures[0])
    assert alone.anomaly_map is None and alone.boxes == () and alone.reference == ""
    with pytest.raises(sage_jax.UserError, match="no anomaly map: it was inspected without a reference"):
        alone.save_overlay(tmp_path / "none.png")


def test_bad_input_is_one_error_that_names_it(
    inspector: sage_jax.Inspector, pictures: list[np.ndarray], tmp_path: Path
) -> None:
    broken = tmp_path / "broken.png"
    broken.write_bytes(encode_png(pictures[0])[:100])
    cases: tuple[tuple[Any, str], ...] = (
        (broken, "broken.png"),
        (tmp_path / "nowhere.png", "nowhere.png: cannot be read: No such file"),
        (b"", "image: is an empty file"),
        (np.zeros((4, 4)), r"image: an array of float64 \(4, 4\): give uint8"),
        (3, "image: a int: give a path"),
    )
    image: Any
    for image, message in cases:
        with pytest.raises(sage_jax.UserError, match=message):
            inspector.inspect(image)
        with pytest.raises(sage_jax.UserError):
            inspector.inspect_many([pictures[0]], [image])
    with pytest.raises(sage_jax.UserError, match="batch_size = 0"):
        inspector.inspect_many([pictures[0]], batch_size=0)


def test_an_export_answers_as_the_run_does(
    inspector: sage_jax.Inspector, run_folder: Path, pictures: list[np.ndarray], tmp_path: Path
) -> None:
    folder = sage_jax.export(run_folder, tmp_path / "exported", dtype="float32")
    assert folder == tmp_path / "exported" and (folder / "sage_fusion.safetensors").is_file()
    loaded = sage_jax.load(folder)
    for references in (None, pictures[1]):
        ours, theirs = (one.inspect(pictures[0], references, category="nut") for one in (inspector, loaded))
        assert_same(ours, theirs, atol=1e-5)
    assert not (folder / "tokenizer").exists()  # nothing is written beside it


def test_a_released_checkpoint_answers(pictures: list[np.ndarray], tmp_path: Path) -> None:
    tokenizer = qwen_tokenizer()
    peer = torch_internvl("qwen2", vocab_size=len(tokenizer) + 8, max_position_embeddings=1024)
    peer.config.image_token_id = tokenizer.get_vocab()["<IMG_CONTEXT>"]
    folder = save_internvl(peer, tmp_path / "InternVL-tiny")
    tokenizer.save_pretrained(str(folder))
    found = sage_jax.load(folder, threshold=0.0).inspect(pictures[0])
    assert found.verdict == "defective" and found.score is not None and 0.0 <= found.score <= 1.0


def test_a_folder_without_a_model_says_what_trains_one(tmp_path: Path, run_folder: Path) -> None:
    for folder, message in ((tmp_path / "nowhere", "no such folder"), (tmp_path, "no model is here")):
        with pytest.raises(sage_jax.UserError, match=message) as raised:
            sage_jax.load(folder)
        assert "sage-jax train quickstart" in str(raised.value)
    (tmp_path / "config.json").write_text("{")
    with pytest.raises(sage_jax.UserError, match=r"config\.json: cannot be read"):
        sage_jax.load(tmp_path)
    (tmp_path / "config.json").write_text(json.dumps({"seeds": 3}))
    with pytest.raises(sage_jax.UserError, match="no run of this version"):
        sage_jax.load(tmp_path)
    with pytest.raises(sage_jax.UserError, match="stage = 'sft': give one of base"):
        sage_jax.load(run_folder, stage="sft")
    shutil.copy(run_folder / "config.json", tmp_path / "config.json")
    with pytest.raises(sage_jax.UserError, match="has not finished"):
        sage_jax.load(tmp_path)


def test_a_run_that_cannot_be_read_is_one_error(
    run_folder: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    run = Path(shutil.copytree(run_folder, tmp_path / "run"))
    shutil.rmtree(run / "tokenizer")
    for replace in (lambda: None, (run / "tokenizer").touch):
        replace()
        with pytest.raises(sage_jax.UserError, match="run/tokenizer: there is no such folder.*Bring it back"):
            sage_jax.load(run)

    def denied(*arguments: object) -> None:
        raise PermissionError(errno.EACCES, os.strerror(errno.EACCES), "the file")

    monkeypatch.setattr(finished, "_indexed", denied)
    with pytest.raises(sage_jax.UserError, match="the file: Permission denied: give this user the right"):
        sage_jax.load(run_folder)


def test_a_threshold_and_a_stage_are_taken(run_folder: Path, pictures: list[np.ndarray]) -> None:
    strict = sage_jax.load(run_folder, stage="sfe", threshold=0.0)
    assert strict.stage == "sfe" and strict.inspect(pictures[0]).verdict == "defective"


def test_training_takes_a_file_and_fields_and_evaluation_gives_the_metrics(tiny_run: TinyRun, tmp_path: Path) -> None:
    shutil.copytree(tiny_run.run_dir, tmp_path / "run")
    data = sage_jax.load(tmp_path / "run").config.data
    folder = sage_jax.train(CONFIG, run_dir=str(tmp_path / "run"), stages="prepare,base", data=data)
    assert folder == tmp_path / "run"
    metrics = sage_jax.evaluate(folder)
    assert metrics["sfe"]["one_shot"] == tiny_run.summary()["metrics"]["sfe"]["one_shot"]
    with pytest.raises(sage_jax.UserError, match="there are ablation, deeppcb, deeppcb_paper, own_parts, quickstart"):
        sage_jax.train("no_such_config")


def test_a_picture_of_pil_is_read_as_its_file(inspector: sage_jax.Inspector, tmp_path: Path) -> None:
    rng = np.random.default_rng(0)
    turned = Image.Exif()
    turned[0x0112] = 6
    pixels = rng.integers(0, 256, (30, 40, 3), dtype=np.uint8)
    see_through = Image.fromarray(rng.integers(0, 256, (30, 40, 4), dtype=np.uint8))
    Image.fromarray(pixels).save(tmp_path / "turned.png", exif=turned)
    see_through.save(tmp_path / "see_through.png")
    Image.fromarray(rng.integers(0, 65536, (30, 40), dtype=np.uint16)).save(tmp_path / "wide.png")
    for path in sorted(tmp_path.glob("*.png")):
        with Image.open(path) as opened:
            found = inspector.inspect(opened)
        np.testing.assert_array_equal(np.asarray(found.pixels), np.asarray(inspector.inspect(path).pixels))


def test_what_is_wrong_is_named_as_it_was_given(
    inspector: sage_jax.Inspector, run_folder: Path, pictures: list[np.ndarray], tmp_path: Path
) -> None:
    with pytest.raises(sage_jax.UserError, match=r"missing\.png: cannot be read: No such file"):
        inspector.inspect(pictures[0], tmp_path / "missing.png")
    (tmp_path / "cut.png").write_bytes(
        encode_png(np.random.default_rng(0).integers(0, 256, (64, 64, 3), np.uint8))[:2000]
    )
    with pytest.raises(sage_jax.UserError) as raised:
        inspector.inspect(Image.open(tmp_path / "cut.png"))
    assert "None" not in str(raised.value)
    (found,) = inspector.inspect_many(["a\0b.png"])
    assert found.verdict == "unreadable" and "cannot be read" in found.error
    assert inspector.inspect(pictures[0], questions="Why?").answers[0][0] == "Why?"
    with pytest.raises(sage_jax.UserError, match="run_dirs: no such field; did you mean 'run_dir'"):
        sage_jax.train(CONFIG, run_dirs="x")
    with pytest.raises(sage_jax.UserError, match="dtypes: no such field; did you mean 'dtype'"):
        sage_jax.export(run_folder, tmp_path / "out", dtypes="float32")
    (tmp_path / "config.json").write_text(json.dumps({"model_type": "internvl"}))
    for call in (sage_jax.evaluate, sage_jax.export):
        with pytest.raises(sage_jax.UserError, match="a checkpoint, not a run"):
            call(tmp_path)
