"""The plan as a user gets it: on screen, as JSON, without weights, for the configs of published models."""

from __future__ import annotations

import dataclasses
import io
import json
import math
from collections import Counter
from pathlib import Path
from typing import Any

import pytest
from rich.console import Console

from sage_jax.config import Config, ConfigError, DecodingConfig, EvaluateConfig, FusionConfig, ModelConfig
from sage_jax.config.command_line import read_config
from sage_jax.hf.config import read_checkpoint_config
from sage_jax.hf.config_writer import config_json, text_model_of
from sage_jax.hf.importing import stored_shapes
from sage_jax.hf.layouts import PLAIN, plain_rows, tensors
from sage_jax.plan.abstract_step import start_shapes_of, tree_size
from sage_jax.plan.memory import predict_memory, usable_bytes
from sage_jax.plan.recompute import settled
from sage_jax.plan.report import plans_json, print_plans
from sage_jax.plan.stage_plan import StagePlan, plan_stages
from sage_jax.stages.stages import run_stages
from tests.hf.test_layouts import INTERNVL2_8B, internvl2_8b_keys
from tests.support.tiny_plan import CONFIG

ROOT = Path(__file__).parents[2]


def planned(config: Config, **fields: Any) -> Config:
    return dataclasses.replace(config, plan=dataclasses.replace(config.plan, **fields))


def published(name: str, *overrides: str) -> Config:
    return read_config(["--config", str(ROOT / "configs" / f"{name}.py"), *overrides])


def test_a_plan_tells_the_disk_that_stored_vit_features_take() -> None:
    def plan_of(**changes: Any) -> tuple[StagePlan, str]:
        data = dataclasses.replace(CONFIG.data, vit_features="disk", cache_dir="nowhere/yet", **changes)
        config = dataclasses.replace(planned(CONFIG, compile=False, stages=("sfe",)), data=data)
        said = io.StringIO()
        found = plan_stages(config, lambda line: None)
        print_plans(config, found, Console(file=said, width=200))
        assert plans_json(config, found)["stages"]["sfe"]["stored"]["image"] == 16 * 256 * 4
        return found["sfe"], said.getvalue()

    (plain,) = plan_stages(planned(CONFIG, compile=False, stages=("sfe",)), lambda line: None).values()
    few, said = plan_of(num_train=10)
    assert few.stored and few.stored.total == 20 * 16 * 256 * 4
    assert "up to 327,680 bytes for 20 images" in said and "holds them" in said
    assert few.flops < plain.flops and plain.stored is None
    assert few.memory and plain.memory and few.memory.batches > plain.memory.batches
    many, said = plan_of(num_train=10**12)
    assert many.stored and many.stored.total > many.stored.free and "does not hold them" in said
    assert "16,384 bytes an image; give plan.num_images" in plan_of(num_train=0, source="adpl", root="x")[1]


def test_a_plan_counts_the_vit_beside_the_steps_where_features_are_kept_in_memory() -> None:
    def plan_of(vit_features: Any, **changes: Any) -> tuple[StagePlan, str]:
        data = dataclasses.replace(CONFIG.data, vit_features=vit_features, **changes)
        config = dataclasses.replace(planned(CONFIG, compile=False, stages=("sfe",)), data=data)
        said = io.StringIO()
        found = plan_stages(config, lambda line: None)
        print_plans(config, found, Console(file=said, width=300))
        json.dumps(plans_json(config, found))
        return found["sfe"], said.getvalue()

    (plain, _), (disk, _) = plan_of("none"), plan_of("disk")
    kept, said = plan_of("memory", num_train=10, vit_memory_mb=1)
    assert kept.kept and not kept.stored and not disk.kept and not plain.kept
    assert kept.kept.image == 16 * 256 * 4 and kept.kept.num_kept == 10**6 // (16 * 256 * 4) == 61
    assert "holds 61 of 20 images of up to 16,384 bytes" in said
    # What the step is spared is what all images of a batch took in it, test images and references.
    assert kept.flops == disk.flops == plain.flops - 2 * CONFIG.sfe.batch_size * kept.kept.image_flops
    assert kept.memory and disk.memory and plain.memory
    features = 2 * kept.kept.image  # of the one row of a device, computed for two batches at once
    assert kept.memory.batches == disk.memory.batches + 2 * features
    assert disk.memory.phases["vision"] < kept.memory.phases["vision"] < plain.memory.phases["vision"]


def test_the_stage_plans_without_weights_data_or_devices(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    config = dataclasses.replace(planned(CONFIG, compile=False), run_dir=str(tmp_path), stages="plan")
    assert not Path(config.model.weights).exists()
    run_stages(config)
    kept = json.loads((tmp_path / "plan.json").read_text())
    assert kept["mesh"] == {"data": 1, "fsdp": 8, "tensor": 1}
    for stage in ("sfe", "edpo"):
        memory = predict_memory(config, stage)
        found = kept["stages"][stage]
        assert found["fits"] and found["compiled"] is None and found["changes"] == []
        assert (
            found["memory"]["peak"]
            == memory.peak
            == sum((memory.parameters, memory.state.optimizer, memory.batches, memory.gradients, memory.activations))
        )
    said = capsys.readouterr().out
    assert "Memory of each of 8 x NVIDIA H100 SXM (data 1, fsdp 8, tensor 1), GB" in said


def test_sizes_are_those_of_the_weights_config_json_where_the_config_leaves_them_out(tmp_path: Path) -> None:
    """A model that was downloaded, or of which only config.json was: never one of our default sizes."""
    weights = tmp_path / "InternVL2-8B"
    model = ModelConfig(weights=str(weights), fusion=FusionConfig(num_heads=32))
    config = dataclasses.replace(
        planned(CONFIG, compile=False, stages=("sfe",), vocab_size=0),
        run_dir=str(tmp_path / "run"),
        stages="plan",
        model=model,
        text=dataclasses.replace(CONFIG.text, buckets=(4096,)),
        evaluate=EvaluateConfig(decoding=DecodingConfig(method="checkpoint")),
    )
    with pytest.raises(ConfigError, match=r"config.model.weights: .*InternVL2-8B has no config.json.*give the sizes"):
        run_stages(config)
    weights.mkdir()
    (weights / "config.json").write_text(json.dumps(INTERNVL2_8B))
    run_stages(config)
    kept = json.loads((tmp_path / "run" / "plan.json").read_text())["stages"]["sfe"]
    published_size = sum(map(math.prod, dict(internvl2_8b_keys()).values()))
    assert kept["num_trained"] + kept["num_frozen"] > published_size


def test_what_to_change_stands_below_the_tables() -> None:
    config = planned(CONFIG, compile=False, device_memory_gb=0.009, stages=("edpo",), usable_share=1.0)
    plans = plan_stages(config, lambda line: None)
    out = io.StringIO()
    print_plans(config, plans, Console(file=out, width=110))
    assert "edpo does not fit.\n" in out.getvalue()
    assert max(map(len, out.getvalue().split("edpo does")[0].splitlines())) <= 110
    for change in plans["edpo"].changes:
        assert " ".join(change.overrides) in out.getvalue() and change.peak <= usable_bytes(config)
    assert json.loads(json.dumps(plans_json(config, plans)))["stages"]["edpo"]["fits"] is False


def test_a_tree_that_fits_no_bucket_names_the_cure() -> None:
    small = dataclasses.replace(CONFIG, text=dataclasses.replace(CONFIG.text, buckets=(64,)))
    with pytest.raises(ConfigError, match=r"edpo: a tree of 16 image tokens and 3 questions.* add a bucket of 206"):
        tree_size(small, "edpo")


@pytest.mark.parametrize("name", ["sage_8b", "sage_8b_lora"])
def test_configs_of_8b_have_the_sizes_of_the_published_checkpoint(name: str, tmp_path: Path) -> None:
    (tmp_path / "config.json").write_text(json.dumps(INTERNVL2_8B))
    theirs, config = read_checkpoint_config(tmp_path), published(name)
    assert theirs.applied_to(config.model) == config.model
    assert config.text.vocab_size == theirs.vocab_size


def test_export_of_8b_writes_every_published_key_once_by_shapes_alone(tmp_path: Path) -> None:
    config = published("sage_8b")
    shapes = {p: leaf.shape for p, leaf in start_shapes_of(config, "sfe").items() if p.startswith(PLAIN)}
    text_model = text_model_of(config.model.decoder, "internvl_chat", INTERNVL2_8B)
    assert text_model == "internlm2"
    written = tensors(plain_rows("internvl_chat", text_model, config.model), shapes)
    published_keys = dict(internvl2_8b_keys())
    assert Counter(key for tensor in written for key in tensor.keys) == Counter(published_keys.keys())
    assert stored_shapes(written) == published_keys
    about = config_json(config.model, layout="internvl_chat", vocab_size=92553, dtype="bfloat16", base=INTERNVL2_8B)
    (tmp_path / "config.json").write_text(json.dumps(about))
    assert read_checkpoint_config(tmp_path).applied_to(config.model) == config.model


@pytest.mark.parametrize(
    ("name", "device", "devices", "overrides"),
    [
        ("sage_8b", "h100", 8, ("--config.edpo.accumulate=2",)),
        ("sage_8b", "v5e", 64, ()),
        ("sage_8b_lora", "h200", 1, ()),
        ("sage_8b_lora", "h100", 8, ("--config.sfe.accumulate=2", "--config.edpo.accumulate=2")),
        (
            "sage_8b_lora",
            "v5e",
            64,
            (
                "--config.mesh.fsdp=16",
                "--config.mesh.tensor=4",
                "--config.sfe.accumulate=1",
                "--config.edpo.accumulate=1",
            ),
        ),
        ("sage_1b", "rtx4090", 1, ()),
    ],
)
def test_what_the_configs_say_that_they_fit_into(
    name: str, device: str, devices: int, overrides: tuple[str, ...]
) -> None:
    on = (f"--config.plan.device={device}", f"--config.plan.num_devices={devices}")
    config = published(name, *on, *overrides)
    for stage in ("sfe", "edpo"):
        assert predict_memory(settled(config, stage)[0], stage).peak <= usable_bytes(config)


@pytest.mark.parametrize(("stage", "rows"), [("sfe", 128), ("edpo", 64)])
def test_8b_in_full_is_too_large_for_one_gpu_of_141_gb_however_it_is_cut(stage: str, rows: int) -> None:
    on = ("--config.plan.device=h200", "--config.plan.num_devices=1", f"--config.{stage}.accumulate={rows}")
    config = published("sage_8b", *on)
    memory = predict_memory(config, stage)
    assert memory.parameters + memory.state.optimizer + memory.state.gradients > usable_bytes(config) * 0.95
    assert memory.peak > usable_bytes(config)
