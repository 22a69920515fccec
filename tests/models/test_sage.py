"""Sage against transformers' InternVL in torch, and trees against separate rows."""

from __future__ import annotations

import dataclasses
from typing import Any, Literal

import jax
import jax.numpy as jnp
import numpy as np
import pytest
import torch
from flax import nnx
from transformers import (
    InternVLConfig,
    InternVLForConditionalGeneration,
    InternVLVisionConfig,
    LlamaConfig,
    Qwen2Config,
    Qwen3Config,
)

from sage_jax.batch import TreeBatch
from sage_jax.config import DecoderConfig, ModelConfig
from sage_jax.losses.log_probs import answer_logps
from sage_jax.models.fact_fusion import Comparison, FactFusion
from sage_jax.models.sage import ImageEmbeddings, Sage, copy_text_encoder, tree_mask
from sage_jax.models.vit import Vit
from sage_jax.parameters import Params, merge, split
from sage_jax.training.objectives import token_logps_of
from tests.support.tiny_run import QUICK
from tests.support.tiny_sage import (
    PLACEHOLDERS,
    TINY,
    VOCAB_SIZE,
    Tree,
    batch_of,
    on_device,
    random_batch,
    random_params,
    structure,
)
from tests.support.transformers_weights import adapter_params, decoder_params, randomise, vit_params, weights_of


def make_sage(config: ModelConfig = TINY, params: Params | None = None) -> Sage:
    graphdef, shapes = structure(config)
    return merge(graphdef, random_params(shapes) if params is None else params)


@jax.jit
def logits_of(sage: Sage, batch: TreeBatch) -> jax.Array:
    hidden, _ = sage(batch)
    return sage.decoder.logits(hidden)


@jax.jit
def logps_of(sage: Sage, batch: TreeBatch) -> jax.Array:
    hidden, _ = sage(batch)
    return answer_logps(token_logps_of(sage, batch, hidden)[0], batch.target_mask)


@jax.jit
def separate_logps(sage: Sage, batch: TreeBatch, ids: jax.Array, rows: jax.Array) -> jax.Array:
    """Token log-probabilities of plain causal rows, each with the images of one row of the batch."""
    images = jax.tree.map(lambda leaf: leaf[rows], sage.embed_images(batch))
    positions = jnp.broadcast_to(jnp.arange(ids.shape[1]), ids.shape)
    mask = jnp.broadcast_to(jnp.tril(jnp.ones((24, 24), bool)), (len(ids), 24, 24))
    hidden, _ = sage.decoder(sage.embed_tokens(ids, images), positions, mask)
    return jax.nn.log_softmax(sage.decoder.logits(hidden))


def torch_internvl(kind: str) -> tuple[InternVLForConditionalGeneration, DecoderConfig]:
    """A random InternVL with one of its decoders, and that decoder's config here."""
    ours = DecoderConfig(
        num_layers=2, embed_dim=16, num_heads=4, num_kv_heads=2, mlp_dim=24, rope_theta=5_000.0, norm_eps=1e-5
    )
    options: dict[str, Any] = {
        "vocab_size": VOCAB_SIZE,
        "hidden_size": 16,
        "num_hidden_layers": 2,
        "num_attention_heads": 4,
        "num_key_value_heads": 2,
        "intermediate_size": 24,
        "rms_norm_eps": 1e-5,
        "rope_theta": 5_000.0,
        "max_position_embeddings": 512,
        "tie_word_embeddings": kind == "qwen2",
        "pad_token_id": 0,
        "bos_token_id": 1,
        "eos_token_id": 2,
    }
    if kind == "llama":
        text = LlamaConfig(**options)
    elif kind == "qwen2":
        text, ours = Qwen2Config(**options), dataclasses.replace(ours, qkv_bias=True, tie_embeddings=True)
    else:
        text = Qwen3Config(**options, head_dim=6)
        ours = dataclasses.replace(ours, qk_norm=True, head_dim=6)
    vision = InternVLVisionConfig(
        image_size=8,
        patch_size=2,
        hidden_size=8,
        num_hidden_layers=2,
        num_attention_heads=2,
        intermediate_size=16,
        attention_bias=True,
    )
    config = InternVLConfig(
        vision_config=vision,
        text_config=text,
        image_token_id=PLACEHOLDERS.image,
        image_seq_length=4,
        downsample_ratio=0.5,
        tie_word_embeddings=kind == "qwen2",
    )
    peer = InternVLForConditionalGeneration(config).float().eval()
    randomise(peer)
    return peer, ours


@pytest.mark.parametrize("kind", ["llama", "qwen2", "qwen3"])
def test_logits_equal_transformers_internvl(kind: str) -> None:
    peer, decoder = torch_internvl(kind)
    config = dataclasses.replace(TINY, decoder=decoder)
    weights = weights_of(peer)
    loaded = {
        **vit_params(weights, config, "model.vision_tower."),
        **adapter_params(weights, "model.multi_modal_projector."),
        **decoder_params(weights, config, "model.language_model."),
    }
    assert not weights, f"never used: {sorted(weights)}"
    _, shapes = structure(config)
    own = random_params({path: leaf for path, leaf in shapes.items() if path.startswith(("fusion/", "fact_encoder/"))})
    assert own.keys() | loaded.keys() == shapes.keys() and not own.keys() & loaded.keys()
    sage = make_sage(config, {**own, **{path: jnp.asarray(leaf) for path, leaf in loaded.items()}})

    rng = np.random.default_rng(0)
    words = rng.integers(8, VOCAB_SIZE, (2, 12)).tolist()
    # No facts, and so no comparison embeddings: what is left is InternVL's own prompt, of one and of two tiles.
    batch = batch_of([Tree(n, 0, True, words[n - 1][:5], [(words[n - 1][5:], [])]) for n in (1, 2)], rng)
    found = np.asarray(logits_of(sage, on_device(batch)))
    pixels = (batch.tiles / 255.0 - [0.485, 0.456, 0.406]) / [0.229, 0.224, 0.225]
    for row in range(2):
        real = np.asarray(batch.token_mask[row])
        shown = torch.tensor(pixels[row][: row + 1].transpose(0, 3, 1, 2), dtype=torch.float32)
        with torch.no_grad():
            ids = torch.tensor(batch.token_ids[row][real][None], dtype=torch.long)
            expected = peer(input_ids=ids, pixel_values=shown).logits[0].numpy()
        assert np.abs(expected).max() > 0.5
        np.testing.assert_allclose(found[row][real], expected, atol=1e-4, rtol=0.0)


@pytest.mark.parametrize("attention", ["tree", "masked"])
@pytest.mark.parametrize("seed", range(2))
def test_tree_log_probabilities_equal_separate_rows(seed: int, attention: Literal["tree", "masked"]) -> None:
    sage, batch = make_sage(dataclasses.replace(TINY, attention=attention)), random_batch(seed)
    found = np.asarray(logps_of(sage, on_device(batch)))
    places = list(zip(*np.nonzero(batch.answer_mask), strict=True))
    ids, real = (np.zeros((18, 24), dtype) for dtype in (np.int32, np.bool_))
    opening, rows = np.zeros(18, int), np.zeros(18, int)
    for at, (row, question, answer) in enumerate(places):
        index = question * 3 + answer
        seen = batch.token_mask[row] & np.isin(batch.question_index[row], (-1, question))
        seen &= np.isin(batch.answer_index[row], (-1, index))
        size = int(seen.sum())
        ids[at, :size], real[at, :size], rows[at] = batch.token_ids[row][seen], True, row
        opening[at] = size - int((batch.answer_index[row] == index).sum())

    logps = np.asarray(separate_logps(sage, on_device(batch), jnp.asarray(ids), jnp.asarray(rows)))
    for at, place in enumerate(places):
        expected = sum(logps[at, i - 1, ids[at, i]] for i in range(opening[at], int(real[at].sum())))
        np.testing.assert_allclose(found[place], expected, atol=1e-5, rtol=1e-5)
    np.testing.assert_array_equal(found[~np.asarray(batch.answer_mask)], 0.0)


def test_padding_never_changes_logits() -> None:
    sage = make_sage()
    short, long = (random_batch(5, padding_rows=p, length=n) for p, n in ((0, 56), (2, 70)))
    # what stands in padding may be anything
    rng = np.random.default_rng(0)
    noise = {
        "token_ids": (short.token_ids, ~np.pad(short.token_mask, ((0, 2), (0, 14)))),
        "fact_ids": (short.fact_ids, ~np.pad(short.fact_mask, ((0, 2), (0, 0), (0, 0)))),
    }
    changed: dict[str, Any] = {name: np.array(getattr(short, name)) for name in ("tiles", "reference_tiles")}
    for name, mask in (("tiles", short.tile_mask), ("reference_tiles", short.reference_tile_mask)):
        padded = np.pad(changed[name], ((0, 2), *[(0, 0)] * 4))
        hidden = ~np.pad(mask, ((0, 2), (0, 0)))
        padded[hidden] = rng.integers(0, 256, padded[hidden].shape)
        changed[name] = padded
    for name, (values, hidden) in noise.items():
        padded = np.pad(values, [(0, h - v) for v, h in zip(values.shape, hidden.shape, strict=True)])
        real_words = hidden & ~np.isin(padded, (PLACEHOLDERS.image, PLACEHOLDERS.comparison))
        padded[real_words] = rng.integers(8, VOCAB_SIZE, int(real_words.sum()))
        changed[name] = padded
    widened = {
        field.name: np.pad(
            getattr(short, field.name),
            [
                (0, n - o)
                for o, n in zip(getattr(short, field.name).shape, getattr(long, field.name).shape, strict=True)
            ],
        )
        for field in dataclasses.fields(TreeBatch)
        if not field.metadata.get("static")
    }
    padded_batch = dataclasses.replace(short, **{**widened, **changed})
    before = np.asarray(logits_of(sage, on_device(short)))
    after = np.asarray(logits_of(sage, on_device(padded_batch)))
    real = np.asarray(short.token_mask)
    np.testing.assert_allclose(after[:3, :56][real], before[real], atol=1e-5)
    assert np.isfinite(after).all()


def test_an_untrained_fusion_leaves_answers_independent_of_facts_and_reference() -> None:
    def create() -> FactFusion:
        return FactFusion(
            TINY.fusion,
            TINY.decoder.embed_dim,
            num_places=TINY.tokens_per_tile,
            dtype=jnp.dtype("float32"),
            rngs=nnx.Rngs(0),
        )

    _, start = split(create())
    trained = random_params(structure()[1])
    untrained = trained | {f"fusion/{path}": leaf for path, leaf in start.items()}
    assert untrained.keys() == trained.keys()
    batch, other = random_batch(6), random_batch(7)
    swapped = dataclasses.replace(
        batch,
        fact_ids=other.fact_ids,
        reference_tiles=other.reference_tiles,
        reference_tile_mask=np.zeros_like(batch.reference_tile_mask),
    )
    real = np.asarray(batch.token_mask)

    def logits(params: Params) -> list[np.ndarray]:
        sage = make_sage(params=params)
        return [np.asarray(logits_of(sage, on_device(one)))[real] for one in (batch, swapped)]

    before, after = logits(untrained)
    np.testing.assert_array_equal(after, before)
    before, after = logits(trained)
    assert np.abs(after - before).max() > 1e-3


@pytest.mark.parametrize("kind", ["max", "aligned"])
def test_several_references_are_compared_as_each_alone_would_be(kind: Any) -> None:
    config = dataclasses.replace(TINY, fusion=dataclasses.replace(TINY.fusion, similarity=kind))
    sage, batches = make_sage(config), [random_batch(6), random_batch(7)]
    tiles, tile_masks = [each.reference_tiles for each in batches], [each.reference_tile_mask for each in batches]
    tiles, tile_masks = (each + [np.concatenate(each, axis=1)] for each in (tiles, tile_masks))
    shown = zip(tiles, tile_masks, strict=True)
    rows = [dataclasses.replace(batches[0], reference_tiles=t, reference_tile_mask=m) for t, m in shown]
    encode, embed = (jax.jit(read) for read in (sage.encode_images, sage.embed_images))
    *alone, both = (encode(on_device(each)) for each in rows)
    masks = [np.asarray(each.reference_mask) for each in alone]
    known = [mask if kind == "aligned" else mask.any(axis=1, keepdims=True) for mask in masks]
    values = [np.where(k, each.compared.similarity, -np.inf) for k, each in zip(known, alone, strict=True)]
    best = np.maximum(*values)
    real = np.asarray(both.test_mask) & np.isfinite(best)
    assert real.sum() > 4
    np.testing.assert_allclose(np.asarray(both.compared.similarity)[real], best[real], atol=1e-5)
    read = [embed(on_device(each)).comparison for each in (rows[0], rows[2])]
    assert np.abs(np.asarray(read[0] - read[1])).max() > 1e-5


def without_room(batch: TreeBatch) -> TreeBatch:
    """The batch without room for references."""
    tiles, mask = batch.reference_tiles[:, :0], batch.reference_tile_mask[:, :0]
    return dataclasses.replace(batch, reference_tiles=tiles, reference_tile_mask=mask)


@pytest.fixture
def tiles_run(monkeypatch: pytest.MonkeyPatch) -> list[int]:
    """How many tiles each call of the ViT gets, written when it is traced."""
    counts: list[int] = []
    call = Vit.__call__

    def counting(self: Vit, tiles: Any) -> Any:
        counts.append(tiles.shape[0])
        return call(self, tiles)

    monkeypatch.setattr(Vit, "__call__", counting)
    return counts


@pytest.mark.parametrize(("kind", "in_prompt"), [("max", False), ("min", True), ("aligned", False)])
def test_a_batch_without_room_for_references_equals_one_whose_references_are_masked(
    kind: Any, in_prompt: bool, tiles_run: list[int]
) -> None:
    config = dataclasses.replace(TINY, fusion=dataclasses.replace(TINY.fusion, similarity=kind))
    sage = make_sage(config)
    sage.placeholders = dataclasses.replace(PLACEHOLDERS, reference=in_prompt)
    batch = random_batch(5)
    masked = dataclasses.replace(batch, reference_tile_mask=np.zeros_like(batch.reference_tile_mask))
    graphdef, params = split(sage)

    def mean_logp(params: Params, batch: TreeBatch) -> tuple[jax.Array, tuple[jax.Array, jax.Array]]:
        hidden, images = merge(graphdef, params)(batch)
        logps, _ = token_logps_of(merge(graphdef, params), batch, hidden)
        return jnp.sum(answer_logps(logps, batch.target_mask)), (images.comparison, images.compared.similarity)

    value = jax.jit(jax.value_and_grad(mean_logp, has_aux=True), compiler_options=QUICK)
    (expected, before), expected_gradient = value(params, on_device(masked))
    (found, after), gradient = value(params, on_device(without_room(batch)))
    assert tiles_run == [12, 6]
    np.testing.assert_allclose(found, expected, rtol=1e-6)
    for one, other in zip(jax.tree.leaves(after), jax.tree.leaves(before), strict=True):
        np.testing.assert_allclose(one, other, atol=1e-6)
    for path in params:
        np.testing.assert_allclose(gradient[path], expected_gradient[path], atol=1e-5, err_msg=path)


ALL_HEADS = dataclasses.replace(TINY, fusion=dataclasses.replace(TINY.fusion, head="all"))


def test_heads_on_all_parts_keep_the_base_model_at_the_start() -> None:
    fresh = split(Sage(ALL_HEADS, VOCAB_SIZE, PLACEHOLDERS, nnx.Rngs(0)))[1]
    added = {path: leaf for path, leaf in fresh.items() if path not in structure()[1]}
    assert {path.split("/")[1] for path in added} == {"image_head", "question_head"} and len(added) == 8
    params = random_params(structure()[1])
    batch = on_device(random_batch(6))
    found = logits_of(make_sage(ALL_HEADS, params | added), batch)
    np.testing.assert_array_equal(found, logits_of(make_sage(params=params), batch))


def test_heads_read_image_tokens_and_questions_and_nothing_else() -> None:
    params = random_params(structure(ALL_HEADS)[1])
    batch = random_batch(6)

    def embedded(config: ModelConfig, params: Params) -> np.ndarray:
        sage = make_sage(config, params)
        return np.asarray(sage.embed_tokens(jnp.asarray(batch.token_ids), sage.embed_images(on_device(batch))))

    def head(x: np.ndarray, name: str) -> np.ndarray:
        scale, bias, kernel, offset = (
            np.asarray(params[f"fusion/{name}_head/{path}"], np.float64)
            for path in ("norm/scale", "norm/bias", "linear/kernel", "linear/bias")
        )
        x = x.astype(np.float64)
        normed = (x - x.mean(-1, keepdims=True)) / np.sqrt(x.var(-1, keepdims=True) + 1e-5)
        return x + (normed * scale + bias) @ kernel + offset

    plain = embedded(TINY, {path: leaf for path, leaf in params.items() if path in structure()[1]})
    found = embedded(ALL_HEADS, params)
    image = batch.token_mask & (batch.token_ids == PLACEHOLDERS.image)
    asked = batch.token_mask & (batch.question_index >= 0) & (batch.answer_index < 0)
    assert image.any() and asked.any() and not (image & asked).any()
    np.testing.assert_allclose(found[image], head(plain[image], "image"), atol=1e-5)
    np.testing.assert_allclose(found[asked], head(plain[asked], "question"), atol=1e-5)
    rest = batch.token_mask & ~image & ~asked
    np.testing.assert_array_equal(found[rest], plain[rest])


def test_tree_mask_is_the_drawn_one() -> None:
    question = jnp.array([[-1, -1, 0, 0, 0, 1, 1]])
    answer = jnp.array([[-1, -1, -1, 0, 1, -1, 2]])
    drawn = ["x", "xx", "xxx", "xxxx", "xxx.x", "xx...x", "xx...xx"]
    expected = np.array([[[c == "x" for c in row.ljust(7, ".")] for row in drawn]])
    np.testing.assert_array_equal(tree_mask(jnp.ones((1, 7), bool), question, answer), expected)
    hidden = jnp.ones((1, 7), bool).at[0, 1].set(False)
    np.testing.assert_array_equal(tree_mask(hidden, question, answer), expected & np.asarray(hidden)[:, None])


def test_placeholders_take_their_embeddings_in_order_and_words_keep_theirs() -> None:
    sage = make_sage()
    rng = np.random.default_rng(8)
    image, comparison = (rng.normal(size=(3, tokens, 16)).astype(np.float32) for tokens in (8, 2))
    rest = jnp.ones((3, 8))
    drawn = ImageEmbeddings(
        image=jnp.asarray(image),
        comparison=jnp.asarray(comparison),
        compared=Comparison(similarity=rest, distinct_mask=rest > 0, match=rest.astype(int)),
    )
    i, c = PLACEHOLDERS.image, PLACEHOLDERS.comparison
    ids = np.array([[9, i, i, 10, c, i, c, 11]] * 3)
    found = np.asarray(sage.embed_tokens(jnp.asarray(ids), drawn))
    table = np.asarray(sage.decoder.embedding.embedding[...])
    for row in range(3):
        of_words = [table[9], table[10], table[11]]
        expected = [of_words[0], image[row, 0], image[row, 1], of_words[1], comparison[row, 0]]
        expected += [image[row, 2], comparison[row, 1], of_words[2]]
        np.testing.assert_array_equal(found[row], np.stack(expected))


@pytest.mark.parametrize("kind", ["embedding_mean", "hidden_mean"])
def test_the_fact_encoder_starts_as_the_decoder(kind: Any) -> None:
    config = dataclasses.replace(TINY, fusion=dataclasses.replace(TINY.fusion, fact_encoder=kind))
    params = random_params(structure(config)[1])
    copied = copy_text_encoder(params)
    assert copied.keys() == params.keys()
    inner = "fact_encoder/decoder/" if kind == "hidden_mean" else "fact_encoder/"
    for path in params:
        source = path.replace(inner, "decoder/") if path.startswith(inner) else path
        np.testing.assert_array_equal(copied[path], params[source], err_msg=path)
