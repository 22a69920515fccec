"""The training stages that a run has finished, or that a given model stands in for."""

from __future__ import annotations

import dataclasses
import json
from collections.abc import Iterator
from pathlib import Path
from typing import Final, Protocol

from sage_jax.config import TRAINING_STAGES, ConfigError, LoraConfig, starts_from
from sage_jax.process.checksums import open_json
from sage_jax.process.shortages import raise_if_lacking
from sage_jax.stages.folder import RunFolder
from sage_jax.training.finished import DONE, FINAL, final_config, final_weights, has_unsealed_final, is_finished

FIRST_VERDICTS: Final = "sfe"
"""The first training stage whose model gives verdicts: `base` before it learns what images show."""


class GivenModel(Protocol):
    """A model that was not trained in this run: a checkpoint, or the last one of another run."""

    def fingerprint(self) -> str:
        """Hash of its parameters."""
        ...


@dataclasses.dataclass(frozen=True)
class TrainedStages:
    """The training stages of a run with a model: `"sfe" in trained`, and all of them in order.

    Attributes:
      folder: The run's.
      given: The model that stands in for that of stage `base`: of `model.weights`, or of `start_from`; None = none.
    """

    folder: RunFolder
    given: GivenModel | None

    def __contains__(self, stage: str) -> bool:
        return self.is_imported(stage) or is_finished(self.folder.stage(stage))

    def __iter__(self) -> Iterator[str]:
        return (stage for stage in TRAINING_STAGES if stage in self)

    def is_imported(self, stage: str) -> bool:
        """Whether a model that was given stands in for a stage."""
        return stage == "base" and self.given is not None

    def last(self) -> str | None:
        """The last of them in the order of training; None without any.

        Raises:
          ConfigError: A later one has its final parameters and not the file that says that they are whole: it was
            killed in between, or the file was deleted, and an earlier model would answer in its place.
        """
        for stage in reversed(TRAINING_STAGES):
            if stage in self:
                return stage
            if has_unsealed_final(folder := self.folder.stage(stage)):
                raise ConfigError(
                    f"{folder}: {FINAL} is there without {DONE}: run --config.stages={stage}, which ends the stage, "
                    f"bring {DONE} back from a copy, or delete the folder; an earlier stage answers if it is named"
                )
        return None

    def to_answer(self, stage: str, *, wanted_by: str) -> str:
        """The stage that answers: the named one, or the last trained one for "".

        Raises:
          ConfigError: It is not finished. Where none is, the message has the first that gives verdicts, not `base`.
        """
        name = stage or self.last() or FIRST_VERDICTS
        if name not in self:
            raise self.missing(name, wanted_by=wanted_by)
        return name

    @property
    def data_revisions(self) -> set[str]:
        """Revisions of the data that the stages were trained on, and of those that their runs were to be tested on.

        None where all weights are imported.
        """
        files = (self.folder.stage(name) / "data.json" for name in self)
        return {revision for file in files if file.is_file() for revision in _revisions_in(file)}

    def lora(self, stage: str) -> LoraConfig:
        """LoRA of a finished stage, as it was trained."""
        if self.is_imported(stage):
            return LoraConfig()
        values = json.loads(final_config(self.folder.stage(stage)))[stage].get("lora", {})
        return LoraConfig(**{**values, "targets": tuple(values["targets"])}) if values else LoraConfig()

    def start_hash(self, stage: str) -> str:
        """Hash of the weights that a training stage starts from; "" = fresh ones."""
        start = starts_from(stage)
        return "" if start is None else self.weights_hash(start)

    def weights_hash(self, stage: str) -> str:
        """Hash of a finished stage's weights."""
        if self.given and self.is_imported(stage):
            return self.given.fingerprint()
        return final_weights(self.folder.stage(stage))

    def lineage(self, stage: str) -> list[str]:
        """The stages that make a stage's model, from the first one to itself."""
        chain = [stage]
        while (start := starts_from(chain[0])) is not None:
            chain.insert(0, start)
        return chain

    def missing(self, stage: str, *, wanted_by: str) -> ConfigError:
        """The error of a stage that another one needs; it names the stages to run."""
        needed = [name for name in self.lineage(stage) if name not in self or name == stage]
        unsealed = next((path for path in map(self.folder.stage, needed) if has_unsealed_final(path)), None)
        gone = f", or bring {unsealed / DONE} back: {FINAL} is there without it" if unsealed else ""
        return ConfigError(
            f"stage {wanted_by!r} needs stage {stage!r}, which has not finished in {self.folder.path}: "
            f"run with --config.stages={','.join([*needed, wanted_by])}{gone}"
        )


def _revisions_in(path: Path) -> set[str]:
    try:
        content = open_json(path.read_text(encoding="utf-8"), always=False)
        return {str(content["revision"]), str(content.get("tested_on", content["revision"]))}
    except (OSError, ValueError, KeyError, TypeError) as error:
        raise_if_lacking(error, path)
        raise ConfigError(
            f"{path}: damaged: {error!r}. Delete it: only the data that the stage saw is then unknown"
        ) from None
