"""A run and the folder that its stage `export` wrote."""

from __future__ import annotations

import dataclasses
import json
from pathlib import Path
from typing import Any

from sage_jax.config import Config, FusionConfig, ModelConfig
from sage_jax.stages.run import Run
from sage_jax.stages.stages import run_stages
from tests.support.tiny_export import TRAINED_HERE, load_sage, make_run
from tests.support.tiny_internvl import save_internvl, torch_internvl
from tests.support.tiny_tokenizers import CORPUS, qwen_tokenizer


@dataclasses.dataclass(frozen=True, eq=False)
class Case:
    """A run and what its stage `export` wrote."""

    run: Run
    stage: str
    folder: Path
    sage: Any


def exported_case(config: Config, stage: str, **made: Any) -> Case:
    run = make_run(config, **made)
    run_stages(config)
    folder = Path(config.run_dir) / "export"
    return Case(run, stage, folder, load_sage(folder))


def checkpoint_folder(folder: Path, *, words: tuple[str, ...] = ()) -> Path:
    """A base as transformers writes it, of random weights, with rows to spare for a new token, a card and a licence.

    Its tokenizer has learnt from `words` too.
    """
    tokenizer = qwen_tokenizer(620, words=(*CORPUS, *words)) if words else qwen_tokenizer()
    vision = {"image_size": 16, "patch_size": 4}
    peer = torch_internvl("qwen2", vocab_size=len(tokenizer) + 8, vision=vision, max_position_embeddings=1024)
    peer.config.image_token_id = tokenizer.get_vocab()["<IMG_CONTEXT>"]
    save_internvl(peer, folder)
    tokenizer.save_pretrained(str(folder))
    generation = {"do_sample": True, "temperature": 0.7, "repetition_penalty": 1.3, "eos_token_id": [2]}
    (folder / "generation_config.json").write_text(json.dumps(generation))
    (folder / "README.md").write_text("---\nlicense: other\nlicense_name: qwen\n---\nA base.\n")
    (folder / "LICENSE").write_text("terms of the base")
    return folder


def from_weights(weights: Path, run_dir: Path, **fields: Any) -> Config:
    fusion = FusionConfig(num_heads=2, num_distinct=3, fact_encoder="hidden_mean", difference="residual")
    return dataclasses.replace(
        TRAINED_HERE,
        run_dir=str(run_dir),
        model=ModelConfig(weights=str(weights), fusion=fusion, max_tiles=2, compute_dtype="float32"),
        **fields,
    )
