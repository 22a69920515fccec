"""A trained stage as a folder: tokenizer, card, licence, upload, and the refusals before any work."""

from __future__ import annotations

import dataclasses
import json
import random
import re
import shutil
from pathlib import Path
from typing import Any

import pytest
from transformers import (
    AutoTokenizer,
)

from sage_jax.config import ConfigError, DecodingConfig, ExportConfig, ModelConfig, VitConfig
from sage_jax.data.trees.tokenizer import load_tokenizer
from sage_jax.evaluation.evaluator import scored_of
from sage_jax.hf.faults import WeightsError
from sage_jax.hf.importing import CHECKSUMS, open_checkpoint
from sage_jax.hf.tokenizer import find_conversation, read_tokenizer
from sage_jax.hf.upload import UploadError
from sage_jax.journal.run_log import RunLog
from sage_jax.stages.export import Exported, write_export
from sage_jax.stages.run import Run
from sage_jax.stages.stages import run_stages
from tests.campaign.mutate import damage
from tests.support.exported_case import Case, from_weights
from tests.support.tiny_export import TRAINED_HERE, load_sage, picture
from tests.support.tiny_internvl import stored_bytes

pytestmark = pytest.mark.usefixtures("remote_code_cache")


def test_sage_saved_by_torch_is_the_exported_one(trained_here: Case, tmp_path: Path) -> None:
    trained_here.sage.save_pretrained(tmp_path / "saved")
    assert open_checkpoint(tmp_path / "saved", trained_here.run.config.model).has_fact_encoder
    again = load_sage(tmp_path / "saved")
    asked = ("Is it whole?", ("This is a cap.",), picture(5))
    assert again.answer(picture(1), *asked).text == trained_here.sage.answer(picture(1), *asked).text


def test_the_tokenizer_comes_back_and_the_conversation_with_it(case: Case) -> None:
    ours, theirs = load_tokenizer(case.run.folder.tokenizer), AutoTokenizer.from_pretrained(case.folder)
    assert theirs.get_vocab() == ours.get_vocab()
    for text in ("Is there a defect? Yes, 你是 <IMG_CONTEXT>\n\n<|im_end|>", "True. No."):
        assert theirs.encode(text) == ours.encode(text)
        assert theirs.decode(theirs.encode(text)) == ours.decode(ours.encode(text))
    assert theirs.context_image_token_id == case.run.chat.image_id
    checkpoint = open_checkpoint(case.folder, ModelConfig(fusion=case.run.config.model.fusion))
    found = find_conversation(case.folder, checkpoint.config, read_tokenizer(case.folder, checkpoint.config))
    assert (found.system, found.between) == (case.run.chat.system, case.run.chat.conversation.between)


def test_a_checkpoint_that_went_through_the_stage_is_the_same_bit_for_bit(weights: Path, tmp_path: Path) -> None:
    config = from_weights(weights, tmp_path / "run")
    run_stages(config)  # of stage base, for which the weights stand in: nothing is trained
    written = tmp_path / "run" / "export"
    assert stored_bytes(written) == stored_bytes(weights)
    again = from_weights(written, tmp_path / "again")
    run_stages(again)
    assert stored_bytes(tmp_path / "again" / "export") == stored_bytes(weights)
    own = "sage_fusion.safetensors"
    assert (tmp_path / "again" / "export" / own).read_bytes() == (written / own).read_bytes()
    card = (written / "README.md").read_text()
    assert "license: other\nlicense_name: qwen\n" in card and "base, InternVL-tiny: other, qwen" in card
    assert "None: these are the base's weights" in card
    assert (written / "base" / "LICENSE").read_text() == "terms of the base"
    generation = json.loads((written / "generation_config.json").read_text())
    assert generation["temperature"] == 0.7 and generation["eos_token_id"] == list(Run(config).chat.stop_ids)


def test_a_checkpoints_way_to_choose_tokens_is_refused_where_it_is_not_computed(weights: Path, tmp_path: Path) -> None:
    shutil.copytree(weights, tmp_path / "beams")
    (tmp_path / "beams" / "generation_config.json").write_text('{"num_beams": 4}')
    evaluate = dataclasses.replace(TRAINED_HERE.evaluate, decoding=DecodingConfig(method="checkpoint"))
    assert Run(from_weights(weights, tmp_path / "run", evaluate=evaluate)).checkpoint
    with pytest.raises(WeightsError, match="num_beams is not supported; .*decoding.method=greedy"):
        Run(from_weights(tmp_path / "beams", tmp_path / "run", evaluate=evaluate))


def test_a_stage_knows_the_weights_that_it_started_from(weights: Path, tmp_path: Path) -> None:
    """By content: a checkpoint of its training holds what trains alone, which means nothing over others."""
    moved, other = (tmp_path / name for name in ("moved", "other"))
    for folder in (moved, other):
        shutil.copytree(weights, folder)
    path = sorted(other.glob("*.safetensors"))[-1]
    content = bytearray(path.read_bytes())
    content[-2] ^= 1  # of one number of the last tensor
    path.write_bytes(content)
    first, second, third = (
        Run(from_weights(f, tmp_path / "run")).trained.start_hash("sfe") for f in (weights, moved, other)
    )
    assert first == second != third and first
    assert Run(dataclasses.replace(TRAINED_HERE, run_dir=str(tmp_path / "run"))).trained.start_hash("base") == ""


def test_the_folder_names_no_path_of_the_machine(case: Case) -> None:
    secret = [str(case.run.folder.path.parent), case.run.config.model.weights or str(case.run.folder.path)]
    for path in (path for path in case.folder.rglob("*") if path.is_file()):
        content = path.read_bytes()
        assert not [name for name in secret if name.encode() in content], path.name


def test_the_original_layout_has_no_torch_module_and_reads_back(trained_here: Case, tmp_path: Path) -> None:
    run = trained_here.run
    folder = tmp_path / "original"
    options = ExportConfig(folder=str(folder), layout="internvl_chat", dtype="float32")
    run_stages(dataclasses.replace(run.config, export=options))
    assert not list(folder.glob("*.py"))
    said = (run.folder.path / "log.txt").read_text()
    assert f'this brings it: hf download OpenGVLab/InternVL3-1B --include "*.py" --local-dir {folder}' in said
    about = json.loads((folder / "config.json").read_text())
    assert (about["model_type"], about["template"], about["max_dynamic_patch"]) == ("internvl_chat", "internvl2_5", 3)
    assert about["auto_map"]["AutoModel"] == "modeling_internvl_chat.InternVLChatModel" and "sage" not in about
    assert (about["min_dynamic_patch"], about["dynamic_image_size"], about["use_thumbnail"]) == (1, True, True)
    assert "the system message that it was trained with is none" in (folder / "README.md").read_text()
    own = {path.name: path.read_bytes() for path in folder.glob("sage_fusion*")}
    assert own == {path.name: path.read_bytes() for path in trained_here.folder.glob("sage_fusion*")}
    assert open_checkpoint(folder, run.config.model).has_fusion


def test_the_card_has_the_scores_of_these_weights_alone(trained_here: Case, tmp_path: Path) -> None:
    run = trained_here.run
    evaluator = run.evaluator("sfe", run.weights.merged("sfe", wanted_by="test"))
    metric = {"value": 0.75, "low": 0.5, "high": 0.875, "n": 10}
    for revision, shown in (("cd" * 32, True), ("ef" * 32, False)):
        key = scored_of(evaluator, "cd" * 32)
        summary = {"metrics": {"sfe": {"one_shot": {"verdict_accuracy": metric, "scored_of": key}}}}
        run.folder.write_json("summary.json", summary)
        run.folder.write_sealed("data.json", {"revision": revision, "train": 1, "test": 2})
        folder = tmp_path / revision[:2]
        run_stages(dataclasses.replace(run.config, export=ExportConfig(folder=str(folder), license="mit")))
        card = (folder / "README.md").read_text()
        assert ("| Verdict accuracy | one-shot | 0.750 | 0.500 to 0.875 | 10 |" in card) == shown
        assert ("No scores: summary.json has none of these weights" in card) != shown
        assert "license: mit\n" in card and f"revision: `{'ab' * 32}`" in card


def test_whatever_is_damaged_in_an_export_is_told(trained_here: Case, tmp_path: Path) -> None:
    run, rng = trained_here.run, random.Random(0)
    folder = tmp_path / "out"
    config = dataclasses.replace(run.config, export=ExportConfig(folder=str(folder), license="mit"))
    run_stages(config)
    sealed = json.loads((folder / CHECKSUMS).read_text())["files"]
    assert set(sealed) == {
        path.relative_to(folder).as_posix() for path in folder.rglob("*") if path.name not in ("README.md", CHECKSUMS)
    }
    for name in (*sealed, CHECKSUMS):
        path = folder / name
        before = path.read_bytes()
        path.write_bytes(damage(before, "flipped", rng) or b"x")
        with pytest.raises(WeightsError, match=rf"{re.escape(str(path))}: damaged.*export anew"):
            open_checkpoint(folder, run.config.model)
        with pytest.raises(ConfigError, match=rf"{re.escape(str(path))}: damaged.*delete {re.escape(str(folder))}"):
            run_stages(config)
        path.write_bytes(before)
    (folder / "README.md").write_bytes((folder / "README.md").read_bytes()[::-1])  # a card may be edited
    assert open_checkpoint(folder, run.config.model).has_fusion


@pytest.mark.parametrize("content", ["", "[]"])
def test_a_damaged_account_of_the_data_is_told(trained_here: Case, tmp_path: Path, content: str) -> None:
    run, folder = trained_here.run, tmp_path / "out"
    account = run.folder.path / "data.json"
    before = account.read_bytes() if account.exists() else None
    account.write_text(content)
    try:
        with pytest.raises(ConfigError, match=r"data.json: damaged.*: delete it"):
            run_stages(dataclasses.replace(run.config, export=ExportConfig(folder=str(folder), license="mit")))
    finally:
        account.unlink() if before is None else account.write_bytes(before)
    assert not folder.exists()


def test_an_interrupted_export_leaves_nothing(trained_here: Case, tmp_path: Path) -> None:
    run = trained_here.run
    config = dataclasses.replace(run.config, export=ExportConfig(folder=str(tmp_path / "out")))
    stopped = Run(config)
    params = stopped.weights.merged("sfe", wanted_by="test")
    exported = Exported(stopped.evaluator("sfe", params), "sfe", run.folder.tokenizer, None, {})
    seen: list[set[str]] = []

    def interrupt(folder: Path) -> None:
        seen.append({path.name for path in folder.iterdir()})
        raise KeyboardInterrupt

    with RunLog(run.folder.path, "export") as log, pytest.raises(KeyboardInterrupt):
        write_export(params, exported, log=log, add_files=[interrupt])
    assert {"README.md", "tokenizer.json", "modeling_sage.py", "model.safetensors"} <= seen[0]
    assert list(tmp_path.iterdir()) == []


@pytest.mark.parametrize(
    ("options", "error", "message"),
    [
        ({"stage": "edpo"}, ConfigError, "stage 'export' needs stage 'edpo', .*--config.stages=edpo,export"),
        ({"folder": "."}, ConfigError, r"config.export.folder: \. is there already: delete it, or give another"),
        ({"upload_to": "user/parts"}, UploadError, "HF_HUB_OFFLINE is set: unset it, or leave upload_to out"),
    ],
)
def test_what_cannot_be_done_is_said_before_any_work(
    trained_here: Case,
    options: dict[str, Any],
    error: type[Exception],
    message: str,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv("HF_HUB_OFFLINE", "1")
    config = dataclasses.replace(trained_here.run.config, export=ExportConfig(**{"folder": "absent", **options}))
    config_file = trained_here.run.folder.path / "config.json"
    before = config_file.stat().st_mtime_ns
    with pytest.raises(error, match=message):
        run_stages(config)
    assert config_file.stat().st_mtime_ns == before and not Path("absent").exists()


def test_a_model_that_the_layout_cannot_compute_is_refused_before_any_work(tmp_path: Path) -> None:
    model = ModelConfig(vit=VitConfig(tile_px=72, patch_px=8), downsample=3)
    config = dataclasses.replace(TRAINED_HERE, run_dir=str(tmp_path / "run"), model=model, stages="base,export")
    with pytest.raises(WeightsError, match="model.downsample = 3: transformers' InternVL takes 1, 2, 4"):
        run_stages(config)
    assert not (tmp_path / "run").exists()


class Hub:
    """Stands in for huggingface_hub.HfApi; remembers what it was asked, and fails where it is told to."""

    def __init__(self, failing: str = "") -> None:
        self.failing, self.asked = failing, []

    def create_repo(self, repo_id: str, *, private: bool | None = None, exist_ok: bool = False) -> None:
        self.asked.append(("create_repo", repo_id, private, exist_ok))

    def upload_folder(self, *, repo_id: str, folder_path: str | Path, commit_message: str | None = None) -> None:
        self.asked.append(("upload_folder", repo_id, sorted(path.name for path in Path(folder_path).iterdir())))
        if self.failing:
            raise ConnectionError(self.failing)


def test_an_upload_gets_the_finished_folder_and_a_failed_one_keeps_it(trained_here: Case, tmp_path: Path) -> None:
    run = trained_here.run
    for failing in ("", "no route to host"):
        folder, hub = tmp_path / f"out{len(failing)}", Hub(failing)
        options = ExportConfig(folder=str(folder), upload_to="user/parts")
        one = Run(dataclasses.replace(run.config, export=options))
        params = one.weights.merged("sfe", wanted_by="test")
        exported = Exported(one.evaluator("sfe", params), "sfe", run.folder.tokenizer, None, {})
        with RunLog(run.folder.path, "export") as log:
            if failing:
                message = rf"{folder} is complete, but was not uploaded .* no route .*\n.*hf upload user/parts {folder}"
                with pytest.raises(UploadError, match=message):
                    write_export(params, exported, log=log, api=hub)
            else:
                write_export(params, exported, log=log, api=hub)
        names = sorted(path.name for path in folder.iterdir())
        assert hub.asked == [("create_repo", "user/parts", True, True), ("upload_folder", "user/parts", names)]
        assert {"config.json", "README.md", "modeling_sage.py"} <= set(names)
        assert 'from_pretrained("user/parts", trust_remote_code=True)' in (folder / "README.md").read_text()
