"""Runs whose stages hold random weights, so that answers are not the few that a brief training gives, and pictures."""

from __future__ import annotations

import dataclasses
import io
import json
from pathlib import Path
from typing import Any

import jax
import numpy as np
from PIL import Image
from transformers import AutoModel, PreTrainedTokenizerFast

from sage_jax.config import (
    Config,
    DecoderConfig,
    EvaluateConfig,
    ExportConfig,
    FusionConfig,
    ModelConfig,
    TextConfig,
    VitConfig,
    starts_from,
)
from sage_jax.data.records import Question, Record
from sage_jax.data.trees.chat import Chat
from sage_jax.data.trees.conversations import CONVERSATIONS, OWN
from sage_jax.data.trees.tokenizer import COMPARISON_TOKEN, save_tokenizer, train_tokenizer
from sage_jax.hf.config import CheckpointConfig
from sage_jax.hf.tokenizer import read_tokenizer
from sage_jax.models.sage import copy_text_encoder
from sage_jax.stages.run import Run
from sage_jax.training.checkpoint import StageCheckpoints
from tests.support.tiny_sage import random_params
from tests.support.tiny_tokenizers import CORPUS, qwen_tokenizer, save_internlm2

FACTS = (
    "This is a cap, and a cap is closed by its seal.",
    "The thread of a cap can have a scratch near the top.",
    "你是书生",
)
QUESTIONS = ("Is there a defect in this cap?", "Where is the scratch?", "Is the seal <IMG_CONTEXT> whole?")

TRAINED_HERE = Config(
    stages="export",
    text=TextConfig(vocab_size=400, max_facts=3, max_fact_tokens=48, buckets=(384,)),
    model=ModelConfig(
        vit=VitConfig(tile_px=16, patch_px=4, stem="conv", num_layers=2, embed_dim=16, num_heads=2, mlp_dim=24),
        decoder=DecoderConfig(num_layers=2, embed_dim=16, num_heads=4, num_kv_heads=2, mlp_dim=24),
        fusion=FusionConfig(num_heads=2, num_distinct=5, similarity="aligned", difference="similarity"),
        downsample=1,  # as in the quickstart
        max_tiles=3,
        compute_dtype="float32",
    ),
    evaluate=EvaluateConfig(max_new_tokens=12, batch_size=32),
    export=ExportConfig(dtype="float32", max_shard_gb=1e-5),
)


def make_run(config: Config, *, stages: tuple[str, ...] = ("base", "sfe"), copied: bool = False) -> Run:
    """A run whose stages have finished with random weights; the tokenizer is trained here without `model.weights`.

    The fact encoder has weights of its own, unless it is `copied` from the decoder.
    """
    run_dir = Path(config.run_dir)
    (run_dir / "stages").mkdir(parents=True)
    if not config.model.weights:
        save_tokenizer(train_tokenizer([*CORPUS, *FACTS] * 3, config.text.vocab_size), run_dir / "tokenizer")
    run = Run(config)
    params = random_params(jax.eval_shape(run.weights.fresh))
    params = copy_text_encoder(params) if copied else params
    for stage in stages:
        assert starts_from(stage) is None or (starts_from(stage) or "") in run.trained
        with StageCheckpoints(run.folder.stage(stage), keep_last=1) as checkpoints:
            checkpoints.save_final(params, config_json=json.dumps(dataclasses.asdict(run.config)))
        run.folder.write_sealed(f"stages/{stage}/data.json", {"revision": "ab" * 32, "train": 24, "test": 10})
    return run


def make_run_folder(folder: Path) -> Path:
    """A run folder, with its config, whose stages base and sfe hold random weights."""
    run = make_run(dataclasses.replace(TRAINED_HERE, run_dir=str(folder)))
    run.folder.write_config(run.config)
    return folder


def tiny_chats(folder: Path, **options: Any) -> list[tuple[PreTrainedTokenizerFast, Chat]]:
    """The tokenizers and conversations that models have: of those trained here, Qwen2's, InternLM2's (in `folder`)."""
    text = TextConfig(max_facts=3, max_fact_tokens=99, **options)
    save_internlm2(folder, dummy_prefix=True)
    config = CheckpointConfig("internvl", "llama", VitConfig(), DecoderConfig(), 2, 1000, 0, {})
    internlm2, qwen2 = read_tokenizer(folder, config), qwen_tokenizer()
    qwen2.add_tokens(COMPARISON_TOKEN, special_tokens=True)
    own = train_tokenizer([*CORPUS, *FACTS] * 3, 400)
    conversations = (OWN, CONVERSATIONS["internvl2_5"], CONVERSATIONS["internlm2-chat"])
    return [(it, Chat(text, it, talk)) for it, talk in zip((own, qwen2, internlm2), conversations, strict=True)]


def picture(seed: int) -> Image.Image:
    """A picture of blocks of random colours, of a size that takes one tile or several."""
    rng = np.random.default_rng(seed)
    width, height = ((40, 40), (60, 22), (20, 47), (33, 31))[seed % 4]
    blocks = Image.fromarray(rng.integers(0, 256, (5, 6, 3), np.uint8))
    return blocks.resize((width, height), Image.Resampling.NEAREST)


def record(number: int, *, num_facts: int) -> Record:
    """A question about a picture, its reference of another size where both are cut into the same number of tiles."""
    image, reference = picture(number), picture(number + 4)
    return Record(
        record_id=str(number),
        image_id=str(number),
        test_image=_png(image),
        reference_image=_png(reference),
        category="cap",
        pair_type="standard comparison",
        facts=FACTS[:num_facts],
        questions=(Question(QUESTIONS[number % len(QUESTIONS)], ()),),
        descriptions=(),
        anomalous=None,
        defects=(),
        mask=None,
        test_path=f"{number}.png",
        reference_path=f"{number}_good.png",
    )


def _png(image: Image.Image) -> bytes:
    buffer = io.BytesIO()
    image.save(buffer, "PNG")
    return buffer.getvalue()


def load_sage(folder: Path) -> Any:
    """SAGE in torch, as a user loads it."""
    return AutoModel.from_pretrained(folder, trust_remote_code=True, local_files_only=True)
