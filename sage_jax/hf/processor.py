"""Tokenizer, chat template, processor and generation config of an exported model, as transformers' InternVL has them.

They are of the plain model: one image or several, text, and no comparison embeddings.
"""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any, Final

from transformers import PreTrainedTokenizerFast

from sage_jax.config import ModelConfig
from sage_jax.data.trees import tokenizer as tokens
from sage_jax.data.trees.chat import Chat
from sage_jax.models.vit import IMAGENET_DEVIATION, IMAGENET_MEAN

_PROCESSOR: Final = "InternVLProcessor"
_VIDEO_TOKEN: Final = "<video>"
_BICUBIC: Final = 3
"""Pillow's number of the filter."""

_TEMPLATE: Final = """
{%- if messages[0].role != 'system' and SYSTEM -%}
{{ '<|im_start|>system\\n' + SYSTEM + '<|im_end|>' + BETWEEN }}
{%- endif -%}
{%- for message in messages -%}
{{ '<|im_start|>' + message.role + '\\n' }}
{%- if message.content is string -%}{{ message.content }}
{%- else -%}
{%- for part in message.content -%}
{%- if part.type == 'image' -%}{{ '<IMG_CONTEXT>\\n' }}
{%- elif part.type == 'text' -%}{{ part.text }}
{%- endif -%}
{%- endfor -%}
{%- endif -%}
{{ '<|im_end|>' + BETWEEN }}
{%- endfor -%}
{%- if add_generation_prompt -%}{{ '<|im_start|>assistant\\n' }}{%- endif -%}
"""


def plain_chat_template(chat: Chat) -> str:
    """The conversation as Jinja, in the form of transformers' InternVL: its processor makes the image tokens.

    `find_conversation` reads the same system message and separator back from it.
    """
    template = "".join(line.strip() for line in _TEMPLATE.splitlines())
    if not chat.conversation.as_given:
        for shown in ("part.text }}", "message.content }}"):
            template = template.replace(shown, shown.replace(" }}", " | trim }}"))
    for name, text in (("BETWEEN", chat.conversation.between), ("SYSTEM", chat.system)):
        template = template.replace(name, json.dumps(text, ensure_ascii=False))
    return template


def save_text_files(tokenizer: PreTrainedTokenizerFast, chat: Chat, folder: Path, *, named: bool) -> None:
    """Writes tokenizer and chat template.

    Args:
      tokenizer: The run's; as it is read from its folder, it is left as it is.
      chat: Its conversation.
      folder: Where to.
      named: Whether the tokenizer has names for the image tokens, by which transformers' InternVL finds them.
    """
    tokenizer.save_pretrained(str(folder))
    _write_readable(folder / "tokenizer.json")
    path = folder / "tokenizer_config.json"
    about = json.loads(path.read_text(encoding="utf-8"))
    for name in ("is_local", "local_files_only", "auto_map", "model_specific_special_tokens"):
        about.pop(name, None)
    about["tokenizer_class"] = "PreTrainedTokenizerFast"  # of which versions before 5 know too, unlike its new name
    if isinstance(about.get("extra_special_tokens"), list):  # the name of a list in all versions; they take an object
        about["additional_special_tokens"] = about.pop("extra_special_tokens")
    if named:
        # The processor wants a token for videos. Nothing here takes one, and this one stands in no prompt of its.
        video = _VIDEO_TOKEN if _VIDEO_TOKEN in tokenizer.get_vocab() else tokens.COMPARISON_TOKEN
        names = {
            "start_image_token": tokens.IMAGE_START,
            "end_image_token": tokens.IMAGE_END,
            "context_image_token": tokens.IMAGE_TOKEN,
            "video_token": video,
        }
        about.update(names, extra_special_tokens=names, processor_class=_PROCESSOR)
    _write(path, about)
    (folder / "chat_template.jinja").write_text(plain_chat_template(chat), encoding="utf-8")


def save_processor(model: ModelConfig, folder: Path) -> None:
    """Writes what transformers' InternVL does with pictures: tiling and normalisation of `data/trees/tiles.py`."""
    size = {"height": model.vit.tile_px, "width": model.vit.tile_px}
    pixels = {
        "do_convert_rgb": True,
        "do_normalize": True,
        "do_rescale": True,
        "do_resize": True,
        "image_mean": list(IMAGENET_MEAN),
        "image_std": list(IMAGENET_DEVIATION),
        "processor_class": _PROCESSOR,
        "resample": _BICUBIC,
        "rescale_factor": 1 / 255,
        "size": size,
    }
    tiling = {"crop_to_patches": model.max_tiles > 1, "min_patches": 1, "max_patches": model.max_tiles}
    images = {**pixels, **tiling, "image_processor_type": "GotOcr2ImageProcessor"}
    _write(folder / "preprocessor_config.json", images)
    _write(folder / "video_preprocessor_config.json", {**pixels, "video_processor_type": "InternVLVideoProcessor"})
    about = {"processor_class": _PROCESSOR, "image_seq_length": model.tokens_per_tile}
    _write(folder / "processor_config.json", about)


def save_generation_config(chat: Chat, base: Path | None, folder: Path, *, max_new_tokens: int) -> None:
    """Writes generation_config.json: that of the base where it has one, else greedy; answers end as they do here."""
    about: dict[str, Any] = {"do_sample": False, "max_new_tokens": max_new_tokens}
    if base is not None and (base / "generation_config.json").is_file():
        about = json.loads((base / "generation_config.json").read_text(encoding="utf-8"))
    about.update(eos_token_id=list(chat.stop_ids), pad_token_id=chat.pad_id)
    _write(folder / "generation_config.json", about)


def _write_readable(path: Path) -> None:
    """Writes a tokenizer.json as tokenizers 0.15 reads it, and later ones too: merges as text, not as pairs.

    transformers 4.37.2, which OpenGVLab's own code asks for, has that version. A piece with a space in it, which the
    tokenizers read here do not have, could not be told from two: then the file is left as it is. What that version does
    not know is ignored by it: a tokenizer with `ignore_merges`, as Llama 3's, gives other ids there.
    """
    about = json.loads(path.read_text(encoding="utf-8"), object_hook=_with_prefix_space)
    merges = about["model"].get("merges", [])
    if any(" " in piece for pair in merges for piece in pair):
        return
    about["model"]["merges"] = [" ".join(pair) for pair in merges]
    path.write_text(json.dumps(about, indent=2, ensure_ascii=False), encoding="utf-8")


def _with_prefix_space(step: dict[str, Any]) -> dict[str, Any]:
    """A step of a tokenizer with the field that `prepend_scheme` took the place of."""
    if step.get("type") == "Metaspace":
        step.setdefault("add_prefix_space", step.get("prepend_scheme", "always") != "never")
    return step


def _write(path: Path, content: dict[str, Any]) -> None:
    path.write_text(json.dumps(content, indent=2, sort_keys=True, ensure_ascii=False) + "\n", encoding="utf-8")
