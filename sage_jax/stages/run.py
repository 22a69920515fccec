"""A run: its config, its folder, and the parts that its stages share."""

from __future__ import annotations

import dataclasses
import functools
import os
from collections.abc import Mapping, Sequence
from pathlib import Path

from jax.sharding import Mesh

from sage_jax.config import Config, ConfigError
from sage_jax.data import store
from sage_jax.data.adpl.facts import Vocabulary, load_vocabulary
from sage_jax.data.adpl.wording import PLACES
from sage_jax.data.records import Record
from sage_jax.data.store import PreparedData, Split
from sage_jax.data.trees.chat import Chat
from sage_jax.data.trees.encode import TreeFormat
from sage_jax.data.trees.languages import in_language
from sage_jax.evaluation.evaluator import Evaluator
from sage_jax.generation.responder import Responder
from sage_jax.generation.unstacked import with_unstacked_layers
from sage_jax.hf.config import CheckpointConfig
from sage_jax.hf.importing import Checkpoint, open_checkpoint
from sage_jax.journal.run_log import RunLog
from sage_jax.parameters import Params, digest
from sage_jax.sharding import make_mesh
from sage_jax.stages.answering import check_decoding, make_decoding
from sage_jax.stages.data_sources import with_readers
from sage_jax.stages.folder import RunFolder
from sage_jax.stages.image_facts import ImageFacts, image_facts
from sage_jax.stages.prepared import make_chat, prepare_data
from sage_jax.stages.start import Start, begun_from
from sage_jax.stages.structure import Structure
from sage_jax.stages.trained import TrainedStages
from sage_jax.stages.weights import Weights


class Run:
    """A run directory and the parts that its stages share, each made when it is first asked for.

    Attributes:
      config: The run, its own folders resolved, its assist prompt in the language of its data, data sets with the
        readers that their names stand for; with `model.weights`, the model has the checkpoint's sizes.
      recognised: What the data sets were found to be, in sentences, where the config names no reader.
      checkpoint: The checked checkpoint of `model.weights`, or None.
      start: The model of the run that `start_from` names, or None.
      folder: All files that the run writes.
      trained: The training stages with a model.

    Raises:
      WeightsError: The checkpoint has faults; all are listed.
      ConfigError: The config contradicts it, or the data set that was found.
      RecognitionError: A data set is none that is read, or another than the config names.
    """

    def __init__(
        self, config: Config, start: Start | None = None, own_data: Mapping[str, PreparedData] | None = None
    ) -> None:
        """Makes a run of a config.

        Args:
          start: The model that stands in for stage `base`; None = that of `start_from`, if it names one.
          own_data: Stored data sets that stages read in place of what the config says.
        """
        self.checkpoint: Checkpoint | None = None
        self.start = start
        if start is None and config.start_from:
            config, self.start = begun_from(config)
        if config.model.weights:
            self.checkpoint = open_checkpoint(config.model.weights, config.model)
            config = dataclasses.replace(config, model=self.checkpoint.model)
            _check_positions(config, self.checkpoint.config.max_positions)
            check_decoding(config, self.checkpoint.config)
        config, self.recognised = with_readers(config)
        config = dataclasses.replace(config, text=in_language(config.text, config.data.language))
        inspect = dataclasses.replace(config.inspect, output=os.path.expanduser(config.inspect.output))
        self.config = dataclasses.replace(config, run_dir=os.path.expanduser(config.run_dir), inspect=inspect)
        self.folder = RunFolder(Path(self.config.run_dir))
        self.trained = TrainedStages(self.folder, self.start or self.checkpoint)
        self._own_data = dict(own_data or {})

    @functools.cached_property
    def mesh(self) -> Mesh:
        """All devices."""
        return make_mesh(self.config.mesh)

    @functools.cached_property
    def prepared(self) -> PreparedData:
        """The stored data set (`prepare_data`)."""
        return prepare_data(self.config, self.folder)

    def prepared_for(self, stage: str) -> PreparedData:
        """The stored data set that a stage reads: the run's, or for a stage with `data_root` its own."""
        if stage not in self._own_data:
            if not self.has_own_data(stage):
                return self.prepared
            self._own_data[stage] = prepare_data(self.config, self.folder, stage)
        return self._own_data[stage]

    def has_own_data(self, stage: str) -> bool:
        """Whether a stage reads another data set than the run."""
        return stage in self._own_data or self.config.data_of(stage) != self.config.data

    @functools.cached_property
    def facts(self) -> ImageFacts:
        """What `facts.stage` wrote about the images.

        Raises:
          ConfigError: That stage is not finished.
        """
        return image_facts(self.config, self.chat, self.trained)

    def records(self, split: Split, *, wanted_by: str) -> Sequence[Record]:
        """The stored records of a split as a stage reads them, with the facts that `data.facts` says.

        Raises:
          ConfigError: Facts that a model is to write are not there yet.
        """
        prepared = self.prepared_for(wanted_by)
        stored = store.open_split(prepared, split)
        if not self.reads_written_facts(wanted_by):
            return stored
        return self.facts.records(stored, prepared.revision, wanted_by=wanted_by)

    def reads_written_facts(self, stage: str) -> bool:
        """Whether a stage reads facts that a model wrote: not those that make the model which writes them."""
        if self.config.data.facts != "model":
            return False
        return bool(self.config.facts.base_url) or stage not in self.trained.lineage(self.config.facts.stage)

    def revision(self, stage: str) -> str:
        """Hash of the data that a stage reads: of the data set, and of what decided the facts that were written."""
        revision = self.prepared_for(stage).revision
        return f"{revision}-{self.facts.digest}" if self.reads_written_facts(stage) else revision

    @functools.cached_property
    def chat(self) -> Chat:
        """The chat template with the run's tokenizer (`make_chat`)."""
        return make_chat(
            self.config, self.folder, self.source, lambda: self.prepared, self.start and self.start.tokenizer
        )

    @functools.cached_property
    def vocabulary(self) -> Vocabulary:
        """Objects, defects and their names."""
        return load_vocabulary(self.config.data.vocabulary)

    @functools.cached_property
    def weights(self) -> Weights:
        """Parameters of the stages."""
        stored = self.checkpoint.config.vocab_size if self.checkpoint else 0
        structure = Structure(self.config, self.chat, stored_vocab=stored)
        return Weights(self.config, self.trained, structure, self.mesh)

    @property
    def tree_format(self) -> TreeFormat:
        """The form of the run's trees."""
        names = (*self.vocabulary.defect_terms, *self.vocabulary.synonyms, *PLACES)
        names = names if self.config.data.language == "en" else ()  # they are English
        return TreeFormat(self.chat, self.config.model, self.config.text, names)

    @property
    def source(self) -> tuple[Path, CheckpointConfig] | None:
        """Folder of `model.weights` and its config.json."""
        checkpoint = self.checkpoint
        return (Path(self.config.model.weights).expanduser(), checkpoint.config) if checkpoint else None

    @property
    def max_positions(self) -> int:
        """Longest sequence that the RoPE of `model.weights` is the plain one for; 0 = any."""
        return self.checkpoint.config.max_positions if self.checkpoint else 0

    def responder(self, params: Params, *, use_up: bool = False) -> Responder:
        """A model ready to answer, from plain or folded parameters.

        Args:
          use_up: Takes the layers of `params` apart, which then holds nothing: a model that decodes faster, in the
            memory of one.
        """
        model = self.weights.structure.of(params), params
        parts = with_unstacked_layers(*model, self.mesh) if use_up else model
        decoding = make_decoding(self.config, self.chat, self.source)
        return Responder(*parts, self.mesh, decoding, self.max_positions)

    def evaluator(self, stage: str, params: Params, *, scored_as: str = "", use_up: bool = False) -> Evaluator:
        """A stage's model with all that evaluation and inspection need beside it.

        Args:
          scored_as: Hash of the parameters that results are stored under; "" = that of `params`.
          use_up: As in `responder`.
        """
        facts_as, weights = self.config.training(stage).facts, scored_as or digest(params)
        responder = self.responder(params, use_up=use_up)
        written = self.facts.digest if self.config.data.facts == "model" else ""
        return Evaluator(responder, self.chat, self.config, self.vocabulary, weights, facts_as, written)


@dataclasses.dataclass(frozen=True)
class Stage:
    """A stage at work.

    Attributes:
      run: The run that it is part of.
      name: One of `STAGES`.
      log: Its log.
    """

    run: Run
    name: str
    log: RunLog

    @property
    def config(self) -> Config:
        """The config of the run."""
        return self.run.config


@dataclasses.dataclass(frozen=True)
class StageCost:
    """The measures of a stage's own work, for the summary.

    Attributes:
      worked: Whether there was anything to do; else the cost of an earlier run stands.
      resumed: Whether it went on from an earlier run, to whose cost this one is added.
      shares: Shares by name, such as `input_wait` and `padding` of a training stage.
      counts: Counts and sums by name, such as `compilations` and `compile_seconds`.
      interrupted: The message of a stage that a signal stopped; "" = it came to its end.
    """

    worked: bool = True
    resumed: bool = False
    shares: dict[str, float] = dataclasses.field(default_factory=dict)
    counts: dict[str, float] = dataclasses.field(default_factory=dict)
    interrupted: str = ""


def _check_positions(config: Config, max_positions: int) -> None:
    """Checks that no sequence is longer than the checkpoint's plain RoPE reaches, as far as the config tells.

    Raises:
      ConfigError: One may be; the message names the fields.
    """
    if not config.text.buckets:  # the lengths are known once texts are measured: text_check.py checks them
        return
    longest = max(config.text.buckets) + config.evaluate.max_new_tokens
    if max_positions and longest > max_positions:
        raise ConfigError(
            f"text.buckets up to {max(config.text.buckets)} and evaluate.max_new_tokens = "
            f"{config.evaluate.max_new_tokens} make {longest} positions; {config.model.weights} scales RoPE after "
            f"{max_positions}, which is not supported: give shorter ones"
        )
