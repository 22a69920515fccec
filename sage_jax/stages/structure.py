"""The structure of a run's model: its modules without their parameters."""

from __future__ import annotations

import dataclasses
import functools
from typing import Any

from flax import nnx

from sage_jax.config import Config
from sage_jax.data.trees.chat import Chat
from sage_jax.models.layers import Remat
from sage_jax.models.lora import is_plain, layers_of, structure_of
from sage_jax.models.sage import Placeholders, Sage
from sage_jax.parameters import Params, split


class Structure:
    """The model that a config and a chat template describe.

    Args:
      config: The run.
      chat: Its template; the token embedding has a row for each of its tokens.
      stored_vocab: Rows of the table of `model.weights`, which may have more than there are tokens; 0 = none.
    """

    def __init__(self, config: Config, chat: Chat, *, stored_vocab: int = 0) -> None:
        self._config = config
        self._placeholders = Placeholders(chat.image_id, chat.comparison_id, config.text.reference == "prompt")
        self._vocab_size = max(chat.vocab_size, stored_vocab)
        self._adapted: dict[Any, nnx.GraphDef[Sage]] = {}

    @property
    def graphdef(self) -> nnx.GraphDef[Sage]:
        """Structure of the plain model."""
        return self._plain[0]

    @property
    def shapes(self) -> Params:
        """Shape of each parameter of the plain model, by path."""
        return self._plain[1]

    @functools.cached_property
    def _plain(self) -> tuple[nnx.GraphDef[Sage], Params]:
        """Both from one trace of the model's constructor, which takes seconds."""
        return split(nnx.eval_shape(self._create))

    def of(self, params: Params, *, scale: float = 1.0, remat: Remat | None = None) -> nnx.GraphDef[Sage]:
        """Structure for parameters that may have adapters or quantised kernels; the same object for the same kind.

        Args:
          remat: In place of `model.remat`; None = that.
        """
        remat = remat or self._config.model.remat
        if remat == self._config.model.remat and all(map(is_plain, layers_of(params).values())):
            return self.graphdef
        kind = tuple((path, params[path].dtype) for path in sorted(params)), scale, remat
        if kind not in self._adapted:
            create = functools.partial(self._create, remat)
            self._adapted[kind] = structure_of(nnx.eval_shape(create), params, scale=scale)
        return self._adapted[kind]

    @property
    def vocab_size(self) -> int:
        """Rows of the token embedding."""
        return self._vocab_size

    def create_params(self) -> Params:
        """Random parameters of the plain model."""
        return split(self._create())[1]

    def _create(self, remat: Remat | None = None) -> Sage:
        model = dataclasses.replace(self._config.model, remat=remat) if remat else self._config.model
        return Sage(model, self._vocab_size, self._placeholders, nnx.Rngs(self._config.seed))


def shapes_without_tokenizer(config: Config) -> Params:
    """Shape of each parameter by path, for checks before there is a tokenizer; the token embedding has two rows."""
    return split(nnx.eval_shape(lambda: Sage(config.model, 2, Placeholders(0, 1), nnx.Rngs(0))))[1]
