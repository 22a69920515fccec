"""Legend of the axis letters that stand in shape annotations, and the array types they annotate.

Letters:
  B  batch rows, one image with its questions a row       T  tiles of an image, thumbnail included
  H, W, C  tile height, width in px; colour channels      P  ViT patches of a tile
  M  image tokens of an image (after pixel shuffle)       K  distinct patches
  F  fact sentences of an image                           J  tokens of a fact sentence
  S  tokens of the tree sequence                          D  decoder width
  Q  questions of an image                                N  ranked answers of a question
  L  tokens of an answer                                  V  vocabulary
  G  query heads of one key/value head                    X  head width
  I  adjacent pairs of ranked answers, N - 1               A  prefix slots of tree attention
  U  question slots of tree attention                      E  width of an image token before the adapter
  T2  room for tiles of a reference: T, or 0
"""

from jaxtyping import Array, Bool, Float, Int, UInt8

__all__ = ["Array", "Bool", "Float", "Int", "UInt8"]
