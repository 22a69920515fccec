"""The anomaly map of an image: what its tokens say, laid over the image, and drawn finer by the pixels of the pair."""

from __future__ import annotations

import dataclasses

import numpy as np
from PIL import Image
from scipy import ndimage

from sage_jax.axes import Float, UInt8
from sage_jax.config import Config
from sage_jax.data.images import remembered_rgb
from sage_jax.data.records import Record
from sage_jax.data.trees.tiles import blank_tiles, map_from_tokens
from sage_jax.evaluation.baselines import COMPARED_PX, difference_map


@dataclasses.dataclass(frozen=True, eq=False)
class AnomalyMap:
    """An image and where it is unlike its reference.

    Attributes:
      image: RGB, 0 to 255.
      tokens: 1 - similarity of the image tokens (SFE, step 3), bilinear between their centres: regions, boxes and
        places are read from it.
      values: What is shown and scored: the same, or drawn finer.
      apart: Of registered pairs, the largest absolute difference to the reference, 0 to 1 (`difference_peak`); None of
        others.
    """

    image: UInt8[np.ndarray, "H W 3"]
    tokens: Float[np.ndarray, "H W"]
    values: Float[np.ndarray, "H W"]
    apart: float | None = None


def anomaly_map(record: Record, similarity: Float[np.ndarray, " M"], config: Config) -> AnomalyMap:
    """The map of a record, larger where the test image is unlike its reference.

    Under `evaluate.map_detail = "pixels"` and `model.fusion.similarity = "aligned"`, as of registered pairs, a token of
    many pixels is drawn finer (ours): at each pixel the geometric mean of the highest value of the tokens within a
    token's width and of the absolute difference to the reference, as share of the whole range of grey levels; of images
    larger than `COMPARED_PX` at that size.

    Args:
      similarity: Of each image token to the reference; 1 without one.
      config: Of the run.

    Raises:
      ImageFault: An image cannot be read.
    """
    image = remembered_rgb(record.test_image, name=record.test_path, keep=False)
    height, width = image.shape[:2]
    model = config.model
    tiled, side = blank_tiles(width, height, model=model), int(np.sqrt(model.tokens_per_tile))
    values = 1.0 - similarity[: len(tiled.tiles) * side**2]
    tokens = map_from_tokens(values, tiled, tokens_per_side=side, height=height, width=width)
    if not (model.fusion.similarity == "aligned" and record.references):
        return AnomalyMap(image, tokens, tokens)
    apart = difference_map(record, COMPARED_PX) / 255.0
    peak = float(apart.max())
    if config.evaluate.map_detail == "tokens":
        return AnomalyMap(image, tokens, tokens, peak)
    laid = _resized(tokens, apart.shape)
    shape = zip(apart.shape, (tiled.rows * side, tiled.columns * side), strict=True)
    near = ndimage.maximum_filter(laid, [max(1, round(pixels / number)) for pixels, number in shape], mode="nearest")
    return AnomalyMap(image, tokens, _resized(np.sqrt(np.clip(near, 0.0, 1.0) * apart), tokens.shape), peak)


def _resized(values: Float[np.ndarray, "H W"], shape: tuple[int, ...]) -> Float[np.ndarray, "h w"]:
    if values.shape == shape:
        return values
    size = (shape[1], shape[0])
    return np.array(Image.fromarray(values.astype(np.float32)).resize(size, Image.Resampling.BILINEAR))
