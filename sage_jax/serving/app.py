"""The service as a FastAPI program, on which further routers can stand.

A page or a watcher of its own brings an `APIRouter` made with the same `Service`:

    app = create_app(service, routers=[review_router(service, folder)])

Each router sees `service.inspect` and `service.submit` (for any thread; in an async route await `finding` of
`inspect_routes`), `service.state` and `service.references`. What it raises as `RequestFault` comes out in the one form
of errors. Key, largest body and longest time hold for all routes.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence

from fastapi import APIRouter, FastAPI
from starlette.exceptions import HTTPException
from starlette.requests import ClientDisconnect
from starlette.requests import Request as HttpRequest
from starlette.responses import Response
from starlette.types import Scope

from sage_jax.process.version import own_version
from sage_jax.serving.chat_routes import chat_router
from sage_jax.serving.faults import RequestFault
from sage_jax.serving.guard import Guard, fault_response
from sage_jax.serving.inspect_routes import inspect_router
from sage_jax.serving.service import Service
from sage_jax.serving.status_routes import status_router

_ABOUT = "SAGE inspects images of parts beside good ones. Errors have the form of FaultBody."


def create_app(
    service: Service,
    *,
    routers: Sequence[APIRouter] = (),
    api_key: str = "",
    admits: Callable[[Scope], bool] = lambda scope: False,
) -> FastAPI:
    """The program.

    Args:
      service: Its model and its queue.
      routers: Further routes, such as a page for review.
      api_key: Asked of every request but /health and /ready; "" = none.
      admits: Whether a request without it is let through nonetheless, such as one of a page where one signed in.
    """
    app = FastAPI(
        title="sage_jax",
        description=_ABOUT,
        version=own_version(),
        docs_url=None,  # its page loads scripts from a CDN; /docs is one that loads nothing
        redoc_url=None,
        telemetry={"tracing": False, "metrics": False, "logs": False, "auto_configure": False},
    )
    for router in (inspect_router(service), chat_router(service), status_router(service), *routers):
        app.include_router(router)
    app.add_exception_handler(RequestFault, _on_fault)
    app.add_exception_handler(HTTPException, _on_http_exception)
    app.add_exception_handler(ClientDisconnect, _on_disconnect)
    app.add_exception_handler(Exception, _on_error)
    known = frozenset(app.openapi()["paths"])
    app.add_middleware(
        Guard, options=service.options, api_key=api_key, measures=service.measures, known=known, admits=admits
    )
    return app


async def _on_fault(request: HttpRequest, error: Exception) -> Response:
    assert isinstance(error, RequestFault)
    return fault_response(error)


async def _on_http_exception(request: HttpRequest, error: Exception) -> Response:
    assert isinstance(error, HTTPException)
    return fault_response(RequestFault(error.status_code, str(error.detail)))


async def _on_disconnect(request: HttpRequest, error: Exception) -> Response:
    return fault_response(RequestFault(499, "the client has gone"))


async def _on_error(request: HttpRequest, error: Exception) -> Response:
    return fault_response(RequestFault(500, f"the service failed ({type(error).__name__})"))
