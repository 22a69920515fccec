"""Config of a training stage: optimizer, LoRA, preference objective."""

from __future__ import annotations

import dataclasses
from typing import Literal

from sage_jax.config.checks import (
    require,
    require_above_zero,
    require_divides,
    require_not_negative,
    require_share,
)
from sage_jax.config.data import Source


@dataclasses.dataclass(frozen=True)
class PreferenceConfig:
    """E-DPO objective, docs/method.md, step 11.

    Attributes:
      beta: Inverse temperature of the implicit reward.
      reference: Implicit reward of an answer: `ratio` is beta * (log pi - log pi_ref), which the paper's text requires;
        `none` is beta * log pi, as its formula stands, without a reference policy.
      eta: Margin per unit of entropy gap; 0 = DPO.
      tau: Temperature of the judge scores' softmax.
      entropy: Reading of H_i.
      lambda_hard: Weight of the adjacent pair of smallest gap.
      lambda_easy: Weight of the extreme pair (best, worst).
      selection: `hard` takes the adjacent pair of smallest gap, `soft` weights all by softmax(-gap / soft_temperature).
      soft_temperature: Units of entropy gap per e-fold of an adjacent pair's weight; towards 0, `soft` becomes `hard`.
      sigmoid_weight, bco_weight, sft_weight: Weights of the pair loss, of BCO over the same pairs, and of next-token
        loss on the best answer (released script: 0.8, 0.2, 1).
    """

    beta: float = 0.1
    reference: Literal["ratio", "none"] = "ratio"
    eta: float = 0.1
    tau: float = 1.0
    entropy: Literal["surprisal", "entropy_term", "score"] = "surprisal"
    lambda_hard: float = 1.0
    lambda_easy: float = 1.0
    selection: Literal["hard", "soft"] = "hard"
    soft_temperature: float = 0.1
    sigmoid_weight: float = 1.0
    bco_weight: float = 0.0
    sft_weight: float = 0.0

    def __post_init__(self) -> None:
        require_above_zero(self, "beta", "tau", "soft_temperature")
        weights = ("lambda_hard", "lambda_easy", "sigmoid_weight", "bco_weight", "sft_weight")
        require_not_negative(self, "eta", *weights)


@dataclasses.dataclass(frozen=True)
class LoraConfig:
    """LoRA (arXiv 2106.09685): the kernel W of a layer becomes W + alpha / rank * A B, and A and B train in its place.

    Of a part (`decoder`, `vit`, `adapter`) with such layers nothing else trains, whatever `freeze` says.

    Attributes:
      rank: Columns of A; 0 = no LoRA. The released recipe has 16.
      alpha: Numerator of the scale.
      targets: Path patterns, matched from the start, of the layers: in blocks of `decoder` and `vit`, and of `adapter`.
      base: How kernels of layers in these parts are kept: `float32`, `bfloat16`, `int8` (a scale for each output
        channel) or `int4` (a scale for each output channel and 64 rows).
    """

    rank: int = 0
    alpha: float = 32.0
    targets: tuple[str, ...] = ("decoder/",)
    base: Literal["float32", "bfloat16", "int8", "int4"] = "float32"

    def __post_init__(self) -> None:
        require_not_negative(self, "rank")
        require_above_zero(self, "alpha")
        require(bool(self.targets), "targets is empty: name layers, such as ('decoder/',), or set rank to 0")
        require(self.rank > 0 or self.base == "float32", f"base = {self.base} goes with LoRA: set rank, such as 16")

    @property
    def scale(self) -> float:
        return self.alpha / max(self.rank, 1)


@dataclasses.dataclass(frozen=True)
class TrainConfig:
    """One training stage.

    Attributes:
      data_root: Data set of the stage's own, read like that of `data`: all of it trains, none is kept for testing; "" =
        the training records of `data.root`.
      data_source: As `data.source`, for `data_root`; "" = the same as `data.source`.
      data_images_root: As `data.images_root`, for `data_root`.
      steps: Optimizer steps.
      batch_size: Images of a step, over all processes.
      accumulate: Micro-batches that a step's batch is cut into.
      peak_learning_rate: Learning rate at the end of the warm-up.
      warmup_steps: Steps of linear warm-up from 0.
      schedule: After warm-up: `cosine` to `end_ratio` of the peak, or `constant`.
      end_ratio: Learning rate of the last step over the peak, under `cosine`.
      optimizer: `adamw`; or `muon`, which orthogonalises the momentum of the matrices of layers and leaves all else to
        AdamW, at the same rates: from random weights it learns more in a step, by a step that takes longer.
      weight_decay: Decoupled weight decay of matrices.
      b1: Decay rate of Adam's first moment.
      b2: Decay rate of Adam's second moment.
      clip_norm: Largest global norm of the gradient.
      freeze: Parameter path patterns (regular expressions, matched from the start) that do not train; every parameter
        is in or out, and a pattern that matches none is an error.
      lora: Low-rank training of the decoder, and of ViT and adapter if asked for.
      reference_drop_rate: Share of rows that lose their reference image, so that one model serves zero-shot too.
      questions: `inspection` trains on the record's questions, `description` on what the picture shows (base models).
      questions_per_image: Questions drawn of each record; 0 = all.
      answers: `best` trains on the best answer (SFE), `ranked` on all (DPO).
      facts: `fusion` as comparison embeddings; `text` as plain text in the prompt (ablation).
      claim_weight: Weight, in the next-token loss, of an answer's tokens that carry what it claims (its verdict, and
        names of defects and places), beside 1 of its other words; 1 = the paper's loss.
      similarity_weight: Weight of the dense similarity loss on labelled pairs: for base models from scratch, and for
        stages that train their ViT on, whose map would drift without it.
      naming_weight: Weight of the loss by which image tokens name the defect that they show, where boxes of defects
        are known: for models whose ViT is trained from scratch.
      preference: Used by stages `dpo` and `edpo`.
      log_every: Steps between rows of metrics.
      eval_every: Steps between losses on the images of `data.validation_fraction`, one more at the end; each comes with
        a checkpoint, of which the best is kept. The stage ends with the parameters of its last step all the same.
        0 = no validation.
      checkpoint_every: Steps between checkpoints; 0 = only at the end.
      keep_last: Newest checkpoints kept; the one of the lowest validation loss is kept as well.
    """

    data_root: str = ""
    data_source: Literal["", Source] = ""
    data_images_root: str = ""
    steps: int = 200
    batch_size: int = 16
    accumulate: int = 1
    peak_learning_rate: float = 1e-3
    warmup_steps: int = 20
    schedule: Literal["cosine", "constant"] = "cosine"
    end_ratio: float = 0.1
    optimizer: Literal["adamw", "muon"] = "adamw"
    weight_decay: float = 0.05
    b1: float = 0.9
    b2: float = 0.95
    clip_norm: float = 1.0
    freeze: tuple[str, ...] = ("vit/", "fact_encoder/")
    lora: LoraConfig = LoraConfig()
    reference_drop_rate: float = 0.2
    questions: Literal["inspection", "description"] = "inspection"
    questions_per_image: int = 0
    answers: Literal["best", "ranked"] = "best"
    facts: Literal["fusion", "text"] = "fusion"
    claim_weight: float = 1.0
    similarity_weight: float = 0.0
    naming_weight: float = 0.0
    preference: PreferenceConfig = PreferenceConfig()
    log_every: int = 10
    eval_every: int = 0
    checkpoint_every: int = 0
    keep_last: int = 1

    def __post_init__(self) -> None:
        require_above_zero(
            self, "steps", "batch_size", "peak_learning_rate", "clip_norm", "log_every", "keep_last", "claim_weight"
        )
        counts = ("warmup_steps", "questions_per_image", "eval_every", "checkpoint_every")
        require_not_negative(self, *counts, "end_ratio", "weight_decay", "similarity_weight", "naming_weight")
        require_share(self, "reference_drop_rate")
        for name in ("b1", "b2"):
            decay = getattr(self, name)
            # At 1 a moment never moves, and Adam's bias correction divides by zero.
            require(0.0 <= decay < 1.0, f"{name} = {decay}: give a decay rate from 0 to below 1")
        require(
            bool(self.data_root) or not self.data_images_root,
            f"data_images_root = {self.data_images_root!r} without data_root: name the data set too",
        )
        require(
            bool(self.data_root) or not self.data_source,
            f"data_source = {self.data_source!r} without data_root: name the data set too",
        )
        require_divides("accumulate", self.accumulate, "batch_size", self.batch_size)
        require(
            self.warmup_steps <= self.steps, f"warmup_steps = {self.warmup_steps} is more than steps = {self.steps}"
        )
