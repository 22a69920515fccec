"""The config of a run, and the way between its dataclasses and the ConfigDict that the command line overrides."""

from __future__ import annotations

import dataclasses
import re
import typing
from collections.abc import Iterator, Mapping
from typing import Any, Final, Literal

import ml_collections

from sage_jax.config import (
    ConfigError,
    MeshConfig,
    ModelConfig,
    PreferenceConfig,
    TrainConfig,
    nearest,
    require,
    require_above_zero,
    require_known,
    require_not_negative,
    require_share,
)
from sage_jax.data_config import DataConfig, TextConfig

TRAINING_STAGES: Final = ("base", "plain", "sfe", "dpo", "edpo")

# Training stage -> the stage whose model it starts from; None = fresh weights.
STARTS_FROM: Final[dict[str, str | None]] = {"base": None, "plain": "base", "sfe": "base", "dpo": "sfe", "edpo": "sfe"}

PREFERENCE_STAGES: Final = ("dpo", "edpo")
STAGES: Final = ("plan", "check", "prepare", *TRAINING_STAGES, "evaluate", "inspect", "export", "ablate")


@dataclasses.dataclass(frozen=True)
class DecodingConfig:
    """How the tokens of answers are chosen, in evaluation and inspection.

    Attributes:
      method: `greedy` takes the likeliest token, `sample` draws one, `checkpoint` does what generation_config.json of
        `model.weights` says, stop tokens aside, which count with every method.
      temperature: Of `sample`: logits are divided by it.
      top_p: Of `sample`: tokens are drawn among the likeliest that have this probability together; 1 = all.
      top_k: Of `sample`: tokens are drawn among so many likeliest; 0 = all.
      repetition_penalty: Makes tokens less likely that stand in the conversation already, prompt and answers, with
        `greedy` too; 1 = none. As in transformers.
      seed: Of the draws. An image's draws depend on it, on the image's name and on the question's number alone.
    """

    method: Literal["greedy", "sample", "checkpoint"] = "greedy"
    temperature: float = 1.0
    top_p: float = 1.0
    top_k: int = 0
    repetition_penalty: float = 1.0
    seed: int = 0

    def __post_init__(self) -> None:
        require_above_zero(self, "temperature", "top_p", "repetition_penalty")
        require_share(self, "top_p")
        require_not_negative(self, "top_k", "seed")
        require(self.seed < 2**32, f"seed = {self.seed}: must be below 2^32")
        of_method = {"greedy": ("repetition_penalty",), "checkpoint": ()}
        for name in ("temperature", "top_p", "top_k", "repetition_penalty"):
            given = getattr(self, name)
            neutral = 0 if name == "top_k" else 1.0
            unread = self.method != "sample" and name not in of_method[self.method] and given != neutral
            require(not unread, f"{name} = {given} has no effect with method = {self.method!r}: set method = 'sample'")


def _require_seed(field: str, seed: int) -> None:
    """Checks that a seed is one of 32 bits, as the order of the records takes it."""
    require(0 <= seed < 2**32, f"{field} = {seed}: give a seed from 0 to {2**32 - 1}")


def _require_preferences(stage: str, train: TrainConfig) -> None:
    """Checks that a stage that learns preferences has pairs to learn from, as its reference policy sees them."""
    for name, needed in (("answers", "ranked"), ("questions", "inspection"), ("facts", "fusion")):
        given = getattr(train, name)
        require(given == needed, f"{stage}.{name} = {given!r}: preferences are learnt from {needed!r}")
    weights = train.preference
    require(
        weights.lambda_hard + weights.lambda_easy > 0,
        f"{stage}.preference.lambda_hard and lambda_easy are 0: no pair would train; give one of them a weight",
    )
    require(
        weights.sigmoid_weight + weights.bco_weight + weights.sft_weight > 0,
        f"{stage}.preference.sigmoid_weight, bco_weight and sft_weight are 0: nothing would train; give one a weight",
    )


@dataclasses.dataclass(frozen=True)
class EvaluateConfig:
    """Evaluation of trained stages on the test records.

    Attributes:
      stages: Stages to score, those with a checkpoint in `run_dir`.
      batch_size: Image-question rows decoded at once.
      max_new_tokens: Longest answer.
      decoding: How its tokens are chosen.
      weights_dtype: Of the kernels and embeddings that evaluation and inspection answer with: `float32`; `bfloat16`;
        or `int8` kernels in the blocks, with a scale for each column. The narrower, the less memory they take and the
        less a decoded token reads; on CPU, where they are widened for each token, decoding is slower.
      bootstrap_samples: Resamples of the 95 % intervals.
      num_records: Test records used; 0 = all.
    """

    stages: tuple[str, ...] = ("base", "sfe", "edpo")
    batch_size: int = 64
    max_new_tokens: int = 40
    decoding: DecodingConfig = DecodingConfig()
    weights_dtype: Literal["float32", "bfloat16", "int8"] = "float32"
    bootstrap_samples: int = 1000
    num_records: int = 0

    def __post_init__(self) -> None:
        require(bool(self.stages), f"stages is empty: name some of {', '.join(TRAINING_STAGES)}")
        require_known("stages", self.stages, TRAINING_STAGES, "training stage")
        require_above_zero(self, "batch_size", "max_new_tokens", "bootstrap_samples")
        require_not_negative(self, "num_records")


@dataclasses.dataclass(frozen=True)
class InspectConfig:
    """Inspection of a user's images.

    Attributes:
      images: An image, a folder, or a text file with a path a line; "" = a sample of the test records.
      references: An image, a folder (the file of the image's own name, else its first image), or ""; none = zero-shot.
      questions: Asked about each image after the question whether there is a defect; their answers go to the rows and
        the report.
      ask: How: `together`, each for itself, all of an image at once, as training and evaluation do; or `in_turn`, in
        one conversation, in which each answer knows those before, and which takes longer.
      facts: Whose sentences the comparison embeddings are made of: those of `vocabulary` on the category, or those that
        the `model` itself writes about each image first (the paper).
      fact_tokens: Longest text of an image's facts that the model writes.
      category: What the part is, for question and facts; "" = taken from the folder name where known.
      stage: Stage whose checkpoint answers; "" = the last trained one.
      threshold: Anomaly score from which the verdict is "defective".
      map_threshold: Of 1 - similarity, from which a peak of the map gets a box.
      output: Folder of the results; "" = `run_dir`/inspect.
      max_images: Most images of the embedded sample.
      report_images: Most images in the HTML report: unreadable ones, then those of highest score; the JSONL has all.
      reference_memory_mb: Memory for the ViT's features of references, in MB (10^6 bytes), so that a reference of many
        images is computed once; the least recently used are dropped. 0 = computed with each image.
    """

    images: str = ""
    references: str = ""
    questions: tuple[str, ...] = ()
    ask: Literal["together", "in_turn"] = "together"
    facts: Literal["vocabulary", "model"] = "vocabulary"
    fact_tokens: int = 96
    category: str = ""
    stage: str = ""
    threshold: float = 0.5
    map_threshold: float = 0.5
    output: str = ""
    max_images: int = 24
    report_images: int = 500
    reference_memory_mb: int = 512

    def __post_init__(self) -> None:
        require_known("stage", (self.stage,) if self.stage else (), TRAINING_STAGES, "training stage")
        require(all(map(str.strip, self.questions)), f"questions = {self.questions}: one of them is empty")
        require_share(self, "threshold")
        require_not_negative(self, "map_threshold", "reference_memory_mb")
        require_above_zero(self, "max_images", "report_images", "fact_tokens")


@dataclasses.dataclass(frozen=True)
class ExportConfig:
    """Export of a trained stage to a folder that transformers loads.

    Attributes:
      stage: Stage whose model is exported; "" = the last trained one.
      folder: A new folder; "" = `run_dir`/export.
      layout: `internvl` (transformers, with SAGE's torch module) or `internvl_chat` (OpenGVLab's, weights alone).
      dtype: Of all weights.
      max_shard_gb: Largest file of the plain model's weights, 10^9 bytes.
      license: Licence of the exported model for its card, such as `apache-2.0`; "" = the card states its base's alone.
      data_license: Terms of the training data for its card, in words.
      base_model: Name on the hub of what `model.weights` holds, such as `OpenGVLab/InternVL3-1B-hf`; "" = unknown.
      upload_to: Repository on the Hugging Face Hub, `user/name`; "" = no upload.
      private: Whether a repository made by the upload is private.
    """

    stage: str = ""
    folder: str = ""
    layout: Literal["internvl", "internvl_chat"] = "internvl"
    dtype: Literal["bfloat16", "float32"] = "bfloat16"
    max_shard_gb: float = 5.0
    license: str = ""
    data_license: str = ""
    base_model: str = ""
    upload_to: str = ""
    private: bool = True

    def __post_init__(self) -> None:
        require_known("stage", (self.stage,) if self.stage else (), TRAINING_STAGES, "training stage")
        require_above_zero(self, "max_shard_gb")
        for name in ("upload_to", "base_model"):
            given = getattr(self, name)
            require(
                not given or re.fullmatch(r"[\w.-]+/[\w.-]+", given) is not None,
                f"{name} = {given!r}: give user/name, as the Hugging Face Hub has it",
            )


@dataclasses.dataclass(frozen=True)
class AblateConfig:
    """Seeds over which the `ablate` stage trains and scores base, plain facts, SFE, DPO and E-DPO."""

    seeds: tuple[int, ...] = (0, 1, 2)
    stages: tuple[str, ...] = ("base", "plain", "sfe", "dpo", "edpo")

    def __post_init__(self) -> None:
        require(bool(self.seeds), "seeds is empty: give one or more, such as (0, 1, 2)")
        require(len(set(self.seeds)) == len(self.seeds), f"seeds = {self.seeds}: give each seed once")
        for seed in self.seeds:
            _require_seed("seeds", seed)
        require(bool(self.stages), f"stages is empty: name some of {', '.join(TRAINING_STAGES)}")
        require_known("stages", self.stages, TRAINING_STAGES, "training stage")


@dataclasses.dataclass(frozen=True)
class PlanConfig:
    """Sizes on paper: what training stages take on devices that need not be there.

    Attributes:
      stages: Training stages to plan.
      device: Kind of the devices; memory and peak of each kind are in `sage_jax/plan/device_kinds.py`.
      num_devices: Devices that the mesh is made of.
      device_memory_gb: Memory of a device in GB (10^9 bytes); 0 = that of its kind.
      usable_share: Share of the memory that arrays may take; the rest is for the runtime, communication and
        fragmentation. On GPUs, XLA_PYTHON_CLIENT_MEM_FRACTION must be as high.
      vocab_size: Rows of the token embedding; 0 = `text.vocab_size`, or the checkpoint's where it is opened.
      prompt_tokens: Tokens of system message and template.
      question_tokens: Tokens of a question.
      num_questions, num_answers: Questions of an image, and ranked answers of a question, in the data set.
      num_images: Distinct images of the training data, references too, for the disk or the share of memory that
        `data.vit_features` takes; 0 = two for each of `data.num_train`.
      compile: Whether the step is also compiled for simulated devices, which gives communication and the compiler's
        own memory; without, the plan takes seconds.
    """

    stages: tuple[str, ...] = ("sfe", "edpo")
    device: Literal["h200", "h100", "a100-80", "a100-40", "l40s", "l4", "rtx4090", "v4", "v5e", "v5p", "v6e"] = "h100"
    num_devices: int = 1
    device_memory_gb: float = 0.0
    usable_share: float = 0.92
    vocab_size: int = 0
    prompt_tokens: int = 64
    question_tokens: int = 100
    num_questions: int = 5
    num_answers: int = 4
    num_images: int = 0
    compile: bool = True

    def __post_init__(self) -> None:
        require(bool(self.stages), f"stages is empty: name some of {', '.join(TRAINING_STAGES)}")
        require_known("stages", self.stages, TRAINING_STAGES, "training stage")
        require_above_zero(self, "num_devices", "usable_share", "num_questions", "num_answers")
        require_share(self, "usable_share")
        require_not_negative(self, "device_memory_gb", "vocab_size", "prompt_tokens", "question_tokens", "num_images")


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
    dpo: TrainConfig = TrainConfig(
        answers="ranked",
        freeze=("vit/", "fusion/", "fact_encoder/"),
        preference=PreferenceConfig(eta=0.0, lambda_hard=0.0),
    )
    edpo: TrainConfig = TrainConfig(answers="ranked", freeze=("vit/", "fusion/", "fact_encoder/"))
    evaluate: EvaluateConfig = EvaluateConfig()
    inspect: InspectConfig = InspectConfig()
    export: ExportConfig = ExportConfig()
    ablate: AblateConfig = AblateConfig()
    plan: PlanConfig = PlanConfig()

    def __post_init__(self) -> None:
        require(bool(self.stage_names), f"stages is empty: name some of {', '.join(STAGES)}")
        require_known("stages", self.stage_names, STAGES, "stage")
        _require_seed("seed", self.seed)
        require(
            self.evaluate.decoding.method != "checkpoint" or bool(self.model.weights),
            "evaluate.decoding.method = 'checkpoint' needs one: name it in model.weights, or set greedy or sample",
        )
        require(
            self.model.fusion.head == "comparison" or not self.inspect.questions or self.inspect.ask == "together",
            "inspect.questions: questions asked in turn do not pass the question head of model.fusion.head = 'all'; "
            "set inspect.ask to 'together', or train with 'comparison'",
        )
        require(bool(self.run_dir), "run_dir is empty: name the folder that the run writes")
        rank = self.base.lora.rank
        require(rank == 0, f"base.lora.rank = {rank}: base models are trained from scratch; set it for a later stage")
        for stage in TRAINING_STAGES:
            every = self.training(stage).eval_every
            require(
                not every or self.data.validation_fraction > 0,
                f"{stage}.eval_every = {every}, but data.validation_fraction is 0: give the share of training images "
                "to validate on, such as 0.05, or set eval_every to 0",
            )
        for stage in PREFERENCE_STAGES:
            _require_preferences(stage, self.training(stage))

    @property
    def stage_names(self) -> tuple[str, ...]:
        """The stages, in order."""
        return tuple(name.strip() for name in self.stages.split(",") if name.strip())

    def training(self, stage: str) -> TrainConfig:
        """The config of a training stage."""
        return {"base": self.base, "plain": self.plain, "sfe": self.sfe, "dpo": self.dpo, "edpo": self.edpo}[stage]


def to_config_dict(config: Config) -> ml_collections.ConfigDict:
    """The config as a locked ConfigDict, for command-line overrides."""
    return ml_collections.ConfigDict(dataclasses.asdict(config)).lock()


def from_config_dict(values: ml_collections.ConfigDict | Mapping[str, Any]) -> Config:
    """Rebuilds the dataclasses, so that their checks see what will run.

    Raises:
      ConfigError: A field is unknown, of the wrong type, or impossible; the message names it and the nearest right one.
    """
    return _build(Config, values.to_dict() if isinstance(values, ml_collections.ConfigDict) else values, "config")


def field_paths(cls: Any = Config) -> Iterator[str]:
    """Every field of a config by its path, a section before its own fields: `seed`, `data`, `data.root`."""
    for name, hint in typing.get_type_hints(cls).items():
        yield name
        if dataclasses.is_dataclass(hint):
            yield from (f"{name}.{inner}" for inner in field_paths(hint))


def _build(cls: Any, values: Mapping[str, Any], path: str) -> Any:
    hints = typing.get_type_hints(cls)
    names = [field.name for field in dataclasses.fields(cls)]
    unknown = [name for name in values if name not in names]
    if unknown:
        raise ConfigError(f"{path}.{unknown[0]}: no such field{nearest(unknown[0], names)}")
    built = {name: _convert(hints[name], value, f"{path}.{name}") for name, value in values.items()}
    try:
        return cls(**built)
    except ConfigError as error:
        raise ConfigError(f"{path}.{error}") from None


def _convert(hint: Any, value: Any, path: str) -> Any:
    origin = typing.get_origin(hint)
    if isinstance(hint, type) and dataclasses.is_dataclass(hint):
        if not isinstance(value, Mapping):
            raise ConfigError(f"{path} = {value!r}: expected its fields, {path}.<field>")
        return _build(hint, value, path)
    if origin is Literal:
        choices = typing.get_args(hint)
        if value not in choices:
            raise ConfigError(
                f"{path} = {value!r} is none of {', '.join(map(str, choices))}{nearest(str(value), choices)}"
            )
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
