"""Held-out loss: the stage's own, over the whole set as over one batch, on images that training leaves out."""

from __future__ import annotations

import dataclasses

import jax
import numpy as np
import pytest
from flax import nnx

from sage_jax.config import ConfigError, MeshConfig, TrainConfig
from sage_jax.data.stream.pipeline import make_eval_batches
from sage_jax.data.trees.encode import TreeFormat, TreeUse
from sage_jax.models.sage import Placeholders, Sage
from sage_jax.parameters import merge, split
from sage_jax.sharding import make_mesh
from sage_jax.training.objectives import SftObjective
from sage_jax.training.validation import Validation, split_by_image
from tests.support.inspection_records import MODEL, TEXT, make_chat, make_records
from tests.support.tiny_sage import random_params


def test_an_image_is_on_one_side_whatever_order_and_number() -> None:
    records = [dataclasses.replace(record, image_id=f"i{index // 2}") for index, record in enumerate(make_records(40))]
    kept, held_out = split_by_image(records, 0.3)
    assert sorted([*kept, *held_out]) == list(range(40)) and 2 <= len(held_out) <= 24
    images = [{records[index].image_id for index in part} for part in (kept, held_out)]
    assert not images[0] & images[1]
    _, backwards = split_by_image(records[::-1], 0.3)
    assert {39 - index for index in backwards} == {*held_out}
    assert {*held_out} <= {*split_by_image(records, 0.6)[1]}


def test_copies_of_an_image_are_on_its_side() -> None:
    names = [f"i{index}{copy}" for index in range(12) for copy in ("", "#drawn-0", "#varied-1")]
    drawn = zip(make_records(36), names, strict=True)
    parts = split_by_image([dataclasses.replace(record, image_id=name) for record, name in drawn], 0.4)
    sides = [{index // 3 for index in part} for part in parts]
    assert not sides[0] & sides[1] and all(len(part) == 3 * len(side) for part, side in zip(parts, sides, strict=True))


def test_a_side_without_records_is_refused() -> None:
    with pytest.raises(ConfigError, match=r"validation_fraction = 1e-09 leaves no record of 4 to validate on"):
        split_by_image(make_records(4), 1e-9)
    with pytest.raises(ConfigError, match="to train on"):
        split_by_image(make_records(4), 0.999999)


def test_the_loss_is_that_of_one_batch_of_all_records_in_the_shares_of_training() -> None:
    records, chat = make_records(6), make_chat()
    placeholders = Placeholders(chat.image_id, chat.comparison_id)
    graphdef, shapes = split(nnx.eval_shape(lambda: Sage(MODEL, chat.vocab_size, placeholders, nnx.Rngs(0))))
    params = random_params(shapes)
    train = TrainConfig(batch_size=4, reference_drop_rate=0.25)
    objective, mesh = SftObjective(), make_mesh(MeshConfig(data=4, fsdp=1, tensor=2))
    form = TreeFormat(chat, MODEL, TEXT)
    validation = Validation(records, objective=objective, train=train, graphdef=graphdef, form=form, mesh=mesh)
    found = validation(params)
    assert validation(params) == found
    direct = []
    for with_reference in (False, True):
        (batch,) = make_eval_batches(records, form, TreeUse("best"), batch_size=6, with_reference=with_reference)
        loss = jax.jit(lambda batch: objective(merge(graphdef, params), batch, objective.normalizers(batch))[0])
        direct.append(float(loss(batch)))
    assert abs(direct[0] - direct[1]) > 1e-4, "the reference matters"
    np.testing.assert_allclose([found["loss_zero_shot"], found["loss_one_shot"]], direct, rtol=1e-5)
    np.testing.assert_allclose(found["loss"], 0.25 * direct[0] + 0.75 * direct[1], rtol=1e-5)
    assert found["score"] == -found["loss"]
