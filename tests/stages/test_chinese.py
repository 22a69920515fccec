"""A Chinese AD-PL from its JSON to metrics, inspection and export, on a tiny checkpoint of random weights."""

from __future__ import annotations

import dataclasses
import json
from pathlib import Path
from typing import Any

import jax.numpy as jnp
import numpy as np
import pytest
import torch
from PIL import Image

from sage_jax.config import (
    Config,
    ConfigError,
    DataConfig,
    EvaluateConfig,
    ExportConfig,
    FusionConfig,
    ModelConfig,
    TextConfig,
    TrainConfig,
)
from sage_jax.data.adpl.wording import INSPECTION_QUESTIONS
from sage_jax.data.images import encode_png
from sage_jax.data.sources.readers import source_revision
from sage_jax.data.trees.languages import ASSIST_PROMPTS
from sage_jax.generation.verdict_tokens import verdict_score
from sage_jax.stages.open_model import config_of
from sage_jax.stages.run import Run
from sage_jax.stages.stages import run_stages
from tests.support.exported_case import checkpoint_folder
from tests.support.tiny_export import load_sage
from tests.support.tiny_run import read_jsonl

pytestmark = pytest.mark.usefixtures("one_device", "remote_code_cache")

ANSWERS = {
    True: ("是的，左上角有划痕。", "是，有划痕。", "是的，表面异常。", "不，完好。"),
    False: ("不，与参考图一致。", "没有，零件完好。", "否。", "是的，有划痕。"),
}
QUESTIONS = tuple(f"这个零件的第{number}处是否有缺陷？" for number in range(1, 6))
LEARNT = ("是 是的 否 不 没有 有 " * 9, *ANSWERS[True], *ANSWERS[False], *QUESTIONS)
FACTS = ("垫圈是金属零件。", "划痕会使垫圈漏气。")


def write_adpl(folder: Path) -> Path:
    """Items on 24 images, half of them defective; the English texts say something else, and one has none."""
    rng, items = np.random.default_rng(0), []
    for number in range(24):
        for name in (f"washer/{number}.png", f"washer/good{number}.png"):
            (folder / name).parent.mkdir(exist_ok=True)
            (folder / name).write_bytes(encode_png(rng.integers(0, 256, (16, 16, 3), np.uint8)))
        bad = number % 2 == 0
        english: dict[str, Any] = {"question_en": "Is it whole?"} if number else {}
        options = [{"answer_cn": text, **({"answer_en": f"No. {text}"} if number else {})} for text in ANSWERS[bad]]
        items.append(
            {
                "pair_type": "standard comparison",
                "test_image": f"washer/{number}.png",
                "reference_image": f"washer/good{number}.png",
                "question_answer": [{**english, "question_cn": text, "answer_options": options} for text in QUESTIONS],
                "anomalous": bad,
                "facts": list(FACTS),
            }
        )
    (folder / "adpl.json").write_text(json.dumps(items, ensure_ascii=False), encoding="utf-8")
    return folder / "adpl.json"


def config_for(folder: Path) -> Config:
    train = TrainConfig(
        steps=2, batch_size=8, peak_learning_rate=1e-2, warmup_steps=0, log_every=1, questions_per_image=2
    )
    data = DataConfig(source="adpl", root=str(folder / "adpl.json"), num_train=0, num_test=0, test_fraction=0.5)
    return Config(
        run_dir=str(folder / "run"),
        stages="check,sfe,evaluate,inspect,rows,export",
        data=dataclasses.replace(data, cache_dir=str(folder / "cache"), language="zh"),
        text=TextConfig(max_facts=2, max_fact_tokens=32),
        model=ModelConfig(
            weights=str(folder / "InternVL-tiny"),
            fusion=FusionConfig(num_heads=2, num_distinct=2),
            max_tiles=1,
            compute_dtype="float32",
            attention="masked",
        ),
        sfe=train,
        evaluate=EvaluateConfig(batch_size=8, max_new_tokens=4, bootstrap_samples=20, stages=("sfe",)),
        export=ExportConfig(dtype="float32"),
    )


@pytest.fixture(scope="module")
def config(tmp_path_factory: pytest.TempPathFactory, remote_code_cache: None) -> Config:
    """A run that has gone through all its stages."""
    folder = tmp_path_factory.mktemp("chinese")
    checkpoint_folder(folder / "InternVL-tiny", words=LEARNT)
    write_adpl(folder)
    run_stages(config_for(folder))
    return config_for(folder)


def test_verdicts_are_measured_and_what_reads_english_is_left_out(config: Config) -> None:
    folder = Path(config.run_dir)
    found = json.loads((folder / "summary.json").read_text(encoding="utf-8"))["metrics"]["sfe"]["one_shot"]
    images = json.loads((folder / "data.json").read_text(encoding="utf-8"))["test"]
    for name, number in {"verdict_accuracy": 5 * images, "acc_g": images, "ranking_best_worst": 5 * images}.items():
        assert found[name]["n"] == number and found[name]["value"] is not None, name
    assert found["auroc"]["value"] is not None and found["without_verdict"] == 0
    for name in ("mle", "mle_accuracy_defective", "reason_kind", "reason_place", "named_though_good", "consistency"):
        assert found[name]["value"] is None and found[name]["n"] == 0, name
    rows = read_jsonl(folder / "predictions" / "sfe_one_shot.jsonl")
    assert {row["question"] for row in rows} == set(QUESTIONS) and all(
        row["mle"] is row["reason"] is None for row in rows
    )
    assert {(row["answer"], row["ground_truth"]) for row in rows} == {(ANSWERS[it][0], it) for it in (True, False)}
    said = (folder / "log.txt").read_text(encoding="utf-8")
    assert "sfe: MLE by the rubric and what reasons say are left out: they read English words alone" in said


def test_the_run_asks_in_chinese(config: Config) -> None:
    run = Run(config)
    assert run.config.text.assist_prompt == ASSIST_PROMPTS["zh"]
    assert Run(config_of(Path(config.run_dir))).config.text == run.config.text
    assert run.tree_format.names == ()
    asked = run.chat.decode(run.chat.question_ids(QUESTIONS[0]))
    assert asked.startswith(f"{QUESTIONS[0]} {ASSIST_PROMPTS['zh']}")
    rows = json.loads((Path(config.run_dir) / "rows" / "adpl_test.json").read_text(encoding="utf-8"))
    assert rows[0]["question_answer"][0]["question_cn"] == QUESTIONS[0]


def test_the_export_scores_with_the_ids_of_the_run(config: Config) -> None:
    folder = Path(config.run_dir) / "export"
    run = Run(config)
    settings = json.loads((folder / "config.json").read_text(encoding="utf-8"))["sage"]
    assert settings["verdict_ids"] == [list(ids) for ids in run.chat.verdict_ids] and settings["language"] == "zh"
    assert INSPECTION_QUESTIONS["zh"] in (folder / "README.md").read_text(encoding="utf-8")
    sage = load_sage(folder)
    logits = np.random.default_rng(0).normal(size=(1, 3, run.chat.vocab_size)).astype(np.float32)
    ours = np.asarray(verdict_score(jnp.asarray(logits), run.chat.verdict_ids))
    np.testing.assert_allclose(sage.verdict_score(torch.from_numpy(logits)).numpy(), ours, atol=1e-6)
    again = Run(config_of(folder, scratch=folder.parent / "again"))
    assert again.chat.verdict_ids == run.chat.verdict_ids and again.chat.language == "zh"
    assert again.config.text.assist_prompt == ASSIST_PROMPTS["zh"]
    first = read_jsonl(Path(config.run_dir) / "predictions" / "sfe_zero_shot.jsonl")[0]
    image = Image.open(Path(config.data.root).parent / first["image"])
    answer = sage.answer(image, first["question"], FACTS)
    assert answer.verdict_score == pytest.approx(first["verdict_score"], abs=1e-5)
    assert answer.text == first["prediction"]


def test_inspection_asks_for_a_defect_in_chinese(config: Config) -> None:
    """The score of an inspected image is that of the torch module's answer to the Chinese question."""
    (first, *_) = read_jsonl(Path(config.run_dir) / "inspect" / "inspection.jsonl")
    sage, folder = load_sage(Path(config.run_dir) / "export"), Path(config.data.root).parent
    shown = [Image.open(folder / first[name]) for name in ("image", "reference")]
    asked = {name: sage.answer(shown[0], text, FACTS, shown[1]) for name, text in INSPECTION_QUESTIONS.items()}
    assert first["score"] == pytest.approx(asked["zh"].verdict_score, abs=1e-5)
    assert abs(asked["en"].verdict_score - asked["zh"].verdict_score) > 1e-4


def test_the_language_is_part_of_the_data_and_english_data_are_as_before(config: Config) -> None:
    english = dataclasses.replace(config.data, language="en")
    assert source_revision(english, 0) != source_revision(config.data, 0)


@pytest.mark.parametrize("source", ["generator", "rows"])
def test_other_sources_have_no_chinese_texts(source: Any) -> None:
    with pytest.raises(ConfigError, match="language = 'zh': AD-PL alone has texts of another language"):
        DataConfig(source=source, root="x", language="zh")


def test_the_map_chooses_english_places_alone(config: Config) -> None:
    decoding = dataclasses.replace(config.evaluate.decoding, map_places=1.0)
    with pytest.raises(ConfigError, match=r"map_places = 1.0: it chooses between English words"):
        dataclasses.replace(config, evaluate=dataclasses.replace(config.evaluate, decoding=decoding))
