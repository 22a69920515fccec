"""A run that goes on from another: its model, tokenizer and prompts, and what is refused."""

from __future__ import annotations

import dataclasses
import shutil
from pathlib import Path

import numpy as np
import pytest

from sage_jax.config import Config, ConfigError, DecoderConfig, ModelConfig, TextConfig
from sage_jax.config.command_line import read_config
from sage_jax.data.trees.tokenizer import load_tokenizer, train_tokenizer
from sage_jax.errors import UserError
from sage_jax.stages.run import Run
from sage_jax.stages.stages import run_stages
from sage_jax.stages.start import begun_from, words_in_pieces
from sage_jax.training.finished import final_start, final_weights
from tests.support.tiny_export import TRAINED_HERE, make_run
from tests.support.tiny_run import CONFIG, TinyRun, run_main


@pytest.fixture(scope="module")
def earlier(tmp_path_factory: pytest.TempPathFactory) -> Run:
    """A run whose stages base and sfe hold random weights, and its config.json."""
    run = make_run(dataclasses.replace(TRAINED_HERE, run_dir=str(tmp_path_factory.mktemp("earlier") / "run")))
    run.folder.write_json("config.json", dataclasses.asdict(run.config))
    return run


def after(earlier: Run, folder: Path, **fields: object) -> Config:
    """A config of other sizes and prompts that goes on from a run."""
    text = TextConfig(vocab_size=999, assist_prompt="Other words.", max_answer_tokens=33, buckets=(512, 768))
    model = ModelConfig(decoder=DecoderConfig(num_layers=7), compute_dtype="bfloat16", remat="full")
    config = Config(run_dir=str(folder / "later"), start_from=str(earlier.folder.path), text=text, model=model)
    return dataclasses.replace(config, **fields)


def test_sizes_and_prompts_are_the_models_and_how_it_computes_ones_own(earlier: Run, tmp_path: Path) -> None:
    given = after(earlier, tmp_path)
    config, start = begun_from(given)
    assert start is not None and start.stage == "sfe" and str(start) == f"stage sfe of {earlier.folder.path}"
    assert config.model == dataclasses.replace(earlier.config.model, compute_dtype="bfloat16", remat="full")
    assert config.text == dataclasses.replace(
        earlier.config.text, max_answer_tokens=33, buckets=(512, 768), num_shapes=2
    )
    assert dataclasses.replace(config, model=given.model, text=given.text) == given
    plain = dataclasses.replace(earlier.config, sfe=dataclasses.replace(earlier.config.sfe, facts="text"))
    earlier.folder.write_json("config.json", dataclasses.asdict(plain))
    assert begun_from(given)[0].base.facts == "text"  # as the model was given its facts
    earlier.folder.write_json("config.json", dataclasses.asdict(earlier.config))


def test_stages_start_from_its_last_model_with_its_tokenizer(earlier: Run, tmp_path: Path) -> None:
    run = Run(dataclasses.replace(after(earlier, tmp_path), model=ModelConfig(compute_dtype="float32")))
    assert list(run.trained) == ["base"] and run.trained.is_imported("base")
    assert run.chat.tokenizer_digest() == earlier.chat.tokenizer_digest()
    begun, theirs = run.weights.start("sfe"), earlier.weights.merged("sfe", wanted_by="test")
    assert begun.keys() == theirs.keys()
    for path in theirs:
        np.testing.assert_array_equal(begun[path], theirs[path], err_msg=path)
    assert run.trained.start_hash("sfe") == final_weights(earlier.folder.stage("sfe")) != ""


def test_what_training_cannot_go_on_from_is_named_with_the_way_out(earlier: Run, tmp_path: Path) -> None:
    unfinished = tmp_path / "unfinished"
    unfinished.mkdir()
    shutil.copy(earlier.folder.path / "config.json", unfinished)
    on_weights = tmp_path / "on_weights"
    shutil.copytree(earlier.folder.path, on_weights)
    text = (on_weights / "config.json").read_text().replace('"weights": ""', '"weights": "InternVL3-1B"')
    (on_weights / "config.json").write_text(text)
    for folder, said in (
        (unfinished, "no training stage has finished there; finish that run"),
        (on_weights, "a run on InternVL3-1B: export it with `sage-jax export"),
        (tmp_path / "none", "there is no such folder"),
        (tmp_path, "no model is here"),
    ):
        with pytest.raises(UserError, match=said):
            begun_from(after(earlier, tmp_path / "out", start_from=str(folder)))
    with pytest.raises(ConfigError, match="is run_dir itself"):
        begun_from(after(earlier, tmp_path, run_dir=str(earlier.folder.path)))
    with pytest.raises(ConfigError, match="give one of the two"):
        after(earlier, tmp_path, model=ModelConfig(weights="InternVL3-1B"))


def test_a_run_whose_start_is_gone_goes_on_with_a_stage_killed_just_before_its_end(
    earlier: Run, tmp_path: Path
) -> None:
    config = after(earlier, tmp_path, start_from=str(tmp_path / "gone"))
    shutil.copytree(earlier.folder.stages, tmp_path / "later" / "stages")
    (tmp_path / "later" / "stages" / "edpo" / "final").mkdir(parents=True)  # and no DONE.json
    assert begun_from(config) == (config, None)


def test_an_exported_folder_is_taken_as_weights(earlier: Run, tmp_path: Path) -> None:
    run_stages(dataclasses.replace(earlier.config, stages="export"))
    exported = earlier.folder.path / "export"
    config, start = begun_from(after(earlier, tmp_path, start_from=str(exported)))
    assert start is None and config.model.weights == str(exported)
    assert config.model.fusion == earlier.config.model.fusion
    run = Run(config)
    begun, theirs = run.weights.start("sfe"), earlier.weights.merged("sfe", wanted_by="test")
    for path in theirs:
        np.testing.assert_array_equal(begun[path], theirs[path], err_msg=path)


def test_words_that_a_tokenizer_has_not_whole_are_told() -> None:
    old = train_tokenizer(["Is there a scratch? Yes. The part has a scratch."] * 5, 400)
    new = train_tokenizer(["Is there a delamination? Yes. The part has a delamination and a scratch."] * 5, 400)
    told = words_in_pieces(old, new)
    assert "delamination" in told and "scratch" not in told
    assert words_in_pieces(new, new) == ""
    (ids,) = [old.encode(" delamination", add_special_tokens=False)]
    assert old.decode(ids) == " delamination"  # in pieces, but whole


def test_another_data_set_is_trained_on_from_what_was_learnt(tiny_run: TinyRun, tmp_path: Path) -> None:
    """The whole way: the earlier model scores as `base`, stage 1 moves it, and then the earlier run may go."""
    before = tmp_path / "before"
    shutil.copytree(tiny_run.run_dir, before)
    fields = (f"--config.start_from={before}", "--config.seed=5", "--config.sfe.steps=2")
    run = run_main(tmp_path, *fields, "--config.stages=prepare,base,sfe")
    log = (run.run_dir / "log.txt").read_text(encoding="utf-8")
    assert f"base: not trained: stage edpo of {before} stands in for it" in log
    assert final_start(run.run_dir / "stages" / "sfe") == final_weights(before / "stages" / "edpo")
    theirs, ours = (load_tokenizer(folder / "tokenizer") for folder in (before, run.run_dir))
    assert theirs.get_vocab() == ours.get_vocab()
    shutil.rmtree(before)
    inspected = run_main(tmp_path, *fields, "--config.stages=inspect")
    assert "threshold" in inspected.stderr
    kept = read_config(["--config", str(CONFIG), *fields])
    assert kept.start_from == str(before)
