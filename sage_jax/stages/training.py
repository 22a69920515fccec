"""The training stages of a run: what each starts from, its data, its reference policy, what it leaves."""

from __future__ import annotations

import contextlib
import dataclasses
import functools
import json
import re
from collections.abc import Callable, Sequence
from pathlib import Path

import jax
import numpy as np

from sage_jax.batch import TreeBatch
from sage_jax.config import starts_from
from sage_jax.data import store
from sage_jax.data.records import Record
from sage_jax.data.stream.pipeline import TrainLoader, make_train_loader, visited_records
from sage_jax.data.stream.vit_features import StoredFeatures
from sage_jax.data.trees.encode import ChosenRecords, feature_form, tiles_per_image
from sage_jax.features.cached import KeptFeatures
from sage_jax.features.encoder import VitEncoder
from sage_jax.features.stored import FeatureKey, stored_features
from sage_jax.hf.peft import export_peft_adapter, save_adapters
from sage_jax.journal.plots import plot_losses
from sage_jax.journal.run_log import RunLog
from sage_jax.models.attention.select import attention_of
from sage_jax.models.lora import TRAINED
from sage_jax.models.sage import compute_dtype
from sage_jax.parameters import Params, digest, merge
from sage_jax.process.signals import Interrupted
from sage_jax.stages.preflight import check_finished
from sage_jax.stages.run import Run, prepared_counts
from sage_jax.stages.text_check import TextCheck
from sage_jax.training.checkpoint import StageCheckpoints
from sage_jax.training.loop import FitResult, fit
from sage_jax.training.objectives import PreferenceObjective, stage_objective
from sage_jax.training.optim import partition
from sage_jax.training.reference_policy import ReferenceKey, attach_reference, reference_logps
from sage_jax.training.validation import Validation, split_by_image

Attach = Callable[[TreeBatch], TreeBatch]


@dataclasses.dataclass(frozen=True)
class StageRecords:
    """The training records of a data set as a stage takes them.

    Attributes:
      stored: All of them.
      kept: Indices of those that train.
      held_out: Indices of those that validate.
    """

    stored: Sequence[Record]
    kept: Sequence[int]
    held_out: Sequence[int]

    @property
    def trained(self) -> Sequence[Record]:
        """Those that train."""
        return self.stored if len(self.kept) == len(self.stored) else ChosenRecords(self.stored, self.kept)

    @property
    def validated(self) -> Sequence[Record]:
        """Those that validate."""
        return ChosenRecords(self.stored, self.held_out)


def train(run: Run, stage: str, log: RunLog) -> None:
    """Trains one stage from the stage it starts from.

    Raises:
      Interrupted: A signal stopped it; the next run goes on where it stopped.
      ConfigError: What it starts from is not finished, or not what the run takes it for.
    """
    check_text(run, log, stage)
    start = starts_from(stage)
    if start is not None:
        log_changes(run, start, stage, log)
    log.line(_how_it_computes(run))
    params = run.start_params(stage)
    records = _records_of(run)
    attach, attach_held_out = _reference_of(run, stage, params, records, log)
    features = _features_of(run, stage, params, records, log)
    result = _fit(run, stage, params, records, attach, attach_held_out, features, log)
    if result.interrupted:
        done = f"{result.steps} of {run.config.training(stage).steps} steps"
        raise Interrupted(f"stage {stage} stopped after {done}; its checkpoint is saved")
    if jax.process_index() == 0:
        plot_losses(log.metrics_path, run.run_dir / "loss.png")


def _how_it_computes(run: Run) -> str:
    model, devices = run.config.model, run.mesh.devices
    attention = attention_of(model)
    return (
        f"on {devices.size} x {devices.flat[0].device_kind} in {compute_dtype(model)}: attention = {attention}, "
        f"remat = {model.remat}"
    )


def check_text(run: Run, log: RunLog, *stages: str) -> None:
    """Checks that all text fits, for these stages and for all that the run will come to, before any of them works.

    Raises:
      TreeError: Some does not.
    """
    wanted = [name for name in dict.fromkeys((*stages, *run.config.stage_names)) if not run.is_trained(name)]
    _text_check(run, log).require_fits(wanted)


def _text_check(run: Run, log: RunLog) -> TextCheck:
    max_tokens = run.checkpoint.config.max_positions if run.checkpoint else 0
    return TextCheck(run.config, run.prepared, run.chat, log, max_tokens)


def log_changes(run: Run, name: str, stage: str, log: RunLog) -> None:
    """Logs what has changed in the config since a finished stage was trained, that another one takes.

    Raises:
      ConfigError: It is not what the run takes it for.
    """
    changes = check_finished(run, name, wanted_by=stage) if run.is_trained(name) else []
    if changes:
        log.line(f"the config has changed since {name} was trained:\n  " + "\n  ".join(changes))


def _records_of(run: Run) -> StageRecords:
    stored = store.open_split(run.prepared, "train")
    if not run.config.data.validation_fraction:
        return StageRecords(stored, range(len(stored)), [])
    return StageRecords(stored, *split_by_image(stored, run.config.data.validation_fraction))


def _reference_of(
    run: Run, stage: str, params: Params, records: StageRecords, log: RunLog
) -> tuple[Attach | None, Attach | None]:
    """What gives batches of training and of validation their reference log-probabilities; None where none are read."""
    config = run.config.training(stage)
    objective = stage_objective(stage, config)
    if not isinstance(objective, PreferenceObjective) or config.preference.reference == "none":
        return None, None
    # With LoRA: the same arrays with the new adapters switched off. Computed once, before a step, because the stage
    # may train other parts whole, which no switch brings back.
    reference = {path: leaf for path, leaf in params.items() if not path.endswith(TRAINED)}
    grouped = {"seed": run.config.seed, "group_batches": run.config.data.group_batches}
    drawn = visited_records(len(records.kept), train=config, **grouped)
    scored = records.held_out if config.eval_every else []
    table = reference_logps(
        records.stored,
        ([*(records.kept[i] for i in drawn[0]), *scored], [*(records.kept[i] for i in drawn[1]), *scored]),
        responder=run.responder(reference),
        key=ReferenceKey(digest(reference), run.prepared.revision, run.chat, run.config.model, run.config.text),
        batch_size=run.config.evaluate.batch_size,
        folder=run.run_dir / "reference_logps",
        run=log,
        mesh=run.mesh,
    )
    return attach_reference(table[list(records.kept)]), attach_reference(table[list(records.held_out)])


def _features_of(
    run: Run, stage: str, params: Params, records: StageRecords, log: RunLog
) -> StoredFeatures | KeptFeatures | None:
    """ViT features of the stage's images, stored or kept, where the config wants them and the stage leaves the ViT as
    it is.
    """
    config, data = run.config, run.config.data
    if data.vit_features == "none":
        return None
    trainable, _ = partition(params, config.training(stage).freeze)
    if any(path.startswith("vit/") for path in trainable):
        log.line("data.vit_features has no effect here: the stage trains the ViT")
        return None
    frozen = {path: leaf for path, leaf in params.items() if not path.endswith(TRAINED)}
    if data.vit_features == "memory":
        return _kept_features(run, stage, frozen)
    vit = {path: leaf for path, leaf in frozen.items() if path.startswith("vit/")}
    stored = stored_features(
        records.stored,
        responder=run.responder(frozen),
        key=FeatureKey(digest(vit), run.prepared.revision, config.model),
        batch_size=config.evaluate.batch_size,
        folder=Path(data.cache_dir).expanduser() / "vit_features",
        run=log,
        mesh=run.mesh,
    )
    return stored.chosen(records.kept)


def _kept_features(run: Run, stage: str, params: Params) -> KeptFeatures:
    """What computes the features of this process's images of a batch, and keeps those that `vit_memory_mb` holds."""
    model, train = run.config.model, run.config.training(stage)
    encoder = VitEncoder(run.structure_of(params), params, run.mesh)
    rows = train.batch_size // train.accumulate // jax.process_count()
    return KeptFeatures(
        encoder,
        form=feature_form(model, np.dtype(compute_dtype(model))),
        tiles_at_once=encoder.at_once(rows * tiles_per_image(model)),
        capacity=run.config.data.vit_memory_mb * 10**6,
        by_record=True,
    )


def _fit(
    run: Run,
    stage: str,
    params: Params,
    records: StageRecords,
    attach: Attach | None,
    attach_held_out: Attach | None,
    features: StoredFeatures | KeptFeatures | None,
    log: RunLog,
) -> FitResult:
    """Trains from the parameters, which are used up."""
    config, trained = run.config.training(stage), records.trained
    objective, structure = stage_objective(stage, config), run.structure_of(params, scale=config.lora.scale)
    validation = None
    if config.eval_every:
        validation = Validation(
            records.validated,
            objective=objective,
            train=config,
            graphdef=structure,
            mesh=run.mesh,
            attach=attach_held_out,
            chat=run.chat,
            model=run.config.model,
            text=run.config.text,
        )
    stored = features if isinstance(features, StoredFeatures) else None
    loader = _loader(run, stage, trained, stored, log)
    if loader.shapes:
        log.line(str(loader.shapes))
    kept = features if isinstance(features, KeptFeatures) else None
    run.write_json(f"stages/{stage}/data.json", prepared_counts(run.prepared))
    about = {"keep_last": config.keep_last, "starts_from": run.start_hash(stage)}
    with contextlib.closing(loader), StageCheckpoints(run.stage_dir(stage), **about) as checkpoints:
        result = fit(
            stage=stage,
            run=log,
            train=config,
            # Nothing else may keep the start on the devices: the stage copies what it trains.
            model=merge(structure, _taken(params)),
            objective=objective,
            loader=loader,
            mesh=run.mesh,
            checkpoints=checkpoints,
            config_json=json.dumps(dataclasses.asdict(run.config)),
            record_ids=lambda rows: [trained[int(row)].record_id for row in rows if row >= 0],
            encode=kept.begin if kept else None,
            attach=attach,
            evaluate=validation,
            finish=functools.partial(write_adapters, run, stage) if config.lora.rank else None,
        )
    if kept:
        log.line(f"ViT features of {kept.num_computed:,} images computed")
    return result


def _loader(
    run: Run, stage: str, records: Sequence[Record], features: StoredFeatures | None, log: RunLog
) -> TrainLoader:
    """This process's stream of a stage."""
    data = run.config.data
    return make_train_loader(
        records,
        chat=run.chat,
        model=run.config.model,
        text=run.config.text,
        train=run.config.training(stage),
        seed=run.config.seed,
        num_workers=data.num_workers,
        prefetch=data.prefetch,
        process_index=jax.process_index(),
        process_count=jax.process_count(),
        revision=run.prepared.revision,
        group_batches=data.group_batches,
        features=features,
        largest=None if run.config.text.buckets else _text_check(run, log).largest(stage),
    )


def _taken(params: Params) -> Params:
    """The parameters, which the dictionary no longer holds."""
    taken = dict(params)
    params.clear()
    return taken


def write_adapters(run: Run, stage: str, params: Params) -> None:
    """Writes a stage's adapters beside its parameters: `lora.safetensors` by our paths, `peft/` for PEFT.

    PEFT's go onto the plain model that the first of the stages with LoRA started from: `model.weights`, or else an
    export of that stage.
    """
    config, chain = run.config, [stage]
    lora = before = config.training(stage).lora
    while (start := starts_from(chain[-1])) is not None and run.keeps_adapters(start, before):
        chain.append(start)
        before = run.lora_of(start)

    def is_trained(path: str) -> bool:
        return any(not any(re.match(pattern, path) for pattern in config.training(name).freeze) for name in chain)

    adapted = {path.split("/", 1)[0] for path in params if path.endswith(TRAINED)}
    trained = {path.split("/", 1)[0] for path in params if is_trained(path)} & {"vit", "adapter"}
    base = config.model.weights if starts_from(chain[-1]) == "base" else ""
    save_adapters(params, run.stage_dir(stage) / "lora.safetensors")
    folder = run.stage_dir(stage) / "peft"
    export_peft_adapter(params, lora, config.model, folder, base_model=base, whole=sorted(trained - adapted))
