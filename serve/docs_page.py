"""/docs: the OpenAPI schema as one plain page that loads nothing from outside."""

import json
from collections.abc import Mapping
from html import escape
from typing import Any

from fastapi.responses import HTMLResponse

_STYLE = (
    "body{font:16px/1.5 system-ui,sans-serif;max-width:52rem;margin:2rem auto;padding:0 1rem;color-scheme:light dark}"
    "code,pre{font:14px ui-monospace,monospace}pre{overflow:auto;padding:.75rem;border:1px solid #8886;"
    "border-radius:.4rem}h2{margin-top:2.5rem}td{padding:.15rem 1rem .15rem 0;vertical-align:top}"
)


def docs_page(schema: Mapping[str, Any]) -> HTMLResponse:
    """The page for an OpenAPI schema."""
    info = schema["info"]
    operations = "".join(
        _operation(method, path, operation, schema)
        for path, methods in schema["paths"].items()
        for method, operation in methods.items()
    )
    html = (
        f"<!doctype html><html lang=en><meta charset=utf-8><meta name=viewport content='width=device-width'>"
        f"<title>{escape(info['title'])} API</title><style>{_STYLE}</style>"
        f"<h1>{escape(info['title'])} {escape(info['version'])}</h1><p>{escape(info.get('summary', ''))}. "
        f"For machines: <a href=/openapi.json>openapi.json</a>.</p>{operations}</html>"
    )
    return HTMLResponse(html, headers={"Content-Security-Policy": "default-src 'none'; style-src 'unsafe-inline'"})


def _operation(method: str, path: str, operation: Mapping[str, Any], schema: Mapping[str, Any]) -> str:
    rows = "".join(
        f"<tr><td><code>{status}</code><td>{escape(reply.get('description', ''))}"
        for status, reply in operation["responses"].items()
    )
    body = operation.get("requestBody", {}).get("content", {}).get("application/json", {}).get("schema")
    curls = "".join(f"<pre>{escape(_curl(path, example))}</pre>" for example in _examples(body, schema)) if body else ""
    return (
        f"<h2><code>{method.upper()} {escape(path)}</code></h2><p>{escape(operation.get('description', ''))}</p>"
        f"{curls}<table>{rows}</table>"
    )


def _examples(body: Mapping[str, Any], schema: Mapping[str, Any]) -> list[Any]:
    parts = [part["$ref"].rsplit("/", 1)[1] for part in body.get("oneOf", [body])]
    return [schema["components"]["schemas"][part].get("example") for part in parts]


def _curl(path: str, example: Any) -> str:
    return f"curl -s localhost:8000{path} -H 'content-type: application/json' -d '{json.dumps(example)}'"
