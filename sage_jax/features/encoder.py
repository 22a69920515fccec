"""The frozen ViT beside a training step, on the devices of one process."""

from __future__ import annotations

from typing import Any, Final

import jax
import jax.numpy as jnp
import numpy as np
from flax import nnx
from jax.sharding import AxisType, Mesh

from sage_jax.axes import Array, Float, UInt8
from sage_jax.models.sage import Sage
from sage_jax.parameters import Params, merge, on_host
from sage_jax.sharding import MESH_AXES, MESH_AXES_OF, batch_sharding, param_shardings

TILES_ON_DEVICE: Final = 8
"""Most tiles that the ViT runs on together on each device: enough to keep it busy, few to fill up with zeros."""


class VitEncoder:
    """ViT features of tiles, in the compute dtype, without gradient; computed by each process for itself.

    One process shares the parameters with the model on `mesh`. Of several, each has them once more, split over its own
    devices, so that it may compute what the others do not and when they do not; all have to make it together.

    Args:
      graphdef: Structure of the model.
      params: Its parameters; those of the ViT are kept, of the others the shapes are read.
      mesh: Devices of all processes.

    Attributes:
      params: The ViT's.
    """

    def __init__(self, graphdef: nnx.GraphDef[Sage], params: Params, mesh: Mesh) -> None:
        self._mesh = mesh if jax.process_count() == 1 else _own_devices(mesh)
        vit = {path: leaf for path, leaf in params.items() if path.startswith("vit/")}
        shardings = param_shardings(vit, self._mesh)
        own = vit if self._mesh is mesh else {path: on_host(leaf) for path, leaf in vit.items()}
        self.params: Params = jax.device_put(own, shardings)
        others = {path: (leaf.shape, leaf.dtype) for path, leaf in params.items() if path not in vit}

        def features(vit: Params, tiles: UInt8[Array, "A H W 3"]) -> Float[Array, "A M E"]:
            rest = {path: jnp.zeros(*form) for path, form in others.items()}  # never computed: nothing reads it
            return merge(graphdef, {**rest, **vit}).vit_features(tiles)

        self._features: Any = jax.jit(features, out_shardings=batch_sharding(self._mesh))

    @property
    def num_compiled(self) -> int:
        """Shapes of tiles that it was compiled for."""
        return self._features._cache_size()

    def at_once(self, num_tiles: int) -> int:
        """Tiles to run on together where so many may come: a number that the devices divide, few on each."""
        devices = int(np.prod([self._mesh.shape[axis] for axis in MESH_AXES_OF["batch"]]))
        return min(-(-num_tiles // devices), TILES_ON_DEVICE) * devices

    def __call__(self, tiles: UInt8[np.ndarray, "A H W 3"]) -> Float[Array, "A M E"]:
        """What the adapter reads of each tile, on its way to the host; as many tiles as the devices divide.

        It returns before anything is computed.
        """
        with jax.set_mesh(self._mesh):
            found = self._features(self.params, jax.device_put(tiles, batch_sharding(self._mesh)))
        found.copy_to_host_async()
        return found


def _own_devices(mesh: Mesh) -> Mesh:
    """This process's part of a mesh, over which parameters and tiles are split."""
    devices = mesh.local_devices
    return jax.make_mesh((1, len(devices), 1), MESH_AXES, axis_types=(AxisType.Auto,) * 3, devices=devices)
