"""Config of a run: frozen dataclasses with their checks; a config file imports all that it needs from here."""

from sage_jax.config.benchmark import BenchmarkConfig
from sage_jax.config.changes import ConfigChange, config_changes
from sage_jax.config.checks import (
    nearest,
    require,
    require_above_zero,
    require_divides,
    require_known,
    require_not_negative,
    require_seed,
    require_share,
)
from sage_jax.config.convert import from_config_dict, to_config_dict
from sage_jax.config.data import DataConfig, PairType, Source, TextConfig
from sage_jax.config.facts import FactsConfig
from sage_jax.config.fields import field_meanings, field_paths
from sage_jax.config.judging import JudgeConfig
from sage_jax.config.learning import LearnConfig
from sage_jax.config.model import DecoderConfig, FusionConfig, MeshConfig, ModelConfig, VitConfig
from sage_jax.config.run import Config
from sage_jax.config.serving import ServeConfig
from sage_jax.config.stages import LEARN, STAGES, TRAINING_STAGES, TrainingStage, starts_from
from sage_jax.config.tasks import (
    AblateConfig,
    CalibrateConfig,
    DecodingConfig,
    EvaluateConfig,
    ExportConfig,
    InspectConfig,
    PlanConfig,
    RowsConfig,
)
from sage_jax.config.training import LoraConfig, PreferenceConfig, TrainConfig
from sage_jax.config.watching import ReviewConfig, WatchConfig
from sage_jax.errors import ConfigError

__all__ = [
    "AblateConfig",
    "BenchmarkConfig",
    "CalibrateConfig",
    "Config",
    "ConfigChange",
    "ConfigError",
    "DataConfig",
    "DecoderConfig",
    "DecodingConfig",
    "EvaluateConfig",
    "ExportConfig",
    "FactsConfig",
    "FusionConfig",
    "InspectConfig",
    "JudgeConfig",
    "LEARN",
    "LearnConfig",
    "LoraConfig",
    "MeshConfig",
    "ModelConfig",
    "PairType",
    "PlanConfig",
    "PreferenceConfig",
    "ReviewConfig",
    "RowsConfig",
    "STAGES",
    "ServeConfig",
    "Source",
    "TRAINING_STAGES",
    "TextConfig",
    "TrainConfig",
    "TrainingStage",
    "VitConfig",
    "WatchConfig",
    "config_changes",
    "field_meanings",
    "field_paths",
    "from_config_dict",
    "nearest",
    "require",
    "require_above_zero",
    "require_divides",
    "require_known",
    "require_not_negative",
    "require_seed",
    "require_share",
    "starts_from",
    "to_config_dict",
]
