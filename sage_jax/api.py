"""SAGE from Python: a model that inspects images, and the stages of a run as functions."""

from __future__ import annotations

import contextlib
import dataclasses
import itertools
import os
import tempfile
from collections.abc import Iterable, Iterator, Sequence
from pathlib import Path
from typing import Any, Final, TypeVar

from sage_jax.config import TRAINING_STAGES, Config, ExportConfig, InspectConfig, nearest
from sage_jax.config.command_line import read_config
from sage_jax.data.records import Reference
from sage_jax.errors import UserError
from sage_jax.inspection.batches import read_ahead
from sage_jax.inspection.given import ImageLike, content_of, name_of, read_references
from sage_jax.inspection.images import InputImage, category_of, make_input
from sage_jax.inspection.inspection_model import InspectionModel, Threshold
from sage_jax.inspection.result import Inspection
from sage_jax.journal.summary import load_summary
from sage_jax.process.checksums import open_json
from sage_jax.process.libraries import settle_libraries
from sage_jax.process.shortages import told
from sage_jax.stages.answering_model import inspection_model
from sage_jax.stages.export import export_folder
from sage_jax.stages.folder import RunFolder
from sage_jax.stages.open_model import config_of
from sage_jax.stages.run import Run
from sage_jax.stages.scoring import results_folder
from sage_jax.stages.stages import run_stages
from sage_jax.stages.versions import root_of

Section = TypeVar("Section", Config, ExportConfig)

_BATCH: Final = 8


class Inspector:
    """A trained model that inspects images; made by `load`.

    Attributes:
      config: The config under which it answers.
      stage: The training stage whose model it is.
    """

    def __init__(self, model: InspectionModel, scratch: tempfile.TemporaryDirectory[str] | None = None) -> None:
        self.config, self.stage = model.evaluator.config, model.stage
        self._model, self._scratch = model, scratch

    def __repr__(self) -> str:
        return f"Inspector({self.config.model.weights or self.config.run_dir!r}, stage={self.stage!r})"

    def threshold(self, *, with_reference: bool = True) -> Threshold:
        """The score from which an image is called defective, and what may be promised of it."""
        return self._model.thresholds[with_reference]

    def inspect(
        self,
        image: ImageLike,
        references: ImageLike | Sequence[ImageLike] | None = None,
        *,
        questions: Sequence[str] = (),
        category: str = "",
    ) -> Inspection:
        """The model's finding on one image.

        A further image of the same size costs no compilation.

        Args:
          image: The image.
          references: Good parts to compare it with: none, one or several. Of several, each patch of the image is
            compared with what matches it best in any of them.
          questions: Asked about the image after the question whether there is a defect, each for itself.
          category: Kind of part, for question and facts; "" = the name of the image's folder where the vocabulary knows
            it.

        Raises:
          UserError: The image or a reference cannot be read; the message names it.
        """
        given = self._input(image, read_references(references, self.config.data.bits), category)
        if given.record is None:
            raise UserError(given.error)
        return next(self._answered([given], questions, rows=1))

    def inspect_many(
        self,
        images: Iterable[ImageLike],
        references: ImageLike | Sequence[ImageLike] | None = None,
        *,
        questions: Sequence[str] = (),
        category: str = "",
        batch_size: int = _BATCH,
    ) -> Iterator[Inspection]:
        """The model's findings on images, in their order, as they are ready.

        The next batch is read while the model works on this one, so that two batches are read before the first finding;
        for a slow source set `batch_size` to 1. An image that cannot be read gets the verdict
        `unreadable` and its error.

        Args:
          images: The images; the iterable may be endless.
          references: Good parts that every image is compared with, as in `inspect`.
          questions, category: As in `inspect`.
          batch_size: Images that the model works on together.

        Raises:
          UserError: A reference cannot be read, or `batch_size` is below 1.
        """
        if batch_size < 1:
            raise UserError(f"batch_size = {batch_size}: give 1 or more")
        return self._many(images, read_references(references, self.config.data.bits), questions, category, batch_size)

    def _many(
        self,
        images: Iterable[ImageLike],
        references: Sequence[Reference],
        questions: Sequence[str],
        category: str,
        batch_size: int,
    ) -> Iterator[Inspection]:
        def read(group: tuple[ImageLike, ...]) -> list[InputImage]:
            return [self._input(image, references, category) for image in group]

        iterator = iter(images)
        groups = iter(lambda: tuple(itertools.islice(iterator, batch_size)), ())
        with contextlib.closing(read_ahead(groups, read)) as ahead:
            for inputs in ahead:
                yield from self._answered(inputs, questions, rows=batch_size)

    def _answered(self, inputs: Sequence[InputImage], questions: Sequence[str], *, rows: int) -> Iterator[Inspection]:
        """The findings on inputs, in batches of a fixed number of rows."""
        asked = (questions,) if isinstance(questions, str) else tuple(questions)
        return self._model.findings(inputs, asked, rows=rows)

    def _input(self, image: ImageLike, references: Sequence[Reference], category: str) -> InputImage:
        """An image and its references as the model gets them, or the error of the image."""
        name, vocabulary = name_of(image, "image"), self._model.evaluator.vocabulary
        is_path = isinstance(image, str | os.PathLike)
        category = category or (category_of(Path(image), vocabulary) if is_path else "part")
        register = self.config.data.register == "rigid"
        try:
            return make_input(
                name,
                content_of(image, name, self.config.data.bits),
                references,
                category,
                vocabulary,
                register=register,
            )
        except ValueError as error:  # a UserError is one
            return InputImage(name, category, None, str(error))


def load(
    folder: Path | str, *, stage: str = "", threshold: float | None = None, vocabulary: str | None = None
) -> Inspector:
    """A model ready to inspect images.

    Args:
      folder: A run folder, a folder that `export` wrote, or a folder of a released InternVL checkpoint.
      stage: Training stage of a run; "" = the last trained one.
      threshold: Anomaly score from which the verdict is `defective`; None = `inspect.threshold` of the run, which is
        by default what `calibrate` found, or 0.5.
      vocabulary: TOML file of objects and defects, for facts; None = that of the run.

    Raises:
      UserError: There is no such model, or it has faults; the message says how to get one.
    """
    settle_libraries()
    with told(), contextlib.ExitStack() as made:
        scratch = tempfile.TemporaryDirectory(prefix="sage_jax-")
        made.callback(scratch.cleanup)
        config = config_of(folder, scratch=Path(scratch.name))
        if stage and stage not in TRAINING_STAGES:
            raise UserError(f"stage = {stage!r}: give one of {', '.join(TRAINING_STAGES)}")
        inspect, data = config.inspect, config.data
        inspect = inspect if threshold is None else dataclasses.replace(inspect, threshold=threshold)
        data = data if vocabulary is None else dataclasses.replace(data, vocabulary=vocabulary)
        run = Run(dataclasses.replace(config, inspect=inspect, data=data))
        model = inspection_model(run, stage, wanted_by="inspect")
        made.pop_all()
    return Inspector(model, scratch)


def train(config: Config | Path | str, **fields: Any) -> Path:
    """Runs the stages of a config, from data to report, and goes on where an earlier call stopped.

    Args:
      config: A `Config`, a config file, or the name of a shipped one, such as `quickstart`.
      **fields: Fields of the config to replace, such as `run_dir="runs/parts"`.

    Returns:
      The run folder; `load` takes it.

    Raises:
      UserError: A fault that the user can mend.
      Interrupted: A signal stopped it; the same call goes on.
    """
    settle_libraries()
    given = config if isinstance(config, Config) else read_config(["--config", os.fspath(config)])
    given = _replaced(given, fields)
    run_stages(given)
    return Path(given.run_dir).expanduser()


def evaluate(folder: Path | str, **fields: Any) -> dict[str, Any]:
    """Metrics of a run's trained stages on its test records, computed where they are not there yet.

    Args:
      folder: A run folder.
      **fields: Fields of the config to replace, such as `data` for another test set.

    Returns:
      Metrics by stage, mode (`zero_shot`, `one_shot`) and name, each with `value`, `low`, `high` (95 %) and `n`.

    Raises:
      UserError: There is no such run, or no stage of it is trained.
    """
    config = _replaced(_config_of_run(folder), {**fields, "stages": "evaluate"})
    train(config)
    return load_summary(results_folder(Run(config)) / "summary.json")["metrics"]


def calibrate(
    folder: Path | str,
    good: Path | str,
    defective: Path | str = "",
    *,
    references: Path | str = "",
    false_alarm_rate: float = 0.05,
    escape_rate: float = 0.0,
    unsure_rate: float = 0.02,
) -> dict[str, Any]:
    """Chooses the threshold of a run by images that nobody trained on; `load` and `inspect` then use it.

    A threshold that was set by hand before is set no more.

    Args:
      folder: A run folder.
      good: A folder of good images, or a text file with a path a line; 1 / false_alarm_rate - 1 or more.
      defective: Defective ones, likewise, for what is known of escapes; "" = none.
      references: A good image or a folder of them, as `inspect` takes them; "" = those of the run's `inspect`. The
        promise is for images compared with as many.
      false_alarm_rate: Share of good images that may be called defective.
      escape_rate: Share of defective images that may be called good, with 95 % confidence; 0 = not asked for.
      unsure_rate: Share of good images that may be called unsure for being unlike these; 0 = no image ever is.

    Returns:
      The content of `calibration.json`: `threshold`, `promised`, `escape_bound` and so on.

    Raises:
      UserError: There is no such run, or the images do not support the rate.
    """
    config = _config_of_run(folder)
    named = {"good": good, "defective": defective, "references": references}
    section = dataclasses.replace(
        config.calibrate,
        **{name: os.fspath(path) for name, path in named.items()},
        false_alarm_rate=false_alarm_rate,
        escape_rate=escape_rate,
        unsure_rate=unsure_rate,
    )
    inspect = dataclasses.replace(config.inspect, threshold=InspectConfig().threshold)
    train(dataclasses.replace(config, calibrate=section, inspect=inspect), stages="calibrate")
    return open_json(RunFolder(Path(config.run_dir).expanduser()).calibration.read_text(encoding="utf-8"))


def export(folder: Path | str, to: Path | str = "", *, stage: str = "", **options: Any) -> Path:
    """Writes a trained stage as a folder that transformers loads, with all of SAGE in torch beside it.

    Args:
      folder: A run folder.
      to: A new folder; "" = `export/` of the run.
      stage: Training stage; "" = the last trained one.
      **options: Other fields of `export`, such as `dtype="float32"`.

    Returns:
      The folder.

    Raises:
      UserError: There is no such run or stage, or something is at the folder already.
    """
    config = _config_of_run(folder)
    section = _replaced(config.export, {"folder": os.fspath(to), "stage": stage, **options})
    config = dataclasses.replace(config, export=section)
    train(config, stages="export")
    return export_folder(config)


def _config_of_run(folder: Path | str) -> Config:
    """The config of a run folder.

    Raises:
      UserError: The folder has another kind of model, or none.
    """
    config = config_of(folder)
    if root_of(config.run_dir) != root_of(folder):
        raise UserError(f"{folder}: a checkpoint, not a run: give the folder of a run, which has its data and stages")
    return config


def _replaced(config: Section, fields: dict[str, Any]) -> Section:
    """A config or a section of it with some fields replaced.

    Raises:
      UserError: A field is unknown.
    """
    known = [field.name for field in dataclasses.fields(config)]
    for name in fields:
        if name not in known:
            raise UserError(f"{name}: no such field{nearest(name, known)}")
    return dataclasses.replace(config, **fields)
