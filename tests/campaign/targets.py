"""Inputs that are mutated, one small good one of each kind, with what reads it."""

from __future__ import annotations

import dataclasses
import importlib.resources
import io
import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
from PIL import Image

from sage_jax.benchmark.manta import read_manta
from sage_jax.benchmark.mmad import read_mmad
from sage_jax.benchmark.question_json import QuestionSet
from sage_jax.config import (
    BenchmarkConfig,
    Config,
    DataConfig,
    DecoderConfig,
    FusionConfig,
    ModelConfig,
    TextConfig,
    VitConfig,
    from_config_dict,
)
from sage_jax.config.command_line import read_config
from sage_jax.data.adpl.facts import load_vocabulary
from sage_jax.data.images import decode_mask, decode_rgb
from sage_jax.data.sources import adpl_json
from sage_jax.data.sources.readers import read_records
from sage_jax.data.trees.tokenizer import load_tokenizer, save_tokenizer, train_tokenizer
from sage_jax.errors import UserError
from sage_jax.hf.config import CheckpointConfig, read_checkpoint_config
from sage_jax.hf.generation_config import read_generation_config
from sage_jax.hf.importing import open_checkpoint
from sage_jax.hf.tokenizer import read_tokenizer
from sage_jax.journal.summary import load_summary
from sage_jax.process.checksums import open_bytes, open_json, sealed_bytes, sealed_json
from sage_jax.stages.open_model import config_of
from sage_jax.training.reference_policy import _PartialTable
from tests.campaign.journal_targets import plain_journals, sealed_journals
from tests.campaign.stored_targets import stored_files
from tests.support.question_sets import write_manta, write_mmad
from tests.support.tiny_internvl import save_internvl, torch_internvl
from tests.support.tiny_tokenizers import qwen_tokenizer, save_internlm2
from tests.support.trainer_rows import PREFERENCES


@dataclasses.dataclass(frozen=True)
class Target:
    """A kind of input.

    Attributes:
      name: Its name.
      path: Where it is written.
      content: A good one.
      read: What reads it; an error of the user's is a `UserError`.
      sealed: Whether it has a checksum, so that nothing else than `value` may be read.
      value: What the good one holds, where it is sealed.
    """

    name: str
    path: Path
    content: bytes
    read: Callable[[Path], Any]
    sealed: bool = False
    value: Any = None


def targets(folder: Path) -> list[Target]:
    """All kinds, their files in a folder."""
    folder.mkdir(parents=True)
    files = (*_images(folder), *_checkpoint(folder / "checkpoint"), *_of_a_run(folder / "run"))
    return [*_data(folder / "data"), *_question_sets(folder / "sets"), *files, *_stored(folder / "stored")]


def _stored(folder: Path) -> list[Target]:
    """What a run stores: of what is sealed, whatever is read must be what was written."""
    sealed = [*stored_files(folder), *sealed_journals(folder)]
    return [
        *(
            Target(each.name, each.path, each.path.read_bytes(), each.read, True, each.read(each.path))
            for each in sealed
        ),
        *(Target(each.name, each.path, each.path.read_bytes(), each.read) for each in plain_journals(folder)),
    ]


def _png(side: int, seed: int, *, mask: bool = False) -> bytes:
    rng = np.random.default_rng(seed)
    noise = rng.integers(0, 256, (side, side, 3), np.uint8)
    pixels = np.where(noise[..., 0] < 50, np.uint8(255), np.uint8(0)) if mask else noise
    buffer = io.BytesIO()
    Image.fromarray(pixels).save(buffer, "PNG")
    return buffer.getvalue()


def _item(number: int) -> dict[str, Any]:
    said = ("Yes. There is a scratch.", "Yes.", "No.", "No. It is fine.")
    asked = [
        {"question_en": f"Is there a scratch {index}?", "answer_options": [{"answer_en": answer} for answer in said]}
        for index in range(5)
    ]
    return {
        "domain": "cap",
        "pair_type": "standard comparison",
        "test_image": f"cap/{number}.png",
        "reference_image": "cap/good.png",
        "question_answer": asked,
        "facts": ["A cap."],
        "id": f"r{number}",
    }


def _data(folder: Path) -> list[Target]:
    """Data sets: AD-PL, lists, a vocabulary."""
    (folder / "cap").mkdir(parents=True)
    for name in ("0", "1", "2", "good"):
        (folder / "cap" / f"{name}.png").write_bytes(_png(16, len(name)))

    def records(data: DataConfig) -> Callable[[Path], Any]:
        def read(path: Path) -> int:
            given = dataclasses.replace(data, root=str(path if path.suffix == ".json" else folder))
            return sum(1 for split in ("train", "test") for _ in read_records(given, split, 0))

        return read

    adpl = DataConfig(source="adpl", root="x", images_root=str(folder), num_train=0, num_test=0)
    rows = DataConfig(source="rows", root="x", images_root=str(folder), num_train=0, num_test=0)
    preferences = "\n".join(json.dumps(make(["cap/good.png", "cap/0.png"])) for make in PREFERENCES.values())
    meta = DataConfig(source="meta", root="x", images_root=str(folder), num_train=0, num_test=0)
    listed = {
        split: {"cap": [{"img_path": f"cap/{index}.png", "mask_path": "", "specie_name": "good", "anomaly": 0}]}
        for split, index in (("train", 0), ("test", 1))
    }
    lines = "\n".join(json.dumps(_item(index)) for index in range(3))
    return [
        Target(
            "AD-PL list",
            folder / "adpl.json",
            json.dumps([_item(i) for i in range(3)], indent=1).encode(),
            records(adpl),
        ),
        Target("AD-PL lines", folder / "lines.json", lines.encode(), records(adpl)),
        Target("rows of trainers", folder / "rows.json", preferences.encode(), records(rows)),
        Target("AD-PL structure", folder / "items.json", lines.encode(), lambda path: len(adpl_json.read_items(path))),
        Target("meta.json", folder / "meta.json", json.dumps(listed).encode(), records(meta)),
        Target("vocabulary", folder / "words.toml", _vocabulary(), lambda path: load_vocabulary(str(path))),
    ]


def _question_sets(folder: Path) -> list[Target]:
    """Files of benchmarks."""
    mmad, manta = write_mmad(folder), write_manta(folder)
    known = folder / "domain_knowledge.json"
    of_mmad = BenchmarkConfig(root=str(mmad), knowledge=str(known))

    def read(config: BenchmarkConfig, reader: Callable[[BenchmarkConfig], QuestionSet]) -> Callable[[Path], Any]:
        def found(path: Path) -> Any:
            questions = reader(config)
            return len(questions.items), [str(fault) for fault in questions.faults]

        return found

    of_manta = BenchmarkConfig(name="manta", root=str(manta))
    return [
        Target("mmad.json", mmad, mmad.read_bytes(), read(of_mmad, read_mmad)),
        Target("domain_knowledge.json", known, known.read_bytes(), read(of_mmad, read_mmad)),
        Target("MANTA's questions", manta, manta.read_bytes(), read(of_manta, read_manta)),
    ]


def _vocabulary() -> bytes:
    """The built-in vocabulary."""
    return importlib.resources.files("sage_jax.data.adpl").joinpath("vocabulary.toml").read_bytes()


def _images(folder: Path) -> list[Target]:
    jpeg = io.BytesIO()
    Image.fromarray(np.random.default_rng(0).integers(0, 256, (24, 32, 3), np.uint8)).save(jpeg, "JPEG")

    def decode(path: Path) -> Any:
        return decode_rgb(path.read_bytes(), name=path.name).shape

    def mask(path: Path) -> Any:
        return decode_mask(path.read_bytes(), name=path.name).shape

    return [
        Target("PNG", folder / "a.png", _png(24, 0), decode),
        Target("JPEG", folder / "a.jpg", jpeg.getvalue(), decode),
        Target("mask", folder / "mask.png", _png(24, 1, mask=True), mask),
    ]


def _checkpoint(folder: Path) -> list[Target]:
    """Files of a published checkpoint."""
    tokenizer, peer = qwen_tokenizer(), torch_internvl("qwen2")
    peer.config.image_token_id = tokenizer.get_vocab()["<IMG_CONTEXT>"]
    save_internvl(peer, folder)
    tokenizer.save_pretrained(str(folder))
    model = ModelConfig(fusion=FusionConfig(num_heads=2))
    (folder / "generation_config.json").write_text(json.dumps({"do_sample": True, "top_p": 0.8, "eos_token_id": [2]}))
    words = folder.parent / "words"
    save_internlm2(words)
    llama = CheckpointConfig("internvl", "llama", VitConfig(), DecoderConfig(), 2, 1000, 0, {})
    weights = next(iter(sorted(folder.glob("*.safetensors"))))
    config = read_checkpoint_config(folder)

    def opened(path: Path) -> Any:
        return open_checkpoint(str(folder), model).fingerprint()

    def generation(path: Path) -> Any:
        return read_generation_config(folder, config)

    def pieces(path: Path) -> Any:
        return len(read_tokenizer(words, llama))

    def there(name: str, path: Path, read: Callable[[Path], Any]) -> Target:
        return Target(name, path, path.read_bytes(), read)

    def own_tokenizer(path: Path) -> Any:
        return len(read_tokenizer(folder, dataclasses.replace(config, vocab_size=1000)))

    return [
        there("config.json", folder / "config.json", lambda _: read_checkpoint_config(folder)),
        _exported_config(folder.parent / "exported"),
        there("generation_config.json", folder / "generation_config.json", generation),
        there("safetensors", weights, opened),
        there("tokenizer.json of a checkpoint", folder / "tokenizer.json", own_tokenizer),
        there("SentencePiece", words / "tokenizer.model", pieces),
        there("tokenizer_config.json", words / "tokenizer_config.json", pieces),
    ]


def _exported_config(folder: Path) -> Target:
    """config.json of an export, with the settings of SAGE, as a folder that holds nothing else is opened."""
    folder.mkdir()
    text, fusion = dataclasses.asdict(TextConfig()), dataclasses.asdict(FusionConfig())
    own = {name: text[name] for name in ("max_facts", "max_fact_tokens", "assist_prompt", "assist_position")}
    sage = {**own, "reference": "fusion", "system": "Be brief.", "fusion": fusion, "max_tiles": 2, "facts_as": "text"}
    about = {"model_type": "internvl", "sage": {**sage, "max_new_tokens": 9, "language": "zh", "bits": 0}}
    content = json.dumps(about).encode()
    return Target("config.json of an export", folder / "config.json", content, lambda path: config_of(path.parent))


def _of_a_run(folder: Path) -> list[Target]:
    """Files that a run leaves and reads again."""
    folder.mkdir()
    save_tokenizer(train_tokenizer(["Is there a dent? Yes. No."] * 3, 300), folder / "tokenizer")
    summary = {"stages": {"sfe": {"seconds": 1.0, "peak_memory_gb": 1.0}}, "metrics": {}}
    about = {"weights": "ab", "config": dataclasses.asdict(Config())}
    about = json.loads(json.dumps(about))
    table = np.random.default_rng(0).random((3, 2, 2)).astype(np.float32).tobytes()
    tokenizer = folder / "tokenizer" / "tokenizer.json"

    def tokens(path: Path) -> Any:
        return load_tokenizer(folder / "tokenizer").get_vocab()

    def sealed(path: Path) -> Any:
        try:
            return open_json(path.read_text(encoding="utf-8"))
        except ValueError as error:
            raise _refused(path, error) from None

    def bytes_of(path: Path) -> Any:
        try:
            return open_bytes(path.read_bytes())
        except ValueError as error:
            raise _refused(path, error) from None

    def run_config(path: Path) -> Any:
        return from_config_dict(dataclasses.asdict(config_of(folder)))

    def overrides(path: Path) -> Any:
        arguments = path.read_bytes().decode("utf-8", "surrogateescape").split("\n")
        return dataclasses.asdict(read_config(["--config", "quickstart", *arguments]))

    def partial(path: Path) -> Any:
        found = _PartialTable(path, 3, 2).added_to(None)
        return None if found is None else found.tobytes()

    parts = _PartialTable(folder / "logps.partial", 3, 2)
    for number in (0, 1):
        logps = np.full((2, 2, 2), 0.5 + number, np.float32)
        parts.append(parts.entry(1, np.array([number, 2]), np.array([True, True]), logps))
    fields = ("sfe.steps=400", "data.held_out=('gear',)", "model.fusion.num_heads=2", "seed=3")
    given = "\n".join(f"--config.{field}" for field in fields)
    config = json.dumps(dataclasses.asdict(Config())).encode()
    return [
        Target("config overrides", folder / "overrides", given.encode(), overrides),
        Target("table under way", folder / "logps.partial", (folder / "logps.partial").read_bytes(), partial),
        Target("config.json of a run", folder / "config.json", config, run_config),
        Target("summary.json", folder / "summary.json", json.dumps(summary).encode(), load_summary),
        Target(
            "sealed summary.json",
            folder / "sealed_summary.json",
            json.dumps(sealed_json(summary)).encode(),
            load_summary,
        ),
        Target("sealed JSON", folder / "DONE.json", json.dumps(sealed_json(about)).encode(), sealed, True, about),
        Target("sealed table", folder / "table", sealed_bytes(table), bytes_of, True, table),
        Target("tokenizer.json", tokenizer, tokenizer.read_bytes(), tokens, True, tokens(tokenizer)),
    ]


def _refused(path: Path, error: ValueError) -> UserError:
    return UserError(f"{path}: {error}")
