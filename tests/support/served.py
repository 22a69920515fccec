"""A service at an address, and what tests send it."""

from __future__ import annotations

import base64
import dataclasses
import io
from typing import Any

import httpx2

from sage_jax.serving.service import Service
from tests.support.tiny_export import picture


def png(seed: int) -> bytes:
    """A picture of one of four sizes, by the seed's rest by four."""
    buffer = io.BytesIO()
    picture(seed).save(buffer, "PNG")
    return buffer.getvalue()


def base64_of(content: bytes) -> str:
    return base64.b64encode(content).decode()


@dataclasses.dataclass(frozen=True)
class Served:
    """A service behind a server.

    Attributes:
      address: Such as http://127.0.0.1:1234.
    """

    service: Service
    address: str

    @property
    def port(self) -> int:
        return int(self.address.rpartition(":")[2])

    def get(self, path: str, **options: Any) -> httpx2.Response:
        return httpx2.get(self.address + path, timeout=120, **options)

    def inspect(self, image: bytes, **fields: Any) -> httpx2.Response:
        """Posts an image as JSON."""
        body = {"image": base64_of(image), **fields}
        return httpx2.post(f"{self.address}/v1/inspect", json=body, timeout=120)


def error_of(response: httpx2.Response) -> str:
    """The message of an error, whose form is checked."""
    error = response.json()["error"]
    assert error.keys() == {"message", "type", "code"} and error["code"] == response.status_code
    return error["message"]
