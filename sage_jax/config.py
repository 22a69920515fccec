"""The configs of model and training: frozen dataclasses, each with the checks that it can run."""

from __future__ import annotations

import dataclasses
import difflib
import math
from collections.abc import Iterable
from typing import Literal


class ConfigError(ValueError):
    """A config that cannot run; the message names the field and the way out."""


def nearest(name: str, choices: Iterable[object]) -> str:
    """The end of a message about an unknown name: the choice most like it, or all choices where none is."""
    names = [str(choice) for choice in choices]
    match = difflib.get_close_matches(name, names, n=1, cutoff=0.4)
    return f"; did you mean {match[0]!r}?" if match else f"; there are {', '.join(names)}"


def require(condition: bool, message: str) -> None:
    """Raises ConfigError with the message unless the condition holds."""
    if not condition:
        raise ConfigError(message)


def require_above_zero(config: object, *names: str) -> None:
    """Checks that fields are above 0 and finite; NaN is neither."""
    for name in names:
        value = getattr(config, name)
        require(0 < value < math.inf, f"{name} = {value}: must be above 0{_and_finite(value)}")


def require_not_negative(config: object, *names: str) -> None:
    """Checks that fields are 0 or more and finite; NaN is neither."""
    for name in names:
        value = getattr(config, name)
        require(0 <= value < math.inf, f"{name} = {value}: must be 0 or more{_and_finite(value)}")


def _and_finite(value: float) -> str:
    return "" if isinstance(value, int) or math.isfinite(value) else ", and finite"


def require_share(config: object, *names: str) -> None:
    """Checks that fields are shares, 0 to 1."""
    for name in names:
        require(0.0 <= getattr(config, name) <= 1.0, f"{name} = {getattr(config, name)}: give a share from 0 to 1")


def require_known(field: str, names: Iterable[str], choices: Iterable[str], kind: str) -> None:
    """Checks that every name that a field gives is among the choices."""
    for name in names:
        require(name in choices, f"{field}: {name!r} is no {kind}{nearest(name, choices)}")


def require_divides(part: str, size: int, whole: str, total: int) -> None:
    """Checks that a part divides its whole."""
    require(size > 0 and total % size == 0, f"{part} = {size} does not divide {whole} = {total}")


@dataclasses.dataclass(frozen=True)
class VitConfig:
    """Vision transformer (InternViT).

    Attributes:
      tile_px: Side of a tile.
      patch_px: Side of a patch.
      norm: `layer` (InternViT-300M) or `rms` (InternViT-6B).
      qk_norm: RMSNorm over all heads' queries and keys (InternViT-6B).
      layer_scale: Start value of LayerScale.
    """

    tile_px: int = 64
    patch_px: int = 8
    num_layers: int = 4
    embed_dim: int = 96
    num_heads: int = 4
    mlp_dim: int = 384
    norm: Literal["layer", "rms"] = "layer"
    norm_eps: float = 1e-6
    qkv_bias: bool = True
    qk_norm: bool = False
    layer_scale: float = 0.1

    def __post_init__(self) -> None:
        require_above_zero(self, "tile_px", "patch_px", "num_layers", "embed_dim", "mlp_dim", "norm_eps")
        require_not_negative(self, "layer_scale")
        require_divides("patch_px", self.patch_px, "tile_px", self.tile_px)
        require_divides("num_heads", self.num_heads, "embed_dim", self.embed_dim)


@dataclasses.dataclass(frozen=True)
class DecoderConfig:
    """Causal decoder in the Llama layout (InternLM2, Llama, Qwen2, Qwen3).

    Attributes:
      head_dim: Width of a head; 0 = embed_dim / num_heads.
      qkv_bias: Biases on queries, keys and values (Qwen2).
      qk_norm: RMSNorm on each head's queries and keys (Qwen3).
      tie_embeddings: The output layer is the transposed token embedding.
    """

    num_layers: int = 3
    embed_dim: int = 96
    num_heads: int = 4
    num_kv_heads: int = 2
    head_dim: int = 0
    mlp_dim: int = 256
    rope_theta: float = 10_000.0
    norm_eps: float = 1e-5
    qkv_bias: bool = False
    qk_norm: bool = False
    tie_embeddings: bool = False

    def __post_init__(self) -> None:
        require_above_zero(self, "num_layers", "embed_dim", "num_heads", "mlp_dim", "rope_theta", "norm_eps")
        require_divides("num_kv_heads", self.num_kv_heads, "num_heads", self.num_heads)
        if not self.head_dim:
            require_divides("num_heads", self.num_heads, "embed_dim", self.embed_dim)
        width = self.width_of_head
        require(width > 0 and width % 2 == 0, f"head_dim: a head is {width} wide; RoPE needs an even width")

    @property
    def width_of_head(self) -> int:
        return self.head_dim or self.embed_dim // self.num_heads


@dataclasses.dataclass(frozen=True)
class FusionConfig:
    """Fact fusion (SFE).

    Attributes:
      num_heads: Heads of the fusion attention.
      num_distinct: Distinct patches (K); an image with fewer tokens gives all it has.
      similarity: Of a test token to the reference: `max` over reference tokens of the cosine (text of the paper), `min`
        (its formula), `aligned` (the token at the same place, for registered pairs).
      fact_encoder: `embedding_mean` (as released) or `hidden_mean` (mean of the frozen decoder's last hidden states).
      difference: What keys and values hold beside the distinct patch: `none` (the paper); `similarity` adds a learned
        direction, scaled by 1 - similarity; `residual` also adds a learned map of the patch minus its reference
        match. Both are ours, not the paper's.
      difference_places: Whether `difference` also adds a learned vector of the patch's place in its tile, scaled by
        1 - similarity, so that the facts read where the test image is unlike its reference. Ours too.
      head: What passes a LayerNorm and a linear layer on its way to the decoder: `comparison` embeddings alone, so that
        the base model is kept, or `all` three parts (the paper), image embeddings and the questions' tokens too, each
        with a head of its own whose output is added to what it reads and starts at zero: nothing else would keep the
        base model, whose embeddings a LayerNorm does not give back.
    """

    num_heads: int = 4
    num_distinct: int = 8
    similarity: Literal["max", "min", "aligned"] = "max"
    fact_encoder: Literal["embedding_mean", "hidden_mean"] = "embedding_mean"
    difference: Literal["none", "similarity", "residual"] = "none"
    difference_places: bool = False
    head: Literal["comparison", "all"] = "comparison"

    def __post_init__(self) -> None:
        require_above_zero(self, "num_heads", "num_distinct")
        require(
            self.difference != "none" or not self.difference_places,
            "difference_places = True adds to a difference: set difference to similarity or residual",
        )


@dataclasses.dataclass(frozen=True)
class ModelConfig:
    """SAGE.

    Attributes:
      weights: Folder of an InternVL checkpoint (safetensors, in transformers' or OpenGVLab's layout) that stands in for
        a `base` model trained here; "" = none. Its config.json gives the sizes of `vit` and `decoder`.
      downsample: Side of the square of patches that pixel shuffle folds into one token.
      max_tiles: Most tiles of an image, thumbnail not counted.
      compute_dtype: `float32`, `bfloat16`, or `auto`: bfloat16 on GPU and TPU. Parameters are float32.
      remat: What the backward pass computes again: `none`; `dots` keeps matrix products; `full` keeps layer inputs.
      scan_unroll: Layers unrolled in one step of the layer scan; with `remat`, of at most half of them.
      attention: Of the decoder over a tree, in training, scoring and prefill. `tree` computes what a token sees alone,
        as products of blocks that any device computes; `pallas` is a block-sparse kernel for GPUs, `splash` one for
        TPUs; both bring a kernel for the ViT too. `masked` computes every pair of tokens and hides the others (the
        plain form, for comparison). `auto` is `pallas` on GPUs from H100 on, `splash` on TPU, else `tree`.
    """

    vit: VitConfig = VitConfig()
    decoder: DecoderConfig = DecoderConfig()
    fusion: FusionConfig = FusionConfig()
    weights: str = ""
    downsample: int = 2
    max_tiles: int = 1
    compute_dtype: Literal["auto", "float32", "bfloat16"] = "auto"
    remat: Literal["none", "dots", "full"] = "none"
    scan_unroll: int = 1
    attention: Literal["auto", "tree", "masked", "pallas", "splash"] = "auto"

    def __post_init__(self) -> None:
        require_above_zero(self, "max_tiles", "scan_unroll")
        require_divides(
            "downsample", self.downsample, "a tile's side in patches", self.vit.tile_px // self.vit.patch_px
        )
        require_divides("fusion.num_heads", self.fusion.num_heads, "decoder.embed_dim", self.decoder.embed_dim)

    @property
    def tokens_per_tile(self) -> int:
        return (self.vit.tile_px // self.vit.patch_px // self.downsample) ** 2


@dataclasses.dataclass(frozen=True)
class MeshConfig:
    """Device mesh; one axis may be -1 and takes what the others leave."""

    data: int = -1
    fsdp: int = 1
    tensor: int = 1

    def __post_init__(self) -> None:
        sizes = dataclasses.asdict(self)
        for name, size in sizes.items():
            require(size == -1 or size > 0, f"{name} = {size}: give 1 or more, or -1 for the devices left")
        require(list(sizes.values()).count(-1) <= 1, f"data, fsdp, tensor = {(*sizes.values(),)}: only one may be -1")


@dataclasses.dataclass(frozen=True)
class PreferenceConfig:
    """E-DPO objective, equations of method.md's stage 2.

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
      steps: Optimizer steps.
      batch_size: Images of a step, over all processes.
      accumulate: Micro-batches that a step's batch is cut into.
      schedule: After warm-up: `cosine` to `end_ratio` of the peak, or `constant`.
      freeze: Parameter path patterns (regular expressions, matched from the start) that do not train; every parameter
        is in or out, and a pattern that matches none is an error.
      lora: Low-rank training of the decoder, and of ViT and adapter if asked for.
      reference_drop_rate: Share of rows that lose their reference image, so that one model serves zero-shot too.
      questions: `inspection` trains on the record's questions, `description` on what the picture shows (base models).
      questions_per_image: Questions drawn of each record; 0 = all.
      answers: `best` trains on the best answer (SFE), `ranked` on all (DPO).
      facts: `fusion` as comparison embeddings; `text` as plain text in the prompt (ablation).
      similarity_weight: Weight of the dense similarity loss on labelled pairs (from-scratch base models only).
      preference: Used by stages `dpo` and `edpo`.
      log_every: Steps between rows of metrics.
      eval_every: Steps between losses on the images of `data.validation_fraction`, one more at the end; each comes with
        a checkpoint, of which the best is kept. The stage ends with the parameters of its last step all the same.
        0 = no validation.
      checkpoint_every: Steps between checkpoints; 0 = only at the end.
      keep_last: Newest checkpoints kept; the one of the lowest validation loss is kept as well.
    """

    steps: int = 200
    batch_size: int = 16
    accumulate: int = 1
    peak_learning_rate: float = 1e-3
    warmup_steps: int = 20
    schedule: Literal["cosine", "constant"] = "cosine"
    end_ratio: float = 0.1
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
    similarity_weight: float = 0.0
    preference: PreferenceConfig = PreferenceConfig()
    log_every: int = 10
    eval_every: int = 0
    checkpoint_every: int = 0
    keep_last: int = 1

    def __post_init__(self) -> None:
        require_above_zero(self, "steps", "batch_size", "peak_learning_rate", "clip_norm", "log_every", "keep_last")
        counts = ("warmup_steps", "questions_per_image", "eval_every", "checkpoint_every")
        require_not_negative(self, *counts, "end_ratio", "weight_decay", "similarity_weight")
        require_share(self, "reference_drop_rate")
        for name in ("b1", "b2"):
            decay = getattr(self, name)
            # At 1 a moment never moves, and Adam's bias correction divides by zero.
            require(0.0 <= decay < 1.0, f"{name} = {decay}: give a decay rate from 0 to below 1")
        require_divides("accumulate", self.accumulate, "batch_size", self.batch_size)
        require(
            self.warmup_steps <= self.steps, f"warmup_steps = {self.warmup_steps} is more than steps = {self.steps}"
        )
