"""Facts that a model writes: once an image, the same after a kill, read by training, evaluation and inspection."""

from __future__ import annotations

import dataclasses
import shutil
from pathlib import Path

import numpy as np
import pytest

import sage_jax
from sage_jax.config import Config
from sage_jax.data.trees.languages import FACTS_QUESTIONS
from sage_jax.errors import UserError
from sage_jax.process.signals import Interrupted
from sage_jax.stages.open_model import config_of
from sage_jax.stages.run import Run
from sage_jax.training.finished import final_weights
from tests.support.endpoint_server import chat, served
from tests.support.tiny_run import TinyRun, read_jsonl

pytestmark = pytest.mark.usefixtures("one_device")

NUM_IMAGES = 24 + 10


@pytest.fixture(scope="module")
def config(tiny_run: TinyRun, tmp_path_factory: pytest.TempPathFactory) -> Config:
    """The tiny run with `base` alone, to go on with facts of its own."""
    folder = tmp_path_factory.mktemp("facts")
    run_dir = Path(shutil.copytree(tiny_run.run_dir, folder / "run"))
    for stage in (run_dir / "stages").iterdir():
        if stage.name != "base":
            shutil.rmtree(stage)
    cache = shutil.copytree(tiny_run.folder / "cache", folder / "cache", ignore=shutil.ignore_patterns("compiled"))
    config = config_of(run_dir)
    facts = dataclasses.replace(config.facts, max_tokens=24)
    inspect = dataclasses.replace(config.inspect, images="", references="")
    data = dataclasses.replace(config.data, facts="model", cache_dir=str(cache))
    evaluate = dataclasses.replace(config.evaluate, stages=("sfe",))
    sfe = dataclasses.replace(config.sfe, batch_size=8, steps=6)
    return dataclasses.replace(config, facts=facts, data=data, inspect=inspect, evaluate=evaluate, sfe=sfe)


@pytest.fixture(scope="module")
def trained(config: Config) -> Path:
    """A run with facts by its base model, a stage trained on them, evaluated and inspected."""
    return sage_jax.train(config, stages="facts,sfe,evaluate,inspect")


def book(config: Config) -> Path:
    return Run(config).facts.book.path


def facts_in(path: Path) -> dict[str, list[str]]:
    return {row["image"]: row["facts"] for row in read_jsonl(path) if "image" in row}


def test_each_image_has_facts_by_the_base_model(config: Config, trained: Path) -> None:
    found = facts_in(book(config))
    assert len(found) == NUM_IMAGES
    assert sum(map(bool, found.values())) > NUM_IMAGES // 2 and len(set(map(str, found.values()))) > 1
    assert all(len(facts) <= config.text.max_facts for facts in found.values())
    run = Run(dataclasses.replace(config, run_dir=str(trained)))
    stored, told = run.records("train", wanted_by="base"), run.records("train", wanted_by="sfe")
    assert [record.facts for record in stored] != [record.facts for record in told]
    assert {record.facts for record in told} <= {tuple(facts) for facts in found.values()}


def test_killed_and_called_again_it_writes_the_same_facts(config: Config, trained: Path) -> None:
    path = book(config)
    whole = facts_in(path)
    lines = path.read_bytes().splitlines(keepends=True)
    path.write_bytes(b"".join(lines[:13]) + lines[13][:30])
    with pytest.raises(UserError, match="not written yet: run with --config.stages=facts,evaluate"):
        sage_jax.train(config, stages="evaluate")
    sage_jax.train(config, stages="facts")
    assert facts_in(path) == whole
    done = path.read_bytes()
    sage_jax.train(config, stages="facts")
    assert path.read_bytes() == done


def test_training_reads_them(config: Config, trained: Path, tmp_path: Path) -> None:
    """The same stage on the vocabulary's facts, and on none of the images' own, ends with other weights."""
    own = final_weights(trained / "stages" / "sfe")
    for name, data in (
        ("vocabulary", dataclasses.replace(config.data, facts="vocabulary")),
        ("model", config.data),
    ):
        folder = tmp_path / name
        shutil.copytree(trained, folder)
        shutil.rmtree(folder / "stages" / "sfe")
        sage_jax.train(dataclasses.replace(config, run_dir=str(folder), data=data), stages="sfe")
        assert (final_weights(folder / "stages" / "sfe") == own) == (name == "model")


def test_another_prompt_gives_facts_of_its_own(config: Config, trained: Path) -> None:
    other = dataclasses.replace(config.facts, prompt=FACTS_QUESTIONS["en"] + " Be brief.")
    one, another = (Run(dataclasses.replace(config, facts=facts)).facts for facts in (config.facts, other))
    assert one.digest != another.digest and len(another.book) == 0 and len(one.book) == NUM_IMAGES


def test_results_and_thresholds_are_those_of_the_facts(config: Config, trained: Path) -> None:
    run = Run(config)
    plain = Run(dataclasses.replace(config, data=dataclasses.replace(config.data, facts="vocabulary")))
    told, untold = (each.evaluator("sfe", each.weights.answering("sfe", wanted_by="test")) for each in (run, plain))
    assert told.weights == untold.weights and told.digest() != untold.digest()
    assert run.revision("sfe") != run.revision("base") == plain.revision("sfe")


def test_inspection_shows_the_facts(config: Config, trained: Path) -> None:
    known = facts_in(book(config))
    rows = read_jsonl(trained / "inspect" / "inspection.jsonl")
    assert rows and all(row["facts"] in known.values() for row in rows)
    page = (trained / "inspect" / "report.html").read_text(encoding="utf-8")
    assert page.count("<summary>Facts given</summary>") == sum(bool(row["facts"]) for row in rows) > 0


def test_new_images_get_facts_when_they_are_inspected(config: Config, trained: Path, tmp_path: Path) -> None:
    pixels = np.random.default_rng(0).integers(0, 256, (32, 32, 3), np.uint8)
    before = facts_in(book(config))
    inspector = sage_jax.load(trained)
    found = inspector.inspect(pixels)
    after = facts_in(book(config))
    (key,) = after.keys() - before.keys()
    assert list(found.facts) == after[key]
    again = inspector.inspect(pixels)
    assert (again.facts, again.score, again.reason) == (found.facts, found.score, found.reason)
    assert facts_in(book(config)) == after


def test_facts_must_be_written_before_they_are_read(config: Config, tmp_path: Path) -> None:
    anew = dataclasses.replace(config, run_dir=str(tmp_path / "run"))
    with pytest.raises(UserError, match="put 'facts' before it, after 'base'"):
        sage_jax.train(anew, stages="prepare,base,sfe")
    with pytest.raises(UserError, match="stage 'facts' needs stage 'base'"):
        sage_jax.train(anew, stages="prepare,facts")


def test_an_endpoint_may_write_them(config: Config, trained: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """As the authors' release has it: every image of the data set is sent once, and the key is kept nowhere."""
    monkeypatch.setenv("FACTS_KEY", "sk-secret")
    with served(lambda body, number: chat("It is round. It may crack.")) as server:
        asked = {"base_url": server.url, "model": "gpt-4o", "api_key_env": "FACTS_KEY"}
        facts = dataclasses.replace(config.facts, **asked)
        few = dataclasses.replace(config, facts=dataclasses.replace(facts, max_requests=5, concurrency=1))
        with pytest.raises(Interrupted, match=r"stopped at 5 new images: .* facts\.max_requests = 5"):
            sage_jax.train(few, stages="facts")
        assert len(server.bodies) == 5
        sage_jax.train(dataclasses.replace(config, facts=facts), stages="facts")
        assert len(server.bodies) == NUM_IMAGES and set(server.keys) == {"Bearer sk-secret"}
    told = Run(dataclasses.replace(config, facts=facts)).records("test", wanted_by="sfe")
    assert {record.facts for record in told} == {("It is round.", "It may crack.")}
    for folder in (trained, Path(config.data.cache_dir)):
        for path in folder.rglob("*"):
            assert not path.is_file() or b"sk-secret" not in path.read_bytes()
