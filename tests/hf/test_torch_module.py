"""The files shipped for torch compute what the package does: comparison, facts, fusion, tiles, prompts."""

from __future__ import annotations

import dataclasses
import importlib.util
import io
import json
import sys
from pathlib import Path
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import pytest
import tokenizers
import torch
from flax import nnx
from hatchling.builders.sdist import SdistBuilder
from hatchling.builders.wheel import WheelBuilder
from hypothesis import given, settings
from hypothesis import strategies as st
from PIL import Image

import sage_jax
from sage_jax.config import Config, FusionConfig, ModelConfig, VitConfig
from sage_jax.data.images import decode_rgb, encode_png
from sage_jax.data.records import Record
from sage_jax.data.trees.chat import FactsAs
from sage_jax.data.trees.tiles import map_from_tokens, tile_image
from sage_jax.evaluation.maps import anomaly_map
from sage_jax.hf.layouts import own_rows, tensors
from sage_jax.hf.torch_module import CODE_FILES, sage_settings
from sage_jax.models.fact_fusion import FactEncoder, FactFusion, compare
from sage_jax.parameters import Params, merge, split
from tests.support.tiny_export import FACTS, QUESTIONS, tiny_chats
from tests.support.tiny_sage import TINY, VOCAB_SIZE, random_params

WIDTH, NUM_PLACES = TINY.decoder.embed_dim, 4
CODE = Path(sage_jax.__path__[0]) / "hf" / "remote_code"
ROOT = Path(__file__).parents[2]
RECORD = Record("r", "i", b"", None, "part", "standard comparison", (), (), (), None, (), None, "", "")


def shipped(name: str) -> Any:
    """A shipped file as a module of its own."""
    spec = importlib.util.spec_from_file_location(name, CODE / f"{name}.py")
    assert spec is not None and spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    sys.modules[name] = module  # dataclasses look their module up
    spec.loader.exec_module(module)
    return module


FUSION, PROCESSING = shipped("fusion_sage"), shipped("processing_sage")


def as_torch(array: Any) -> torch.Tensor:
    return torch.from_numpy(np.array(array))


def written(params: Params, prefix: str) -> dict[str, torch.Tensor]:
    """Parameters of one part as sage_fusion.safetensors has them, the part's own name left out."""
    found = {}
    for tensor in tensors(own_rows(params), {path: leaf.shape for path, leaf in params.items()}):
        values = np.asarray(params[tensor.row.path])
        values = values if tensor.layer is None else values[tensor.layer]
        found[tensor.keys[0].removeprefix(prefix)] = as_torch(values.T if tensor.row.is_transposed else values)
    return found


def random_tokens(seed: int, rows: int = 4, tokens: int = 8) -> list[np.ndarray]:
    """Test and reference tokens with their masks; some of the reference repeat, the last row has none."""
    rng = np.random.default_rng(seed)
    test, reference = (rng.normal(size=(rows, tokens, WIDTH)).astype(np.float32) for _ in range(2))
    reference[:, 3] = reference[:, 1]
    test[:, 2] = test[:, 5]  # two tokens of equal similarity
    test_mask = np.arange(tokens) < rng.integers(4, tokens + 1, (rows, 1))
    reference_mask = np.arange(tokens) < rng.integers(3, tokens + 1, (rows, 1))
    reference_mask[-1] = False
    return [test, reference, test_mask, reference_mask]


@pytest.mark.parametrize("kind", ["max", "min", "aligned"])
def test_torch_compares_as_jax_does(kind: str) -> None:
    for seed in range(4):
        arrays = random_tokens(seed)
        for num_distinct in (2, 20):
            ours = compare(*map(jnp.asarray, arrays), num_distinct=num_distinct, kind=kind)
            theirs = FUSION.compare(*map(as_torch, arrays), num_distinct=num_distinct, kind=kind)
            np.testing.assert_allclose(theirs.similarity, ours.similarity, atol=1e-6)
            np.testing.assert_array_equal(theirs.distinct_mask, ours.distinct_mask)


@pytest.mark.parametrize("difference", ["none", "similarity", "residual"])
@pytest.mark.parametrize("places", [False, True])
def test_torch_fuses_as_jax_does(difference: Any, places: bool) -> None:
    if places and difference == "none":
        return  # no such config
    fields = {"difference": difference, "difference_places": places, "mark_image": places}
    config = FusionConfig(num_heads=2, num_distinct=3, **fields)

    def create() -> FactFusion:
        return FactFusion(config, WIDTH, num_places=NUM_PLACES, dtype=jnp.dtype(jnp.float32), rngs=nnx.Rngs(0))

    graphdef, shapes = split(nnx.eval_shape(create))
    params = {f"fusion/{path}": leaf for path, leaf in random_params(shapes, seed=1).items()}
    ours = merge(graphdef, {path.removeprefix("fusion/"): leaf for path, leaf in params.items()})
    theirs = FUSION.FactFusion(dataclasses.asdict(config), WIDTH, NUM_PLACES)
    theirs.load_state_dict(written(params, "fusion."))
    arrays = random_tokens(7)
    facts = np.random.default_rng(8).normal(size=(4, 3, WIDTH)).astype(np.float32)
    test, reference, _, reference_mask = map(jnp.asarray, arrays)
    compared = compare(*map(jnp.asarray, arrays), num_distinct=3, kind="max")
    expected, expected_shown = ours(jnp.asarray(facts), test, reference, compared, reference_mask.any(axis=1))
    test, reference, test_mask, reference_mask = map(as_torch, arrays)
    compared = FUSION.compare(test, reference, test_mask, reference_mask, num_distinct=3, kind="max")
    with torch.no_grad():
        found, shown = theirs(as_torch(facts), test, reference, compared, reference_mask.any(dim=1))
    np.testing.assert_allclose(found, expected, atol=1e-5)
    np.testing.assert_allclose(shown, expected_shown, atol=1e-5)
    assert np.abs(found.numpy()).std() > 0.1
    assert places == bool((shown != test).any())


@pytest.mark.parametrize("kind", ["embedding_mean", "hidden_mean"])
@pytest.mark.parametrize("variant", [{}, {"qkv_bias": True}, {"qk_norm": True, "head_dim": 6}])
def test_torch_reads_facts_as_jax_does(kind: str, variant: dict[str, Any]) -> None:
    config = dataclasses.replace(TINY.decoder, **variant)

    def create() -> FactEncoder:
        return FactEncoder(config, kind, VOCAB_SIZE, dtype=jnp.dtype(jnp.float32), rngs=nnx.Rngs(0))

    graphdef, shapes = split(nnx.eval_shape(create))
    params = random_params(shapes, seed=2)
    sizes = {**dataclasses.asdict(config), "head_dim": config.width_of_head}
    theirs = FUSION.FactEncoder(kind, sizes, VOCAB_SIZE)
    theirs.load_state_dict(written({f"fact_encoder/{p}": leaf for p, leaf in params.items()}, "fact_encoder."))
    rng = np.random.default_rng(3)
    ids = rng.integers(0, VOCAB_SIZE, (2, 3, 7)).astype(np.int32)
    mask = np.arange(7) < np.array([[7, 4, 0], [1, 2, 0]])[..., None]  # facts without a token too
    expected = jax.jit(merge(graphdef, params).__call__)(jnp.asarray(ids), jnp.asarray(mask))
    with torch.no_grad():
        found = theirs(as_torch(ids).long(), as_torch(mask))
    np.testing.assert_allclose(found, expected, atol=1e-5)


@given(width=st.integers(1, 300), height=st.integers(1, 300), max_tiles=st.integers(1, 7), seed=st.integers(0, 9))
@settings(max_examples=60, deadline=None)
def test_tiles_and_maps_are_those_of_the_package(width: int, height: int, max_tiles: int, seed: int) -> None:
    rng = np.random.default_rng(seed)
    image = rng.integers(0, 256, (height, width, 3), np.uint8)
    ours = tile_image(image, tile_px=16, max_tiles=max_tiles)
    tiles, grid = PROCESSING.cut_tiles(Image.fromarray(image), tile_px=16, max_tiles=max_tiles)
    np.testing.assert_array_equal(tiles, ours.tiles)
    assert grid == (ours.columns, ours.rows)
    values = rng.random(4 * len(tiles)).astype(np.float32)
    expected = map_from_tokens(values, ours, tokens_per_side=2, height=height, width=width)
    found = PROCESSING.lay_back(values, grid, tokens_per_side=2, width=width, height=height)
    np.testing.assert_array_equal(found, expected)


@pytest.mark.parametrize("size", [(31, 64), (64, 50), (1500, 1100)])
@pytest.mark.parametrize("max_tiles", [1, 6])
def test_maps_drawn_finer_are_those_of_the_package(size: tuple[int, int], max_tiles: int) -> None:
    rng = np.random.default_rng(max_tiles)
    vit, fusion = VitConfig(tile_px=16, patch_px=4), FusionConfig(similarity="aligned")
    config = Config(model=ModelConfig(vit=vit, fusion=fusion, max_tiles=max_tiles))
    image, reference = (rng.integers(0, 256, (*size[::-1], 3), np.uint8) for _ in range(2))
    pair = {"test_image": encode_png(image), "reference_image": encode_png(reference)}
    similarity = rng.random(4 * len(tile_image(image, tile_px=16, max_tiles=max_tiles).tiles)).astype(np.float32)
    expected = anomaly_map(dataclasses.replace(RECORD, **pair), similarity, config)
    chat = type("Tokenizer", (), dict.fromkeys(("no_padding", "no_truncation"), lambda self: None))()
    settings = {"tokens_per_side": 2, "tile_px": 16, "max_tiles": max_tiles, "map_detail": "pixels"}
    processor = PROCESSING.SageProcessor(chat, settings)
    shown = Image.fromarray(image), similarity, Image.fromarray(reference)
    np.testing.assert_allclose(processor.anomaly_map(*shown), expected.values, atol=1e-5)
    np.testing.assert_allclose(processor.anomaly_map(*shown[:2]), expected.tokens, atol=1e-6)
    assert np.abs(expected.values - expected.tokens).max() > 0.1
    assert not processor.anomaly_map(shown[0], similarity, shown[0]).any(), "an image is like itself, of any size"


@pytest.mark.parametrize("mode", ["RGB", "L", "RGBA", "LA", "P", "CMYK", "I;16", "1", "turned"])
def test_pictures_of_any_mode_have_the_packages_pixels(mode: str) -> None:
    rng = np.random.default_rng(5)
    image, options, kind = Image.fromarray(rng.integers(0, 256, (9, 13, 4), np.uint8), "RGBA"), {}, "PNG"
    if mode == "I;16":
        image = Image.fromarray(rng.integers(0, 65536, (9, 13)).astype(np.uint16))
    elif mode == "turned":
        image, exif = image.convert("RGB"), Image.Exif()
        exif[0x0112] = 6
        options["exif"] = exif
    else:
        image = image.convert(mode)
    kind = "TIFF" if mode == "CMYK" else "PNG"
    buffer = io.BytesIO()
    image.save(buffer, kind, **options)
    expected = decode_rgb(buffer.getvalue(), name=mode)
    found = PROCESSING.rgb(Image.open(io.BytesIO(buffer.getvalue())))
    np.testing.assert_array_equal(np.asarray(found), expected)


@pytest.mark.parametrize("assist_position", ["question", "prefix"])
@pytest.mark.parametrize("facts_as", ["fusion", "text"])
def test_prompts_are_those_of_the_package(facts_as: FactsAs, assist_position: Any, tmp_path: Path) -> None:
    model = ModelConfig(vit=VitConfig(tile_px=16, patch_px=4), max_tiles=2)
    for _, chat in tiny_chats(tmp_path, assist_position=assist_position):
        tokenizer = tokenizers.Tokenizer.from_str(chat._backend.to_str())
        about = json.loads(json.dumps(sage_settings(model, chat, facts_as=facts_as, max_new_tokens=4)))
        processor = PROCESSING.SageProcessor(tokenizer, about)
        for question in (*QUESTIONS, "  <COMPARISON> or 你是?\n"):
            for facts in ((), FACTS[:1], (" ", *FACTS, "one too many")):
                given = [fact for fact in facts if fact.strip()][:3]
                prefix = chat.prefix_ids(8, facts=given, facts_as=facts_as)
                missing = np.flatnonzero(prefix == chat.comparison_id)[len(given) :]
                expected = [*np.delete(prefix, missing), *chat.question_ids(question, facts_as=facts_as)]
                example = PROCESSING.SageExample(Image.new("RGB", (4, 4)), question, facts)
                assert processor.prompt_ids(example, 8) == expected
                prefix = chat.prefix_ids(8, facts=given, facts_as=facts_as, num_reference_tokens=12)
                missing = np.flatnonzero(prefix == chat.comparison_id)[len(given) :]
                expected = [*np.delete(prefix, missing), *chat.question_ids(question, facts_as=facts_as)]
                assert processor.prompt_ids(example, 8, 12) == expected
        inputs = processor(PROCESSING.SageExample(Image.new("RGB", (40, 20)), "Whole?", FACTS))
        assert ("fact_ids" in inputs) == (facts_as == "fusion")
        if facts_as == "fusion":
            ids, mask = chat.fact_ids(FACTS)
            np.testing.assert_array_equal(inputs["fact_ids"][0], ids)
            np.testing.assert_array_equal(inputs["fact_mask"][0], mask)
        answer = chat.answer_ids("Yes. 你是 a scratch.")
        assert processor.decode([*answer, 5, 6]) == chat.decode(answer) == "Yes. 你是 a scratch."


def test_a_fact_that_is_too_long_is_named(tmp_path: Path) -> None:
    _, chat = tiny_chats(tmp_path)[0]
    settings_of = sage_settings(TINY, chat, facts_as="fusion", max_new_tokens=4)
    processor = PROCESSING.SageProcessor(tokenizers.Tokenizer.from_str(chat._backend.to_str()), settings_of)
    with pytest.raises(ValueError, match="'x{200}' has .* tokens, at most 99 were trained: shorten it"):
        processor(PROCESSING.SageExample(Image.new("RGB", (4, 4)), "Whole?", ("x" * 200,)))


def test_wheel_and_source_distribution_have_the_files(tmp_path: Path) -> None:
    wanted = {f"sage_jax/hf/remote_code/{name}" for name in CODE_FILES} | {"sage_jax/hf/model_card.md.jinja"}
    for builder in (WheelBuilder, SdistBuilder):
        files = {file.relative_path.replace("\\", "/") for file in builder(str(ROOT)).recurse_included_files()}
        assert wanted <= files
