"""The run that another one goes on from: its model in place of stage `base`, with its tokenizer and its prompts."""

from __future__ import annotations

import dataclasses
from pathlib import Path
from typing import Final

from transformers import PreTrainedTokenizerFast

from sage_jax.config import Config, ConfigError
from sage_jax.stages.folder import RunFolder
from sage_jax.stages.open_model import config_of
from sage_jax.stages.trained import TrainedStages
from sage_jax.stages.versions import root_of
from sage_jax.training.finished import final_weights

_OWN_MODEL: Final = ("weights", "compute_dtype", "attention", "remat", "scan_unroll")
_OWN_TEXT: Final = ("max_answer_tokens", "buckets", "num_shapes")
"""Fields that say how a run computes and how much it is given; all others are those of the run that it goes on from."""

_WORDS_TOLD: Final = 8


@dataclasses.dataclass(frozen=True)
class Start:
    """The last trained model of another run.

    Attributes:
      trained: The stages of that run.
      config: Its config.
      stage: The last of them.
    """

    trained: TrainedStages
    config: Config
    stage: str

    def __str__(self) -> str:
        return f"stage {self.stage} of {self.trained.folder.path}"

    @property
    def tokenizer(self) -> Path:
        """Folder of its tokenizer."""
        return self.trained.folder.tokenizer

    def fingerprint(self) -> str:
        """Hash of its parameters."""
        return final_weights(self.trained.folder.stage(self.stage))


def begun_from(config: Config) -> tuple[Config, Start | None]:
    """The config of a run under `start_from`, with the sizes and prompts of the model that it goes on from.

    A folder of a checkpoint, exported or released, is taken as `model.weights`: then there is no `Start`. There is none
    either where the other run is gone and this one has finished a stage: its own models need no other.

    Raises:
      UserError: The folder holds no model.
      ConfigError: It holds none that training can go on from.
    """
    folder = Path(config.start_from).expanduser()
    own = TrainedStages(RunFolder(Path(config.run_dir).expanduser()), None)
    if not folder.exists() and [*own]:
        return config, None
    other = config_of(folder)
    if other.model.weights and root_of(other.run_dir) != root_of(folder):
        return _adopted(config, other, "base", weights=str(folder)), None
    if other.model.weights:
        raise ConfigError(
            f"start_from = {config.start_from!r}: a run on {other.model.weights}: export it with `sage-jax export "
            f"--model {folder}`, and give the folder that this writes"
        )
    if folder.resolve() == own.folder.path.resolve():
        raise ConfigError(f"start_from = {config.start_from!r} is run_dir itself: give this run another run_dir")
    trained = TrainedStages(RunFolder(Path(other.run_dir)), None)  # of the active version
    last = trained.last()
    if last is None:
        raise ConfigError(f"start_from = {config.start_from!r}: no training stage has finished there; finish that run")
    return _adopted(config, other, last), Start(trained, other, last)


def _adopted(config: Config, other: Config, stage: str, *, weights: str = "") -> Config:
    """The config with sizes, prompts and way of giving facts of another run's stage."""
    model = {name: getattr(config.model, name) for name in _OWN_MODEL} | {"weights": weights}
    text = {name: getattr(config.text, name) for name in _OWN_TEXT}
    return dataclasses.replace(
        config,
        model=dataclasses.replace(other.model, **model),
        text=dataclasses.replace(other.text, **text),
        base=dataclasses.replace(config.base, facts=other.training(stage).facts),
    )


def words_in_pieces(tokenizer: PreTrainedTokenizerFast, other: PreTrainedTokenizerFast) -> str:
    """The words that a data set's own tokenizer has whole and a model's has not, as the end of a log line; "" = none.

    They can be read and written all the same, in several tokens.

    Args:
      tokenizer: The model's.
      other: One that was trained on the data set.
    """
    whole = [str(other.decode([index])) for index in range(len(other))]
    words = {piece[1:] for piece in whole if piece.startswith(" ") and piece[1:].isalpha() and len(piece) > 4}
    longest = [word for word in words if not any(each != word and each.startswith(word) for each in words)]
    split = sorted(word for word in longest if len(tokenizer.encode(f" {word}", add_special_tokens=False)) > 1)
    if not split:
        return ""
    more = f" and {len(split) - _WORDS_TOLD} more" if len(split) > _WORDS_TOLD else ""
    return f"{', '.join(split[:_WORDS_TOLD])}{more}"
