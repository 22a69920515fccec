"""`/health`, `/ready`, `/metrics`, and `/docs`: what a supervisor, Prometheus and a reader ask."""

from __future__ import annotations

import html
from typing import Any

from fastapi import APIRouter, FastAPI
from starlette.requests import Request as HttpRequest
from starlette.responses import HTMLResponse, JSONResponse, Response

from sage_jax.serving.service import Service
from sage_jax.serving.wire import model_name

_PAGE = """<!doctype html><html lang="en"><meta charset="utf-8"><title>{title}</title>
<style>body{{font:16px/1.5 sans-serif;max-width:60rem;margin:2rem auto;padding:0 1rem}}
code,td:first-child{{font-family:monospace}}td{{vertical-align:top;padding:.1rem 1rem .1rem 0}}
h2{{border-top:1px solid #ccc;padding-top:1rem}}</style>
<h1>{title}</h1><p>{about} The same as data: <a href="openapi.json">openapi.json</a>.</p>{body}</html>"""


def status_router(service: Service) -> APIRouter:
    """The routes."""
    router = APIRouter(tags=["status"])

    @router.get("/health")
    async def health() -> dict[str, str]:
        """200 as long as the process answers."""
        return {"status": "alive"}

    @router.get("/ready")
    async def ready() -> JSONResponse:
        """200 once the model is compiled, 503 before and while the service stops."""
        about = {"status": service.state}
        if service.state != "ready":
            return JSONResponse(about, 503)
        return JSONResponse({**about, "model": model_name(service).model_dump()})

    @router.get("/metrics")
    async def metrics() -> Response:
        """Counts and times for Prometheus."""
        return Response(service.measures.text(), media_type="text/plain; version=0.0.4; charset=utf-8")

    @router.get("/docs", include_in_schema=False)
    async def docs(request: HttpRequest) -> HTMLResponse:
        app = request.app
        assert isinstance(app, FastAPI)
        return HTMLResponse(page_of(app.openapi()))

    return router


def page_of(schema: dict[str, Any]) -> str:
    """The OpenAPI description as one page that loads nothing: a factory has no way to a CDN."""
    parts = []
    for path, methods in schema["paths"].items():
        for method, about in methods.items():
            parts.append(f"<h2><code>{method.upper()} {html.escape(path)}</code></h2>")
            parts.append(f"<p>{html.escape(about.get('description', about.get('summary', '')))}</p>")
            answers = ", ".join(f"{code} {each['description']}" for code, each in about["responses"].items())
            parts.append(f"<p>Answers: {html.escape(answers)}</p>")
    for name, model in schema.get("components", {}).get("schemas", {}).items():
        parts.append(f"<h2 id='{html.escape(name)}'>{html.escape(name)}</h2>")
        parts.append(f"<p>{html.escape(model.get('description', ''))}</p>")
        rows = [
            f"<tr><td>{html.escape(field)}</td><td>{html.escape(_type(about))}</td>"
            f"<td>{html.escape(about.get('description', ''))}</td></tr>"
            for field, about in model.get("properties", {}).items()
        ]
        parts.append(f"<table>{''.join(rows)}</table>")
    info = schema["info"]
    return _PAGE.format(
        title=html.escape(info["title"]), about=html.escape(info.get("description", "")), body="".join(parts)
    )


def _type(about: dict[str, Any]) -> str:
    if "$ref" in about:
        return about["$ref"].rpartition("/")[2]
    if "anyOf" in about:
        return " or ".join(map(_type, about["anyOf"]))
    if "enum" in about or "const" in about:
        return " | ".join(map(str, about.get("enum", [about.get("const")])))
    kind = str(about.get("type", "any"))
    return f"list of {_type(about['items'])}" if kind == "array" and "items" in about else kind
