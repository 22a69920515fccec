"""SBERT: similarity of an answer and its reference answer in the embedding of a sentence-transformers model."""

from __future__ import annotations

import functools
import hashlib
import importlib
import importlib.util
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any, Final

import numpy as np

from sage_jax.axes import Float
from sage_jax.errors import UserError
from sage_jax.process.checksums import file_sum

PACKAGE: Final = "sentence_transformers"
_CHUNK: Final = 256

Pairs = Sequence[tuple[str, str]]
"""An answer and its reference answer, each."""


def check_sentence_model(folder: Path) -> None:
    """Checks that a folder has a sentence model and that there is what reads it; opens no connection.

    Raises:
      UserError: One is missing; the message says how to get it.
    """
    if not (folder / "modules.json").is_file():
        raise UserError(
            f"judge.sbert_model = {str(folder)!r}: no folder of a sentence-transformers model, which has a "
            "modules.json: download one, such as sentence-transformers/all-MiniLM-L6-v2, and name its folder"
        )
    if importlib.util.find_spec(PACKAGE) is None:
        raise UserError("judge.sbert_model needs the extra sbert: pip install sage-jax[sbert], or leave it empty")


class SentenceModel:
    """A sentence-transformers model on the CPU, read from a folder when it is first used; it keeps its embeddings.

    Text beyond the model's longest input is not seen, as its makers have it.

    Args:
      folder: Of the model, all its files local.
    """

    def __init__(self, folder: Path) -> None:
        self._folder = folder
        self._vectors: dict[str, np.ndarray] = {}

    def digest(self) -> str:
        """Hash of the model's files."""
        files = sorted(path for path in self._folder.rglob("*") if path.is_file())
        sums = "\n".join(f"{path.relative_to(self._folder)} {file_sum(path)}" for path in files)
        return hashlib.sha256(sums.encode()).hexdigest()[:24]

    def num_texts(self, pairs: Pairs) -> int:
        """Texts of the pairs that are not embedded yet, each counted once."""
        return len(self._open(pairs))

    def embed(self, pairs: Pairs) -> Iterator[int]:
        """Embeds the texts of pairs; gives the number of those done, now and again.

        Raises:
          UserError: The model cannot be read.
        """
        texts = self._open(pairs)
        for start in range(0, len(texts), _CHUNK):
            chunk = texts[start : start + _CHUNK]
            vectors = self._model.encode(chunk, convert_to_numpy=True, show_progress_bar=False)
            self._vectors |= dict(zip(chunk, np.asarray(vectors, np.float64), strict=True))
            yield start + len(chunk)

    def similarities(self, pairs: Pairs) -> Float[np.ndarray, " n"]:
        """Cosine of the two embeddings of each pair, -1 to 1 (Reimers and Gurevych 2019); `embed` was done before."""
        cosines = [_cosine(self._vectors[first], self._vectors[second]) for first, second in pairs]
        return np.asarray(cosines, np.float64)

    def _open(self, pairs: Pairs) -> list[str]:
        return list(dict.fromkeys(text for pair in pairs for text in pair if text not in self._vectors))

    @functools.cached_property
    def _model(self) -> Any:
        try:
            library = importlib.import_module(PACKAGE)
            return library.SentenceTransformer(str(self._folder), device="cpu", local_files_only=True)
        except Exception as error:  # what it raises depends on its version and on what is missing
            raise UserError(
                f"judge.sbert_model = {str(self._folder)!r} cannot be read: {type(error).__name__}: {error}"
            ) from None


def _cosine(first: np.ndarray, second: np.ndarray) -> float:
    return float(first @ second / max(np.linalg.norm(first) * np.linalg.norm(second), 1e-12))
