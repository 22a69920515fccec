"""Legend of the axis letters that stand in shape annotations, and the array types they annotate.

Each letter has one meaning; a number behind it tells two sizes of one kind apart: T2 is the room for tiles of a
reference, T or 0.

  A  tiles of several images, one after another
  B  rows of a batch, one image with its questions a row
  C  rows chosen of a batch
  D  width of the decoder, or of the ViT
  E  width that a layer reads, such as that of an image token before the adapter
  F  fact sentences of an image
  G  preference groups: the questions of all images of a batch
  H  height, px
  I  records or images of a data set
  J  tokens of a fact sentence, or of a defect's name
  K  adjacent pairs of ranked answers, N - 1
  L  tokens of an answer
  M  image tokens of an image, after pixel shuffle
  N  ranked answers of a question
  O  width that a layer writes
  P  ViT patches of a tile
  Q  questions of an image
  R  key/value heads
  S  tokens of a sequence: of the tree, or of the ViT
  T  tiles of an image, thumbnail included
  U  slots: of a KV cache, or of a block of the tree
  V  vocabulary
  W  width, px
  X  width of a head
  Y  query heads
  Z  blocks of attention
"""

from jaxtyping import Array, Bool, Float, Int, UInt8, UInt16

__all__ = ["Array", "Bool", "Float", "Int", "UInt8", "UInt16"]
