"""TRL's preference rows through stage 2: the losses of its first two steps are those of DPO on transformers' model."""

from __future__ import annotations

import io
import json
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from PIL import Image
from transformers import AutoModelForImageTextToText, PreTrainedTokenizerFast

from sage_jax.config import (
    Config,
    DataConfig,
    ExportConfig,
    ModelConfig,
    PreferenceConfig,
    TextConfig,
    TrainConfig,
)
from sage_jax.models.vit import IMAGENET_DEVIATION, IMAGENET_MEAN
from sage_jax.stages.stages import run_stages
from tests.support.exported_case import checkpoint_folder
from tests.support.tiny_export import TRAINED_HERE
from tests.support.tiny_run import read_jsonl
from tests.support.trainer_rows import llava

pytestmark = pytest.mark.usefixtures("one_device")

BETA = 0.3
ANSWERS = ("The seal has a scratch.", "There is a scratch near the top of the cap.", "No.", "The cap is whole.")


def write_rows(folder: Path) -> list[dict[str, Any]]:
    """Eight rows of TRL on images of one tile, and three of LLaVA, which have no two answers; the former.

    An empty description leaves facts out, which TRL knows nothing of.
    """
    rng, rows = np.random.default_rng(0), []
    for number in range(8):
        Image.fromarray(rng.integers(0, 256, (16, 16, 3), np.uint8)).save(folder / f"{number}.png")
        asked = {"type": "text", "text": ("Is there a defect in this cap?", "Where is the scratch?")[number % 2]}
        chosen, rejected = (
            [{"role": "assistant", "content": [{"type": "text", "text": ANSWERS[(number + after) % 4]}]}]
            for after in (0, 1)
        )
        prompt = [{"role": "user", "content": [{"type": "image"}, asked]}]
        rows.append({"images": [f"{number}.png"], "prompt": prompt, "chosen": chosen, "rejected": rejected})
    chats = [llava([f"{number}.png"]) for number in range(3)]
    lines = (json.dumps({**row, "description": ""}) + "\n" for row in [*rows, *chats])
    (folder / "train.jsonl").write_text("".join(lines))
    return rows


def config_of(folder: Path, steps: int) -> Config:
    """Plain DPO from published weights, all rows in each step, without dropout, warm-up or decay."""
    train = TrainConfig(
        steps=steps,
        batch_size=8,
        peak_learning_rate=3e-3,
        warmup_steps=0,
        schedule="constant",
        answers="ranked",
        freeze=("vit/", "fusion/", "fact_encoder/"),
        preference=PreferenceConfig(beta=BETA, eta=0.0, lambda_hard=0.0),
        log_every=1,
    )
    return Config(
        run_dir=str(folder / f"run{steps}"),
        stages="base_dpo,export" if steps == 1 else "base_dpo",
        data=DataConfig(source="rows", root=str(folder), num_train=0, num_test=0, cache_dir=str(folder / "cache")),
        text=TextConfig(max_facts=1, assist_prompt="", buckets=(192,)),
        model=ModelConfig(
            weights=str(folder / "InternVL-tiny"),
            fusion=TRAINED_HERE.model.fusion,
            max_tiles=1,
            compute_dtype="float32",
        ),
        base_dpo=train,
        export=ExportConfig(dtype="float32"),
    )


def answer_logps(model: Any, tokenizer: PreTrainedTokenizerFast, folder: Path, rows: list[Any], key: str) -> Any:
    """Summed log-probability of each row's answer under transformers' model, in nats."""
    found = []
    for row in rows:
        pixels = np.asarray(Image.open(io.BytesIO((folder / row["images"][0]).read_bytes())), np.float64) / 255.0
        pixels = (pixels - IMAGENET_MEAN) / IMAGENET_DEVIATION
        image = "<IMG_CONTEXT>" * 4
        asked, answer = row["prompt"][0]["content"][1]["text"], row[key][0]["content"][0]["text"]
        prompt = [f"<|im_start|>user\n<img>{image}</img>\n", f"\n{asked}<|im_end|>\n<|im_start|>assistant\n"]
        said = tokenizer.encode(f"{answer}<|im_end|>", add_special_tokens=False)
        ids = [token for part in prompt for token in tokenizer.encode(part, add_special_tokens=False)] + said
        tile = torch.tensor(pixels.transpose(2, 0, 1)[None], dtype=torch.float32)
        logits = model(input_ids=torch.tensor([ids]), pixel_values=tile).logits[0, :-1].double()
        each = torch.log_softmax(logits, dim=-1)[range(len(ids) - 1), ids[1:]]
        found.append(each[-len(said) :].sum())
    return torch.stack(found)


@torch.no_grad()
def dpo(policy: Any, reference: Any, tokenizer: Any, folder: Path, rows: list[Any]) -> dict[str, float]:
    """The mean of -log sigmoid(beta * (log ratio of chosen - log ratio of rejected)) (Rafailov 2023, equation 7)."""
    chosen, rejected = (answer_logps(policy, tokenizer, folder, rows, key) for key in ("chosen", "rejected"))
    of_chosen, of_rejected = (answer_logps(reference, tokenizer, folder, rows, key) for key in ("chosen", "rejected"))
    margin = BETA * ((chosen - of_chosen) - (rejected - of_rejected))
    loss = -torch.nn.functional.logsigmoid(margin)
    named = {"loss": loss, "reward_margin": margin, "chosen_logps": chosen, "rejected_logps": rejected}
    return {name: float(values.mean()) for name, values in named.items()}


def test_rows_of_trl_have_the_loss_of_dpo(tmp_path: Path) -> None:
    checkpoint_folder(tmp_path / "InternVL-tiny")
    rows = write_rows(tmp_path)
    for steps in (1, 2):
        run_stages(config_of(tmp_path, steps))
    first, second = (row for row in read_jsonl(tmp_path / "run2" / "metrics.jsonl") if "loss" in row)
    tokenizer = PreTrainedTokenizerFast.from_pretrained(tmp_path / "InternVL-tiny")
    reference, trained = (
        AutoModelForImageTextToText.from_pretrained(folder, dtype=torch.float32).eval()
        for folder in (tmp_path / "InternVL-tiny", tmp_path / "run1" / "export")
    )
    for found, policy in ((first, reference), (second, trained)):
        expected = dpo(policy, reference, tokenizer, tmp_path, rows)
        for name, value in expected.items():
            assert found[name] == pytest.approx(value, abs=1e-5, rel=1e-5), name
    assert "3 records have questions with one answer alone and are left out" in (tmp_path / "run2/log.txt").read_text()
    assert abs(first["loss"] - np.log(2.0)) < 1e-6 and abs(second["loss"] - first["loss"]) > 1e-2
