"""Small tokenizers of the kinds that published InternVL checkpoints have, and their files as they are published."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any, Final

import tokenizers
from tokenizers import models, pre_tokenizers, trainers
from transformers import PreTrainedTokenizerFast, Qwen2Tokenizer
from transformers.convert_slow_tokenizer import import_protobuf

CORPUS: Final = (
    "Is there a defect in this cap? Yes. True, the cap has a scratch near the top.",
    "No. False: yes or no, the thread is whole and the seal is closed.\n\nWhere is it?",
    "你是书生·万象，英文名是InternVL， user\nassistant\nsystem\n",
    "Above is the feature related to the anomaly facts.",
)
QWEN_TOKENS: Final = ("<|endoftext|>", "<|im_start|>", "<|im_end|>", "<img>", "</img>", "<IMG_CONTEXT>", "<quad>")
CHAT_TEMPLATE: Final = (
    "{% for message in messages %}{{'<|im_start|>' + message['role'] + '\n'}}"
    "{% if message['content'] is string %}{{ message['content'] }}{% else %}"
    "{% for content in message['content'] %}{% if content['type'] == 'image' %}{{ '<IMG_CONTEXT>\n' }}"
    "{% elif content['type'] == 'text' %}{{ content['text'] }}{% endif %}{% endfor %}{% endif %}"
    "{{'<|im_end|>\n'}}{% endfor %}{% if add_generation_prompt %}{{'<|im_start|>assistant\n' }}{% endif %}"
)
"""What transformers' InternVL checkpoints carry."""


def qwen_tokenizer(vocab_size: int = 420, *, words: tuple[str, ...] = CORPUS) -> PreTrainedTokenizerFast:
    """Byte-level BPE with Qwen2's splitting, and InternVL's tokens added at the end as its converter does."""
    trained = tokenizers.Tokenizer(models.BPE())
    trained.pre_tokenizer = Qwen2Tokenizer(vocab={}, merges=[]).backend_tokenizer.pre_tokenizer
    trainer = trainers.BpeTrainer(
        vocab_size=vocab_size, initial_alphabet=sorted(pre_tokenizers.ByteLevel.alphabet()), show_progress=False
    )
    trained.train_from_iterator(list(words) * 4, trainer)
    bpe: dict[str, Any] = json.loads(trained.to_str())["model"]
    merges: Any = [tuple(pair) for pair in bpe["merges"]]
    tokenizer = Qwen2Tokenizer(
        vocab=bpe["vocab"],
        merges=merges,
        eos_token="<|im_end|>",
        extra_special_tokens={
            "start_image_token": "<img>",
            "end_image_token": "</img>",
            "context_image_token": "<IMG_CONTEXT>",
            "video_token": "<video>",
        },
    )
    tokenizer.add_tokens(list(QWEN_TOKENS), special_tokens=True)
    tokenizer.chat_template = CHAT_TEMPLATE
    return tokenizer


PIECES: Final = (
    *" ".join(CORPUS[:2]).replace(" ", "▁").replace("\n", ""),
    *"systmuaiY",
    *("▁t", "he", "▁the", "Ye", "Yes", "No", "es", "yes", "▁Yes", "is", "in", "Tr", "Tru", "True", "ue", "er", "us"),
    *("user", "as", "ass", "ist", "st", "ant", "an", "assist", "assistant", "sy", "sys", "em", "system", "ap", "▁c"),
    *("▁cap", "cap", ".", "Is", "▁is", "re", "efect", "ef", "ct", "ect"),
)


def sentencepiece_model(path: Path, *, dummy_prefix: bool = False) -> list[tuple[str, float]]:
    """Writes a SentencePiece BPE model with byte fallback and two unused pieces; its pieces and scores."""
    generated: Any = import_protobuf()
    proto = generated.ModelProto()
    proto.trainer_spec.model_type = 2
    proto.trainer_spec.byte_fallback = True
    proto.trainer_spec.unk_id = 0
    proto.normalizer_spec.add_dummy_prefix = dummy_prefix
    proto.normalizer_spec.remove_extra_whitespaces = False
    pieces: list[tuple[str, float, int]] = [("<unk>", 0.0, 2), ("<s>", 0.0, 3), ("</s>", 0.0, 3)]
    pieces += [(f"<0x{byte:02X}>", 0.0, 6) for byte in range(256)]
    distinct = list(dict.fromkeys(PIECES))
    pieces += [(piece, -float(rank), 1) for rank, piece in enumerate(sorted(distinct, key=lambda p: -len(p)))]
    pieces += [("[UNUSED_TOKEN_145]", 0.0, 4), ("[UNUSED_TOKEN_146]", 0.0, 4)]
    for piece, score, kind in pieces:
        proto.pieces.add(piece=piece, score=score, type=kind)
    path.write_bytes(proto.SerializeToString())
    return [(piece, score) for piece, score, _ in pieces]


def save_internlm2(folder: Path, *, dummy_prefix: bool = False) -> list[tuple[str, float]]:
    """The tokenizer files of an InternLM2 checkpoint of OpenGVLab; `[UNUSED_TOKEN_..]` are renamed as there."""
    folder.mkdir(parents=True, exist_ok=True)
    pieces = sentencepiece_model(folder / "tokenizer.model", dummy_prefix=dummy_prefix)
    names = ["<|im_end|>", "<|im_start|>", "<img>", "</img>", "<IMG_CONTEXT>", "<quad>"]
    added = dict(enumerate(["<unk>", "<s>", "</s>"])) | dict(enumerate(names, start=len(pieces) - 2))
    about = {
        "added_tokens_decoder": {str(index): {"content": name, "special": True} for index, name in added.items()},
        "auto_map": {"AutoTokenizer": ["tokenization_internlm2.InternLM2Tokenizer", None]},
        "tokenizer_class": "InternLM2Tokenizer",
        "bos_token": "<s>",
        "eos_token": "</s>",
        "pad_token": "</s>",
        "unk_token": "<unk>",
    }
    (folder / "tokenizer_config.json").write_text(json.dumps(about), encoding="utf-8")
    (folder / "tokenization_internlm2.py").write_text("raise SystemExit('this file must never run')\n")
    return pieces


def released_form(system: str, between: str, turns: list[tuple[str, str | None]], *, opening: str = "") -> str:
    """A conversation written out: system message, then pairs of question and answer; None leaves an answer open."""
    said = f"{opening}<|im_start|>system\n{system}<|im_end|>{between}" if system else opening
    for question, answer in turns:
        said += f"<|im_start|>user\n{question}<|im_end|>{between}<|im_start|>assistant\n"
        if answer is not None:
            said += f"{answer}<|im_end|>{between}"
    return said
