"""The stages of a run, in the order that the config gives them."""

from __future__ import annotations

import dataclasses
import functools
import importlib.metadata
import json
import platform
from collections.abc import Callable
from pathlib import Path

import jax
from flax import nnx
from jax.sharding import Mesh

from sage_jax.checkpoint import StageCheckpoints, is_finished, load_final
from sage_jax.config import Config, ConfigError, TrainConfig
from sage_jax.data import adpl
from sage_jax.data.adpl import PreparedData
from sage_jax.data.chat import Chat
from sage_jax.data.facts import load_vocabulary
from sage_jax.data.pipeline import make_train_loader
from sage_jax.evaluate import Examination, evaluate_stage
from sage_jax.files import replace_file
from sage_jax.generate import Decoding, Responder
from sage_jax.models.sage import Placeholders, Sage, copy_text_encoder
from sage_jax.objectives import PreferenceObjective, SftObjective
from sage_jax.parameters import Params, digest, merge, split
from sage_jax.plots import plot_losses
from sage_jax.reference_policy import attach_reference, reference_logps
from sage_jax.run_log import RunLog
from sage_jax.sharding import make_mesh, param_shardings
from sage_jax.summary import print_summary, stage_cost
from sage_jax.train import fit

# Stage -> the stage whose model it starts from; None = fresh weights.
STARTS_FROM: dict[str, str | None] = {"base": None, "plain": "base", "sfe": "base", "dpo": "sfe", "edpo": "sfe"}

PACKAGES = ("jax", "flax", "optax", "orbax-checkpoint", "grain", "tensorflow-datasets", "transformers", "numpy")


class Interrupted(Exception):
    """A stage was stopped by a signal, after its checkpoint was saved."""


class Run:
    """What the stages of one run share: data, chat template, mesh, run directory."""

    def __init__(self, config: Config):
        self.config = config
        self.run_dir = Path(config.run_dir)
        self.summary_path = self.run_dir / "summary.json"

    @functools.cached_property
    def mesh(self) -> Mesh:
        return make_mesh(self.config.mesh)

    @functools.cached_property
    def prepared(self) -> PreparedData:
        """The stored data set, built by this process if no one has built it."""
        prepared = adpl.prepare(self.config.data, self.config.text, seed=self.config.seed, run_dir=self.run_dir)
        self.write_json("data.json", {"revision": prepared.revision, "train": prepared.num_train, "test": prepared.num_test})
        return prepared

    @functools.cached_property
    def chat(self) -> Chat:
        return Chat(self.config.text, self.prepared.tokenizer)

    @functools.cached_property
    def vocabulary(self):
        return load_vocabulary(self.config.data.vocabulary)

    @functools.cached_property
    def graphdef(self) -> nnx.GraphDef[Sage]:
        return split(nnx.eval_shape(self._create))[0]

    def _create(self) -> Sage:
        placeholders = Placeholders(self.chat.image_id, self.chat.comparison_id)
        return Sage(self.config.model, self.chat.vocab_size, placeholders, nnx.Rngs(self.config.seed))

    def fresh_params(self) -> Params:
        """Random parameters, born on their shardings."""
        create = lambda: split(self._create())[1]  # noqa: E731 - jit wants a function, and this is all of it
        shardings = param_shardings(jax.eval_shape(create), self.mesh)
        return jax.jit(create, out_shardings=shardings)()

    def stage_dir(self, stage: str) -> Path:
        return self.run_dir / "stages" / stage

    def trained_params(self, stage: str, *, wanted_by: str) -> Params:
        """Parameters of a finished stage.

        Raises:
          ConfigError: It is not finished; the message says how to run it.
        """
        if not is_finished(self.stage_dir(stage)):
            raise ConfigError(
                f"stage {wanted_by!r} needs stage {stage!r}, which has not finished in {self.run_dir}: "
                f"run with --config.stages={stage},{wanted_by}"
            )
        shapes = jax.eval_shape(lambda: split(self._create())[1])
        return load_final(self.stage_dir(stage), param_shardings(shapes, self.mesh))

    def responder(self, params: Params) -> Responder:
        decoding = Decoding(self.config.evaluate.max_new_tokens, self.chat.end_id, self.chat.verdict_ids)
        return Responder(self.graphdef, params, self.mesh, decoding)

    def examination(self, stage: str, params: Params) -> Examination:
        facts_as = getattr(self.config, stage).facts
        return Examination(self.responder(params), self.chat, self.config, self.vocabulary, facts_as)

    def write_json(self, name: str, content: object) -> None:
        if jax.process_index() == 0:
            replace_file(self.run_dir / name, json.dumps(content, indent=2) + "\n")


def run_stages(config: Config) -> None:
    """Runs the config's stages in order and prints the summary.

    Raises:
      Interrupted: A signal stopped a training stage; the same command goes on from its checkpoint.
    """
    run = Run(config)
    run.write_json("config.json", dataclasses.asdict(config))
    versions = {name: importlib.metadata.version(name) for name in PACKAGES}
    run.write_json("versions.json", {"python": platform.python_version(), "sage_jax": _own_version(), **versions})
    for stage in config.stage_names:
        with RunLog(run.run_dir, stage) as log, stage_cost(run.summary_path, stage):
            _STAGES[stage](run, stage, log)
    if jax.process_index() == 0:
        print_summary(run.summary_path)


def _own_version() -> str:
    try:
        return importlib.metadata.version("sage_jax")
    except importlib.metadata.PackageNotFoundError:
        return "source tree"


def prepare(run: Run, stage: str, log: RunLog) -> None:
    """Builds the data set and its tokenizer, or finds them built."""
    prepared = run.prepared
    log.line(f"{prepared.num_train} training and {prepared.num_test} test records, revision {prepared.revision[:12]}")


def train(run: Run, stage: str, log: RunLog) -> None:
    """Trains one stage from the stage it starts from; a finished stage is not trained again."""
    config: TrainConfig = getattr(run.config, stage)
    directory = run.stage_dir(stage)
    if is_finished(directory):
        log.line(f"finished before; delete {directory} to train it again")
        return
    start = STARTS_FROM[stage]
    params = run.fresh_params() if start is None else run.trained_params(start, wanted_by=stage)
    if start == "base":
        params = copy_text_encoder(params)
    records = adpl.open_split(run.prepared, "train")
    attach = None
    objective = SftObjective(config.similarity_weight)
    if stage in ("dpo", "edpo"):
        objective = PreferenceObjective(config.preference)
        table = reference_logps(
            records,
            responder=run.responder(params),
            weights_digest=digest(params),
            data_revision=run.prepared.revision,
            chat=run.chat,
            model=run.config.model,
            text=run.config.text,
            batch_size=run.config.evaluate.batch_size,
            folder=run.run_dir / "reference_logps",
            run=log,
        )
        attach = attach_reference(table)
    loader = make_train_loader(
        records,
        chat=run.chat,
        model=run.config.model,
        text=run.config.text,
        train=config,
        seed=run.config.seed,
        num_workers=run.config.data.num_workers,
        prefetch=run.config.data.prefetch,
        process_index=jax.process_index(),
        process_count=jax.process_count(),
    )
    with StageCheckpoints(directory, keep_last=config.keep_last) as checkpoints:
        result = fit(
            stage=stage,
            run=log,
            train=config,
            model=merge(run.graphdef, params),
            objective=objective,
            loader=loader,
            mesh=run.mesh,
            seed=run.config.seed,
            checkpoints=checkpoints,
            config_json=json.dumps(dataclasses.asdict(run.config)),
            record_ids=lambda rows: [records[int(row)].record_id for row in rows if row >= 0],
            attach=attach,
        )
    if result.interrupted:
        raise Interrupted(f"stage {stage} stopped after {result.steps} of {config.steps} steps; its checkpoint is saved")
    if jax.process_index() == 0:
        plot_losses(log.metrics_path, run.run_dir / "loss.png")


def evaluate(run: Run, stage: str, log: RunLog) -> None:
    """Scores the config's trained stages on the test records."""
    records = adpl.open_split(run.prepared, "test")
    wanted = run.config.evaluate.num_records
    shown = records[:wanted] if wanted else records
    for name in run.config.evaluate.stages:
        examination = run.examination(name, run.trained_params(name, wanted_by=stage))
        evaluate_stage(name, examination, shown, log)


_STAGES: dict[str, Callable[[Run, str, RunLog], None]] = {
    "prepare": prepare,
    "base": train,
    "plain": train,
    "sfe": train,
    "dpo": train,
    "edpo": train,
    "evaluate": evaluate,
}
