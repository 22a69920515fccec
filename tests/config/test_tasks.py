"""Config of the stages that do not train: what cannot be meant is refused with its field."""

from __future__ import annotations

from typing import Any

import pytest

from sage_jax.config import AblateConfig, EvaluateConfig, ExportConfig, InspectConfig, PlanConfig
from sage_jax.config.tasks import CalibrateConfig, DecodingConfig
from sage_jax.errors import ConfigError


@pytest.mark.parametrize(
    ("kind", "fields", "said"),
    [
        (DecodingConfig, {"temperature": 0.5}, "temperature = 0.5 has no effect with method = 'greedy'"),
        (DecodingConfig, {"method": "checkpoint", "repetition_penalty": 1.2}, "repetition_penalty = 1.2 has no effect"),
        (DecodingConfig, {"method": "sample", "top_p": 1.5}, "top_p = 1.5"),
        (DecodingConfig, {"seed": 2**32}, "must be below 2\\^32"),
        (EvaluateConfig, {"stages": ()}, "stages is empty: name some of base"),
        (EvaluateConfig, {"stages": ("sfee",)}, "'sfee' is no training stage; did you mean 'sfe'"),
        (EvaluateConfig, {"batch_size": -1}, "batch_size = -1"),
        (InspectConfig, {"stage": "none"}, "stage: 'none' is no training stage"),
        (InspectConfig, {"questions": ("Where?", " ")}, "one of them is empty"),
        (InspectConfig, {"threshold": 1.5}, "threshold = 1.5: give a share from 0 to 1, or -1"),
        (InspectConfig, {"max_images": 0}, "max_images = 0"),
        (CalibrateConfig, {"false_alarm_rate": 0.0}, "give a share between 0 and 1, such as 0.05"),
        (CalibrateConfig, {"escape_rate": 1.0}, "escape_rate = 1.0"),
        (CalibrateConfig, {"good": "parts", "escape_rate": 0.1}, "name defective images with calibrate.defective"),
        (CalibrateConfig, {"unsure_rate": 1.0}, "unsure_rate = 1.0"),
        (ExportConfig, {"stage": "export"}, "'export' is no training stage"),
        (ExportConfig, {"max_shard_gb": 0.0}, "max_shard_gb = 0.0"),
        (AblateConfig, {"seeds": ()}, "seeds is empty"),
        (AblateConfig, {"seeds": (0, 1, 0)}, "give each seed once"),
        (AblateConfig, {"seeds": (-1,)}, "seeds = -1"),
        (AblateConfig, {"stages": ()}, "stages is empty"),
        (PlanConfig, {"num_devices": 0}, "num_devices = 0"),
        (PlanConfig, {"usable_share": 1.2}, "usable_share = 1.2"),
        (PlanConfig, {"stages": ("evaluate",)}, "'evaluate' is no training stage"),
    ],
)
def test_what_cannot_be_meant_is_refused(kind: Any, fields: dict[str, Any], said: str) -> None:
    kind()
    with pytest.raises(ConfigError, match=said):
        kind(**fields)


def test_sampling_reads_what_greedy_does_not() -> None:
    assert DecodingConfig(method="sample", temperature=0.5, top_p=0.9, top_k=5).top_k == 5
    assert DecodingConfig(repetition_penalty=1.2).repetition_penalty == 1.2
