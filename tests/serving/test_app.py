"""The program: further routers see the same service, under the same key and with the same form of errors."""

from __future__ import annotations

import httpx2
from fastapi import APIRouter

from sage_jax.config import ServeConfig
from sage_jax.serving.app import create_app
from sage_jax.serving.faults import RequestFault
from sage_jax.serving.server import address_of, listening_socket, serving
from tests.support.served import Served


def test_a_router_of_ones_own_stands_beside_the_others(served: Served) -> None:
    router = APIRouter()

    @router.get("/review/state")
    async def state() -> dict[str, str]:
        return {"state": served.service.state}

    @router.get("/review/missing")
    async def missing() -> None:
        raise RequestFault(404, "no such image")

    @router.get("/review/broken")
    async def broken() -> None:
        raise ZeroDivisionError("a secret of the inside")

    options = ServeConfig(port=0)
    listening = listening_socket(options)
    with serving(create_app(served.service, routers=[router], api_key="key"), listening, options):
        address, key = address_of(listening), {"Authorization": "Bearer key"}
        assert httpx2.get(f"{address}/review/state", timeout=30).status_code == 401
        assert httpx2.get(f"{address}/review/state", headers=key, timeout=30).json() == {"state": "ready"}
        found = httpx2.get(f"{address}/review/missing", headers=key, timeout=30)
        assert (found.status_code, found.json()["error"]["message"]) == (404, "no such image")
        failed = httpx2.get(f"{address}/review/broken", headers=key, timeout=30)
        assert failed.status_code == 500 and "secret" not in failed.text
        assert "/review/state" in httpx2.get(f"{address}/docs", headers=key, timeout=30).text
