"""
Docs: the pool's HTTP API on one page, ``/pool/docs``, made from its OpenAPI document.

No script, nothing from elsewhere: it works on a network without a way out.
"""

from __future__ import annotations

from collections.abc import Iterator
from html import escape
from typing import Any, Final

from fastapi import APIRouter, FastAPI
from starlette.responses import HTMLResponse

__all__ = ["router"]

_STYLE: Final = (
    "body{font:16px/1.5 system-ui,sans-serif;max-width:50rem;margin:2rem auto;padding:0 1rem}"
    "code{font-size:.95em}h2{font-size:1.1rem;margin:2rem 0 .3rem}p{margin:.3rem 0;"
    "white-space:pre-line}@media(prefers-color-scheme:dark){body{background:#111;color:#ddd}"
    "a{color:#8bf}}"
)


def router(app: FastAPI) -> APIRouter:
    """The route of this module, for all routes of ``app``."""
    routes = APIRouter()

    @routes.get("/pool/docs", include_in_schema=False)
    async def docs() -> HTMLResponse:
        return HTMLResponse(
            "".join(_page(app.openapi())),
            headers={
                "Content-Security-Policy": "default-src 'none'; style-src 'unsafe-inline'; "
                "frame-ancestors 'none'"
            },
        )

    return routes


def _page(document: dict[str, Any]) -> Iterator[str]:
    title = escape(document["info"]["title"])
    yield f'<!doctype html><html lang="en"><meta charset="utf-8"><title>{title}</title>'
    yield f'<meta name="viewport" content="width=device-width"><style>{_STYLE}</style>'
    yield f"<h1>{title} {escape(document['info']['version'])}</h1>"
    yield f"<p>{escape(document['info']['summary'])} For programs: "
    yield '<a href="openapi.json">openapi.json</a>.</p>'
    schemas = document.get("components", {}).get("schemas", {})
    for path, operations in document["paths"].items():
        for method, operation in operations.items():
            yield f"<h2><code>{escape(method.upper())} {escape(path)}</code></h2>"
            yield f"<p>{escape(operation.get('description', ''))}</p>"
            fields = list(_fields(operation, schemas))
            if fields:
                yield f"<ul>{''.join(fields)}</ul>"


def _fields(operation: dict[str, Any], schemas: dict[str, Any]) -> Iterator[str]:
    """A list item for each parameter, and each field of the body."""
    for parameter in operation.get("parameters", ()):
        yield _item(parameter["name"], parameter["in"], parameter.get("description"))
    body = operation.get("requestBody", {}).get("content", {}).get("application/json", {})
    schema = body.get("schema", {})
    for option in (schema, *schema.get("anyOf", ())):
        model = schemas.get(option.get("$ref", "").rpartition("/")[2], {})
        for name, field in model.get("properties", {}).items():
            required = "required" if name in model.get("required", ()) else "optional"
            yield _item(name, required, field.get("description"))


def _item(name: str, kind: str, text: str | None) -> str:
    return f"<li><code>{escape(name)}</code> ({escape(kind)}) {escape(text or '')}</li>"
