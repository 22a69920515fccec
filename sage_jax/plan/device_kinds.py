"""Memory, its bandwidth, arithmetic peak and links of accelerators, from their vendors' data sheets."""

from __future__ import annotations

import dataclasses
from typing import Final

from sage_jax.models.attention.select import Backend


@dataclasses.dataclass(frozen=True)
class DeviceKind:
    """One kind of accelerator.

    Attributes:
      title: Its name.
      memory_gb: Memory of a device, GB (10^9 bytes) as the data sheet says.
      peak_tflops: Dense bfloat16 matrix products with float32 accumulation, 10^12 floating-point operations a second.
      memory_tb_s: Bandwidth of that memory, 10^12 bytes a second.
      link_gb_s: What a device sends to others of its node or TPU slice, all links together, 10^9 bytes a second.
    """

    title: str
    memory_gb: float
    peak_tflops: float
    memory_tb_s: float
    link_gb_s: float

    @property
    def backend(self) -> Backend:
        """What picks its attention."""
        if self.title.startswith("TPU"):
            return "tpu"
        return "gpu" if self.title.startswith(("NVIDIA H100", "NVIDIA H200")) else "older gpu"

    def link_bytes(self, num_devices: int) -> float:
        """Bytes a second that each of so many devices sends in a ring over all of them.

        GPUs of several nodes cross from node to node by as many rings as a node has devices, each through the network
        of one of them.
        """
        within = self.link_gb_s * 1e9
        if self.backend == "tpu" or num_devices <= NODE_DEVICES:
            return within
        return min(within, NODE_DEVICES * NETWORK_GB_S * 1e9)


NODE_DEVICES: Final = 8
NETWORK_GB_S: Final = 50.0
"""GPUs of a node, and what each sends to other nodes, 10^9 bytes a second: an assumption, a port of 400 Gbit/s each."""


# GPUs: NVIDIA's data sheets of each product, whose bfloat16 figure is halved where it is "with sparsity". TPUs: the
# pages "TPU v4", "TPU v5e", "TPU v5p" and "TPU v6e" of Cloud TPU's documentation, per chip. Links count one direction:
# NVLink, or PCIe where there is none; interconnect of a chip.
DEVICE_KINDS: Final[dict[str, DeviceKind]] = {
    "h200": DeviceKind("NVIDIA H200 SXM", 141.0, 989.0, 4.8, 450.0),
    "h100": DeviceKind("NVIDIA H100 SXM", 80.0, 989.0, 3.35, 450.0),
    "a100-80": DeviceKind("NVIDIA A100 80GB", 80.0, 312.0, 2.039, 300.0),
    "a100-40": DeviceKind("NVIDIA A100 40GB", 40.0, 312.0, 1.555, 300.0),
    "l40s": DeviceKind("NVIDIA L40S", 48.0, 362.0, 0.864, 32.0),
    "l4": DeviceKind("NVIDIA L4", 24.0, 121.0, 0.3, 32.0),
    "rtx4090": DeviceKind("NVIDIA RTX 4090", 24.0, 165.0, 1.008, 32.0),
    "v4": DeviceKind("TPU v4", 32.0, 275.0, 1.228, 300.0),
    "v5e": DeviceKind("TPU v5e", 16.0, 197.0, 0.819, 200.0),
    "v5p": DeviceKind("TPU v5p", 95.0, 459.0, 2.765, 600.0),
    "v6e": DeviceKind("TPU v6e", 32.0, 918.0, 1.64, 448.0),
}
