"""A trained model that answers: its decoding, as the config and the checkpoint say."""

from __future__ import annotations

from pathlib import Path

from sage_jax.config import Config, ConfigError
from sage_jax.data.adpl.preferences import PLACES
from sage_jax.data.trees.chat import Chat
from sage_jax.generation.options import Decoding
from sage_jax.generation.place_tokens import PlaceIds
from sage_jax.generation.sampling import Sampling
from sage_jax.hf.config import CheckpointConfig
from sage_jax.hf.faults import WeightsError
from sage_jax.hf.generation_config import read_generation_config


def make_decoding(config: Config, chat: Chat, weights: tuple[Path, CheckpointConfig] | None) -> Decoding:
    """Length, stop tokens and choice of tokens of a run's answers.

    Args:
      weights: Folder of `model.weights` and its config.json, or None.

    Raises:
      WeightsError: `evaluate.decoding.method` is `checkpoint`, and generation_config.json has faults.
    """
    longest, sampling = config.evaluate.max_new_tokens, _sampling(config, weights)
    weight = config.evaluate.decoding.map_places
    places = _place_ids(chat) if weight else ()
    return Decoding(
        longest, chat.end_id, chat.verdict_ids, chat.stop_ids, sampling, place_ids=places, map_places=weight
    )


def _place_ids(chat: Chat) -> PlaceIds:
    """Ids of the words of each cell.

    Raises:
      ConfigError: The tokenizer writes a word of a place in several tokens.
    """
    found = [tuple(int(each) for each in ids if each >= 0) for ids in chat.name_ids(PLACES, length=4)]
    for place, ids in zip(PLACES, found, strict=True):
        if len(ids) != len(place.split()):
            raise ConfigError(
                f"evaluate.decoding.map_places: the tokenizer writes {place!r} in {len(ids)} tokens, and the map can "
                "choose between whole words only: set it to 0"
            )
    return tuple(found)


def _sampling(config: Config, weights: tuple[Path, CheckpointConfig] | None) -> Sampling:
    given = config.evaluate.decoding
    if given.method == "greedy":
        return Sampling(repetition_penalty=given.repetition_penalty, seed=given.seed)
    samples, found = True, given
    if given.method == "checkpoint" and weights:
        found = read_generation_config(*weights)
        samples = found.do_sample
    if not samples:  # transformers ignores temperature, top_k and top_p then
        return Sampling(repetition_penalty=found.repetition_penalty, seed=given.seed)
    return Sampling(found.temperature, found.top_k, found.top_p, found.repetition_penalty, given.seed)


def check_decoding(config: Config, checkpoint: CheckpointConfig) -> None:
    """Checks that the checkpoint's way to choose tokens is supported, where the config asks for it.

    Raises:
      WeightsError: It is not, or generation_config.json has faults.
    """
    if config.evaluate.decoding.method != "checkpoint":
        return
    folder = Path(config.model.weights).expanduser()
    others = read_generation_config(folder, checkpoint).others
    if others:
        raise WeightsError(
            f"{folder / 'generation_config.json'}: {', '.join(others)} is not supported; supported are "
            "temperature, top_k, top_p and repetition_penalty: set --config.evaluate.decoding.method=greedy, or "
            "sample with these"
        )
