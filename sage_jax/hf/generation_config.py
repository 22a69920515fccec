"""A checkpoint's generation_config.json: how it was released to choose tokens, and where its answers end."""

from __future__ import annotations

import dataclasses
import json
from pathlib import Path
from typing import Any, Final

from sage_jax.hf.config import CheckpointConfig
from sage_jax.hf.config_fields import TEXT_SECTION
from sage_jax.hf.faults import WeightsError, listed

_NEUTRAL: Final[dict[str, Any]] = {"temperature": 1.0, "top_p": 1.0, "top_k": 0, "repetition_penalty": 1.0}
_SAMPLED_TOP_K: Final = 50
"""What transformers takes for `top_k` where a model samples and does not say."""


_OTHERS: Final[dict[str, Any]] = {
    **{"num_beams": 1, "num_beam_groups": 1, "penalty_alpha": 0, "guidance_scale": 1, "assistant_early_exit": None},
    **{"no_repeat_ngram_size": 0, "encoder_no_repeat_ngram_size": 0, "encoder_repetition_penalty": 1},
    **{"min_length": 0, "min_new_tokens": 0, "bad_words_ids": None, "sequence_bias": None, "force_words_ids": None},
    **{"suppress_tokens": None, "begin_suppress_tokens": None, "forced_bos_token_id": None},
    **{"forced_eos_token_id": None, "exponential_decay_length_penalty": None, "watermarking_config": None},
}
_OTHERS_OF_DRAWS: Final = {"min_p": 0, "top_h": None, "typical_p": 1, "epsilon_cutoff": 0, "eta_cutoff": 0}
"""Fields by which transformers chooses other tokens, with the value at which it does not."""


@dataclasses.dataclass(frozen=True)
class GenerationConfig:
    """What generation_config.json says, neutral values where it says nothing.

    Attributes:
      temperature, top_p, repetition_penalty: 1 = no effect.
      top_k: 0 = no effect.
      stop_ids: Ids at which an answer ends; where the file has none, those of config.json.
      do_sample: Whether tokens are drawn; else temperature, top_p and top_k are not used, as in transformers.
      others: Fields that choose tokens in ways that are not computed here.
    """

    temperature: float = 1.0
    top_p: float = 1.0
    top_k: int = 0
    repetition_penalty: float = 1.0
    stop_ids: tuple[int, ...] = ()
    do_sample: bool = False
    others: tuple[str, ...] = ()


def read_generation_config(folder: Path, config: CheckpointConfig) -> GenerationConfig:
    """The generation_config.json of a checkpoint folder; one that is missing says nothing.

    Raises:
      WeightsError: It is no JSON, or a value is out of range; all are listed.
    """
    path = folder / "generation_config.json"
    values: Any = {}
    if path.is_file():
        try:
            values = json.loads(path.read_text(encoding="utf-8"))
        except (OSError, ValueError, RecursionError) as error:
            raise WeightsError(f"{path}: cannot be read as JSON ({error}); download it again") from None
        if not isinstance(values, dict):
            raise WeightsError(f"{path}: expected an object")
    neutral = {**_NEUTRAL, "top_k": _SAMPLED_TOP_K if values.get("do_sample") else 0}
    found = {name: default if values.get(name) is None else values[name] for name, default in neutral.items()}
    faults = [f"{name} = {value!r}: out of range" for name, value in found.items() if not _fits(name, value)]
    text = config.values.get(TEXT_SECTION[config.layout], {})
    stops = values.get("eos_token_id", text.get("eos_token_id"))
    stops = [] if stops is None else stops if isinstance(stops, list) else [stops]
    sampled = values.get("do_sample")
    if type(sampled) not in (bool, type(None)):
        faults.append(f"do_sample = {sampled!r}: expected true or false")
    if sampled and found["temperature"] == 0:
        faults.append("temperature = 0 with do_sample: a draw needs more than 0")
    if any(type(stop) is not int or stop < 0 for stop in stops):
        faults.append(f"eos_token_id = {stops!r}: expected ids")
    if faults:
        raise listed(path, faults)
    numbers: dict[str, Any] = {name: value if name == "top_k" else float(value) for name, value in found.items()}
    read = {**_OTHERS, **(_OTHERS_OF_DRAWS if sampled else {})}
    others = sorted(name for name, value in read.items() if values.get(name) not in (None, value))
    return GenerationConfig(**numbers, stop_ids=tuple(stops), do_sample=bool(sampled), others=tuple(others))


def _fits(name: str, value: Any) -> bool:
    if type(value) not in ((int,) if name == "top_k" else (int, float)):
        return False
    if name == "top_p":
        return 0 < value <= 1
    return value > 0 if name == "repetition_penalty" else value >= 0
