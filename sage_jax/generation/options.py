"""How answers are generated: their length, the tokens that open and close them, and what chooses between tokens."""

from __future__ import annotations

import dataclasses

import numpy as np

from sage_jax.axes import Bool
from sage_jax.batch import AnyArray
from sage_jax.generation.place_tokens import PlaceIds
from sage_jax.generation.sampling import Sampling
from sage_jax.verdict import JointScore


@dataclasses.dataclass(frozen=True)
class Decoding:
    """How answers are generated, and which tokens open and close them.

    Attributes:
      max_new_tokens: Longest answer, closing token included.
      end_id: Id that closes an answer, and fills up what follows.
      verdict_ids: Ids that open a positive and a negative answer.
      stop_ids: Further ids that close an answer.
      sampling: How tokens are chosen.
      verdict_threshold: Score from which an image's first question is answered yes, and below which no; None = as the
        answer's own tokens are chosen.
      joint_score: How that score joins verdict and map, of images with a reference; None = it is the verdict's alone.
      place_ids: Ids of the words of each cell; read where `map_places` is not 0.
      map_places: Weight of the map in the choice among the words of places.
    """

    max_new_tokens: int
    end_id: int
    verdict_ids: tuple[tuple[int, ...], tuple[int, ...]]
    stop_ids: tuple[int, ...] = ()
    sampling: Sampling = Sampling()
    verdict_threshold: float | None = None
    joint_score: JointScore | None = None
    place_ids: PlaceIds = ()
    map_places: float = 0.0

    def closes(self, token_ids: AnyArray) -> Bool[AnyArray, "..."]:
        """True at tokens that close an answer; of arrays on the host as well."""
        closing = np.asarray(sorted({self.end_id, *self.stop_ids}), np.int32)
        return (token_ids[..., None] == closing).any(axis=-1)
