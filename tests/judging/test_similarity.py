"""SBERT similarity by a small real sentence-transformers model, against transformers alone."""

from __future__ import annotations

import builtins
import importlib
import importlib.util
import socket
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from sage_jax.errors import UserError
from sage_jax.judging import similarity
from sage_jax.judging.similarity import SentenceModel, check_sentence_model
from tests.support.tiny_sentence_model import sentence_model

PAIRS = [
    ("No. The cap is fine.", "No. The cap is fine."),
    ("Yes. There is a crack at the top.", "No. The cap is fine."),
    ("", "Yes. A dent."),
    ("Yes. A dent.", "Yes. There is a crack at the top."),
]


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    if importlib.util.find_spec("sentence_transformers") is None:
        pytest.skip("sentence-transformers, the extra sbert, is not installed")
    return sentence_model(tmp_path_factory.mktemp("sentences") / "model")


def by_transformers(folder: Path, texts: list[str]) -> np.ndarray:
    """Mean over a text's tokens of the last hidden states, by transformers alone."""
    torch, transformers = importlib.import_module("torch"), importlib.import_module("transformers")
    tokenizer = transformers.AutoTokenizer.from_pretrained(folder)
    model = transformers.AutoModel.from_pretrained(folder).eval()
    vectors = []
    for text in texts:
        with torch.no_grad():
            hidden = model(**tokenizer(text, return_tensors="pt")).last_hidden_state[0]
        vectors.append(hidden.mean(dim=0).numpy())
    return np.array(vectors, np.float64)


def test_similarity_is_the_cosine_of_mean_hidden_states(folder: Path) -> None:
    model = SentenceModel(folder)
    assert model.num_texts(PAIRS) == 4
    assert list(model.embed(PAIRS)) == [4] and model.num_texts(PAIRS) == 0
    found = model.similarities(PAIRS)
    first, second = (by_transformers(folder, [pair[side] for pair in PAIRS]) for side in (0, 1))
    norms = np.linalg.norm(first, axis=1) * np.linalg.norm(second, axis=1)
    np.testing.assert_allclose(found, np.sum(first * second, axis=1) / norms, atol=1e-5)
    assert found[0] == pytest.approx(1.0) and len(set(np.round(found, 4))) == 4


def test_no_connection_is_opened(folder: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    asked: list[object] = []

    def refuse(*given: object, **named: object) -> None:
        asked.append(given)
        raise OSError("there is no network")

    monkeypatch.setattr(socket.socket, "connect", refuse)
    monkeypatch.setattr(socket, "getaddrinfo", refuse)
    assert list(SentenceModel(folder).embed(PAIRS)) == [4] and asked == []


def test_many_texts_come_in_parts(folder: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    whole, parts = SentenceModel(folder), SentenceModel(folder)
    list(whole.embed(PAIRS))
    monkeypatch.setattr(similarity, "_CHUNK", 3)
    assert list(parts.embed(PAIRS)) == [3, 4]
    np.testing.assert_allclose(parts.similarities(PAIRS), whole.similarities(PAIRS), atol=1e-6)


def test_the_hash_is_that_of_the_files(folder: Path, tmp_path: Path) -> None:
    before = SentenceModel(folder).digest()
    other = sentence_model(tmp_path / "other", seed=1)
    assert SentenceModel(folder).digest() == before != SentenceModel(other).digest()


def test_a_damaged_model_is_one_error(folder: Path, tmp_path: Path) -> None:
    damaged = sentence_model(tmp_path / "damaged")
    (damaged / "model.safetensors").write_bytes(b"nothing")
    check_sentence_model(damaged)
    with pytest.raises(UserError, match=r"judge.sbert_model = .*damaged' cannot be read: "):
        list(SentenceModel(damaged).embed(PAIRS))


def test_what_is_missing_is_told_before_any_work(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    with pytest.raises(UserError, match=r"has a modules\.json: download one"):
        check_sentence_model(tmp_path)
    (tmp_path / "modules.json").write_text("[]")
    monkeypatch.setattr(importlib.util, "find_spec", lambda name: None)
    with pytest.raises(UserError, match=r"needs the extra sbert: pip install sage-jax\[sbert\]"):
        check_sentence_model(tmp_path)


def test_the_package_is_imported_when_a_model_is_read_and_not_before(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    given = builtins.__import__

    def without(name: str, *more: Any) -> Any:
        if name.split(".")[0] == "sentence_transformers":
            raise ImportError(name)
        return given(name, *more)

    monkeypatch.setattr(builtins, "__import__", without)
    monkeypatch.setattr(importlib, "import_module", lambda name: without(name))
    model = SentenceModel(tmp_path)
    assert model.num_texts(PAIRS) == 4
    with pytest.raises(UserError, match="ImportError: sentence_transformers"):
        list(model.embed(PAIRS))
