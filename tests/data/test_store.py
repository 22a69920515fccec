"""Storage: records come back unchanged, a cache is reused by content and never half-built."""

from __future__ import annotations

import dataclasses
import json
import pickle
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from sage_jax.config import ConfigError, DataConfig, TextConfig
from sage_jax.data.images import encode_png
from sage_jax.data.records import Fault, Record, Reference
from sage_jax.data.sources import readers
from sage_jax.data.sources.generated import draw
from sage_jax.data.store import (
    DataFaultError,
    PreparedData,
    StoredDataError,
    decode_record,
    encode_record,
    open_split,
    prepare,
)
from sage_jax.data.trees.chat import Chat, chat_template
from sage_jax.data.trees.encode import count_records

TEXT = TextConfig(vocab_size=400)


def config(cache: Path, **changes: Any) -> DataConfig:
    return DataConfig(**{"cache_dir": str(cache), "num_train": 12, "num_test": 4, "image_px": 32, **changes})


@pytest.fixture(scope="module")
def cache(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return tmp_path_factory.mktemp("cache")


@pytest.fixture(scope="module")
def prepared(cache: Path) -> PreparedData:
    return prepare(config(cache), TEXT, seed=3, run_dir=cache / "run")


@pytest.fixture(scope="module")
def source(cache: Path) -> dict[str, list[Record]]:
    return {split: list(records(config(cache), split)) for split in ("train", "test")}


def records(data: DataConfig, split: Any) -> Iterator[Record]:
    for found in readers.read_records(data, split, 3):
        assert isinstance(found, Record)
        yield found


@pytest.fixture
def inspection_folder(tmp_path: Path) -> Path:
    """An MVTec-style tree of generated images, one of them cut off in the middle."""
    folder = tmp_path / "parts" / "cap"
    images = list(draw(config(tmp_path, num_train=6, defect_rate=0.0), "train", 0))
    for place, chosen in (("train/good", images[:3]), ("test/good", images[3:])):
        (folder / place).mkdir(parents=True)
        for index, image in enumerate(chosen):
            (folder / place / f"{index:03}.png").write_bytes(image.test_image)
    broken = folder / "test" / "good" / "000.png"
    broken.write_bytes(broken.read_bytes()[:300])
    return folder.parent


def test_stored_records_are_the_sources_in_order(prepared: PreparedData, source: dict[str, list[Record]]) -> None:
    assert (prepared.num_train, prepared.num_test) == (len(source["train"]), len(source["test"]))
    assert list(open_split(prepared, "train")) == source["train"]
    assert list(open_split(prepared, "test")) == source["test"]


def test_random_access_keeps_sequence_rules(prepared: PreparedData, source: dict[str, list[Record]]) -> None:
    stored, expected = open_split(prepared, "train"), source["train"]
    assert (stored[-1], stored[2:5], stored[::-4]) == (expected[-1], expected[2:5], expected[::-4])
    for index in (len(expected), -len(expected) - 1):
        with pytest.raises(IndexError, match=f"record {index}"):
            stored[index]


def test_stored_records_travel_to_worker_processes(prepared: PreparedData) -> None:
    stored = open_split(prepared, "train")
    before = stored[1]
    assert pickle.loads(pickle.dumps(stored))[1] == before
    assert len(pickle.dumps(stored)) < 2000


def test_stored_counts_are_those_of_the_records(prepared: PreparedData, source: dict[str, list[Record]]) -> None:
    for split in ("train", "test"):
        assert open_split(prepared, split).counts == count_records(source[split])


@pytest.mark.parametrize(
    "missing",
    [
        {},
        {"reference_image": None, "mask": None, "anomalous": None, "facts": ()},
        {"further_references": (Reference(b"\x89PNG \xff\x00", 'good/"ü".png'), Reference(b"second", "2.png"))},
    ],
)
def test_encoding_loses_nothing(source: dict[str, list[Record]], missing: dict[str, Any]) -> None:
    for record in source["train"]:
        record = dataclasses.replace(record, category='Kappe "ü" 🔎', **missing)
        stored = encode_record(record)
        assert decode_record({**stored, "record": stored["record"].encode()}) == record


def test_tokenizer_is_trained_on_the_text_and_renders_the_template(
    prepared: PreparedData, source: dict[str, list[Record]]
) -> None:
    chat = Chat(TEXT, prepared.tokenizer)
    answer = source["train"][0].questions[0].answers[0].text
    assert len(chat.answer_ids(answer)) < len(answer) / 2
    assert chat.decode(chat.answer_ids(answer)) == answer
    assert prepared.tokenizer.chat_template == chat_template(TEXT)


def test_same_content_is_found_again_and_not_built_again(
    prepared: PreparedData, cache: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def forbidden(*_: object) -> None:
        raise AssertionError("the source was read again")

    monkeypatch.setattr(readers, "read_records", forbidden)
    again = prepare(config(cache), TEXT, seed=3, run_dir=cache / "run")
    assert (again.path, again.revision) == (prepared.path, prepared.revision)
    assert again.tokenizer.get_vocab() == prepared.tokenizer.get_vocab()
    other = prepare(config(cache), dataclasses.replace(TEXT, vocab_size=300), seed=3, run_dir=cache / "run")
    assert other.path == prepared.path and len(other.tokenizer) <= 300 < len(prepared.tokenizer)
    with pytest.raises(AssertionError, match="read again"):
        prepare(config(cache), TEXT, seed=4, run_dir=cache / "run")


def test_an_interrupted_build_leaves_nothing_behind(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    real = readers.read_records

    def stopped(data: DataConfig, split: Any, seed: int) -> Iterator[Record | Fault]:
        yield from list(real(data, split, seed))[:5]
        raise KeyboardInterrupt

    data = config(tmp_path / "cache")
    monkeypatch.setattr(readers, "read_records", stopped)
    with pytest.raises(KeyboardInterrupt):
        prepare(data, TEXT, seed=3, run_dir=tmp_path)
    assert not list((tmp_path / "cache").iterdir())
    monkeypatch.setattr(readers, "read_records", real)
    assert prepare(data, TEXT, seed=3, run_dir=tmp_path).num_train == 12


def test_a_fault_stops_or_is_skipped_and_listed(inspection_folder: Path, tmp_path: Path) -> None:
    data = config(tmp_path / "cache", source="mvtec", root=str(inspection_folder), num_train=0, num_test=0)
    skip = dataclasses.replace(data, on_bad_record="skip")
    with pytest.raises(DataFaultError, match=r"000\.png.*on_bad_record=skip") as caught:
        prepare(data, TEXT, seed=0, run_dir=tmp_path / "run")
    assert not (tmp_path / "run").exists()
    for run in ("run", "second run"):
        prepared = prepare(skip, TEXT, seed=0, run_dir=tmp_path / run)
        listed = (tmp_path / run / "skipped_records.jsonl").read_text().splitlines()
        assert [Fault(**json.loads(line)) for line in listed][0] == caught.value.fault
        assert prepared.num_train > 0
        assert all("000.png" not in record.test_path for record in open_split(prepared, "test"))
    with pytest.raises(DataFaultError):  # also when the data set comes from the cache
        prepare(data, TEXT, seed=0, run_dir=tmp_path / "third run")


def test_a_split_left_without_records_is_empty_not_broken(inspection_folder: Path, tmp_path: Path) -> None:
    data = config(tmp_path / "cache", source="mvtec", root=str(inspection_folder), num_train=0, num_test=0)
    good = inspection_folder / "cap" / "test" / "good"
    for name in ("001.png", "002.png"):
        (good / name).unlink()
    skip = dataclasses.replace(data, on_bad_record="skip")
    prepared = prepare(skip, TEXT, seed=0, run_dir=tmp_path)
    assert prepared.num_train > 0 and list(open_split(prepared, "test")) == []
    for path in (inspection_folder / "cap" / "train" / "good").iterdir():
        path.write_bytes(b"")
    with pytest.raises(ValueError, match="mvtec gives no record"):
        prepare(skip, TEXT, seed=0, run_dir=tmp_path)


def test_a_cache_that_cannot_be_written_is_named(tmp_path: Path) -> None:
    with pytest.raises(ConfigError, match=r"data.cache_dir = '/dev/null/x' cannot be written: Not a directory"):
        prepare(config(Path("/dev/null/x")), TEXT, seed=0, run_dir=tmp_path)


def test_the_list_of_skipped_records_goes_with_the_faults(cache: Path, prepared: PreparedData, tmp_path: Path) -> None:
    (tmp_path / "skipped_records.jsonl").write_text("of an earlier run")
    prepare(config(cache), TEXT, seed=3, run_dir=tmp_path)
    assert not (tmp_path / "skipped_records.jsonl").exists()


def test_several_references_are_stored_and_counted(tmp_path: Path) -> None:
    rng = np.random.default_rng(0)
    for index in range(9):
        (tmp_path / "parts").mkdir(exist_ok=True)
        (tmp_path / f"parts/{index}.png").write_bytes(encode_png(rng.integers(0, 256, (16, 16, 3), dtype=np.uint8)))
    data = config(tmp_path / "cache", source="folder", root=str(tmp_path / "parts"), num_references=3)
    data = dataclasses.replace(data, num_train=0, num_test=0)
    stored = open_split(prepare(data, TEXT, seed=0, run_dir=tmp_path), "train")
    assert stored.counts.references == 3
    for record in stored:
        assert [each.image for each in record.references] == [
            (tmp_path / "parts" / each.path).read_bytes() for each in record.references
        ]
        assert len(record.references) == 3


def test_a_damaged_data_set_is_built_again_or_told(tmp_path: Path, capfd: pytest.CaptureFixture[str]) -> None:
    given = config(tmp_path / "cache", num_train=4, num_test=2)
    first = prepare(given, TEXT, seed=3, run_dir=tmp_path / "run")
    before = list(open_split(first, "train"))
    vocabulary = first.tokenizer.get_vocab()
    small = [path for path in first.path.rglob("*") if path.is_file() and ".array_record" not in path.name]
    assert len(small) > 5
    for path in small:
        if not path.exists():
            continue  # of a folder that was built again under another name
        path.write_bytes(path.read_bytes()[:-3])
        again = prepare(given, TEXT, seed=3, run_dir=tmp_path / "run")
        assert list(open_split(again, "train")) == before and again.tokenizer.get_vocab() == vocabulary
    assert "is damaged: the data set is built again" in capfd.readouterr().err
    (records_file,) = (path for path in first.path.rglob("*train*.array_record*"))
    content = records_file.read_bytes()
    for damaged in (content[: len(content) // 2], b"", content[:3000] + bytes([content[3000] ^ 4]) + content[3001:]):
        records_file.write_bytes(damaged)
        with pytest.raises(StoredDataError, match=r"the data set is damaged .*delete "):
            list(open_split(prepare(given, TEXT, seed=3, run_dir=tmp_path / "run"), "train"))
