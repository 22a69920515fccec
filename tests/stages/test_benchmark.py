"""Stage `benchmark`: public question sets, asked of published weights, from JSON files to tables."""

from __future__ import annotations

import dataclasses
import json
import shutil
from pathlib import Path

import pytest

from sage_jax.benchmark.answer import Questioner
from sage_jax.config import (
    BenchmarkConfig,
    Config,
    DataConfig,
    EvaluateConfig,
    FactsConfig,
    FusionConfig,
    ModelConfig,
    TextConfig,
)
from sage_jax.errors import ConfigError
from sage_jax.metrics.mmad import accuracy_of
from sage_jax.stages.benchmark import _sees_references
from sage_jax.stages.run import Run
from sage_jax.stages.stages import run_stages
from tests.support.exported_case import checkpoint_folder
from tests.support.official_mmad import official_table
from tests.support.question_sets import MMAD_TYPES, write_manta, write_mmad
from tests.support.tiny_run import read_jsonl

pytestmark = pytest.mark.usefixtures("one_device")


@dataclasses.dataclass(frozen=True)
class Sets:
    """A folder with weights, both question sets and a run; what the run printed."""

    folder: Path

    def config(self, **fields: object) -> Config:
        return Config(
            run_dir=str(self.folder / "run"),
            stages="benchmark",
            data=DataConfig(cache_dir=str(self.folder / "cache")),
            text=TextConfig(max_fact_tokens=96, reference="prompt"),
            model=ModelConfig(
                weights=str(self.folder / "InternVL-tiny"),
                fusion=FusionConfig(num_heads=2, num_distinct=3),
                max_tiles=1,
                compute_dtype="float32",
            ),
            evaluate=EvaluateConfig(batch_size=8, max_new_tokens=3, bootstrap_samples=20),
            benchmark=BenchmarkConfig(**{"root": str(self.folder / "mmad" / "mmad.json"), **fields}),
        )

    def output(self, name: str) -> Path:
        return self.folder / "run" / "benchmarks" / name


@pytest.fixture(scope="module")
def sets(tmp_path_factory: pytest.TempPathFactory) -> Sets:
    folder = tmp_path_factory.mktemp("benchmark")
    checkpoint_folder(folder / "InternVL-tiny")
    write_mmad(folder / "mmad")
    write_manta(folder / "manta")
    return Sets(folder)


@pytest.fixture(scope="module")
def mmad(sets: Sets) -> Path:
    run_stages(sets.config())
    return sets.output("mmad")


@pytest.mark.parametrize("shots", [0, 1])
def test_mmad_is_answered_from_its_file_to_the_official_one(shots: int, mmad: Path, sets: Sets) -> None:
    content = json.loads((sets.folder / "mmad" / "mmad.json").read_text(encoding="utf-8"))
    asked = [(key, each) for key, value in content.items() for each in value["conversation"]]
    rows = read_jsonl(mmad / f"answers_{shots}_shot_base.jsonl")
    assert [(row["image"], row["type"], row["answer"]) for row in rows] == [
        (key, each["type"], each["Answer"]) for key, each in asked
    ]
    assert {row["type"] for row in rows} == set(MMAD_TYPES)
    official = json.loads((mmad / f"answers_{shots}_shot_InternVL-tiny.json").read_text(encoding="utf-8"))
    assert [set(row) for row in official] == [
        {"image", "question", "question_type", "correct_answer", "gpt_answer"} for _ in asked
    ]
    summary = json.loads((mmad / "summary.json").read_text(encoding="utf-8"))["stages"]["base"]
    metrics = summary["shots"][str(shots)]
    assert metrics["official"] == official_table(official)
    right = [row["likeliest"] == row["answer"] for row in rows]
    assert metrics["likelihood"]["overall"]["value"] == pytest.approx(sum(right) / len(right))
    for row in rows:
        assert row["logps"][row["likeliest"]] == max(row["logps"].values()) and set(row["logps"]) == set(row["options"])
    assert metrics["generated"]["unread"] == sum(row["read"] is None for row in rows)
    assert set(metrics["likelihood"]) == {field.name for field in dataclasses.fields(accuracy_of([]))}
    assert (summary["questions"], summary["images"], summary["left_out"]) == (len(asked), len(content), 0)


def test_a_reference_changes_answers_and_the_same_command_asks_nothing(
    mmad: Path, sets: Sets, monkeypatch: pytest.MonkeyPatch, capfd: pytest.CaptureFixture[str]
) -> None:
    zero, one = (read_jsonl(mmad / f"answers_{shots}_shot_base.jsonl") for shots in (0, 1))
    assert [row["logps"] for row in zero] != [row["logps"] for row in one]
    before = {path.name: path.read_bytes() for path in mmad.iterdir()}

    def refused(*_: object) -> None:
        raise AssertionError("a question was asked again")

    monkeypatch.setattr(Questioner, "_chunk", refused)
    run_stages(sets.config())
    assert {path.name: path.read_bytes() for path in mmad.iterdir()} == before
    captured = capfd.readouterr()
    assert "Accuracy by type of question" in captured.out and "GoodsAD" in captured.out
    assert "8 of 8 items were answered before, 0 are left" in captured.err


def test_another_number_of_references_stands_beside_the_first_ones(mmad: Path, sets: Sets) -> None:
    before = json.loads((mmad / "summary.json").read_text(encoding="utf-8"))["stages"]["base"]["shots"]
    assert before["0"]["references"] == "" and len(before["1"]["references"]) == 64
    for shots in ((1,), (0,)):
        run_stages(sets.config(shots=shots, stage="base"))
        assert json.loads((mmad / "summary.json").read_text(encoding="utf-8"))["stages"]["base"]["shots"] == before


def test_weights_whose_fusion_is_fresh_are_told_to_see_no_reference(sets: Sets) -> None:
    in_prompt = sets.config()
    assert _sees_references(Run(in_prompt), "base")
    fused = dataclasses.replace(in_prompt, text=dataclasses.replace(in_prompt.text, reference="fusion"))
    assert not _sees_references(Run(fused), "base")


def test_lost_results_are_made_again_from_the_journal(mmad: Path, sets: Sets, monkeypatch: pytest.MonkeyPatch) -> None:
    names = [path.name for path in mmad.iterdir()]
    before = {name: (mmad / name).read_bytes() for name in names}
    for name in names:
        if not name.startswith("journal"):
            (mmad / name).unlink()
    monkeypatch.delattr(Questioner, "_chunk")
    run_stages(sets.config())
    assert {path.name: path.read_bytes() for path in mmad.iterdir()} == before


def test_manta_is_answered_with_a_reference_where_an_item_has_one(sets: Sets) -> None:
    root = sets.folder / "manta" / "JsonData"
    run_stages(sets.config(name="manta", root=str(root)))
    items = json.loads((root / "medicine_QA.json").read_text(encoding="utf-8"))
    for shots, chosen in ((0, items), (1, items[:2])):
        rows = read_jsonl(sets.output("manta") / f"answers_{shots}_shot_base.jsonl")
        truths = [each["answer"] for item in chosen for each in item["question_answer"]]
        assert [row["ground_truth"] for row in rows] == truths
        summary = json.loads((sets.output("manta") / "summary.json").read_text(encoding="utf-8"))
        found = summary["stages"]["base"]["shots"][str(shots)]["likelihood"]
        right = [(row["verdict_score"] >= 0.5) == row["ground_truth"] for row in rows]
        assert found["verdict_accuracy"]["value"] == pytest.approx(sum(right) / len(right))
        groups: dict[str, list[bool]] = {}
        for row, is_right in zip(rows, right, strict=True):
            groups.setdefault(row["id"], []).append(is_right)
        assert found["acc_g"]["value"] == pytest.approx(sum(map(all, groups.values())) / len(groups))
        assert len(groups) == len(chosen)


def test_faults_stop_before_anything_is_asked_unless_they_are_left_out(
    sets: Sets, tmp_path: Path, capfd: pytest.CaptureFixture[str]
) -> None:
    folder = Path(shutil.copytree(sets.folder / "mmad", tmp_path / "mmad"))
    broken = folder / "VisA/candle/test/broken/000.png"
    broken.write_bytes(broken.read_bytes()[:300])
    (folder / "GoodsAD/cigarette_box/test/good/000.png").unlink()
    content = json.loads((folder / "mmad.json").read_text(encoding="utf-8"))
    content["MVTec-LOCO/pushpins/test/good/000.png"]["conversation"][0]["Answer"] = "Z"
    for key in [key for key in content if key.startswith("DS-MVTec")]:
        del content[key]
    fields = {"root": str(folder / "mmad.json"), "folder": "faults", "shots": (0,)}
    empty = [{**content["VisA/candle/test/good/000.png"]["conversation"][0], "Options": {}}]
    good = json.dumps(content | {"MVTec-LOCO/pushpins/test/good/000.png": {"conversation": empty}})
    (folder / "mmad.json").write_text(good, encoding="utf-8")
    with pytest.raises(ConfigError, match=r"1 fault in the questions: .*mmad.json.*pushpins.*Options is empty"):
        run_stages(sets.config(**fields))
    (folder / "mmad.json").write_text(json.dumps(content), encoding="utf-8")
    config = sets.config(**fields)
    skip = dataclasses.replace(config, data=dataclasses.replace(config.data, on_bad_record="skip"))
    run_stages(skip)
    rows = read_jsonl(sets.output("faults") / "answers_0_shot_base.jsonl")
    assert {row["image"].split("/")[0] for row in rows} == {"MVTec-LOCO", "VisA", "GoodsAD"}
    assert len({row["image"] for row in rows}) == 3
    skipped = [row["problem"] for row in read_jsonl(sets.output("faults") / "skipped.jsonl")]
    assert len(skipped) == 3 and [("Answer is 'Z'" in skipped[0]), ("1 image is missing" in skipped[1])] == [True, True]
    assert "VisA/candle/test/broken/000.png" in skipped[2] and "truncated" in skipped[2]
    assert "3 items are left out for their faults" in capfd.readouterr().err


def test_what_cannot_be_asked_is_told_before_any_work(sets: Sets, tmp_path: Path) -> None:
    with pytest.raises(ConfigError, match=r"benchmark.root is empty: name the JSON file"):
        run_stages(sets.config(root=""))
    with pytest.raises(ConfigError, match=r"text.reference = 'prompt' shows one reference at most"):
        run_stages(sets.config(shots=(0, 2)))
    with pytest.raises(ConfigError, match=r"benchmark.images_root = .*nowhere.*: no such folder"):
        run_stages(sets.config(images_root=str(tmp_path / "nowhere")))
    with pytest.raises(ConfigError, match=r"stage 'benchmark' needs stage 'sfe', .*--config.stages=sfe,benchmark"):
        run_stages(sets.config(stage="sfe"))


def test_facts_of_the_start_model_are_written_once_an_image(sets: Sets) -> None:
    config = sets.config(name="manta", root=str(sets.folder / "manta" / "JsonData"), shots=(0,), folder="with_facts")
    data = dataclasses.replace(config.data, facts="model")
    config = dataclasses.replace(config, data=data, facts=FactsConfig(max_tokens=8))
    run_stages(config)
    rows = read_jsonl(sets.output("with_facts") / "answers_0_shot_base.jsonl")
    told = read_jsonl(Run(config).facts.book.path)
    assert rows and {entry["name"] for entry in told} == {row["image"] for row in rows}
    assert len(told) == len({entry["image"] for entry in told})
