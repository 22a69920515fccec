"""SAGE in torch, shipped with an exported model: the files of `remote_code/` and what they read in config.json.

`config.json` keeps `model_type` internvl, and `auto_map` names a class for `AutoModel` alone. So whoever does not ask
for remote code, and every other Auto class even then, gets transformers' own InternVL: the plain model.
"""

from __future__ import annotations

import dataclasses
import importlib.resources
import json
from pathlib import Path
from typing import Any, Final

from sage_jax.config import ModelConfig
from sage_jax.data.trees import tokenizer as tokens
from sage_jax.data.trees.chat import Chat, FactsAs
from sage_jax.data.trees.tiles import tokens_per_side
from sage_jax.hf.importing import OWN_FILE
from sage_jax.hf.safetensors_file import open_file

CODE_FILES: Final = ("modeling_sage.py", "fusion_sage.py", "processing_sage.py")
"""Written for torch and transformers; the package never imports them."""

AUTO_MAP: Final = {"AutoModel": "modeling_sage.SageModel"}


def sage_settings(
    model: ModelConfig, chat: Chat, *, facts_as: FactsAs, max_new_tokens: int, bits: int = 16, finer_map: bool = False
) -> dict[str, Any]:
    """What config.json says under `sage`: what transformers' InternVL has no field for.

    Args:
      model: The model.
      chat: Template and tokenizer.
      facts_as: How the stage was given its facts.
      max_new_tokens: Longest answer.
      bits: Depth of wide images (`data.bits`).
      finer_map: Whether the map of registered pairs is drawn finer by their pixels (`evaluate.map_detail`).
    """
    text, decoder = chat.text, dataclasses.asdict(model.decoder)
    return {
        "fusion": dataclasses.asdict(model.fusion),
        "text_encoder": {**decoder, "head_dim": model.decoder.width_of_head},
        "stem": {"kind": model.vit.stem, "width": model.vit.embed_dim, "patch_px": model.vit.patch_px},
        "tile_px": model.vit.tile_px,
        "max_tiles": model.max_tiles,
        "tokens_per_side": tokens_per_side(model),
        "facts_as": facts_as,
        "max_facts": text.max_facts,
        "max_fact_tokens": text.max_fact_tokens,
        "assist_prompt": text.assist_prompt,
        "assist_position": text.assist_position,
        "system": chat.system,
        "between": chat.conversation.between,
        "any_spelling": chat.conversation.any_spelling,
        "as_given": chat.conversation.as_given,
        "reference": text.reference,
        "opening_ids": chat.opening_ids,
        "start_id": chat.special_id(tokens.TURN_START),
        "end_id": chat.end_id,
        "stop_ids": list(chat.stop_ids),
        "pad_id": chat.pad_id,
        "image_ids": [chat.special_id(tokens.IMAGE_START), chat.image_id, chat.special_id(tokens.IMAGE_END)],
        "comparison_id": chat.comparison_id,
        "verdict_ids": [list(ids) for ids in chat.verdict_ids],
        "max_new_tokens": max_new_tokens,
        **({"map_detail": "pixels"} if finer_map and model.fusion.similarity == "aligned" else {}),
        **({} if bits in (0, 16) else {"bits": bits}),
        **({} if chat.language == "en" else {"language": chat.language}),
    }


def add_torch_module(folder: Path, settings: dict[str, Any]) -> None:
    """Adds the code to a folder that has config.json and SAGE's own weights, and to its config what the code reads."""
    for name in CODE_FILES:
        code = importlib.resources.files("sage_jax").joinpath("hf", "remote_code", name)
        (folder / name).write_bytes(code.read_bytes())
    own, _ = open_file(folder / OWN_FILE)
    has_own_encoder = any(key.startswith("fact_encoder.") for key in own)
    path = folder / "config.json"
    about = json.loads(path.read_text(encoding="utf-8"))
    about.update(auto_map=AUTO_MAP, sage={**settings, "own_fact_encoder": has_own_encoder})
    path.write_text(json.dumps(about, indent=2, sort_keys=True) + "\n", encoding="utf-8")
