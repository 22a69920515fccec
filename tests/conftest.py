"""Eight simulated CPU devices, and shapes and types checked at run time in the model and the losses."""

from __future__ import annotations

import os
from pathlib import Path

# Both must stand before jax is first imported. A machine with an accelerator runs the same tests on the same devices.
os.environ["XLA_FLAGS"] = f"{os.environ.get('XLA_FLAGS', '')} --xla_force_host_platform_device_count=8".strip()
os.environ.setdefault("JAX_PLATFORMS", "cpu")

import pytest  # noqa: E402
from jaxtyping import install_import_hook  # noqa: E402

install_import_hook(["sage_jax.models", "sage_jax.losses"], "beartype.beartype")


@pytest.fixture(scope="session")
def shared() -> Path:
    """Folder of data beside the checkout, which a checkout alone does not have."""
    folder = Path(__file__).parents[2] / "shared"
    if not folder.is_dir():
        pytest.skip(f"no folder {folder.name!r} beside the checkout: tests on its images do not run")
    return folder
