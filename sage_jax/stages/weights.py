"""The parameters of a run's stages: where training starts, and what finished stages answer with."""

from __future__ import annotations

import dataclasses
import functools

import jax
from jax.sharding import Mesh

from sage_jax.config import Config, LoraConfig, starts_from
from sage_jax.hf.importing import Checkpoint, import_params
from sage_jax.hf.layouts import STEM
from sage_jax.models.lora import ADDED, fold, merge_adapters
from sage_jax.models.sage import copy_text_encoder
from sage_jax.parameters import Params
from sage_jax.sharding import param_shardings
from sage_jax.stages.start import Start
from sage_jax.stages.structure import Structure
from sage_jax.stages.trained import TrainedStages
from sage_jax.training.finished import final_shapes, load_final
from sage_jax.training.lora_params import adapted_parts, keep, keeps_adapters, narrow, start_params


@dataclasses.dataclass(frozen=True)
class Weights:
    """Parameters by stage, each on its shardings.

    Attributes:
      config: The run.
      trained: The stages that have parameters.
      structure: The model.
      mesh: The devices.
    """

    config: Config
    trained: TrainedStages
    structure: Structure
    mesh: Mesh

    def fresh(self) -> Params:
        """Random parameters, born on their shardings."""
        shardings = param_shardings(self.structure.shapes, self.mesh)
        return jax.jit(self.structure.create_params, out_shardings=shardings)()

    def start(self, stage: str) -> Params:
        """Parameters that a training stage starts from, with its new adapters where it has LoRA.

        Raises:
          ConfigError: The stage that it starts from is not finished, or `lora` does not fit the model.
        """
        start, lora = starts_from(stage), self.config.training(stage).lora
        if start is None:
            return self.fresh()
        params = self.stored(start, wanted_by=stage, lora=lora)
        if start == "base" and not self.trained.is_imported("base"):  # a given model brings its own, or the copy
            params = copy_text_encoder(params)
        return start_params(params, lora, self.config.seed)

    def stored(self, stage: str, *, wanted_by: str, lora: LoraConfig | None = None) -> Params:
        """Parameters of a finished stage as it stored them, its adapters folded (models/lora.py).

        Args:
          lora: How those of `model.weights` are stored; None = plain.

        Raises:
          ConfigError: It is not finished; the message says how to run it.
        """
        if stage not in self.trained:
            raise self.trained.missing(stage, wanted_by=wanted_by)
        if isinstance(self.trained.given, Checkpoint) and self.trained.is_imported(stage):
            return self._imported(self.trained.given, lora or LoraConfig())
        if isinstance(self.trained.given, Start) and self.trained.is_imported(stage):
            start = self.trained.given
            return Weights(start.config, start.trained, self.structure, self.mesh).merged(
                start.stage, wanted_by=wanted_by
            )
        folder = self.trained.folder.stage(stage)
        plain, stored = self.structure.shapes, final_shapes(folder)
        shapes = {path: stored.get(path, shape) for path, shape in plain.items()}
        shapes.update({path: shape for path, shape in stored.items() if path.endswith(ADDED)})
        params = load_final(folder, param_shardings(shapes, self.mesh))
        return fold(params, scale=self.trained.lora(stage).scale)

    def merged(self, stage: str, *, wanted_by: str) -> Params:
        """Plain parameters of a finished stage, adapters merged, or for `base` those of `model.weights`.

        Raises:
          ConfigError: It is not finished; the message says how to run it.
        """
        return merge_adapters(self.stored(stage, wanted_by=wanted_by))

    def answering(self, stage: str, *, wanted_by: str) -> Params:
        """Parameters of a finished stage for answers, in `evaluate.weights_dtype` or as they were stored.

        Adapters are merged, unless the stage stored its kernels narrow: wide ones may not fit.

        Raises:
          ConfigError: It is not finished; the message says how to run it.
        """
        params = self.stored(stage, wanted_by=wanted_by)
        params = merge_adapters(params) if self.trained.lora(stage).base == "float32" else params
        return narrow(params, self.config.evaluate.weights_dtype)

    def keeps_adapters(self, start: str, lora: LoraConfig) -> bool:
        """Whether a stage with `lora` keeps the adapters of the finished stage that it starts from."""
        return keeps_adapters(self.structure.shapes, self.trained.lora(start), lora)

    def _imported(self, checkpoint: Checkpoint, lora: LoraConfig) -> Params:
        """The checkpoint's parameters on their shardings, and fresh ones for those that it does not hold.

        Kernels take the form of `lora` as soon as they are read, so that the devices never hold all of them wide.
        """
        shapes = self.structure.shapes
        stored = functools.partial(keep, base=lora.base, parts=adapted_parts(shapes, lora))
        if any(path.startswith("fact_encoder/decoder/") for path in shapes):  # copied from whole kernels below
            stored = None
        shardings = param_shardings(shapes, self.mesh)

        new = [path for path in shapes if path.startswith(("fusion/", STEM)) and not checkpoint.holds(path)]

        def create_new() -> Params:  # the compiler drops all other parameters, which are no output
            created = self.structure.create_params()
            return {path: created[path] for path in new}

        fresh = {path: shardings[path] for path in new}
        params = jax.jit(create_new, out_shardings=fresh)() if new else {}
        params.update(import_params(checkpoint, shapes, shardings, stored))
        if not checkpoint.has_fact_encoder:
            encoder = {path: shape for path, shape in shapes.items() if path.startswith("fact_encoder/")}
            params = copy_text_encoder({**params, **encoder})
        return params
