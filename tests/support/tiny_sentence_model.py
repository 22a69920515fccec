"""A small real sentence-transformers model of random weights: BERT of one layer, mean pooling."""

from __future__ import annotations

import importlib
from pathlib import Path

import torch
from transformers import BertConfig, BertModel, BertTokenizer

_WORDS = "no yes . the a is there at cap fine crack top dent".split()


def sentence_model(folder: Path, seed: int = 0) -> Path:
    """Writes the model; needs sentence-transformers."""
    library = importlib.import_module("sentence_transformers")
    folder.mkdir(parents=True)
    vocabulary = folder.parent / f"{folder.name}_vocabulary.txt"
    vocabulary.write_text("\n".join(["[PAD]", "[UNK]", "[CLS]", "[SEP]", "[MASK]", *_WORDS]))
    torch.manual_seed(seed)
    sizes = BertConfig(
        vocab_size=len(_WORDS) + 5,
        hidden_size=32,
        num_hidden_layers=1,
        num_attention_heads=2,
        intermediate_size=64,
        max_position_embeddings=64,
    )
    bert = BertModel(sizes)
    bert.save_pretrained(folder / "bert")
    BertTokenizer(vocab=str(vocabulary)).save_pretrained(folder / "bert")
    layers = importlib.import_module("sentence_transformers.models")
    words = layers.Transformer(str(folder / "bert"))
    model = library.SentenceTransformer(modules=[words, layers.Pooling(32)], device="cpu")
    model.save(str(folder), create_model_card=False)
    return folder
