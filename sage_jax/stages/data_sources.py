"""Readers of a run's data sets, where its config gives their names or `auto`: found once, before anything is read."""

from __future__ import annotations

import dataclasses

from sage_jax.config import TRAINING_STAGES, Config, ConfigError
from sage_jax.data.sources.readers import with_bits
from sage_jax.data.sources.recognition import with_reader


def with_readers(config: Config) -> tuple[Config, tuple[str, ...]]:
    """The config with a reader as the source of each data set and the depth of its images, and what was found.

    A training stage with `data_root` may have another kind of data set than the run: then its `data_source` is set.

    Raises:
      RecognitionError: A data set is none that is read, or another than the config names.
      ConfigError: A field is not for the reader that was found.
    """
    data, told = with_reader(config.data)
    sentences, stages = [told], {}
    for name in TRAINING_STAGES:
        train = config.training(name)
        if not train.data_root:
            continue
        try:
            own = config.data_of(name)
        except ConfigError as error:
            raise ConfigError(f"{name}.data_root = {train.data_root!r}: data.{error}") from None
        own, told = with_reader(own, field=f"{name}.data_source")
        sentences.append(told)
        source = "" if own.source == data.source else own.source
        stages[name] = dataclasses.replace(train, data_root=own.root, data_source=source)
    data, told = with_bits(data)
    sentences.append(told)
    return dataclasses.replace(config, data=data, **stages), tuple(dict.fromkeys(each for each in sentences if each))
