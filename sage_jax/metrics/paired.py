"""Differences between two models on the same test images, over several seeds of training."""

from __future__ import annotations

from collections.abc import Mapping, Sequence

import numpy as np

from sage_jax.metrics.intervals import UNDEFINED, Metric

Values = Mapping[str, Sequence[float]]
"""A model's values by image: one for each question or record of the image."""


def paired_gain(lower: Sequence[Values], higher: Sequence[Values], *, samples: int = 1000, seed: int = 0) -> Metric:
    """What the mean of one model has over that of another, with a 95 % bootstrap interval over images and seeds.

    Both models of a seed answered the same questions, so that what is hard about an image is in both and falls out of
    the difference. Each draw takes seeds with replacement, and images with replacement for all seeds alike, which share
    them. With one seed the interval is over images alone.

    Args:
      lower, higher: Each model's values, a mapping for each seed; both have the same images and numbers of values.

    Returns:
      The difference of means; n counts images. Undefined without values.

    Raises:
      ValueError: The two have other seeds, images or numbers of values.
    """
    if len(lower) != len(higher):
        raise ValueError(f"{len(lower)} and {len(higher)} seeds: pair the models seed by seed")
    images = sorted({image for values in lower for image in values})
    column = {image: index for index, image in enumerate(images)}
    gains, counts = np.zeros((len(lower), len(images))), np.zeros((len(lower), len(images)))
    for row, (below, above) in enumerate(zip(lower, higher, strict=True)):
        if {image: len(values) for image, values in below.items()} != {i: len(v) for i, v in above.items()}:
            raise ValueError(f"seed {row}: the two models have not answered the same questions")
        for image, values in below.items():
            gains[row, column[image]] = sum(above[image]) - sum(values)
            counts[row, column[image]] = len(values)
    if not counts.sum():
        return UNDEFINED
    generator = np.random.default_rng(seed)
    seeds = generator.multinomial(len(lower), np.full(len(lower), 1 / len(lower)), size=samples)
    drawn = generator.multinomial(len(images), np.full(len(images), 1 / len(images)), size=samples)
    total = np.einsum("rs,si,ri->r", seeds, gains, drawn)
    number = np.einsum("rs,si,ri->r", seeds, counts, drawn)
    found = total[number > 0] / number[number > 0]
    low, high = np.percentile(found, [2.5, 97.5])
    return Metric(float(gains.sum() / counts.sum()), float(low), float(high), len(images))
