"""The config of a run, and the way between its dataclasses and the ConfigDict that the command line overrides."""

from __future__ import annotations

import dataclasses
import typing
from collections.abc import Iterator, Mapping
from typing import Any, Final, Literal

import ml_collections

from sage_jax.config import (
    ConfigError,
    DataConfig,
    MeshConfig,
    ModelConfig,
    PreferenceConfig,
    TextConfig,
    TrainConfig,
    nearest,
    require,
    require_above_zero,
    require_known,
    require_not_negative,
    require_share,
)

TRAINING_STAGES: Final = ("base", "plain", "sfe", "dpo", "edpo")
PREFERENCE_STAGES: Final = ("dpo", "edpo")
STAGES: Final = ("check", "prepare", *TRAINING_STAGES, "evaluate", "inspect", "ablate")


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
      bootstrap_samples: Resamples of the 95 % intervals.
      num_records: Test records used; 0 = all.
    """

    stages: tuple[str, ...] = ("base", "sfe", "edpo")
    batch_size: int = 64
    max_new_tokens: int = 40
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
      references: An image, a folder (matched by file name, else its first image), or ""; none = zero-shot.
      category: What the part is, for question and facts; "" = taken from the folder name where known.
      stage: Stage whose checkpoint answers; "" = the last trained one.
      threshold: Anomaly score from which the verdict is "defective".
      map_threshold: Of 1 - similarity, from which a peak of the map gets a box.
      output: Folder of the results; "" = `run_dir`/inspect.
      max_images: Most images of the embedded sample.
      report_images: Most images in the HTML report: unreadable ones, then those of highest score; the JSONL has all.
    """

    images: str = ""
    references: str = ""
    category: str = ""
    stage: str = ""
    threshold: float = 0.5
    map_threshold: float = 0.5
    output: str = ""
    max_images: int = 24
    report_images: int = 500

    def __post_init__(self) -> None:
        require_known("stage", (self.stage,) if self.stage else (), TRAINING_STAGES, "training stage")
        require_share(self, "threshold")
        require_not_negative(self, "map_threshold")
        require_above_zero(self, "max_images", "report_images")


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
    ablate: AblateConfig = AblateConfig()

    def __post_init__(self) -> None:
        require(bool(self.stage_names), f"stages is empty: name some of {', '.join(STAGES)}")
        require_known("stages", self.stage_names, STAGES, "stage")
        _require_seed("seed", self.seed)
        require(bool(self.run_dir), "run_dir is empty: name the folder that the run writes")
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
