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
from flax import nnx

from sage_jax.batch import TreeBatch
from sage_jax.config import LEARN, TRAINING_STAGES, ConfigError, starts_from
from sage_jax.data.records import Record
from sage_jax.data.stream.pipeline import StreamOptions, TrainLoader, make_train_loader, visited_records
from sage_jax.data.stream.vit_features import StoredFeatures
from sage_jax.data.trees.encode import ChosenRecords, feature_form, tiles_per_image
from sage_jax.features.cached import CachedFeatures
from sage_jax.features.encoder import VitEncoder
from sage_jax.features.stored import FeatureKey, stored_features
from sage_jax.hf.peft import export_peft_adapter, save_adapters
from sage_jax.journal.plots import plot_losses
from sage_jax.models.attention.select import attention_of
from sage_jax.models.lora import TRAINED
from sage_jax.models.sage import Sage, compute_dtype
from sage_jax.parameters import Params, digest, merge
from sage_jax.plan.recompute import Remat
from sage_jax.stages.prepared import prepared_counts
from sage_jax.stages.provenance import log_changes
from sage_jax.stages.recompute import chosen_remat
from sage_jax.stages.run import Run, Stage, StageCost
from sage_jax.stages.text_check import check_text, largest_tree
from sage_jax.training.checkpoint import StageCheckpoints
from sage_jax.training.loop import FitResult, Trainer
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


def train(stage: Stage) -> StageCost:
    """Trains a stage from the stage that it starts from.

    Raises:
      ConfigError: Its start is not finished, or not the model that the config describes.
    """
    run, log = stage.run, stage.log
    check_text(stage, stage.name)
    start = starts_from(stage.name)
    if start is not None:
        log_changes(stage, start)
    records = _records_of(stage)
    remat = chosen_remat(stage, records.trained)
    log.line(_how_it_computes(run, remat))
    resumed = (run.folder.stage(stage.name) / "checkpoints").is_dir()
    params = run.weights.start(stage.name)
    reference = _reference_of(stage, params, records)
    features = _features_of(stage, params, records)
    structure = run.weights.structure.of(params, scale=run.config.training(stage.name).lora.scale, remat=remat.setting)
    result = _fit(stage, params, structure, records, reference, features)
    stopped = ""
    if result.interrupted:
        done = f"{result.steps} of {run.config.training(stage.name).steps} steps"
        stopped = f"stage {stage.name} stopped after {done}; its checkpoint is saved"
    return StageCost(resumed=resumed, shares=result.shares, counts=result.counts, interrupted=stopped)


def _how_it_computes(run: Run, remat: Remat) -> str:
    model, devices = run.config.model, run.mesh.devices
    return (
        f"on {devices.size} x {devices.flat[0].device_kind} in {compute_dtype(model)}: "
        f"attention = {attention_of(model)}, {remat}"
    )


def _records_of(stage: Stage) -> StageRecords:
    stored, fraction = stage.run.records("train", wanted_by=stage.name), stage.config.data.validation_fraction
    if not len(stored):
        raise ConfigError("there are no training records: check data.root and data.held_out, or raise data.num_train")
    parts: tuple[Sequence[int], Sequence[int]] = (range(len(stored)), [])
    if fraction and stage.name != LEARN:  # which measures on corrections of its own
        parts = split_by_image(stored, fraction)
    if TRAINING_STAGES[stage.name].objective == "preference" and stage.config.data_of(stage.name).source == "rows":
        parts = _ranked(stage, stored, parts)
    return StageRecords(stored, *parts)


def _ranked(
    stage: Stage, stored: Sequence[Record], parts: tuple[Sequence[int], Sequence[int]]
) -> tuple[list[int], list[int]]:
    """Of both parts the records with ranked answers; rows of one answer have none, and there is no order to learn."""
    kept, held_out = (
        [index for index in part if any(len(asked.answers) > 1 for asked in stored[index].questions)] for part in parts
    )
    lacking = sum(map(len, parts)) - len(kept) - len(held_out)
    missing = "validate on" if not held_out and stage.config.training(stage.name).eval_every else ""
    if missing := missing if kept else "train on":
        fraction = stage.config.data.validation_fraction
        raise ConfigError(f"data.validation_fraction = {fraction} leaves no record with ranked answers to {missing}")
    if lacking:
        stage.log.line(f"{lacking} records have questions with one answer alone and are left out of this stage")
    return kept, held_out


@dataclasses.dataclass(frozen=True)
class _Reference:
    """The reference policy of a stage: it completes batches with its log-probabilities.

    Attributes:
      trained, held_out: Complete a batch of training, and of validation; None where no reference is read.
    """

    trained: Attach | None = None
    held_out: Attach | None = None


def _reference_of(stage: Stage, params: Params, records: StageRecords) -> _Reference:
    run, config = stage.run, stage.config.training(stage.name)
    objective = stage_objective(stage.name, config)
    if not isinstance(objective, PreferenceObjective) or config.preference.reference == "none":
        return _Reference()
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
        key=ReferenceKey(digest(reference), run.revision(stage.name), run.tree_format),
        batch_size=run.config.evaluate.rows,
        folder=run.folder.path / "reference_logps",
        log=stage.log,
        mesh=run.mesh,
    )
    return _Reference(attach_reference(table[list(records.kept)]), attach_reference(table[list(records.held_out)]))


def _features_of(stage: Stage, params: Params, records: StageRecords) -> StoredFeatures | CachedFeatures | None:
    """ViT features of the stage's images, stored or cached, where the config wants them and the stage leaves the ViT
    as it is.
    """
    run, config, data = stage.run, stage.config, stage.config.data
    if data.vit_features == "none":
        return None
    trainable, _ = partition(params, config.training(stage.name).freeze)
    if any(path.startswith("vit/") for path in trainable):
        stage.log.line("data.vit_features has no effect here: the stage trains the ViT")
        return None
    frozen = {path: leaf for path, leaf in params.items() if not path.endswith(TRAINED)}
    if data.vit_features == "memory":
        return _kept_features(stage, frozen)
    vit = {path: leaf for path, leaf in frozen.items() if path.startswith("vit/")}
    stored = stored_features(
        records.stored,
        responder=run.responder(frozen),
        key=FeatureKey(digest(vit), run.prepared_for(stage.name).revision, config.model),
        batch_size=config.evaluate.rows,
        folder=Path(data.cache_dir).expanduser() / "vit_features",
        run=stage.log,
        mesh=run.mesh,
    )
    return stored.chosen(records.kept)


def _kept_features(stage: Stage, params: Params) -> CachedFeatures:
    """Features of this process's images, computed with each batch and cached as far as `vit_memory_mb` reaches."""
    run, model, train = stage.run, stage.config.model, stage.config.training(stage.name)
    encoder = VitEncoder(run.weights.structure.of(params), params, run.mesh)
    rows = train.batch_size // train.accumulate // jax.process_count()
    return CachedFeatures(
        encoder,
        form=feature_form(model, np.dtype(compute_dtype(model))),
        tiles_at_once=encoder.at_once(rows * tiles_per_image(model)),
        capacity=run.config.data.vit_memory_mb * 10**6,
        by_record=True,
    )


def _fit(
    stage: Stage,
    params: Params,
    structure: nnx.GraphDef[Sage],
    records: StageRecords,
    reference: _Reference,
    features: StoredFeatures | CachedFeatures | None,
) -> FitResult:
    """Trains from the parameters, which are used up."""
    run, config, trained = stage.run, stage.config.training(stage.name), records.trained
    loader = _loader(stage, trained, features if isinstance(features, StoredFeatures) else None)
    if loader.shapes:
        stage.log.line(str(loader.shapes))
    cached = features if isinstance(features, CachedFeatures) else None
    about_data = prepared_counts(run.prepared_for(stage.name)) | {"tested_on": run.prepared.revision}
    run.folder.write_sealed(f"stages/{stage.name}/data.json", about_data)
    about = {"keep_last": config.keep_last, "starts_from": run.trained.start_hash(stage.name)}
    with contextlib.closing(loader), StageCheckpoints(run.folder.stage(stage.name), **about) as checkpoints:
        trainer = Trainer(
            stage=stage.name,
            log=stage.log,
            train=config,
            objective=stage_objective(stage.name, config),
            loader=loader,
            mesh=run.mesh,
            checkpoints=checkpoints,
            config_json=json.dumps(dataclasses.asdict(run.config)),
            record_ids=lambda rows: [trained[int(row)].record_id for row in rows if row >= 0],
            encode=cached.begin if cached else None,
            attach=reference.trained,
            evaluate=_validation(stage, records, structure, reference) if config.eval_every else None,
            finish=functools.partial(_write_beside, stage),
        )
        # Nothing else may keep the start on the devices: the stage copies what it trains.
        result = trainer.fit(merge(structure, _taken(params)))
    if cached:
        stage.log.line(f"ViT features of {cached.num_computed:,} images computed")
    return result


def _validation(
    stage: Stage, records: StageRecords, structure: nnx.GraphDef[Sage], reference: _Reference
) -> Validation:
    run, config = stage.run, stage.config
    return Validation(
        records.validated,
        objective=stage_objective(stage.name, config.training(stage.name)),
        train=config.training(stage.name),
        graphdef=structure,
        mesh=run.mesh,
        attach=reference.held_out,
        form=run.tree_format,
    )


def _loader(stage: Stage, records: Sequence[Record], features: StoredFeatures | None) -> TrainLoader:
    """This process's stream of a stage."""
    run, data = stage.run, stage.config.data
    options = StreamOptions(
        seed=run.config.seed,
        num_workers=data.num_workers,
        prefetch=data.prefetch,
        process_index=jax.process_index(),
        process_count=jax.process_count(),
        revision=run.revision(stage.name),
        group_batches=data.group_batches,
    )
    largest = None if run.config.text.buckets else largest_tree(stage)
    train = run.config.training(stage.name)
    return make_train_loader(records, run.tree_format, train, options, features=features, largest=largest)


def _taken(params: Params) -> Params:
    """The parameters, which the dictionary no longer holds."""
    taken = dict(params)
    params.clear()
    return taken


def _write_beside(stage: Stage, params: Params) -> None:
    """Writes what goes with a stage's parameters before these are marked whole, or a kill between would lose it."""
    if stage.config.training(stage.name).lora.rank:
        write_adapters(stage, params)
    if jax.process_index() == 0:
        try:
            plot_losses(stage.log.metrics_path, stage.run.folder.path / "loss.png")
        except ValueError as error:  # the model is worth more than its plot
            stage.log.line(f"loss.png is not drawn: {error}")


def write_adapters(stage: Stage, params: Params) -> None:
    """Writes a stage's adapters beside its parameters: `lora.safetensors` by our paths, `peft/` for PEFT.

    PEFT's go onto the plain model that the first of the stages with LoRA started from: `model.weights`, or else an
    export of that stage.
    """
    run, config, chain = stage.run, stage.config, [stage.name]
    lora = before = config.training(stage.name).lora
    while (start := starts_from(chain[-1])) is not None and run.weights.keeps_adapters(start, before):
        chain.append(start)
        before = run.trained.lora(start)

    def is_trained(path: str) -> bool:
        return any(not any(re.match(pattern, path) for pattern in config.training(name).freeze) for name in chain)

    adapted = {path.split("/", 1)[0] for path in params if path.endswith(TRAINED)}
    trained = {path.split("/", 1)[0] for path in params if is_trained(path)} & {"vit", "adapter"}
    given = starts_from(chain[-1]) == "base" and run.start is None
    base = config.model.weights if given else ""
    folder = run.folder.stage(stage.name)
    save_adapters(params, folder / "lora.safetensors")
    whole = sorted(trained - adapted)
    export_peft_adapter(params, lora, config.model, folder / "peft", base_model=base, whole=whole)
