"""A run resolves names of data sets once: nothing behind it sees another thing than the reader, and it says so."""

from __future__ import annotations

import dataclasses
import json
import shutil
from pathlib import Path

import pytest

from sage_jax.config import Config, ConfigError, DataConfig, TextConfig, TrainConfig
from sage_jax.data.sources.recognition import RecognitionError
from sage_jax.stages.data_sources import with_readers
from sage_jax.stages.run import Run
from sage_jax.stages.stages import run_stages
from tests.support.public_sets import SETS, picture

TEXT = TextConfig(vocab_size=400, max_fact_tokens=64, max_answer_tokens=96)


@pytest.fixture
def config(tmp_path: Path) -> Config:
    """A run on BTAD that nobody named, with stage `sfe` on rows and `edpo` on a folder of one's own."""
    SETS["BTAD"].build(tmp_path / "btad")
    for split in ("good", "scratch"):
        picture(tmp_path / f"own/{split}/0.png")
    rows = [{"images": ["own/good/0.png"], "question": "Is it whole?", "chosen": "Yes.", "rejected": "No."}]
    (tmp_path / "rows.jsonl").write_text("\n".join(map(json.dumps, rows)))
    data = DataConfig(
        source="auto", root=str(tmp_path / "btad"), cache_dir=str(tmp_path / "cache"), num_train=0, num_test=0
    )
    return Config(
        run_dir=str(tmp_path / "run"),
        stages="check",
        data=data,
        text=TEXT,
        sfe=TrainConfig(data_root=str(tmp_path / "rows.jsonl")),
        edpo=dataclasses.replace(Config().edpo, data_root=str(tmp_path / "own")),
    )


def test_each_stage_gets_the_reader_of_its_own_data(config: Config) -> None:
    found, told = with_readers(config)
    sources = {stage: found.data_of(stage).source for stage in ("base", "sfe", "edpo", "evaluate")}
    assert sources == {"base": "mvtec", "sfe": "rows", "edpo": "folder", "evaluate": "mvtec"}
    assert (found.sfe.data_source, found.edpo.data_source, found.base.data_source) == ("rows", "folder", "")
    assert [each.split(" = ")[0] for each in told] == ["data.source", "sfe.data_source", "edpo.data_source"]
    assert with_readers(found) == (found, ()), "a second time there is nothing to find"
    run = Run(config)
    assert run.config.data_of("sfe") == found.data_of("sfe") and run.recognised == told


def test_a_reader_that_is_named_is_that_of_all_stages(config: Config, tmp_path: Path) -> None:
    named = dataclasses.replace(
        config,
        data=dataclasses.replace(config.data, source="btad"),
        sfe=dataclasses.replace(config.sfe, data_root=str(tmp_path / "btad")),
        edpo=dataclasses.replace(config.edpo, data_source="folder"),
    )
    found, _ = with_readers(named)
    assert found.sfe.data_source == "" and found.data_of("sfe").source == "mvtec"
    assert found.edpo.data_source == "folder"
    with pytest.raises(RecognitionError, match=r"edpo.data_source = btad: .* set edpo.data_source=folder or auto"):
        with_readers(dataclasses.replace(named, edpo=dataclasses.replace(named.edpo, data_source="")))


def test_what_a_stages_reader_does_not_take_names_the_stage(config: Config) -> None:
    several = dataclasses.replace(config, data=dataclasses.replace(config.data, num_references=2))
    with pytest.raises(ConfigError, match=r"sfe.data_source = auto, .*data.num_references = 2: rows name their own"):
        with_readers(several)
    told = dataclasses.replace(several, sfe=dataclasses.replace(config.sfe, data_source="rows"))
    with pytest.raises(ConfigError, match=r"sfe.data_root = .*rows.jsonl': data.num_references = 2"):
        with_readers(told)


def test_a_run_without_its_data_set_is_made_all_the_same(config: Config, tmp_path: Path) -> None:
    gone = dataclasses.replace(config, data=dataclasses.replace(config.data, root=str(tmp_path / "none")))
    assert Run(gone).config.data.source == "auto"


def test_no_stage_trains_on_all_of_what_the_run_tests_on(config: Config, tmp_path: Path) -> None:
    (tmp_path / "link").symlink_to(tmp_path / "btad")
    same = dataclasses.replace(config, sfe=TrainConfig(data_root=str(tmp_path / "link")), stages="prepare,sfe")
    with pytest.raises(ConfigError, match=r"sfe.data_root = .*link' is data.root as well: all of it would train"):
        with_readers(same)
    with_readers(dataclasses.replace(same, stages="evaluate"))
    with_readers(dataclasses.replace(same, data=dataclasses.replace(same.data, test_fraction=0.0)))


def test_check_tells_test_images_that_another_set_trains_on(config: Config, tmp_path: Path) -> None:
    shutil.copytree(tmp_path / "btad", tmp_path / "copy")
    copied = dataclasses.replace(
        config,
        data=dataclasses.replace(config.data, test_fraction=1.0),
        sfe=TrainConfig(data_root=str(tmp_path / "copy")),
        edpo=Config().edpo,
    )
    run_stages(copied)
    said = (tmp_path / "run/log.txt").read_text(encoding="utf-8")
    assert f"8 images of {tmp_path / 'copy'} train and are test images of {tmp_path / 'btad'} as well" in said


def test_check_says_what_it_recognised_and_lists_each_fault_of_a_row(
    config: Config, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    alone = dataclasses.replace(config, sfe=TrainConfig(), edpo=Config().edpo)
    broken = [*(tmp_path / "btad/01/test/ko").iterdir()]
    for path in broken:
        path.write_bytes(path.read_bytes()[:-30])
    with pytest.raises(ConfigError, match=r"4 faults in the data set, all listed in .*faults.jsonl"):
        run_stages(alone)
    said = capsys.readouterr().out
    assert f"data.source = auto: {tmp_path / 'btad'} is laid out as BTAD, read as data.source=mvtec" in (
        tmp_path / "run/log.txt"
    ).read_text(encoding="utf-8")
    assert "4 faults of 1 cause:" in said and sum("is truncated" in line for line in said.splitlines()) == 1
    listed = [json.loads(line) for line in (tmp_path / "run/faults.jsonl").read_text().splitlines()]
    assert sorted(each["file"] for each in listed) == sorted(map(str, broken))
    kept = json.loads((tmp_path / "run/config.json").read_text())
    assert kept["data"]["source"] == "mvtec"
