"""What the stages of one run share: data, chat template, vocabulary, mesh, trained models, run directory."""

from __future__ import annotations

import contextlib
import dataclasses
import functools
import json
import os
import shutil
from pathlib import Path
from typing import Any

import jax
from flax import nnx
from jax.experimental import multihost_utils
from jax.sharding import Mesh

from sage_jax.config import Config, ConfigError, LoraConfig, starts_from
from sage_jax.data import store
from sage_jax.data.adpl.facts import Vocabulary, load_vocabulary
from sage_jax.data.store import PreparedData
from sage_jax.data.trees.chat import Chat
from sage_jax.data.trees.tokenizer import load_tokenizer, save_tokenizer
from sage_jax.evaluation.evaluator import Examination
from sage_jax.generation.responder import Decoding, Responder
from sage_jax.generation.sampling import Sampling
from sage_jax.generation.unstacked import with_layers_apart
from sage_jax.hf.config import CheckpointConfig
from sage_jax.hf.faults import WeightsError
from sage_jax.hf.generation_config import read_generation_config
from sage_jax.hf.importing import Checkpoint, import_params, open_checkpoint
from sage_jax.hf.tokenizer import find_conversation, read_tokenizer
from sage_jax.models.lora import ADDED, fold, is_plain, layers_of, merge_adapters, structure_of
from sage_jax.models.sage import Placeholders, Sage, copy_text_encoder
from sage_jax.parameters import Params, digest, split
from sage_jax.process.files import replace_file
from sage_jax.process.signals import Interrupted
from sage_jax.process.stop_request import stop_if_asked
from sage_jax.sharding import make_mesh, param_shardings
from sage_jax.training.checkpoint import final_config, final_shapes, final_weights, is_finished, load_final
from sage_jax.training.lora_params import adapted_parts, keep, keeps_adapters, narrow, start_params


class Run:
    """A run directory and what its stages share, each part made when it is first asked for.

    Attributes:
      config: The run, its own folders resolved; with `model.weights`, the model has the checkpoint's sizes.
      checkpoint: The checked checkpoint of `model.weights`, or None. Its model stands in for the one of stage `base`.
      run_dir: Folder of everything that the run writes.
      summary_path: Costs and metrics of its stages.

    Raises:
      WeightsError: The checkpoint has faults; all are listed.
      ConfigError: The config contradicts it.
    """

    def __init__(self, config: Config):
        self.checkpoint: Checkpoint | None = None
        if config.model.weights:
            self.checkpoint = open_checkpoint(config.model.weights, config.model)
            config = dataclasses.replace(config, model=self.checkpoint.model)
            _check_positions(config, self.checkpoint.config.max_positions)
            _check_decoding(config, self.checkpoint.config)
        inspect = dataclasses.replace(config.inspect, output=os.path.expanduser(config.inspect.output))
        self.config = dataclasses.replace(config, run_dir=os.path.expanduser(config.run_dir), inspect=inspect)
        self._structures: dict[Any, nnx.GraphDef[Sage]] = {}
        self.run_dir = Path(self.config.run_dir)
        self.summary_path = self.run_dir / "summary.json"

    @functools.cached_property
    def mesh(self) -> Mesh:
        """All devices."""
        return make_mesh(self.config.mesh)

    @functools.cached_property
    def prepared(self) -> PreparedData:
        """The stored data set, built by the first process if no one has built it; the others wait, then find it.

        Raises:
          Interrupted: A signal has come.
        """
        build = functools.partial(
            store.prepare, self.config.data, self.config.text, seed=self.config.seed, run_dir=self.run_dir
        )
        first = None
        with contextlib.suppress(Interrupted):  # told below, by all processes together
            first = build() if jax.process_index() == 0 else None
        barrier("data prepared")
        stop_if_asked("stopped while the data set was prepared; a build is whole or not kept")
        prepared = first or build()
        self.write_json("data.json", prepared_counts(prepared))
        return prepared

    @functools.cached_property
    def chat(self) -> Chat:
        """The chat template with the tokenizer of this run: that of `model.weights`, else one trained on the data.

        It belongs to the run's models: once one has begun to train it stays, whatever data later stages read, and
        inspection needs no data set.

        Raises:
          WeightsError: The checkpoint's tokenizer or conversation is missing or not supported.
        """
        folder = self.tokenizer_dir
        if not ((self.run_dir / "stages").is_dir() and folder.is_dir()):
            tokenizer = read_tokenizer(*self.weights) if self.weights else self.prepared.tokenizer
            if jax.process_index() == 0:
                shutil.rmtree(folder, ignore_errors=True)
                save_tokenizer(tokenizer, folder)
            barrier("tokenizer saved")
        saved = load_tokenizer(folder)
        if not self.weights:
            return Chat(self.config.text, saved)
        stop_ids = read_generation_config(*self.weights).stop_ids
        return Chat(self.config.text, saved, find_conversation(*self.weights, saved), stop_ids)

    @property
    def tokenizer_dir(self) -> Path:
        """Folder of the run's tokenizer; there once `chat` was asked for."""
        return self.run_dir / "tokenizer"

    @property
    def weights(self) -> tuple[Path, CheckpointConfig] | None:
        """Folder of `model.weights` and what its config.json says."""
        checkpoint = self.checkpoint
        return (Path(self.config.model.weights).expanduser(), checkpoint.config) if checkpoint else None

    @functools.cached_property
    def vocabulary(self) -> Vocabulary:
        """Objects, defects and their names."""
        return load_vocabulary(self.config.data.vocabulary)

    @functools.cached_property
    def graphdef(self) -> nnx.GraphDef[Sage]:
        """Structure of the plain model."""
        return split(nnx.eval_shape(self._create))[0]

    def structure_of(self, params: Params, *, scale: float = 1.0) -> nnx.GraphDef[Sage]:
        """Structure for parameters that may have adapters or quantised kernels; the same object for the same kind."""
        if all(map(is_plain, layers_of(params).values())):
            return self.graphdef
        kind = tuple((path, params[path].dtype) for path in sorted(params)), scale
        if kind not in self._structures:
            self._structures[kind] = structure_of(nnx.eval_shape(self._create), params, scale=scale)
        return self._structures[kind]

    def _create(self) -> Sage:
        in_prompt = self.config.text.reference == "prompt"
        placeholders = Placeholders(self.chat.image_id, self.chat.comparison_id, in_prompt)
        # A checkpoint's table may have more rows than its tokenizer has tokens, and fewer than one with new tokens.
        stored = self.checkpoint.config.vocab_size if self.checkpoint else 0
        vocab_size = max(self.chat.vocab_size, stored)
        return Sage(self.config.model, vocab_size, placeholders, nnx.Rngs(self.config.seed))

    def parameter_shapes(self) -> Params:
        """Every parameter's path and shape, for checks before there is a tokenizer: the size of its table stands in."""
        placeholders = Placeholders(0, 1)
        return split(nnx.eval_shape(lambda: Sage(self.config.model, 2, placeholders, nnx.Rngs(0))))[1]

    def _create_params(self) -> Params:
        return split(self._create())[1]

    def fresh_params(self) -> Params:
        """Random parameters, born on their shardings."""
        shardings = param_shardings(jax.eval_shape(self._create_params), self.mesh)
        return jax.jit(self._create_params, out_shardings=shardings)()

    def _imported_params(self, checkpoint: Checkpoint, lora: LoraConfig) -> Params:
        """The checkpoint's parameters on their shardings, and fresh ones for what it does not hold.

        Kernels are kept as `lora` wants them as soon as they are read, so that the devices never hold all of them wide.
        """
        shapes = jax.eval_shape(self._create_params)
        kept = functools.partial(keep, base=lora.base, parts=adapted_parts(shapes, lora))
        if any(path.startswith("fact_encoder/decoder/") for path in shapes):  # copied from whole kernels below
            kept = None
        shardings = param_shardings(shapes, self.mesh)

        def create_fusion() -> Params:  # the rest is never computed, since nothing of it comes out
            return {path: leaf for path, leaf in self._create_params().items() if path.startswith("fusion/")}

        fresh = {path: shardings[path] for path in shapes if path.startswith("fusion/")}
        params = {} if checkpoint.has_fusion else jax.jit(create_fusion, out_shardings=fresh)()
        params.update(import_params(checkpoint, shapes, shardings, kept))
        if not checkpoint.has_fact_encoder:
            params = copy_text_encoder({**params, **{p: s for p, s in shapes.items() if p.startswith("fact_encoder/")}})
        return params

    def start_hash(self, stage: str) -> str:
        """Hash of the weights that a training stage starts from; "" = fresh ones."""
        start = starts_from(stage)
        if start is None:
            return ""
        if self.checkpoint and self.is_given(start):
            return self.checkpoint.fingerprint()
        return final_weights(self.stage_dir(start))

    def stage_dir(self, stage: str) -> Path:
        """Folder of a training stage's checkpoints and final parameters."""
        return self.run_dir / "stages" / stage

    def is_trained(self, stage: str) -> bool:
        """Whether a training stage has finished, or is `base` and the checkpoint stands in for it."""
        return self.is_given(stage) or is_finished(self.stage_dir(stage))

    def is_given(self, stage: str) -> bool:
        """Whether `model.weights` stands in for a stage."""
        return stage == "base" and self.checkpoint is not None

    def not_trained(self, stage: str, *, wanted_by: str) -> ConfigError:
        """The error of a stage that another needs; it says which stages to run."""
        needed = [stage]
        while (start := starts_from(needed[0])) is not None and not self.is_trained(start):
            needed.insert(0, start)
        return ConfigError(
            f"stage {wanted_by!r} needs stage {stage!r}, which has not finished in {self.run_dir}: "
            f"run with --config.stages={','.join([*needed, wanted_by])}"
        )

    def trained_params(self, stage: str, *, wanted_by: str) -> Params:
        """Plain parameters of a finished stage, adapters merged, or for `base` those of `model.weights`.

        Raises:
          ConfigError: It is not finished; the message says how to run it.
        """
        return merge_adapters(self.kept_params(stage, wanted_by=wanted_by))

    def kept_params(self, stage: str, *, wanted_by: str, lora: LoraConfig | None = None) -> Params:
        """Parameters of a finished stage as it kept them, its adapters folded (models/lora.py).

        Args:
          lora: How those of `model.weights` are to be kept; None = plain.

        Raises:
          ConfigError: It is not finished; the message says how to run it.
        """
        if not self.is_trained(stage):
            raise self.not_trained(stage, wanted_by=wanted_by)
        if self.checkpoint and self.is_given(stage):
            return self._imported_params(self.checkpoint, lora or LoraConfig())
        plain, stored = jax.eval_shape(self._create_params), final_shapes(self.stage_dir(stage))
        shapes = {path: stored.get(path, shape) for path, shape in plain.items()}
        shapes.update({path: shape for path, shape in stored.items() if path.endswith(ADDED)})
        params = load_final(self.stage_dir(stage), param_shardings(shapes, self.mesh))
        return fold(params, scale=self.lora_of(stage).scale)

    def answering_params(self, stage: str, *, wanted_by: str) -> Params:
        """Parameters of a finished stage to answer with: as `evaluate.weights_dtype` says, or as they were kept.

        Adapters are merged, but where the stage kept its kernels narrow: wide ones may not fit.
        """
        params = self.kept_params(stage, wanted_by=wanted_by)
        params = merge_adapters(params) if self.lora_of(stage).base == "float32" else params
        return narrow(params, self.config.evaluate.weights_dtype)

    def lora_of(self, stage: str) -> LoraConfig:
        """LoRA of a finished stage, as it was trained."""
        if self.is_given(stage):
            return LoraConfig()
        values = json.loads(final_config(self.stage_dir(stage)))[stage].get("lora", {})
        return LoraConfig(**{**values, "targets": tuple(values["targets"])}) if values else LoraConfig()

    def keeps_adapters(self, start: str, lora: LoraConfig) -> bool:
        """Whether a stage with `lora` keeps the adapters of the finished stage that it starts from."""
        return keeps_adapters(jax.eval_shape(self._create_params), self.lora_of(start), lora)

    def start_params(self, stage: str) -> Params:
        """Parameters that a training stage starts from, with its new adapters where it has LoRA.

        Raises:
          ConfigError: The stage that it starts from is not finished, or `lora` does not fit the model.
        """
        start, lora = starts_from(stage), self.config.training(stage).lora
        if start is None:
            return self.fresh_params()
        params = self.kept_params(start, wanted_by=stage, lora=lora)
        if start == "base" and not self.is_given("base"):  # weights bring their own, or the copy, with them
            params = copy_text_encoder(params)
        return start_params(params, lora, self.config.seed)

    def responder(self, params: Params, *, use_up: bool = False) -> Responder:
        """A model ready to answer, from plain or folded parameters; `use_up` as in `examination`."""
        chat, longest = self.chat, self.config.evaluate.max_new_tokens
        decoding = Decoding(longest, chat.end_id, chat.verdict_ids, chat.stop_ids, self._sampling())
        model = self.structure_of(params), params
        parts = with_layers_apart(*model, self.mesh) if use_up else model
        max_positions = self.checkpoint.config.max_positions if self.checkpoint else 0
        return Responder(*parts, self.mesh, decoding, max_positions)

    def _sampling(self) -> Sampling:
        """How tokens are chosen, by `evaluate.decoding`.

        Raises:
          WeightsError: `checkpoint`, and its generation_config.json has faults.
        """
        given = self.config.evaluate.decoding
        if given.method == "greedy":
            return Sampling(repetition_penalty=given.repetition_penalty, seed=given.seed)
        drawn, found = True, given
        if given.method == "checkpoint" and self.weights:
            found = read_generation_config(*self.weights)
            drawn = found.do_sample
        if not drawn:  # transformers leaves these out then
            return Sampling(repetition_penalty=found.repetition_penalty, seed=given.seed)
        return Sampling(found.temperature, found.top_k, found.top_p, found.repetition_penalty, given.seed)

    def examination(self, stage: str, params: Params, *, scored_as: str = "", use_up: bool = False) -> Examination:
        """A stage's model with what evaluation and inspection need beside it.

        Args:
          scored_as: Hash of the parameters that results are under, where these are another form of them.
          use_up: Takes the layers of `params` apart, which then holds nothing: a model that decodes faster, in the
            memory of one.
        """
        facts_as, weights = self.config.training(stage).facts, scored_as or digest(params)
        responder = self.responder(params, use_up=use_up)
        return Examination(responder, self.chat, self.config, self.vocabulary, weights, facts_as)

    def write_json(self, name: str, content: object) -> None:
        """Writes a file of the run directory, from the first process."""
        if jax.process_index() == 0:
            replace_file(self.run_dir / name, json.dumps(content, indent=2) + "\n")


def prepared_counts(prepared: PreparedData) -> dict[str, object]:
    """Revision and numbers of records of a data set, as `data.json` holds them."""
    return {"revision": prepared.revision, "train": prepared.num_train, "test": prepared.num_test}


def _check_decoding(config: Config, checkpoint: CheckpointConfig) -> None:
    """Checks that a checkpoint that is asked for its way to choose tokens has one that is computed here.

    Raises:
      WeightsError: It has not, or its generation_config.json has faults.
    """
    if config.evaluate.decoding.method == "checkpoint":
        folder = Path(config.model.weights).expanduser()
        others = read_generation_config(folder, checkpoint).others
        if others:
            raise WeightsError(
                f"{folder / 'generation_config.json'}: {', '.join(others)} is not supported; supported are "
                "temperature, top_k, top_p and repetition_penalty: set --config.evaluate.decoding.method=greedy, or "
                "sample with these"
            )


def _check_positions(config: Config, max_positions: int) -> None:
    """Checks that no sequence is longer than the checkpoint's RoPE is the plain one, as far as the config says.

    Raises:
      ConfigError: One may be; the message names the fields.
    """
    if not config.text.buckets:  # told where texts are measured, and by the responder
        return
    longest = max(config.text.buckets) + config.evaluate.max_new_tokens
    if max_positions and longest > max_positions:
        raise ConfigError(
            f"text.buckets up to {max(config.text.buckets)} and evaluate.max_new_tokens = "
            f"{config.evaluate.max_new_tokens} make {longest} positions; {config.model.weights} scales RoPE after "
            f"{max_positions}, which is not supported: give shorter ones"
        )


def barrier(name: str) -> None:
    """Waits until every process has come here."""
    if jax.process_count() > 1:
        multihost_utils.sync_global_devices(name)
