"""A SentencePiece model (`tokenizer.model`) as a fast tokenizer, built here from its pieces: no code comes with it."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Any, Final

import tokenizers
from tokenizers import AddedToken, Regex, decoders, models, normalizers
from transformers.convert_slow_tokenizer import import_protobuf

from sage_jax.data.trees.tokenizer import steps_of
from sage_jax.hf.faults import WeightsError

_SPACE: Final = "▁"
_BPE: Final = 2
_NORMAL, _CONTROL, _USER_DEFINED = 1, 3, 4


def convert_sentencepiece(path: Path, added: Mapping[int, AddedToken]) -> tokenizers.Tokenizer:
    """The tokenizer of a SentencePiece BPE model with byte fallback, as InternLM2 and Llama have.

    SentencePiece joins, again and again, the two neighbours whose joined piece has the highest score. So a piece's
    score is the rank of every merge that makes it.

    Args:
      path: The file.
      added: Tokens of the checkpoint's tokenizer_config.json by id. One whose id the model has takes that piece's
        place (InternLM2 keeps unused ones for this), the others come after them.

    Raises:
      WeightsError: It cannot be read, is no BPE model, or the added tokens leave a gap in the ids.
    """
    generated: Any = import_protobuf()
    proto = generated.ModelProto()
    try:
        proto.ParseFromString(path.read_bytes())
    except Exception as error:  # protobuf raises its own error, of a class that depends on the version
        raise WeightsError(f"{path}: cannot be read as a SentencePiece model ({error}); download it again") from None
    if proto.trainer_spec.model_type != _BPE or not proto.pieces:
        raise WeightsError(f"{path}: is no BPE model of SentencePiece, as InternLM2 and Llama have")
    names = [added[index].content if index in added else piece.piece for index, piece in enumerate(proto.pieces)]
    bpe = models.BPE(
        {name: index for index, name in enumerate(names)},
        _merges([(piece.piece, piece.score) for piece in proto.pieces if piece.type == _NORMAL]),
        unk_token=names[proto.trainer_spec.unk_id],
        fuse_unk=True,
        byte_fallback=True,
    )
    converted = tokenizers.Tokenizer(bpe)
    special = {
        index: AddedToken(piece.piece, normalized=False, special=piece.type == _CONTROL)
        for index, piece in enumerate(proto.pieces)
        if piece.type in (_CONTROL, _USER_DEFINED)
    }
    for index, token in sorted({**special, **added}.items()):
        converted.add_special_tokens([token]) if token.special else converted.add_tokens([token])
        if converted.token_to_id(token.content) != index:
            found = converted.token_to_id(token.content)
            raise WeightsError(f"{path}: the added token {token.content} has id {index}, but the next free is {found}")
    has_prefix = proto.normalizer_spec.add_dummy_prefix
    steps_of(converted).normalizer = _normalizer(proto.normalizer_spec)
    steps: list[Any] = [decoders.Replace(_SPACE, " "), decoders.ByteFallback(), decoders.Fuse()]
    steps += [decoders.Strip(content=" ", left=1)] * has_prefix
    steps_of(converted).decoder = decoders.Sequence(steps)
    return converted


def _merges(pieces: list[tuple[str, float]]) -> list[tuple[str, str]]:
    """Pairs of pieces that make a piece, highest score first."""
    scores = dict(pieces)
    found = [
        (-score, index, piece[:cut], piece[cut:])
        for index, (piece, score) in enumerate(pieces)
        for cut in range(1, len(piece))
        if piece[:cut] in scores and piece[cut:] in scores
    ]
    return [(left, right) for _, _, left, right in sorted(found)]


def _normalizer(spec: Any) -> normalizers.Normalizer:
    steps: list[Any] = []
    if spec.precompiled_charsmap:
        steps.append(normalizers.Precompiled(spec.precompiled_charsmap))
    if spec.remove_extra_whitespaces:
        steps += [normalizers.Strip(), normalizers.Replace(Regex(" {2,}"), " ")]
    if spec.add_dummy_prefix:
        steps.append(normalizers.Prepend(_SPACE))
    return normalizers.Sequence([*steps, normalizers.Replace(" ", _SPACE)])
