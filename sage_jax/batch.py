"""The typed batches that cross between data pipeline, training and evaluation, and the answers to them."""

from __future__ import annotations

import dataclasses
from typing import Any

import jax

from sage_jax.axes import Bool, Float, Int, UInt8

# NumPy on the host, JAX on the devices: one batch type serves both.
AnyArray = Any


@jax.tree_util.register_dataclass
@dataclasses.dataclass(frozen=True)
class TreeBatch:
    """Images with their questions and ranked answers, each image one tree-shaped token sequence.

    A row holds the shared prefix (image, comparison placeholders), then its questions, each followed by its answers.
    Token i sees token j when j <= i and j lies on i's own branch: `question_index[j]` is -1 (prefix) or i's question,
    and `answer_index[j]` is -1 (prefix or question) or i's answer. Positions continue from the branch point.

    Attributes:
      tiles: Test image tiles, RGB 0..255; zeros where `tile_mask` is False. Or, float, the ViT's features of the tiles
        (B T tokens E), where those were computed before.
      tile_mask: True where the row has a tile.
      reference_tiles: The same for the reference images, in the one form or the other, one after the other, each with
        room for T tiles; all masked without a reference. A batch that shows none at all may have no room for any
        (T2 = 0): nothing is computed of what is not there.
      reference_tile_mask: True where the row has a reference tile. A row without any is zero-shot.
      fact_ids: Token ids of the fact sentences, 0 where masked.
      fact_mask: True at real fact tokens; a fact with no token is no fact.
      token_ids: Token ids of the tree, `pad` where masked. Image and comparison placeholders stand for embeddings.
      token_mask: True at real tokens.
      position_ids: Position of each token on its own branch.
      question_index: Question that the token belongs to, 0..Q-1; -1 in the prefix.
      answer_index: Answer that the token belongs to, question * N + rank; -1 in prefix and questions.
      source_index: Index into S of the token whose logits predict the answer token.
      target_ids: Token ids of the answers, closing token included.
      target_mask: True at real answer tokens.
      claim_mask: True at those that carry what the answer claims: its verdict, and names of defects and places.
      scores: Judge scores, 1 (worst) to 5 (best); 0 where masked.
      answer_mask: True where the question has an answer of that rank. Answers stand in rank order, best first.
      question_ids: Index of each question in its record, for what is stored by question; -1 where there is none.
      reference_logps: Summed log-probability of each answer under the reference policy; zeros until attached.
      token_labels: Share of anomalous pixels under each image token, 0..1; -1 where unknown or padding.
      token_names: Token ids of the name of the defect that each image token shows; -1 behind a name's last token, and
        throughout where it shows none or where that is not known.
      record_index: Row of the data set that the image came from; -1 for padding rows.
      score_shift: What is added to the log-odds of the score of each row's first question; zeros until attached.
      prefix_slots, question_slots: Room for the longest prefix and the longest question, part of the batch's shape:
        what tree attention makes its blocks of; 0 = not known, and attention computes every pair of tokens.
      answer_slots: Room for the longest answer in a block of tree attention; 0 = L.
      target_slots: Room for the answer tokens of any row, whose logits are computed; 0 = for all that there could be.
    """

    tiles: UInt8[AnyArray, "B T H W 3"] | Float[AnyArray, "B T _ E"]
    tile_mask: Bool[AnyArray, "B T"]
    reference_tiles: UInt8[AnyArray, "B T2 H W 3"] | Float[AnyArray, "B T2 _ E"]
    reference_tile_mask: Bool[AnyArray, "B T2"]
    fact_ids: Int[AnyArray, "B F J"]
    fact_mask: Bool[AnyArray, "B F J"]
    token_ids: Int[AnyArray, "B S"]
    token_mask: Bool[AnyArray, "B S"]
    position_ids: Int[AnyArray, "B S"]
    question_index: Int[AnyArray, "B S"]
    answer_index: Int[AnyArray, "B S"]
    source_index: Int[AnyArray, "B Q N L"]
    target_ids: Int[AnyArray, "B Q N L"]
    target_mask: Bool[AnyArray, "B Q N L"]
    claim_mask: Bool[AnyArray, "B Q N L"]
    scores: Float[AnyArray, "B Q N"]
    answer_mask: Bool[AnyArray, "B Q N"]
    question_ids: Int[AnyArray, "B Q"]
    reference_logps: Float[AnyArray, "B Q N"]
    token_labels: Float[AnyArray, "B M"]
    token_names: Int[AnyArray, "B M J"]
    record_index: Int[AnyArray, " B"]
    score_shift: Float[AnyArray, " B"]
    prefix_slots: int = dataclasses.field(default=0, metadata={"static": True})
    question_slots: int = dataclasses.field(default=0, metadata={"static": True})
    answer_slots: int = dataclasses.field(default=0, metadata={"static": True})
    target_slots: int = dataclasses.field(default=0, metadata={"static": True})


@jax.tree_util.register_dataclass
@dataclasses.dataclass(frozen=True)
class Answers:
    """Answers to the questions of a batch.

    Attributes:
      token_ids: Generated ids, the closing token included; whatever follows it has no meaning.
      verdict_score: P(yes) / (P(yes) + P(no)) at the answer's first token, 0..1, whatever was drawn.
      similarity: Of each image token to the reference; 1 without one.
    """

    token_ids: Int[AnyArray, "B Q L"]
    verdict_score: Float[AnyArray, "B Q"]
    similarity: Float[AnyArray, "B M"]


@jax.tree_util.register_dataclass
@dataclasses.dataclass(frozen=True)
class Scores:
    """What a batch's images and questions are given beside answers.

    Attributes:
      verdict_score: P(yes) / (P(yes) + P(no)) at the answer's first token, 0..1.
      similarity: Of each image token to the reference; 1 without one.
    """

    verdict_score: Float[AnyArray, "B Q"]
    similarity: Float[AnyArray, "B M"]
