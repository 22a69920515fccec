"""Config of stage `learn`: how a run's model learns from corrections."""

from __future__ import annotations

import dataclasses
from typing import Literal

from sage_jax.config.checks import require, require_above_zero, require_not_negative
from sage_jax.config.training import PreferenceConfig, TrainConfig


@dataclasses.dataclass(frozen=True)
class LearnConfig(TrainConfig):
    """Stage `learn`: a training stage on corrections and replayed training records, from the present model.

    Its other fields are those of every training stage, with defaults of its own. A model on `model.weights` gets LoRA
    of rank 16 where `lora.rank` is 0.

    Attributes:
      held_out: Share of the corrected images that are not trained on: before and after are measured on them.
      replay: Training records of the run for each record of a correction, drawn anew for each version.
      least: Corrected images from which learning begins.
      test_records: Records of the run's test set that before and after are measured on; 0 = all.
      accept: Whether inspection uses a version at once that is offered; else `sage-jax use` takes it.
    """

    steps: int = 80
    batch_size: int = 12
    peak_learning_rate: float = 3e-4
    warmup_steps: int = 10
    freeze: tuple[str, ...] = ("vit/", "fact_encoder/")
    reference_drop_rate: float = 0.0
    answers: Literal["best", "ranked"] = "ranked"
    claim_weight: float = 8.0
    preference: PreferenceConfig = PreferenceConfig(
        lambda_hard=4.0, lambda_easy=2.0, selection="soft", soft_temperature=1.0, sft_weight=32.0
    )
    held_out: float = 0.2
    replay: float = 2.0
    least: int = 10
    test_records: int = 0
    accept: bool = False

    def __post_init__(self) -> None:
        super().__post_init__()
        require_above_zero(self, "least")
        require_not_negative(self, "replay", "test_records")
        require(0.0 < self.held_out < 1.0, f"held_out = {self.held_out}: give a share above 0 and below 1")
        require(
            not self.data_root, f"data_root = {self.data_root!r}: this stage reads the corrections of its run alone"
        )
        require(self.eval_every == 0, f"eval_every = {self.eval_every}: this stage measures before and after itself")
