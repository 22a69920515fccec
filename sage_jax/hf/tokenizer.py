"""A checkpoint's own tokenizer and conversation; files are read, nothing that comes with them is run."""

from __future__ import annotations

import json
import re
from pathlib import Path
from typing import Any, Final

from tokenizers import AddedToken, processors
from transformers import PreTrainedTokenizerFast

from sage_jax.data.trees.conversations import CONVERSATIONS, TRANSFORMERS, Conversation
from sage_jax.data.trees.tokenizer import COMPARISON_TOKEN, IMAGE_TOKEN, TEMPLATE_TOKENS, steps_of
from sage_jax.hf.chat_template import render_probe
from sage_jax.hf.config import CheckpointConfig
from sage_jax.hf.faults import WeightsError, listed
from sage_jax.hf.sentencepiece_model import convert_sentencepiece

_RENDERED: Final = re.compile(
    r"(?:<\|im_start\|>system\n(?P<system>.*?)<\|im_end\|>(?P<first>\s*))?"
    r"<\|im_start\|>user\n(?:<image>|(?:<img>)?<IMG_CONTEXT>(?:</img>)?)\nask 1<\|im_end\|>(?P<between>\s*)"
    r"<\|im_start\|>assistant\nsay 1<\|im_end\|>(?P=between)"
    r"<\|im_start\|>user\nask 2<\|im_end\|>(?P=between)<\|im_start\|>assistant\n",
    re.DOTALL,
)
_SPECIAL_NAMES: Final = ("bos_token", "eos_token", "unk_token", "pad_token")


def read_tokenizer(folder: Path, config: CheckpointConfig) -> PreTrainedTokenizerFast:
    """The checkpoint's tokenizer with one more special token, `<COMPARISON>`; every other id stays as it is.

    Read from tokenizer.json, or made of vocab.json and merges.txt (Qwen), or of SentencePiece's tokenizer.model
    (InternLM2, Llama), whose Python files are left alone.

    Raises:
      WeightsError: There is none of these or it cannot be read, it is not InternVL's, or it does not fit the weights.
    """
    tokenizer = _read(folder)
    vocab = tokenizer.get_vocab()
    faults = [f"the tokenizer has no token {name}" for name in TEMPLATE_TOKENS[:-1] if name not in vocab]
    highest = max(vocab.values(), default=0)
    if highest >= config.vocab_size:
        faults.append(f"the tokenizer has ids up to {highest}, the weights {config.vocab_size} tokens")
    wanted = config.values.get("image_token_id")
    if wanted is not None and vocab.get(IMAGE_TOKEN, wanted) != wanted:
        faults.append(f"the tokenizer gives {IMAGE_TOKEN} the id {vocab[IMAGE_TOKEN]}, config.json {wanted}")
    if faults:
        raise listed(folder, faults)
    tokenizer.add_tokens(COMPARISON_TOKEN, special_tokens=True)
    if tokenizer.pad_token_id is None:
        tokenizer.pad_token = tokenizer.eos_token or TEMPLATE_TOKENS[1]
    return tokenizer


def find_conversation(folder: Path, config: CheckpointConfig, tokenizer: PreTrainedTokenizerFast) -> Conversation:
    """How the checkpoint writes a conversation: by config.json's `template` (OpenGVLab), else by its chat template.

    A chat template is rendered once, in the sandbox of transformers and with limits on time and memory, and read back,
    so that system message and separators are those of the checkpoint.

    Raises:
      WeightsError: The template is not known, or its turns are not those of InternVL.
    """
    if config.layout == "internvl_chat":
        name = config.values.get("template")
        if name not in CONVERSATIONS:
            raise WeightsError(
                f"{folder}: template = {name!r} in config.json is not supported; supported are "
                f"{', '.join(CONVERSATIONS)}"
            )
        return CONVERSATIONS[name]
    template: Any = tokenizer.chat_template or _json(folder / "chat_template.json").get("chat_template")
    if not template:
        return TRANSFORMERS
    try:
        rendered = render_probe(str(tokenizer.get_chat_template(template)), tokenizer.special_tokens_map)
    except ValueError as error:
        raise WeightsError(f"{folder}: its chat template cannot be rendered ({error})") from None
    match = _RENDERED.fullmatch(rendered.removeprefix(str(tokenizer.bos_token or "")))
    if match is None or match["first"] not in (None, match["between"]):
        raise WeightsError(
            f"{folder}: its chat template is not supported, since a conversation reads {rendered!r}; supported are "
            "turns <|im_start|>role, a new line, the image and a new line, the message, <|im_end|>"
        )
    return Conversation(match["system"] or "", between=match["between"])


def _read(folder: Path) -> PreTrainedTokenizerFast:
    try:
        if (folder / "tokenizer.json").is_file():
            return PreTrainedTokenizerFast.from_pretrained(str(folder), local_files_only=True)
        if (folder / "vocab.json").is_file() and (folder / "merges.txt").is_file():
            from transformers import Qwen2Tokenizer  # half a second, for files that few folders lack

            return Qwen2Tokenizer.from_pretrained(str(folder), local_files_only=True)
        if (folder / "tokenizer.model").is_file():
            return _from_sentencepiece(folder)
    except WeightsError:
        raise
    except Exception as error:  # damaged files make tokenizers raise plain Exception
        raise WeightsError(f"{folder}: its tokenizer cannot be read ({error}); download it again") from None
    raise WeightsError(
        f"{folder}: there is no tokenizer.json, no vocab.json with merges.txt, and no tokenizer.model; download the "
        "checkpoint's tokenizer files too"
    )


def _from_sentencepiece(folder: Path) -> PreTrainedTokenizerFast:
    about = _json(folder / "tokenizer_config.json")
    added = {
        int(index): AddedToken(token["content"], normalized=False, special=bool(token.get("special", True)))
        for index, token in about.get("added_tokens_decoder", {}).items()
    }
    for content, index in _json(folder / "added_tokens.json").items():
        added.setdefault(int(index), AddedToken(content, normalized=False, special=True))
    backend = convert_sentencepiece(folder / "tokenizer.model", added)
    names = {name: _content(about[name]) for name in _SPECIAL_NAMES if about.get(name)}
    names.setdefault("bos_token", "<s>")
    names.setdefault("eos_token", "</s>")
    if about.get("add_bos_token", True):  # both InternLM2's class and Llama's begin with it unless told otherwise
        first = names["bos_token"]
        steps_of(backend).post_processor = processors.TemplateProcessing(
            single=f"{first} $A", pair=f"{first} $A $B", special_tokens=[(first, backend.token_to_id(first))]
        )
    return PreTrainedTokenizerFast(tokenizer_object=backend, clean_up_tokenization_spaces=False, **names)


def _content(token: Any) -> str:
    return token["content"] if isinstance(token, dict) else str(token)


def _json(path: Path) -> dict[str, Any]:
    """Content of a JSON file; nothing where there is none."""
    if not path.is_file():
        return {}
    found = json.loads(path.read_text(encoding="utf-8"))
    return found if isinstance(found, dict) else {}
