"""The fields of a config: their paths, their meanings, and the other names that people try."""

from __future__ import annotations

import dataclasses
import difflib
import functools
import inspect
import re
import typing
from collections.abc import Iterator, Sequence
from typing import Any, Final

from sage_jax.config.run import Config
from sage_jax.errors import ConfigError

_LIKE: Final = 0.7
"""Similarity (difflib ratio) from which a misspelt name gets a guess."""

_SYNONYMS: Final = {
    "lr": "peak_learning_rate",
    "learning_rate": "peak_learning_rate",
    "epochs": "steps",
    "num_epochs": "steps",
    "max_steps": "steps",
    "num_steps": "steps",
    "iterations": "steps",
    "warmup": "warmup_steps",
    "batch": "batch_size",
    "bs": "batch_size",
    "gradient_accumulation_steps": "accumulate",
    "grad_accum": "accumulate",
    "max_grad_norm": "clip_norm",
    "train": "num_train",
    "test": "num_test",
    "checkpoint": "model.weights",
    "checkpoint_path": "model.weights",
    "ckpt": "model.weights",
    "pretrained": "model.weights",
    "model_path": "model.weights",
    "model_name_or_path": "model.weights",
    "output": "run_dir",
    "output_dir": "run_dir",
    "out_dir": "run_dir",
    "workdir": "run_dir",
    "save_dir": "run_dir",
    "data_dir": "data.root",
    "dataset": "data.root",
    "data_path": "data.root",
    "workers": "num_workers",
    "image_size": "image_px",
    "threshold": "inspect.threshold",
    "reference": "inspect.references",
    "image": "inspect.images",
    "precision": "compute_dtype",
    "dtype": "compute_dtype",
    "fp16": "compute_dtype",
    "bf16": "compute_dtype",
    "gradient_checkpointing": "remat",
}
"""Names of other programs, and the field of the same meaning: its name in any section, or its path."""

_INSTEAD: Final = {
    "device": "jax takes the accelerators that it finds; JAX_PLATFORMS=cpu in the environment keeps it on the CPU",
    "gpu": "jax takes the accelerators that it finds; CUDA_VISIBLE_DEVICES chooses among GPUs",
    "gpus": "jax takes the accelerators that it finds; CUDA_VISIBLE_DEVICES chooses among GPUs",
    "resume": "the same command goes on where a run stopped; delete the folder of a stage to train it anew",
}


def field_paths(cls: Any = Config) -> Iterator[str]:
    """Every field of a config by its path, a section before its own fields: `seed`, `data`, `data.root`."""
    for name, hint in typing.get_type_hints(cls).items():
        yield name
        if dataclasses.is_dataclass(hint):
            yield from (f"{name}.{inner}" for inner in field_paths(hint))


def field_meanings(config_class: type) -> dict[str, str]:
    """Meaning of each field, by name, from the `Attributes` of the docstrings of the class and those it extends.

    One entry may describe several fields: `num_questions, num_answers: ...`.
    """
    found = {}
    for each in reversed(config_class.__mro__[:-1]):
        _, _, attributes = (inspect.getdoc(each) or "").partition("Attributes:\n")
        for entry in re.split(r"\n(?=  \w)", attributes.rstrip()):
            names, colon, text = entry.partition(":")
            if colon:
                found |= {name.strip(): " ".join(text.split()) for name in names.split(",")}
    return found


@functools.cache
def _known() -> tuple[str, ...]:
    """All paths, found once: every argument of a command line is looked up among them."""
    return tuple(field_paths())


def check_known(path: str) -> None:
    """Checks that a path names a field.

    Raises:
      ConfigError: It does not; the message has the field of the same meaning, or the paths most like it.
    """
    known = _known()
    if path in known:
        return
    section, _, name = path.rpartition(".")
    if name in _INSTEAD:
        raise ConfigError(f"--config.{path}: no such field; {_INSTEAD[name]}")
    likely = _likely(section, name, known)
    if likely:
        cure = "did you mean " + " or ".join(f"--config.{each}" for each in likely) + "?"
    else:
        inside = section if section in known else ""
        siblings = [each for each in known if each.rpartition(".")[0] == inside]
        cure = f"there are {', '.join(siblings)}" if siblings else f"{section} has no fields of its own"
    raise ConfigError(f"--config.{path}: no such field; {cure}")


def _likely(section: str, name: str, known: Sequence[str]) -> list[str]:
    """Paths of the field that a wrong name may mean: a synonym's, or of the field spelt most like it."""
    by_name: dict[str, list[str]] = {}
    for each in known:
        by_name.setdefault(each.rpartition(".")[2], []).append(each)
    wanted = _SYNONYMS.get(name.lower().replace("-", "_"), "")
    if wanted in known:
        return [wanted]
    match = [wanted] if wanted else difflib.get_close_matches(name, by_name, n=1, cutoff=_LIKE)
    if not match:
        return []
    likely = by_name[match[0]]
    inside = [each for each in likely if each.rpartition(".")[0] == section]
    if inside or not section:
        return inside or likely
    path = f"{section}.{match[0]}"
    closest = max(likely, key=lambda each: difflib.SequenceMatcher(None, path, each).ratio())
    return [closest] if difflib.SequenceMatcher(None, path, closest).ratio() >= _LIKE or wanted else []
