"""A folder with a model, opened for inspection: a run, an exported stage, or a released InternVL checkpoint."""

from __future__ import annotations

import dataclasses
import json
from pathlib import Path
from typing import Any

from sage_jax.config import Config, DataConfig, FusionConfig, ModelConfig, TextConfig, from_config_dict
from sage_jax.errors import ConfigError, UserError
from sage_jax.hf.importing import OWN_FILE
from sage_jax.process.checksums import file_sum
from sage_jax.process.shortages import raise_if_lacking
from sage_jax.stages.folder import CONFIG, CONFIG_SUM
from sage_jax.stages.versions import active_folder

_TEXT_OF_EXPORT = ("max_facts", "max_fact_tokens", "assist_prompt", "assist_position", "reference")
"""Fields of `text` that an export keeps under `sage` in its config.json."""


def config_of(folder: Path | str, *, scratch: Path | None = None) -> Config:
    """The config under which the model of a folder answers.

    Args:
      folder: A run folder (with the config.json of its last command), whose active version is taken, a folder that
        stage `export` wrote, or a folder of a released InternVL checkpoint, whose fusion is fresh: without SAGE's
        training it compares nothing.
      scratch: Run folder for a model that has none of its own; it gets the tokenizer. None = `runs/` and its name.

    Raises:
      UserError: The folder is none of these.
    """
    given = Path(folder).expanduser()
    if not given.is_dir():
        raise UserError(f"{given}: there is no such folder. {_HOW_TO_TRAIN}")
    folder = active_folder(given)
    try:
        about = json.loads((folder / "config.json").read_text(encoding="utf-8"))
    except FileNotFoundError:
        raise UserError(
            f"{folder}: no model is here: neither a run (config.json and stages/) nor a checkpoint (config.json and "
            f"*.safetensors). {_HOW_TO_TRAIN}"
        ) from None
    except (OSError, ValueError, RecursionError) as error:
        raise_if_lacking(error, folder / "config.json")
        raise UserError(f"{folder / 'config.json'}: cannot be read: {error}") from None
    if not isinstance(about, dict):
        raise UserError(f"{folder / 'config.json'}: it is no JSON object: bring it back from a copy")
    _check_seal(folder)
    if "model_type" in about or "architectures" in about:
        return _of_checkpoint(folder, about, scratch or Path("runs") / folder.name)
    try:
        config = from_config_dict(about)
    except ConfigError as error:
        raise UserError(f"{folder / 'config.json'}: no run of this version: {error}. {_HOW_TO_TRAIN}") from None
    return dataclasses.replace(config, run_dir=str(folder))


def _check_seal(folder: Path) -> None:
    """Holds the config of a run against its checksum, where there is one."""
    seal = folder / CONFIG_SUM
    try:
        sealed = seal.read_text("ascii", "replace").strip()
    except FileNotFoundError:
        return
    except OSError as error:
        raise_if_lacking(error, seal)
        raise UserError(f"{seal}: cannot be read: {error}: delete it, and {CONFIG} is read as it stands") from None
    if sealed != file_sum(folder / CONFIG):
        raise UserError(
            f"{folder / CONFIG}: damaged, or changed by hand: it is not as the run wrote it. Bring it back from a "
            f"copy; to read it as it stands, delete {seal}"
        )


_HOW_TO_TRAIN = (
    "`sage-jax train quickstart` trains a model, and so does `python -m sage_jax.main --config quickstart`; name the "
    "folder of such a run"
)


def _of_checkpoint(folder: Path, about: dict[str, Any], scratch: Path) -> Config:
    """The config of a checkpoint; an export's own settings are in its config.json."""
    sage = about.get("sage")
    if sage is None:
        if (folder / OWN_FILE).exists():
            raise UserError(
                f"{folder / 'config.json'}: the settings of SAGE are missing; layout internvl of the export keeps them"
            )
        text = TextConfig(max_fact_tokens=64, max_answer_tokens=80)  # as configs/sage_8b.py
        return Config(run_dir=str(scratch), text=text, model=ModelConfig(weights=str(folder)))
    try:
        return _of_export(folder, sage, scratch)
    except (KeyError, TypeError, AttributeError) as error:
        raise UserError(f"{folder / 'config.json'}: sage: {error} is lacking or of another kind: export anew") from None


def _of_export(folder: Path, sage: dict[str, Any], scratch: Path) -> Config:
    text = TextConfig(system=sage["system"] or "none", **{name: sage[name] for name in _TEXT_OF_EXPORT})
    model = ModelConfig(weights=str(folder), fusion=FusionConfig(**sage["fusion"]), max_tiles=sage["max_tiles"])
    config = Config(run_dir=str(scratch), text=text, model=model, data=_data_of(sage, folder))
    return dataclasses.replace(
        config,
        base=dataclasses.replace(config.base, facts=sage["facts_as"]),
        evaluate=dataclasses.replace(
            config.evaluate, max_new_tokens=sage["max_new_tokens"], map_detail=sage.get("map_detail", "tokens")
        ),
    )


def _data_of(sage: dict[str, Any], folder: Path) -> DataConfig:
    """Data of the model's language: no data set of it is known, and only AD-PL has texts of several languages."""
    language, bits = sage.get("language", "en"), sage.get("bits", 0)
    if language == "en":
        return DataConfig(bits=bits)
    return DataConfig(source="adpl", root=str(folder), language=language, bits=bits)
