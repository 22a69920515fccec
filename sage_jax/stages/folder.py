"""The folder of a run: the place of each file that its stages share."""

from __future__ import annotations

import dataclasses
import json
from pathlib import Path

import jax

from sage_jax.process.files import replace_file


@dataclasses.dataclass(frozen=True)
class RunFolder:
    """The folder that a run writes.

    Attributes:
      path: The folder, `run_dir` with `~` resolved.
    """

    path: Path

    @property
    def summary(self) -> Path:
        """Costs and metrics of the stages."""
        return self.path / "summary.json"

    @property
    def tokenizer(self) -> Path:
        """The run's tokenizer, in Hugging Face form."""
        return self.path / "tokenizer"

    @property
    def stages(self) -> Path:
        """Folders of the training stages."""
        return self.path / "stages"

    def stage(self, name: str) -> Path:
        """Checkpoints and final parameters of a training stage."""
        return self.stages / name

    def write_json(self, name: str, content: object) -> None:
        """Writes a file of the folder, from the first process."""
        if jax.process_index() == 0:
            replace_file(self.path / name, json.dumps(content, indent=2) + "\n")
