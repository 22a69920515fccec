"""Export of a trained stage: a folder that transformers loads, SAGE in torch beside it, and a model card."""

from __future__ import annotations

import dataclasses
import functools
import hashlib
import json
import shlex
import shutil
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any, Final

import huggingface_hub
import jax

from sage_jax.config import TRAINING_STAGES, Config, ConfigError
from sage_jax.data.trees.conversations import CONVERSATIONS
from sage_jax.data.trees.tokenizer import load_tokenizer
from sage_jax.evaluation.evaluator import Evaluator, scored_of
from sage_jax.hf.config import CheckpointConfig
from sage_jax.hf.config_fields import TEXT_SECTION, TextModel
from sage_jax.hf.config_writer import check_expressible, text_model_of
from sage_jax.hf.exporting import export_checkpoint
from sage_jax.hf.importing import CHECKSUMS, OWN_FILE
from sage_jax.hf.model_card import CardContent, licence_files, model_card, read_base
from sage_jax.hf.original_code import code_files, copy_command
from sage_jax.hf.processor import save_generation_config, save_processor, save_text_files
from sage_jax.hf.torch_module import add_torch_module, sage_settings
from sage_jax.hf.upload import HubApi, check_upload, upload
from sage_jax.journal.run_log import RunLog
from sage_jax.journal.summary import METRICS, MODES, load_summary
from sage_jax.parameters import Params, digest
from sage_jax.process.checksums import damaged, open_json, write_checksums
from sage_jax.process.shortages import raise_if_lacking
from sage_jax.stages.export_record import FILE as RECORD
from sage_jax.stages.export_record import is_exported, note_export
from sage_jax.stages.provenance import log_changes
from sage_jax.stages.run import Stage, StageCost
from sage_jax.training.finished import final_config

_NEAREST_TEMPLATE: Final = "internvl2_5"
"""Of OpenGVLab's conversations the one whose turns are written as those of models trained here."""
_BASE: Final = "base"
"""Folder of the base's licence files."""
_POSITIONS: Final = 32768
"""Positions that a config without `text.buckets` is exported with: RoPE itself has no end."""


@dataclasses.dataclass(frozen=True)
class Exported:
    """The model to export, beside its parameters.

    Attributes:
      evaluator: The model's config, template and hash.
      stage: Stage whose model it is.
      tokenizer: Folder of the run's tokenizer.
      base: Folder of `model.weights` and what its config.json says, or None.
      trained: Folder of each stage that made the model, in order.
    """

    evaluator: Evaluator
    stage: str
    tokenizer: Path
    base: tuple[Path, CheckpointConfig] | None
    trained: Mapping[str, Path]

    @property
    def config(self) -> Config:
        return self.evaluator.config


def export_folder(config: Config) -> Path:
    """Folder that the stage writes."""
    given = config.export.folder
    return Path(given).expanduser() if given else Path(config.run_dir) / "export"


def check_export(config: Config, *, trains: bool = False) -> None:
    """Checks, before any work, that the export can be written and uploaded, or was written before.

    Args:
      trains: Whether a stage is to be trained before it, after which an earlier export is another model's.

    Raises:
      ConfigError: There is something else at its folder.
      WeightsError: The layout has no model that computes the same.
      UploadError: There is no way to the hub.
    """
    folder, run_dir = export_folder(config), Path(config.run_dir).expanduser()
    if folder.exists() and (trains or not is_exported(run_dir, folder, options=_options(config))):
        raise _taken(folder)
    check_expressible(config.model, config.export.layout)
    if config.export.upload_to:
        check_upload(config.export.upload_to)


def export(stage: Stage) -> StageCost:
    """Writes a trained stage as a folder that transformers loads, with a model card; one that it wrote before stays.

    Raises:
      ConfigError: The stage is not trained, there is something else at the folder, or what it wrote there is damaged.
      UploadError: The upload failed; the folder is complete.
    """
    run = stage.run
    name = run.trained.to_answer(stage.config.export.stage, wanted_by=stage.name)
    log_changes(stage, name)
    # The scores are under the hash of the weights as evaluation keeps them; those are gone before the others come.
    scored_as = digest(run.weights.answering(name, wanted_by=stage.name))
    params = run.weights.merged(name, wanted_by=stage.name)
    parts = [part for part in run.trained.lineage(name) if not run.trained.is_imported(part)]
    exported = Exported(
        run.evaluator(name, params, scored_as=scored_as),
        name,
        tokenizer=run.folder.tokenizer,
        base=run.source,
        trained={part: run.folder.stage(part) for part in parts},
    )
    folder, made_of = export_folder(run.config), _made_of(exported, scored_as)
    record = {"options": _options(run.config), "made_of": made_of}
    if not folder.exists():
        note = functools.partial(note_export, run.folder.path, folder, **record)
        write_export(params, exported, log=stage.log, add_files=[note])
    elif is_exported(run.folder.path, folder, **record):
        if bad := damaged(folder, file=CHECKSUMS):
            raise ConfigError(f"{folder / bad[0]}: damaged: not as it was exported: delete {folder} to export it again")
        stage.log.line(f"{name} was exported before: {folder}; delete it to export it again")
        _upload(folder, exported, log=stage.log)
    else:
        raise _taken(folder)
    return StageCost()


def _sealed(folder: Path) -> list[str]:
    """Files that a model is read from, for the list of checksums: its card and licences may be edited."""
    files = [path.relative_to(folder) for path in folder.rglob("*") if path.is_file()]
    return [str(path) for path in files if path.name != "README.md" and path.parts[0] != _BASE]


def _taken(folder: Path) -> ConfigError:
    return ConfigError(
        f"config.export.folder: {folder} is there already: delete it, or give another with --config.export.folder; "
        f"{RECORD} of the run does not have it as what this command would write, from these weights, this config and "
        "the scores of summary.json"
    )


def _options(config: Config) -> str:
    """Hash of how a model is exported; where it is uploaded to is part of its card."""
    return hashlib.sha256(json.dumps(dataclasses.asdict(config.export)).encode()).hexdigest()


def _made_of(exported: Exported, weights: str) -> str:
    """Hash of the weights and of what else a folder's files are made of."""
    config = exported.config
    sections = {name: dataclasses.asdict(getattr(config, name)) for name in ("model", "text", "data", "evaluate")}
    parts = {"weights": weights, "scores": _metrics(exported), "stages": list(exported.trained), **sections}
    return hashlib.sha256(json.dumps(parts, sort_keys=True, default=str).encode()).hexdigest()


def write_export(
    params: Params,
    exported: Exported,
    *,
    log: RunLog,
    add_files: Sequence[Callable[[Path], None]] = (),
    api: HubApi | None = None,
) -> Path:
    """Writes the folder, whole or not at all, then uploads it if it is asked for.

    Args:
      params: Parameters of the stage; every process takes part.
      exported: What they are.
      log: Told what was done.
      add_files: Write what else belongs into the folder before it takes its name.
      api: The hub; huggingface_hub's by default.

    Returns:
      The folder.

    Raises:
      UploadError: The upload failed; the folder is complete.
    """
    config, chat = exported.config, exported.evaluator.chat
    folder, options = export_folder(config), config.export
    writers = [_model_files, _card, *([_torch_module] if options.layout == "internvl" else [])]

    def write(written: Path) -> None:
        for writer in writers:
            writer(exported, written)
        write_checksums(written, _sealed(written), file=CHECKSUMS)
        for add in add_files:
            add(written)

    export_checkpoint(
        params,
        config.model,
        folder,
        layout=options.layout,
        dtype=options.dtype,
        image_token_id=chat.image_id,
        base=_base_values(exported),
        max_shard_bytes=int(options.max_shard_gb * 1e9),
        add_files=write,
    )
    log.line(f"{exported.stage} as {options.layout}, {options.dtype}: {folder}")
    if options.layout == "internvl_chat":
        decoder = _text_model(exported)
        files, command = ", ".join(code_files(decoder)), copy_command(decoder, shlex.quote(str(folder)))
        log.line(f"OpenGVLab's code for it is theirs and not in the folder ({files}); this brings it: {command}")
    if not options.license:
        log.line("export.license is not set: the card states no licence for the model but its base's, if any")
    for account in (path / "data.json" for path in exported.trained.values()):
        if not account.is_file():
            log.line(f"{account} is gone: the card lacks what it says of the data")
    if jax.process_index() == 0 and _no_scores(exported):
        log.line(_no_scores(exported))
    _upload(folder, exported, log=log, api=api)
    return folder


def _upload(folder: Path, exported: Exported, *, log: RunLog, api: HubApi | None = None) -> None:
    """Uploads a folder where that is asked for."""
    options = exported.config.export
    if options.upload_to and jax.process_index() == 0:
        upload(folder, options.upload_to, private=options.private, api=api or huggingface_hub.HfApi())
        log.line(f"uploaded to {options.upload_to}")


def _base_values(exported: Exported) -> dict[str, Any]:
    """config.json to start from: the base's, or what a model trained here says beside its sizes."""
    config, chat = exported.config, exported.evaluator.chat
    values: dict[str, Any]
    if exported.base:
        values = dict(exported.base[1].values)
    else:
        text = {
            "bos_token_id": None,
            "eos_token_id": chat.end_id,
            "pad_token_id": chat.pad_id,
            "max_position_embeddings": max(config.text.buckets, default=_POSITIONS) + config.evaluate.max_new_tokens,
        }
        values = {"model_type": config.export.layout, TEXT_SECTION[config.export.layout]: text}
    if config.export.layout == "internvl_chat":
        values.update(min_dynamic_patch=1, max_dynamic_patch=config.model.max_tiles)
        values.update(dynamic_image_size=config.model.max_tiles > 1, use_thumbnail=config.model.max_tiles > 1)
        values["template"] = _template(exported)
    return values


def _text_model(exported: Exported) -> TextModel:
    config, base = exported.config, exported.base
    return text_model_of(config.model.decoder, config.export.layout, base[1].values if base else None)


def _template(exported: Exported) -> str:
    """OpenGVLab's name of the conversation, or of the nearest that has one."""
    chat = exported.evaluator.chat
    named = exported.base[1].values.get("template") if exported.base else None
    known = named if named in CONVERSATIONS else _NEAREST_TEMPLATE
    # The base's own first: some conversations differ in name and stop tokens alone.
    for name in (known, *CONVERSATIONS):
        found = CONVERSATIONS[name]
        if (found.system, found.between) == (chat.system, chat.conversation.between):
            return name
    return known


def _model_files(exported: Exported, folder: Path) -> None:
    """Tokenizer, templates, processor and generation config; licence files of the base."""
    config, chat = exported.config, exported.evaluator.chat
    is_internvl = config.export.layout == "internvl"
    save_text_files(load_tokenizer(exported.tokenizer), chat, folder, named=is_internvl)
    base = exported.base[0] if exported.base else None
    save_generation_config(chat, base, folder, max_new_tokens=config.evaluate.max_new_tokens)
    if is_internvl:
        save_processor(config.model, folder)
    for path in licence_files(base) if base else ():
        (folder / _BASE).mkdir(exist_ok=True)
        shutil.copyfile(path, folder / _BASE / path.name)


def _torch_module(exported: Exported, folder: Path) -> None:
    config, evaluator = exported.config, exported.evaluator
    settings = sage_settings(
        config.model,
        evaluator.chat,
        facts_as=evaluator.facts_as,
        max_new_tokens=config.evaluate.max_new_tokens,
        bits=config.data.bits,
        finer_map=config.evaluate.map_detail == "pixels",
    )
    add_torch_module(folder, settings)


def _card(exported: Exported, folder: Path) -> None:
    config, options = exported.config, exported.config.export
    recipe, data, counts = [], {}, {}
    for stage, stage_dir in exported.trained.items():
        under = json.loads(final_config(stage_dir))
        fields = dict(under[stage])
        if TRAINING_STAGES[stage].objective != "preference":
            fields.pop("preference")
        recipe.append((stage, {"seed": under["seed"], **fields}))
        data, counts = under["data"], _account(stage_dir / "data.json")
    content = CardContent(
        name=options.upload_to or export_folder(config).name,
        stage=exported.stage,
        layout=options.layout,
        text_model=_text_model(exported),
        dtype=options.dtype,
        facts_as=exported.evaluator.facts_as,
        base=read_base(exported.base[0], options.base_model) if exported.base else None,
        license=options.license,
        data_license=options.data_license,
        recipe=recipe,
        data=data,
        data_counts=counts,
        model=config.model,
        metrics=_metrics(exported),
        headings=METRICS,
        scored_revision=_revision(config),
        no_scores=_no_scores(exported),
        template_note=_template_note(exported),
        language=exported.evaluator.chat.language,
    )
    (folder / "README.md").write_text(model_card(content), encoding="utf-8")


def _template_note(exported: Exported) -> str:
    name, chat = _template(exported), exported.evaluator.chat
    notes = []
    if exported.config.model.vit.stem == "conv":
        notes.append(
            "The vision encoder has a convolutional stem, which no plain InternVL has and without which it sees "
            f"little: `{OWN_FILE}` holds it, and SAGE's torch module or sage_jax adds it."
        )
    if exported.config.export.layout != "internvl" and CONVERSATIONS[name].system != chat.system:
        said = repr(chat.system) if chat.system else "none"
        notes.append(
            f"`template` names OpenGVLab's conversation {name}, whose turns are written as this model's; the system "
            f"message that it was trained with is {said}: set it in the tool that reads this."
        )
    return " ".join(notes)


def _revision(config: Config) -> str:
    """Revision of the data that the run read last, which is what was evaluated."""
    return str(_account(Path(config.run_dir) / "data.json").get("revision", ""))


def _account(path: Path) -> dict[str, Any]:
    """What a run says of its data, for the card; nothing where the file is gone."""
    try:
        return open_json(path.read_text(encoding="utf-8"), always=False)
    except FileNotFoundError:
        return {}
    except (OSError, ValueError) as error:
        raise_if_lacking(error, path)
        raise ConfigError(f"{path}: damaged ({error}): delete it, the card then lacks what it says") from None


def _metrics(exported: Exported) -> dict[str, Any]:
    """Metrics of exactly these weights, by mode: what evaluation wrote under their hash and this config."""
    config = exported.config
    entries = load_summary(Path(config.run_dir) / "summary.json")["metrics"].get(exported.stage, {})
    revision = _revision(config)
    if entries and not revision:
        raise ConfigError(
            f"{Path(config.run_dir) / 'data.json'}: gone, and without it nobody knows whether the scores are of these "
            "data: bring it back, or run the stage prepare, which writes it"
        )
    key = scored_of(exported.evaluator, revision)
    return {mode: entries[mode] for mode in MODES if entries.get(mode, {}).get("scored_of") == key}


def _no_scores(exported: Exported) -> str:
    """Why the card has no scores; "" where it has."""
    if _metrics(exported):
        return ""
    return (
        "No scores: summary.json has none of these weights under this config. The stage evaluate, run with the same "
        "settings before the export, writes them."
    )
