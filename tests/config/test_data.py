"""Impossible configs of data and text stop with the field's name and the cure."""

from __future__ import annotations

import dataclasses
from typing import Any

import pytest

from sage_jax.config import ConfigError, DataConfig, Source, TextConfig


@pytest.mark.parametrize(
    ("cls", "fields", "message"),
    [
        (DataConfig, {"defect_rate": 1.1}, "defect_rate = 1.1: give a share from 0 to 1"),
        (DataConfig, {"asked_present_rate": -0.1}, "asked_present_rate = -0.1: give a share from 0 to 1"),
        (DataConfig, {"validation_fraction": 1.0}, "validation_fraction = 1.0: give a share from 0 to below 1"),
        (DataConfig, {"test_fraction": 1.5}, "test_fraction = 1.5"),
        (DataConfig, {"shrink_px": 64}, "shrink_px = 64: read with source=folder alone"),
        (DataConfig, {"source": "mvtec"}, "root is empty: name the folder or file of the mvtec data set"),
        (DataConfig, {"source": "rows"}, "root is empty: name the folder or file of the rows data set"),
        (
            DataConfig,
            {"source": "rows", "root": "x", "num_references": 2},
            "rows name their own; leave it 1",
        ),
        (DataConfig, {"source": "rows", "root": "x", "drawn_defects": 2}, "rows gives no photographs of good parts"),
        (DataConfig, {"source": "btad"}, "root is empty: name the folder or file of the btad data set"),
        (DataConfig, {"source": "auto"}, "root is empty: name the folder or file of the data set"),
        (DataConfig, {"source": "real_iad", "root": "x", "shrink_px": 8}, "read with source=folder alone"),
        (DataConfig, {"num_test": 0}, "num_test = 0: must be above 0"),
        (DataConfig, {"vit_memory_mb": -1}, "vit_memory_mb = -1: must be 0 or more"),
        (DataConfig, {"records_per_image": 4}, "records_per_image = 4: give 1 to 3"),
        (DataConfig, {"pair_types": ("diagnosis",)}, "'diagnosis' is no kind; did you mean 'defect diagnosis'?"),
        (TextConfig, {"buckets": (512, 256)}, "buckets = (512, 256): give ascending lengths"),
        (TextConfig, {"buckets": (0, 512)}, "buckets = (0, 512): give ascending lengths"),
        (TextConfig, {"num_shapes": 0}, "num_shapes = 0: must be above 0"),
        (TextConfig, {"max_facts": 0}, "max_facts = 0: must be above 0"),
    ],
)
def test_impossible_values_name_field_and_cure(cls: Any, fields: dict[str, Any], message: str) -> None:
    with pytest.raises(ConfigError) as raised:
        cls(**fields)
    assert message in str(raised.value)


@pytest.mark.parametrize("source", ["auto", "mvtec_ad", "manta"])
def test_what_depends_on_the_reader_is_checked_once_it_is_known(source: Source) -> None:
    data = DataConfig(source=source, root="x", shrink_px=64, num_references=2, drawn_defects=2, facts="record")
    assert not data.is_read and DataConfig(source="adpl", root="x").is_read
    with pytest.raises(ConfigError, match="shrink_px = 64"):
        dataclasses.replace(data, source="mvtec")


@pytest.mark.parametrize("cls", [DataConfig, TextConfig])
def test_defaults_can_run_and_cannot_be_changed(cls: Any) -> None:
    config = cls()
    with pytest.raises(dataclasses.FrozenInstanceError):
        setattr(config, dataclasses.fields(config)[0].name, None)
