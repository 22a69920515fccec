"""SentencePiece models against its algorithm, computed here step by step: join the best pair until none is left."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
from tokenizers import AddedToken

from sage_jax.hf.faults import WeightsError
from sage_jax.hf.sentencepiece_model import convert_sentencepiece
from tests.support.tiny_tokenizers import sentencepiece_model


def greedy_pieces(text: str, pieces: list[tuple[str, float]], *, dummy_prefix: bool) -> list[int]:
    """Ids of a text by SentencePiece's BPE: the best neighbours are joined, leftmost first, bytes for the rest."""
    ids = {piece: index for index, (piece, _) in enumerate(pieces)}
    scores = {piece: score for piece, score in pieces if not piece.startswith(("<", "[UNUSED"))}
    parts = list(("▁" * dummy_prefix + text).replace(" ", "▁"))
    while True:
        joined = [
            (scores[a + b], -at) for at, (a, b) in enumerate(zip(parts, parts[1:], strict=False)) if a + b in scores
        ]
        if not joined:
            break
        at = -max(joined)[1]
        parts[at : at + 2] = ["".join(parts[at : at + 2])]
    found = []
    for part in parts:
        found += [ids[part]] if part in ids else [ids[f"<0x{byte:02X}>"] for byte in part.encode()]
    return found


@pytest.mark.parametrize("dummy_prefix", [False, True])
def test_ids_are_sentencepieces(dummy_prefix: bool, tmp_path: Path) -> None:
    pieces = sentencepiece_model(tmp_path / "tokenizer.model", dummy_prefix=dummy_prefix)
    converted = convert_sentencepiece(tmp_path / "tokenizer.model", {})
    rng = np.random.default_rng(0)
    letters = [*"Yesnouraptitmfc .\n  ", "书", "é", "the ", "assistant", " cap"]
    texts = ["".join(rng.choice(letters, int(rng.integers(1, 30)))) for _ in range(200)]
    for text in [*texts, "Yes. The cap is in user\nassistant\n", "  two  spaces "]:
        expected = greedy_pieces(text, pieces, dummy_prefix=dummy_prefix)
        assert converted.encode(text, add_special_tokens=False).ids == expected, text
        assert converted.decode(expected) == text


def test_added_tokens_take_the_place_of_unused_pieces(tmp_path: Path) -> None:
    pieces = sentencepiece_model(tmp_path / "tokenizer.model")
    first = len(pieces) - 2
    names = ["<|im_end|>", "<|im_start|>", "<img>"]
    added = {first + at: AddedToken(name, normalized=False, special=True) for at, name in enumerate(names)}
    converted = convert_sentencepiece(tmp_path / "tokenizer.model", added)
    assert [converted.token_to_id(name) for name in names] == list(added)
    assert converted.token_to_id("[UNUSED_TOKEN_145]") is None
    assert converted.encode("<|im_start|>user", add_special_tokens=False).ids[0] == first + 1
    with pytest.raises(WeightsError, match="<img> has id 9999, but the next free is"):
        convert_sentencepiece(tmp_path / "tokenizer.model", {9999: added[first + 2]})
