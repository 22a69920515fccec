"""A checkpoint's tokenizer and conversation: the text that transformers and the released code make of it."""

from __future__ import annotations

import json
import shutil
import tempfile
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import tokenizers
from transformers import PreTrainedTokenizerFast
from transformers.models.got_ocr2.image_processing_pil_got_ocr2 import GotOcr2ImageProcessorPil
from transformers.models.internvl.processing_internvl import InternVLProcessor

from sage_jax.config import TextConfig
from sage_jax.data.trees.chat import Chat
from sage_jax.data.trees.conversations import CONVERSATIONS, TRANSFORMERS
from sage_jax.hf.config import CheckpointConfig, read_checkpoint_config
from sage_jax.hf.faults import WeightsError
from sage_jax.hf.tokenizer import find_conversation, read_tokenizer
from tests.support.tiny_tokenizers import CHAT_TEMPLATE, qwen_tokenizer, released_form, save_internlm2

INTERNVL2 = (
    "你是由上海人工智能实验室联合商汤科技开发的书生多模态大模型，英文名叫InternVL, 是一个有用无害的人工智能助手。"
)
INTERNVL2_5 = (
    "你是书生·万象，英文名是InternVL，是由上海人工智能实验室、清华大学及多家合作单位联合开发的多模态大语言模型。"
)
QUESTION, ANSWER, SECOND = "Is there a defect in this cap?", "Yes. The cap has a scratch.", "Where is it?"
PLAIN = TextConfig(max_facts=2, max_fact_tokens=60, assist_prompt="")


def checkpoint_config(layout: str = "internvl", vocab_size: int = 1000, **values: Any) -> CheckpointConfig:
    """A config.json of small sizes; nothing else of a checkpoint is needed to read its tokenizer."""
    text = {"architectures": ["Qwen2ForCausalLM"], "vocab_size": vocab_size, "model_type": "qwen2"}
    section = "text_config" if layout == "internvl" else "llm_config"
    more = {"ps_version": "v2"} if layout == "internvl_chat" else {}
    values = {"model_type": layout, section: text, "vision_config": {}, **more, **values}
    with tempfile.TemporaryDirectory() as folder:
        (Path(folder) / "config.json").write_text(json.dumps(values), encoding="utf-8")
        return read_checkpoint_config(Path(folder))


@pytest.fixture(scope="module")
def qwen(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("qwen")
    qwen_tokenizer().save_pretrained(str(folder))
    return folder


def chat_of(folder: Path, config: CheckpointConfig, text: TextConfig = PLAIN) -> Chat:
    tokenizer = read_tokenizer(folder, config)
    return Chat(text, tokenizer, find_conversation(folder, config, tokenizer))


def prompt(chat: Chat, num_image_tokens: int, **options: Any) -> list[int]:
    """A prompt without facts: what the base model knows."""
    prefix = chat.prefix_ids(num_image_tokens, facts=(), facts_as="text", **options)
    return [*prefix, *chat.question_ids(QUESTION, facts_as="text")]


class _WithoutVideos(InternVLProcessor):
    """transformers' processor, let off the check of its reader of videos, which needs torchvision."""

    def check_argument_for_proper_class(self, argument_name: str, argument: Any) -> type:
        return type(argument)


def test_text_is_what_transformers_processor_makes(qwen: Path) -> None:
    chat = chat_of(qwen, checkpoint_config())
    tokenizer = PreTrainedTokenizerFast.from_pretrained(str(qwen))
    images = GotOcr2ImageProcessorPil(size={"height": 8, "width": 8}, max_patches=4)
    picture = np.random.default_rng(0).integers(0, 256, (8, 24, 3), dtype=np.uint8)
    processor = _WithoutVideos(images, tokenizer, None, image_seq_length=4, chat_template=CHAT_TEMPLATE)
    turns = [{"role": "user", "content": [{"type": "image"}, {"type": "text", "text": QUESTION}]}]
    said = processor.apply_chat_template(turns, add_generation_prompt=True)
    expected = processor(images=[picture], text=[said])["input_ids"][0]
    assert expected.count(chat.image_id) == 4 * 4  # three tiles and the thumbnail
    assert prompt(chat, 16) == expected
    turns.append({"role": "assistant", "content": [{"type": "text", "text": ANSWER}]})
    turns.append({"role": "user", "content": [{"type": "text", "text": SECOND}]})
    said = processor.apply_chat_template(turns, add_generation_prompt=True)
    expected = processor(images=[picture], text=[said])["input_ids"][0]
    answered = [*prompt(chat, 16), *chat.answer_ids(ANSWER)[:-1], *chat.follow_up_ids(SECOND, facts_as="text")]
    assert answered == expected


@pytest.mark.parametrize(
    ("template", "system", "between"),
    [
        ("internlm2-chat", INTERNVL2, ""),
        ("Hermes-2", INTERNVL2, ""),
        ("internvl2_5", INTERNVL2_5, "\n"),
    ],
    ids=("internlm2-chat", "Hermes-2", "internvl2_5"),
)
@pytest.mark.parametrize("kind", ["qwen", "internlm2", "llama"])
def test_text_is_the_released_conversation(
    template: str, system: str, between: str, kind: str, qwen: Path, tmp_path: Path
) -> None:
    folder, opening = qwen, ""
    if kind != "qwen":
        folder, opening = tmp_path, "<s>"
        save_internlm2(folder, dummy_prefix=kind == "llama")
    config = checkpoint_config("internvl_chat", template=template)
    chat, tokenizer = chat_of(folder, config), read_tokenizer(folder, config)
    image = "<img>" + "<IMG_CONTEXT>" * 5 + "</img>"
    first = (f"{image}\n{QUESTION}", None)
    said = released_form(system, between, [first], opening=opening)
    assert prompt(chat, 5) == tokenizer.encode(said, add_special_tokens=False)
    said = released_form(system, between, [(first[0], ANSWER), (SECOND, None)], opening=opening)
    answered = [*prompt(chat, 5), *chat.answer_ids(ANSWER)[:-1], *chat.follow_up_ids(SECOND, facts_as="text")]
    assert answered == tokenizer.encode(said, add_special_tokens=False)
    two = f"Image-1: {image}\nImage-2: {image}\n{QUESTION}"
    said = released_form(system, between, [(two, None)], opening=opening)
    assert prompt(chat, 5, num_reference_tokens=5) == tokenizer.encode(said, add_special_tokens=False)
    fused = released_form(system, between, [(f"{image}\n<COMPARISON><COMPARISON>\n{QUESTION}", None)], opening=opening)
    ids = [*chat.prefix_ids(5, facts=(), facts_as="fusion"), *chat.question_ids(QUESTION)]
    assert ids == tokenizer.encode(fused, add_special_tokens=False)


def test_system_message_can_be_replaced_and_left_out(qwen: Path) -> None:
    config = checkpoint_config("internvl_chat", template="internvl2_5")
    tokenizer = read_tokenizer(qwen, config)
    for given, expected in (("", INTERNVL2_5), ("Be brief.", "Be brief."), ("none", "")):
        chat = Chat(TextConfig(system=given), tokenizer, CONVERSATIONS["internvl2_5"])
        said = released_form(expected, "\n", [])
        opened = tokenizer.encode(said + "<|im_start|>user\n<img></img>", add_special_tokens=False)
        assert chat.prefix_ids(0, facts=(), facts_as="text").tolist()[: len(opened)] == opened


def test_only_one_token_is_added(qwen: Path) -> None:
    before = PreTrainedTokenizerFast.from_pretrained(str(qwen))
    after = read_tokenizer(qwen, checkpoint_config())
    assert after.get_vocab() == {**before.get_vocab(), "<COMPARISON>": max(before.get_vocab().values()) + 1}
    chat = Chat(PLAIN, after, TRANSFORMERS)
    assert chat.vocab_size == len(before) + 1 and chat.comparison_id == len(before)
    for said in (QUESTION, INTERNVL2, "a <COMPARISON> b"):
        plain = chat.answer_ids(said)[:-1].tolist()
        assert chat.comparison_id not in plain and after.decode(plain) == said
        if "<" not in said:
            assert plain == before.encode(said, add_special_tokens=False)


def test_verdict_ids_are_those_that_open_an_answer(qwen: Path, tmp_path: Path) -> None:
    config = checkpoint_config("internvl_chat", template="internlm2-chat")
    save_internlm2(tmp_path, dummy_prefix=True)
    for folder in (qwen, tmp_path):
        chat = chat_of(folder, config)
        yes, no = chat.verdict_ids
        assert not set(yes) & set(no)
        for words, ids in ((("Yes", "True"), yes), (("No", "False"), no)):
            assert {chat.answer_ids(f"{word}. It is.")[0] for word in words} <= set(ids)
        shown = read_tokenizer(folder, config).convert_ids_to_tokens(list(yes))
        assert any(str(token).lstrip("Ġ▁") == "yes" for token in shown)  # another spelling, one token in both
    spellings = read_tokenizer(tmp_path, config).convert_ids_to_tokens(list(chat_of(tmp_path, config).verdict_ids[0]))
    assert {"Yes", "▁Yes", "yes", "True"} <= set(spellings)


def test_chat_template_of_the_tokenizer_decides_in_transformers_layout(qwen: Path, tmp_path: Path) -> None:
    config, tokenizer = checkpoint_config(), read_tokenizer(qwen, checkpoint_config())
    assert find_conversation(qwen, config, tokenizer).system == ""
    tokenizer.chat_template = "{{ '<|im_start|>system\nBe brief.<|im_end|>\n' }}" + CHAT_TEMPLATE
    assert find_conversation(qwen, config, tokenizer).system == "Be brief."
    tokenizer.chat_template = CHAT_TEMPLATE.replace("<|im_end|>\n", "<|im_end|>")
    assert find_conversation(qwen, config, tokenizer).between == ""
    for other in (
        CHAT_TEMPLATE.replace("<|im_start|>", "<|user|>"),
        "{{ raise_exception('no') }}",
        "{{ 'a' * 10**9 }}",
    ):
        tokenizer.chat_template = other
        with pytest.raises(WeightsError, match="its chat template"):
            find_conversation(qwen, config, tokenizer)
    tokenizer.chat_template = None
    assert find_conversation(tmp_path, config, tokenizer).between == "\n"
    broken = CHAT_TEMPLATE.replace("\n'}}{%", "'}}{%")
    (tmp_path / "chat_template.json").write_text(json.dumps({"chat_template": broken}))
    with pytest.raises(WeightsError, match="its chat template is not supported"):
        find_conversation(tmp_path, config, tokenizer)


def test_tokenizers_that_do_not_fit_are_refused(qwen: Path, tmp_path: Path) -> None:
    with pytest.raises(WeightsError, match=r"no tokenizer\.json, no vocab\.json .* tokenizer\.model; download"):
        read_tokenizer(tmp_path, checkpoint_config())
    with pytest.raises(WeightsError, match="ids up to 4[0-9]+, the weights 300 tokens"):
        read_tokenizer(qwen, checkpoint_config(vocab_size=300))
    with pytest.raises(WeightsError, match="gives <IMG_CONTEXT> the id .*, config.json 7"):
        read_tokenizer(qwen, checkpoint_config(image_token_id=7))
    with pytest.raises(WeightsError, match=r"template = 'phi3-chat' in config.json is not supported; supported are in"):
        config = checkpoint_config("internvl_chat", template="phi3-chat")
        find_conversation(qwen, config, read_tokenizer(qwen, config))
    (tmp_path / "tokenizer.json").write_text("{}")
    with pytest.raises(WeightsError, match="its tokenizer cannot be read"):
        read_tokenizer(tmp_path, checkpoint_config())
    (tmp_path / "tokenizer.json").unlink()
    (tmp_path / "tokenizer.model").write_bytes(b"\xff" * 50)
    with pytest.raises(WeightsError, match="cannot be read as a SentencePiece model|is no BPE model"):
        read_tokenizer(tmp_path, checkpoint_config())


def test_qwen_files_without_tokenizer_json_give_the_same_tokenizer(qwen: Path, tmp_path: Path) -> None:
    whole = PreTrainedTokenizerFast.from_pretrained(str(qwen))
    bpe = json.loads((qwen / "tokenizer.json").read_text())["model"]
    (tmp_path / "vocab.json").write_text(json.dumps(bpe["vocab"]))
    merges = "\n".join(" ".join(pair) for pair in bpe["merges"])
    (tmp_path / "merges.txt").write_text(f"#version: 0.2\n{merges}\n")
    added = {str(index): token.__getstate__() for index, token in whole.added_tokens_decoder.items()}
    about = {"added_tokens_decoder": added, "tokenizer_class": "Qwen2Tokenizer", "eos_token": "<|im_end|>"}
    (tmp_path / "tokenizer_config.json").write_text(json.dumps(about, default=str))
    found, expected = (read_tokenizer(folder, checkpoint_config()) for folder in (tmp_path, qwen))
    assert found.get_vocab() == expected.get_vocab()
    said = released_form(INTERNVL2, "\n", [(f"<img></img>\n{QUESTION}", ANSWER)])
    assert found.encode(said) == expected.encode(said)


def test_words_of_the_vocabulary_come_before_merges_where_the_file_says_so(qwen: Path, tmp_path: Path) -> None:
    """`ignore_merges` of Llama 3's tokenizer.json: a whole word is one token even if no merges lead to it."""
    shutil.copytree(qwen, tmp_path, dirs_exist_ok=True)
    content = json.loads((qwen / "tokenizer.json").read_text(encoding="utf-8"))
    model = content["model"]
    words = ("Ġscratched", "Ġseal", "cap", "Yes")
    vocab: dict[str, int] = model["vocab"]
    free = iter(range(max([*vocab.values(), *(token["id"] for token in content["added_tokens"])]) + 1, 1000))
    vocab |= {word: next(free) for word in words if word not in vocab}
    model["ignore_merges"] = True
    (tmp_path / "tokenizer.json").write_text(json.dumps(content), encoding="utf-8")
    found = read_tokenizer(tmp_path, checkpoint_config())
    expected = tokenizers.Tokenizer.from_file(str(tmp_path / "tokenizer.json"))
    assert found.tokenize(" scratched") == ["Ġscratched"]
    rng = np.random.default_rng(0)
    pieces = [
        "scratched",
        " scratched",
        " seal",
        "cap",
        "Yes",
        "Is it",
        "\n",
        "  ",
        "是",
        "é",
        "1",
        "<img>",
        "x.y",
        "capYes",
    ]
    for _ in range(200):
        said = "".join(rng.choice(pieces, rng.integers(1, 12)))
        ids = found.encode(said, add_special_tokens=False)
        assert ids == expected.encode(said, add_special_tokens=False).ids
        assert found.decode(ids) == expected.decode(ids, skip_special_tokens=False)
    found.save_pretrained(str(tmp_path / "saved"))
    again = PreTrainedTokenizerFast.from_pretrained(str(tmp_path / "saved"))
    assert again.tokenize(" scratched cap") == found.tokenize(" scratched cap")
    model["ignore_merges"] = False
    (tmp_path / "tokenizer.json").write_text(json.dumps(content), encoding="utf-8")
    assert read_tokenizer(tmp_path, checkpoint_config()).tokenize(" scratched") != ["Ġscratched"]
