"""What transformers' InternVL makes of an exported folder's text and image files: the package's prompts and tiles."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import tokenizers
from PIL import Image
from tokenizers import pre_tokenizers
from transformers import AutoTokenizer, GenerationConfig, PreTrainedTokenizerFast
from transformers.models.got_ocr2.image_processing_pil_got_ocr2 import GotOcr2ImageProcessorPil
from transformers.models.internvl.processing_internvl import InternVLProcessor

from sage_jax.config import ModelConfig, VitConfig
from sage_jax.data.trees.chat import Chat
from sage_jax.data.trees.tiles import tile_image
from sage_jax.data.trees.tokenizer import steps_of
from sage_jax.hf.processor import save_generation_config, save_processor, save_text_files
from sage_jax.models.vit import IMAGENET_DEVIATION, IMAGENET_MEAN
from tests.support.tiny_export import QUESTIONS, picture, tiny_chats

MODEL = ModelConfig(vit=VitConfig(tile_px=16, patch_px=4), max_tiles=4)
KINDS = ("own", "qwen2", "internlm2")


class _WithoutVideos(InternVLProcessor):
    """transformers' processor, let off the check of its reader of videos, which needs torchvision."""

    def check_argument_for_proper_class(self, argument_name: str, argument: Any) -> type:
        return type(argument)


@pytest.fixture(scope="module")
def talking(tmp_path_factory: pytest.TempPathFactory) -> dict[str, tuple[PreTrainedTokenizerFast, Chat]]:
    return dict(zip(KINDS, tiny_chats(tmp_path_factory.mktemp("tokenizers")), strict=True))


def processor_of(tokenizer: PreTrainedTokenizerFast, chat: Chat, folder: Path, model: ModelConfig = MODEL) -> Any:
    """The processor that a folder's files make."""
    folder.mkdir()
    save_text_files(tokenizer, chat, folder, named=True)
    save_processor(model, folder)
    loaded: Any = AutoTokenizer.from_pretrained(folder)
    images = GotOcr2ImageProcessorPil.from_pretrained(folder)
    seq_length = json.loads((folder / "processor_config.json").read_text())["image_seq_length"]
    template = (folder / "chat_template.jinja").read_text()
    assert loaded.chat_template == template
    return _WithoutVideos(images, loaded, None, image_seq_length=seq_length, chat_template=template)


@pytest.mark.parametrize("kind", KINDS)
def test_transformers_processor_makes_the_plain_models_prompt(kind: str, talking: Any, tmp_path: Path) -> None:
    tokenizer, chat = talking[kind]
    processor = processor_of(tokenizer, chat, tmp_path / "out")
    for number, question in enumerate(QUESTIONS[:2]):
        turns = [{"role": "user", "content": [{"type": "image"}, {"type": "text", "text": question}]}]
        said = processor.apply_chat_template(turns, add_generation_prompt=True)
        found = processor(images=[picture(number)], text=[said])["input_ids"][0]
        num_tiles = len(tile_image(np.asarray(picture(number)), tile_px=16, max_tiles=4).tiles)
        prefix = chat.prefix_ids(num_tiles * MODEL.tokens_per_tile, facts=(), facts_as="text")
        assert found == [*prefix, *chat.question_ids(question, facts_as="text")]


KNOWN_TO_0_15 = {
    **{"Sequence": {"normalizers", "pretokenizers", "decoders", "processors"}, "NFC": set(), "ByteFallback": set()},
    **{"Prepend": {"prepend"}, "Replace": {"pattern", "content"}, "Strip": {"content", "start", "stop"}},
    **{"Fuse": set(), "Split": {"pattern", "behavior", "invert"}},
    "ByteLevel": {"add_prefix_space", "trim_offsets", "use_regex"},
    "Metaspace": {"replacement", "add_prefix_space", "prepend_scheme"},
    "TemplateProcessing": {"single", "pair", "special_tokens"},
    "BPE": {"dropout", "unk_token", "continuing_subword_prefix", "end_of_word_suffix", "fuse_unk", "byte_fallback"}
    | {"vocab", "merges"},
}
"""Steps of tokenizers 0.15.2 that stand in the tokenizers here, and their fields."""


def steps(part: Any) -> list[dict[str, Any]]:
    """Every step of a tokenizer.json, those inside others too."""
    inside = [step for value in (part.values() if isinstance(part, dict) else part) for step in steps_in(value)]
    return [part, *inside] if isinstance(part, dict) and isinstance(part.get("type"), str) else inside


def steps_in(value: Any) -> list[dict[str, Any]]:
    return steps(value) if isinstance(value, dict | list) else []


@pytest.mark.parametrize("kind", [*KINDS, "metaspace"])
def test_the_tokenizer_is_written_as_the_one_of_opengvlabs_own_code_reads_it(
    kind: str, talking: Any, tmp_path: Path
) -> None:
    """That is tokenizers 0.15.2, of transformers 4.37.2."""
    tokenizer, chat = talking["qwen2" if kind == "metaspace" else kind]
    if kind == "metaspace":  # as published Llama tokenizers have it
        backend = tokenizers.Tokenizer.from_str(tokenizer.backend_tokenizer.to_str())
        steps_of(backend).pre_tokenizer = pre_tokenizers.Metaspace(prepend_scheme="never")
        tokenizer = PreTrainedTokenizerFast(tokenizer_object=backend, eos_token="<|im_end|>")
    save_text_files(tokenizer, chat, tmp_path, named=False)
    written = json.loads((tmp_path / "tokenizer.json").read_text(encoding="utf-8"))
    assert all(isinstance(merge, str) and merge.count(" ") == 1 for merge in written["model"]["merges"])
    assert not written["model"].get("ignore_merges")  # unknown there, so taken for false
    for step in steps(written):
        unknown = set(step) - KNOWN_TO_0_15[step["type"]] - {"type", "ignore_merges"}
        assert unknown <= {"split"}, unknown
        assert step.get("split", True)
        if step["type"] == "Metaspace":
            assert step["add_prefix_space"] is False
    about = json.loads((tmp_path / "tokenizer_config.json").read_text(encoding="utf-8"))
    assert about["tokenizer_class"] == "PreTrainedTokenizerFast" and "auto_map" not in about
    assert isinstance(about.get("extra_special_tokens", {}), dict)  # a list is an error up to transformers 4
    again = AutoTokenizer.from_pretrained(tmp_path)
    assert again.get_vocab() == tokenizer.get_vocab()
    for text in (*QUESTIONS, " a  cap\n<COMPARISON>", "True. 你是<|im_end|>"):
        assert again.encode(text) == tokenizer.encode(text)


@pytest.mark.parametrize("max_tiles", [1, 4])
def test_transformers_image_processor_makes_the_packages_tiles(max_tiles: int, talking: Any, tmp_path: Path) -> None:
    model = ModelConfig(vit=MODEL.vit, max_tiles=max_tiles)
    tokenizer, chat = talking["own"]
    processor = processor_of(tokenizer, chat, tmp_path / "out", model)
    for number in range(4):
        image: Image.Image = picture(number)
        found = np.asarray(processor(images=[image], text=["<IMG_CONTEXT>"])["pixel_values"])
        tiles = tile_image(np.asarray(image), tile_px=16, max_tiles=max_tiles).tiles
        expected = (tiles / 255.0 - np.array(IMAGENET_MEAN)) / np.array(IMAGENET_DEVIATION)
        assert found.shape == (len(tiles), 3, 16, 16)
        one_level = 1 / 255 / min(IMAGENET_DEVIATION)
        assert np.abs(found - expected.transpose(0, 3, 1, 2)).max() <= 1.01 * one_level


def test_generation_config_is_the_bases_with_this_models_ends(talking: Any, tmp_path: Path) -> None:
    _, chat = talking["qwen2"]
    (tmp_path / "base").mkdir()
    (tmp_path / "base" / "generation_config.json").write_text('{"do_sample": true, "top_p": 0.8, "eos_token_id": 1}')
    for base, sampled in ((None, False), (tmp_path / "base", True), (tmp_path / "empty", False)):
        save_generation_config(chat, base, tmp_path, max_new_tokens=9)
        found = GenerationConfig.from_pretrained(tmp_path)
        assert (found.do_sample, found.eos_token_id) == (sampled, list(chat.stop_ids))
        assert (found.top_p == 0.8) == sampled and (found.max_new_tokens == 9) != sampled
