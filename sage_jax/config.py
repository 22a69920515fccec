"""The configuration: frozen dataclasses with their checks, and the way between them and a ConfigDict."""

from __future__ import annotations

import dataclasses
import difflib
import typing
from typing import Any, Literal, TypeVar

import ml_collections

PairType = Literal["standard comparison", "defect identification", "defect diagnosis"]
STAGES = ("check", "prepare", "base", "plain", "sfe", "dpo", "edpo", "evaluate", "inspect", "ablate")


class ConfigError(ValueError):
    """A config that cannot run; the message names the field and the way out."""


def _require(condition: bool, message: str) -> None:
    if not condition:
        raise ConfigError(message)


def _nearest(name: str, choices: Any) -> str:
    match = difflib.get_close_matches(name, [str(choice) for choice in choices], n=1, cutoff=0.4)
    return f"; did you mean {match[0]!r}?" if match else f"; there are {', '.join(map(str, choices))}"


@dataclasses.dataclass(frozen=True)
class DataConfig:
    """Where records come from and how they are stored.

    Attributes:
      source: Reader: `generator` (built in), `deeppcb`, `mvtec` (any MVTec-style tree) or `adpl` (AD-PL JSON).
      root: Folder of the data set, or its JSON file for `adpl`; unused by `generator`.
      images_root: `adpl` only: folder that the JSON's image paths are relative to; "" = the JSON's own folder.
      cache_dir: Where built data sets are kept, keyed by content hash.
      vocabulary: TOML file of objects and defects, for facts and preferences; "" = the built-in one.
      on_bad_record: `fail` stops at the first fault, `skip` leaves the record out and lists it in the run directory.
      num_train: Images drawn for training; 0 = all there are (not for `generator`).
      num_test: Images drawn for testing; 0 = all.
      image_px: Side of a generated image or a DeepPCB crop; 0 = whole images.
      held_out: Categories kept for testing. Empty: the source's own split, or `test_fraction` by hash.
      test_fraction: Share of images kept for testing where the source has no split and nothing is held out.
      defect_rate: Share of defective images drawn by `generator` and `deeppcb`.
      pair_types: Kinds of question that preferences are made for.
      records_per_image: Kinds made of each annotated image, taken in turn from `pair_types`.
      num_workers: Grain worker processes; 0 = threads of the main process.
      prefetch: Batches kept ready.
    """

    source: Literal["generator", "deeppcb", "mvtec", "adpl"] = "generator"
    root: str = ""
    images_root: str = ""
    cache_dir: str = "~/.cache/sage_jax"
    vocabulary: str = ""
    on_bad_record: Literal["fail", "skip"] = "fail"
    num_train: int = 4000
    num_test: int = 200
    image_px: int = 64
    held_out: tuple[str, ...] = ()
    test_fraction: float = 0.2
    defect_rate: float = 0.5
    pair_types: tuple[str, ...] = ("standard comparison", "defect identification", "defect diagnosis")
    records_per_image: int = 1
    num_workers: int = 0
    prefetch: int = 2

    def __post_init__(self) -> None:
        _require(0.0 <= self.defect_rate <= 1.0, f"data.defect_rate = {self.defect_rate}: give a share from 0 to 1")
        _require(0.0 < self.test_fraction < 1.0, f"data.test_fraction = {self.test_fraction}: give a share between 0 and 1")
        for name in self.pair_types:
            _require(
                name in typing.get_args(PairType),
                f"data.pair_types: {name!r} is no kind{_nearest(name, typing.get_args(PairType))}",
            )
        _require(
            1 <= self.records_per_image <= len(self.pair_types),
            f"data.records_per_image = {self.records_per_image}: give 1 to {len(self.pair_types)}, the number of pair_types",
        )
        _require(
            self.source == "generator" or bool(self.root),
            f"data.root is empty: name the folder or file of the {self.source} data set",
        )
        _require(
            self.source != "generator" or min(self.num_train, self.num_test, self.image_px) > 0,
            "data: the generator needs num_train, num_test and image_px above 0",
        )
        _require(self.num_train >= 0 and self.num_test >= 0, "data.num_train and data.num_test: give 0 (all) or more")


@dataclasses.dataclass(frozen=True)
class TextConfig:
    """Tokenizer, chat template and the shapes of the tree.

    Attributes:
      vocab_size: Size of the tokenizer trained on the corpus.
      max_facts: Fact sentences of an image (F); fewer are masked, more are left out.
      max_fact_tokens: Tokens of a fact sentence (J).
      max_answer_tokens: Tokens of an answer (L), closing token included.
      buckets: Tree lengths that batches are padded to, ascending; the fewer, the fewer compilations.
      assist_prompt: Sentence that tells the decoder what the comparison embeddings are.
      assist_position: `question` closes each question with it (the paper), `prefix` the comparison embeddings.
      system: System message; "" = none.
    """

    vocab_size: int = 768
    max_facts: int = 4
    max_fact_tokens: int = 32
    max_answer_tokens: int = 40
    buckets: tuple[int, ...] = (256, 512, 1024)
    assist_prompt: str = "Above is the feature related to the anomaly facts."
    assist_position: Literal["question", "prefix"] = "question"
    system: str = ""

    def __post_init__(self) -> None:
        _require(
            self.buckets == tuple(sorted(set(self.buckets))) and bool(self.buckets),
            f"text.buckets = {self.buckets}: give ascending lengths",
        )
        _require(
            min(self.vocab_size, self.max_facts, self.max_fact_tokens, self.max_answer_tokens) > 0,
            "text: vocab_size, max_facts, max_fact_tokens and max_answer_tokens must be above 0",
        )


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
        _require(self.tile_px % self.patch_px == 0, f"model.vit: patch_px {self.patch_px} does not divide tile_px {self.tile_px}")
        _require(self.embed_dim % self.num_heads == 0, f"model.vit: num_heads {self.num_heads} does not divide embed_dim {self.embed_dim}")


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
        _require(
            self.num_heads % self.num_kv_heads == 0,
            f"model.decoder: num_kv_heads {self.num_kv_heads} does not divide num_heads {self.num_heads}",
        )
        _require(
            self.head_dim > 0 or self.embed_dim % self.num_heads == 0,
            f"model.decoder: num_heads {self.num_heads} does not divide embed_dim {self.embed_dim}; set head_dim",
        )
        _require(self.width_of_head % 2 == 0, f"model.decoder: head width {self.width_of_head} is odd; RoPE needs it even")

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
        match. Both extras start at zero, and are ours.
    """

    num_heads: int = 4
    num_distinct: int = 8
    similarity: Literal["max", "min", "aligned"] = "max"
    fact_encoder: Literal["embedding_mean", "hidden_mean"] = "embedding_mean"
    difference: Literal["none", "similarity", "residual"] = "none"


@dataclasses.dataclass(frozen=True)
class ModelConfig:
    """SAGE.

    Attributes:
      downsample: Side of the square of patches that pixel shuffle folds into one token.
      max_tiles: Most tiles of an image, thumbnail not counted.
      compute_dtype: `float32`, `bfloat16`, or `auto`: bfloat16 on GPU and TPU. Parameters are float32.
      remat: What the backward pass computes again: `none`; `dots` keeps matrix products; `full` keeps layer inputs.
      scan_unroll: Layers unrolled in one step of the layer scan.
    """

    vit: VitConfig = VitConfig()
    decoder: DecoderConfig = DecoderConfig()
    fusion: FusionConfig = FusionConfig()
    downsample: int = 2
    max_tiles: int = 1
    compute_dtype: Literal["auto", "float32", "bfloat16"] = "auto"
    remat: Literal["none", "dots", "full"] = "none"
    scan_unroll: int = 1

    def __post_init__(self) -> None:
        side = self.vit.tile_px // self.vit.patch_px
        _require(side % self.downsample == 0, f"model.downsample {self.downsample} does not divide the {side} patches of a tile's side")
        _require(
            self.decoder.embed_dim % self.fusion.num_heads == 0,
            f"model.fusion.num_heads {self.fusion.num_heads} does not divide decoder.embed_dim {self.decoder.embed_dim}",
        )
        _require(self.max_tiles >= 1, f"model.max_tiles = {self.max_tiles}: give 1 or more")

    @property
    def tokens_per_tile(self) -> int:
        return (self.vit.tile_px // self.vit.patch_px // self.downsample) ** 2


@dataclasses.dataclass(frozen=True)
class MeshConfig:
    """Device mesh; one axis may be -1 and takes what the others leave."""

    data: int = -1
    fsdp: int = 1
    tensor: int = 1


@dataclasses.dataclass(frozen=True)
class PreferenceConfig:
    """E-DPO objective, equations of method.md's stage 2.

    Attributes:
      beta: Inverse temperature of the implicit reward.
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
        _require(self.beta > 0, f"preference.beta = {self.beta}: must be above 0")
        _require(self.tau > 0, f"preference.tau = {self.tau}: must be above 0")
        _require(self.soft_temperature > 0, f"preference.soft_temperature = {self.soft_temperature}: must be above 0")


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
      reference_drop_rate: Share of rows that lose their reference image, so that one model serves zero-shot too.
      questions: `inspection` trains on the record's questions, `description` on what the picture shows (base models).
      questions_per_image: Questions drawn of each record; 0 = all.
      answers: `best` trains on the best answer (SFE), `ranked` on all (DPO).
      facts: `fusion` as comparison embeddings; `text` as plain text in the prompt (ablation).
      similarity_weight: Weight of the dense similarity loss on labelled pairs (from-scratch base models only).
      preference: Used by stages `dpo` and `edpo`.
      log_every, eval_every, checkpoint_every: Steps between; 0 = only at the end.
      keep_last: Checkpoints kept besides the best.
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
    reference_drop_rate: float = 0.3
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
        _require(self.steps > 0, f"steps = {self.steps}: must be above 0")
        _require(self.batch_size > 0, f"batch_size = {self.batch_size}: must be above 0")
        _require(
            self.accumulate > 0 and self.batch_size % self.accumulate == 0,
            f"accumulate = {self.accumulate} does not divide batch_size = {self.batch_size}",
        )
        _require(0.0 <= self.reference_drop_rate <= 1.0, f"reference_drop_rate = {self.reference_drop_rate}: give a share from 0 to 1")
        _require(self.warmup_steps <= self.steps, f"warmup_steps = {self.warmup_steps} is more than steps = {self.steps}")
        _require(self.log_every > 0, f"log_every = {self.log_every}: must be above 0")


@dataclasses.dataclass(frozen=True)
class EvaluateConfig:
    """Evaluation of trained stages on the test records.

    Attributes:
      stages: Stages to score, those with a checkpoint in `run_dir`.
      batch_size: Image-question rows decoded at once.
      max_new_tokens: Longest answer.
      bootstrap_samples: Resamples of the 95 % intervals.
      num_records: Test records used; 0 = all.
    """

    stages: tuple[str, ...] = ("base", "sfe", "edpo")
    batch_size: int = 64
    max_new_tokens: int = 40
    bootstrap_samples: int = 1000
    num_records: int = 0


@dataclasses.dataclass(frozen=True)
class InspectConfig:
    """Inspection of a user's images.

    Attributes:
      images: An image, a folder, or a text file with a path a line; "" = a sample of the test records.
      references: An image, a folder (matched by file name, else its first image), or ""; none = zero-shot.
      category: What the part is, for question and facts; "" = taken from the folder name where known.
      stage: Stage whose checkpoint answers; "" = the last trained one.
      threshold: Anomaly score from which the verdict is "defective".
      output: Folder of the results; "" = `run_dir`/inspect.
      max_images: Most images of the embedded sample.
    """

    images: str = ""
    references: str = ""
    category: str = ""
    stage: str = ""
    threshold: float = 0.5
    output: str = ""
    max_images: int = 24


@dataclasses.dataclass(frozen=True)
class AblateConfig:
    """Seeds over which the `ablate` stage trains and scores base, plain facts, SFE, DPO and E-DPO."""

    seeds: tuple[int, ...] = (0, 1, 2)
    stages: tuple[str, ...] = ("base", "plain", "sfe", "dpo", "edpo")


@dataclasses.dataclass(frozen=True)
class Config:
    """A run: what `python -m sage_jax.main --config FILE` does.

    Attributes:
      run_dir: Folder of everything the run writes.
      stages: Comma-separated stages, run in this order.
      seed: Seed of weights, data order and generator.
    """

    run_dir: str = "runs/quickstart"
    stages: str = "prepare,base,sfe,edpo,evaluate,inspect"
    seed: int = 0
    data: DataConfig = DataConfig()
    text: TextConfig = TextConfig()
    model: ModelConfig = ModelConfig()
    mesh: MeshConfig = MeshConfig()
    base: TrainConfig = TrainConfig(freeze=("fusion/", "fact_encoder/"), questions="description", similarity_weight=1.0)
    plain: TrainConfig = TrainConfig(facts="text")
    sfe: TrainConfig = TrainConfig()
    dpo: TrainConfig = TrainConfig(answers="ranked", freeze=("vit/", "fusion/", "fact_encoder/"))
    edpo: TrainConfig = TrainConfig(answers="ranked", freeze=("vit/", "fusion/", "fact_encoder/"))
    evaluate: EvaluateConfig = EvaluateConfig()
    inspect: InspectConfig = InspectConfig()
    ablate: AblateConfig = AblateConfig()

    def __post_init__(self) -> None:
        _require(bool(self.stage_names), f"stages is empty: name some of {', '.join(STAGES)}")
        for name in self.stage_names:
            _require(name in STAGES, f"stages: {name!r} is no stage{_nearest(name, STAGES)}")

    @property
    def stage_names(self) -> tuple[str, ...]:
        return tuple(name.strip() for name in self.stages.split(",") if name.strip())


T = TypeVar("T")


def to_config_dict(config: Config) -> ml_collections.ConfigDict:
    """The config as a locked ConfigDict, for command-line overrides."""
    return ml_collections.ConfigDict(dataclasses.asdict(config)).lock()


def from_config_dict(values: Any) -> Config:
    """Rebuilds the dataclasses, so that their checks see what will run.

    Raises:
      ConfigError: A field is unknown, of the wrong type, or impossible; the message names it and the nearest right one.
    """
    if isinstance(values, ml_collections.ConfigDict):
        values = values.to_dict()
    return _build(Config, values, "config")


def _build(cls: type[T], values: dict[str, Any], path: str) -> T:
    hints = typing.get_type_hints(cls)
    names = [field.name for field in dataclasses.fields(cls)]  # pyright: ignore[reportArgumentType]
    unknown = [name for name in values if name not in names]
    if unknown:
        raise ConfigError(f"{path}.{unknown[0]}: no such field{_nearest(unknown[0], names)}")
    built = {name: _convert(hints[name], value, f"{path}.{name}") for name, value in values.items()}
    try:
        return cls(**built)
    except ConfigError as error:
        raise ConfigError(f"{path}: {error}") from None


def _convert(hint: Any, value: Any, path: str) -> Any:
    origin = typing.get_origin(hint)
    if dataclasses.is_dataclass(hint):
        if not isinstance(value, dict):
            raise ConfigError(f"{path} = {value!r}: expected its fields, {path}.<field>")
        return _build(hint, value, path)  # pyright: ignore[reportArgumentType]
    if origin is Literal:
        choices = typing.get_args(hint)
        if value not in choices:
            raise ConfigError(f"{path} = {value!r}: give one of {', '.join(map(str, choices))}{_nearest(str(value), choices)}")
        return value
    if origin is tuple:
        if isinstance(value, str) or not isinstance(value, (tuple, list)):
            raise ConfigError(f"{path} = {value!r}: expected a tuple, such as ({value!r},)")
        return tuple(_convert(typing.get_args(hint)[0], item, f"{path}[{i}]") for i, item in enumerate(value))
    if hint is float and isinstance(value, int) and not isinstance(value, bool):
        return float(value)
    if type(value) is not hint:
        raise ConfigError(f"{path} = {value!r}: expected {hint.__name__}, got {type(value).__name__}")
    return value
