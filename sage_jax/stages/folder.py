"""The folder of a run: the place of each file that its stages share."""

from __future__ import annotations

import contextlib
import dataclasses
import json
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any, Final

import jax

from sage_jax.config import Config, ConfigError
from sage_jax.process.checksums import file_sum, open_json, sealed_json
from sage_jax.process.files import replace_file
from sage_jax.process.shortages import raise_if_lacking

CONFIG: Final = "config.json"
CONFIG_SUM: Final = "config.json.sha256"
"""SHA-256 of config.json; a config without it is read as it stands."""


@contextlib.contextmanager
def held_by_one(field: str, folder: Path | str) -> Iterator[None]:
    """Tells what keeps a block from holding and writing a folder, by the config's field that names the folder.

    Raises:
      ConfigError: Another process holds it, or it cannot be written.
    """
    try:
        yield
    except BlockingIOError:
        raise ConfigError(
            f"{field} = {str(folder)!r}: another process works in it; wait for it, or give another {field}"
        ) from None
    except OSError as error:
        raise ConfigError(f"{field} = {str(folder)!r} cannot be written: {error.strerror or error}") from None


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
    def calibration(self) -> Path:
        """Threshold of the run's model and what is promised of it."""
        return self.path / "calibration.json"

    def read_calibration(self) -> dict[str, Any] | None:
        """Content of the calibration, whatever model it is of; None without one.

        Raises:
          ConfigError: It is damaged.
        """
        try:
            return open_json(self.calibration.read_text(encoding="utf-8"))
        except FileNotFoundError:
            return None
        except (OSError, ValueError) as error:
            raise_if_lacking(error, self.calibration)
            raise ConfigError(f"{self.calibration}: {error}: delete it, and calibrate again") from None

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

    def write_config(self, config: Config) -> None:
        """Writes config.json and its checksum, from the first process."""
        if jax.process_index() == 0:
            seal = self.path / CONFIG_SUM
            seal.unlink(missing_ok=True)  # a kill in between leaves a config without a checksum, which is read
            self.write_json(CONFIG, dataclasses.asdict(config))
            replace_file(seal, file_sum(self.path / CONFIG) + "\n")

    def write_sealed(self, name: str, content: Mapping[str, object]) -> None:
        """Writes a file of the folder with a checksum in it, for `process.checksums.open_json`."""
        self.write_json(name, sealed_json(content))

    def write_json(self, name: str, content: object) -> None:
        """Writes a file of the folder, from the first process."""
        if jax.process_index() == 0:
            replace_file(self.path / name, json.dumps(content, indent=2) + "\n")
