"""Config of the stage `benchmark`: public question sets, and how a model is asked them."""

from __future__ import annotations

import dataclasses
import re
from typing import Literal

from sage_jax.config.checks import require, require_known, require_not_negative, require_seed
from sage_jax.config.stages import TRAINING_STAGES


@dataclasses.dataclass(frozen=True)
class BenchmarkConfig:
    """Public question sets that a model answers. Length and choice of tokens are those of `evaluate`.

    Attributes:
      name: `mmad`, multiple-choice questions keyed by image (mmad.json); or `manta`, yes-or-no questions of MANTA and
        of MPDD QA (<domain>_QA.json).
      root: The JSON file; for `manta` also a folder with such files.
      images_root: Folder that the image paths are relative to; "" = the JSON's own folder, for `manta` the one above a
        folder `JsonData`.
      shots: Numbers of good references that images are shown with, each asked by itself; 0 = the image alone. `manta`
        names at most one.
      templates: References of `mmad`: those most like the image (`similar`), or those drawn for it (`random`).
      knowledge: domain_knowledge.json of `mmad`, of which all that is said of an image's object is used; "" = none.
      knowledge_as: How: `text` puts it before each question, `facts` takes its sentences for the facts of the image.
      instruction: Sentence behind each question; "" = for `mmad` one that asks for the letter alone, for `manta` none.
      stage: Stage whose checkpoint answers; "" = the last trained one.
      num_questions: Most questions; 0 = all. Images are drawn until they have so many, each with all of its questions.
      seed: Of that draw, and of the intervals.
      folder: Folder below `run_dir`/benchmarks that the results go to; "" = `name`.
    """

    name: Literal["mmad", "manta"] = "mmad"
    root: str = ""
    images_root: str = ""
    shots: tuple[int, ...] = (0, 1)
    templates: Literal["similar", "random"] = "similar"
    knowledge: str = ""
    knowledge_as: Literal["text", "facts"] = "text"
    instruction: str = ""
    stage: str = ""
    num_questions: int = 0
    seed: int = 0
    folder: str = ""

    def __post_init__(self) -> None:
        require_known("stage", (self.stage,) if self.stage else (), TRAINING_STAGES, "training stage")
        require_not_negative(self, "num_questions")
        require_seed("seed", self.seed)
        require(bool(self.shots), "shots is empty: give numbers of references, such as (0, 1)")
        require(len(set(self.shots)) == len(self.shots), f"shots = {self.shots}: give each number once")
        require(min(self.shots) >= 0, f"shots = {self.shots}: give numbers of references, 0 or more")
        require(
            self.name == "mmad" or max(self.shots) <= 1,
            f"shots = {self.shots}: an item of {self.name} names one reference at most: give 0, 1 or both",
        )
        require(
            self.name == "mmad" or not self.knowledge,
            f"knowledge = {self.knowledge!r}: read with name = 'mmad' alone; leave it empty",
        )
        require(
            not self.folder or re.fullmatch(r"[\w-][\w.-]*", self.folder) is not None,
            f"folder = {self.folder!r}: give letters, digits, '-', '_' and '.': it becomes a folder",
        )
