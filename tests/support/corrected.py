"""Findings of a model as a store of corrections takes them."""

from __future__ import annotations

import dataclasses
from typing import Any

from sage_jax.corrections.entries import Finding


def finding(**fields: Any) -> Finding:
    """A defective part that the model called good, with some fields replaced."""
    plain = Finding(
        image=b"image",
        references=(b"reference",),
        name="part.png",
        category="washer",
        verdict="good",
        score=0.2,
        threshold=0.5,
        reason="No. The part matches the good part.",
        answers=(("What is wrong?", "Nothing."),),
        model="run, version 0",
        source="folder",
    )
    return dataclasses.replace(plain, **fields)
