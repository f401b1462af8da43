"""Describe the service as an OpenAPI document, and as a page for people."""

from __future__ import annotations

import html
import json
from collections.abc import Sequence
from importlib.metadata import version
from typing import Any, get_args

from pipeline.config.job import Limits
from pipeline.serve.asked import FORMAT_NAMES, NAMES, Output
from pipeline.serve.body import FILE_FIELDS
from pipeline.serve.jobs.openapi import job_paths
from pipeline.serve.settings import Serving

ABOUT = {
    "preset": "A configured preset. Default: the first of /v1/presets.",
    "box": "Box around the object: x0,y0,x1,y1 in pixels of the upright picture.",
    "label": "Name of the object, such as potted plant; several, separated by semicolons: any of them. "
    "For presets with labels in /v1/presets.",
    "point": "A point on the object: x,y in pixels. Of several salient objects that do not touch, only this one is cut out.",
    "output": "cutout: a picture. mask: an 8-bit PNG, 255 is opaque. trimap: an 8-bit PNG, 128 is unknown. json: cutout "
    "and mask as base64, with quality and signals.",
    "rendition": "A rendition of /v1/renditions in place of the cutout. With output=json, beside it, and several, separated "
    "by commas.",
    "format": "Format of the cutout. JPEG has no transparency and gets white, or the background.",
    "background": 'A colour behind the object, such as "#f4f1ea", white or black. Default: transparent.',
}

HEADERS = {
    "X-Quality": "Quality of the mask from 0 to 1.",
    "X-Quality-Calibrated": "true: the quality is the chance that the mask is good. false: it only puts masks in order.",
    "X-Status": "ok, or review for a quality below the preset's threshold.",
    "X-Reasons": "Signals that lowered the quality most, worst first, separated by commas.",
    "X-Recipe": "Name and fingerprint of all settings that change pixels or scores.",
    "X-Box": "With a label: the box that was found, x0,y0,x1,y1 in pixels.",
    "X-Box-Score": "Its score, from 0 to 1.",
    "X-Note": "A remark about a rendition, such as an object that reaches the border.",
    "Server-Timing": "Milliseconds of decode, wait (queue and model) and encode.",
    "X-Request-Id": "Id of the request, which the log has as request_id.",
}

REFUSAL_HEADERS = {
    "X-Error-Code": "The code of the JSON.",
    "X-Request-Id": "Id of the request, which the log has as request_id.",
    "Retry-After": "With 503: seconds after which to try again, unless the service must be restarted.",
}

REFUSALS = {
    "400": "An option, the box or the form is wrong.",
    "401": "The token is missing or wrong.",
    "403": "Another origin, or an address that may not be read.",
    "408": "The body came too slowly.",
    "413": "The body is too large.",
    "415": "The body is of another kind.",
    "421": "A host name that is not served.",
    "422": "The bytes are not a picture within the limits; it shows nothing of the name; it is too large for the format; or "
    "there is no rendition of its empty mask.",
    "500": "The model failed on this picture.",
    "503": "All places of the queue are taken, and Retry-After says when to try again; or the service must be restarted.",
    "504": "The deadline has passed.",
}


_NUMBER, _TEXT = {"type": "number"}, {"type": "string"}
_FILE: dict[str, Any] = {"type": _TEXT, "base64": _TEXT}


def _object(properties: dict[str, Any], **more: Any) -> dict[str, Any]:
    """Return the schema of an object that has these keys and no others."""
    return {"type": "object", "required": list(properties), "additionalProperties": False, "properties": properties, **more}


RESULT = _object(
    {
        "width": {"type": "integer", "description": "Pixels of the upright picture."},
        "height": {"type": "integer", "description": "Pixels of the upright picture."},
        "status": {"enum": ["ok", "review"]},
        "quality": _NUMBER | {"minimum": 0, "maximum": 1},
        "calibrated": {"type": "boolean"},
        "reasons": {"type": "array", "items": _object({"name": _TEXT, "text": _TEXT})},
        "signals": {"type": "object", "additionalProperties": {"type": ["number", "boolean", "null"]}},
        "recipe": _TEXT,
        "found": _object(
            {"label": _TEXT, "score": _NUMBER, "box": {"type": "array", "items": _NUMBER, "minItems": 4, "maxItems": 4}}
        )
        | {"type": ["object", "null"], "description": "The box that was found, with a label."},
        "models": {"type": ["array", "null"], "items": {"type": "object"}, "description": "What each of two models thought."},
        "agreement": {"type": ["number", "null"], "description": "Of two models."},
        "image": _object(_FILE, description="The cutout."),
        "mask": _object(_FILE, description="An 8-bit PNG."),
        "renditions": {
            "type": "array",
            "description": "Those that were asked for. Without bytes, the note says why.",
            "items": _object(
                {"name": _TEXT, "type": _TEXT, "base64": {"type": ["string", "null"]}, "note": {"type": ["string", "null"]}}
            ),
        },
    }
)
"""JSON schema of the answer to ``output=json``."""

ERROR = {
    "type": "object",
    "required": ["code", "message"],
    "properties": {
        "code": {"type": "string", "description": "Stable, for programs."},
        "message": {"type": "string", "description": "One sentence for people."},
        "request_id": {"type": "string", "description": "With 500: what the log calls this request."},
    },
}
"""JSON schema of a refusal."""

REMBG = {
    "model": "A configured preset; any other model gives the default.",
    "om": "true: the mask instead of the cutout.",
    "bgc": "Background: red,green,blue,255.",
}
"""Options of rembg's server that have an effect."""


_PICTURE = {"schema": {"type": "string", "format": "binary"}}


def document(
    presets: Sequence[str], renditions: Sequence[str], limits: Limits, settings: Serving, *, with_jobs: bool = False
) -> dict[str, Any]:
    """Return the OpenAPI 3.1 document."""
    made: dict[str, Any] = {
        "openapi": "3.1.0",
        "info": {"title": "Matteline", "version": version("matteline"), "license": {"name": "Apache-2.0"}},
        "paths": {
            "/v1/cutout": {"post": _cutout(_options(presets, renditions), limits, settings)},
            "/api/remove": _remove(),
            **(job_paths() if with_jobs else {}),
            **_reading(),
        },
        "components": {"schemas": {"Error": ERROR, "Result": RESULT}},
    }
    if settings.token is not None:
        made["components"]["securitySchemes"] = {"token": {"type": "http", "scheme": "bearer"}}
        made["security"] = [{"token": []}]
    return made


def _options(presets: Sequence[str], renditions: Sequence[str]) -> dict[str, dict[str, Any]]:
    """Return the schema of each option of a cutout."""
    values = {"preset": list(presets), "output": list(get_args(Output)), "format": list(FORMAT_NAMES)}
    about = ABOUT | {"rendition": f"{ABOUT['rendition']} Names: {', '.join(renditions)}."}
    return {
        name: {"type": "string", "description": about[name]} | ({"enum": values[name]} if name in values else {})
        for name in NAMES
    }


def _cutout(options: dict[str, dict[str, Any]], limits: Limits, settings: Serving) -> dict[str, Any]:
    files = {
        name: _PICTURE["schema"] | {"description": "The picture, in one of the fields image and file."} for name in FILE_FIELDS
    }
    either = [{"required": [name]} for name in FILE_FIELDS]
    form = {"schema": {"type": "object", "oneOf": either, "properties": {**files, **options}}}
    pictures = dict.fromkeys(("image/png", "image/webp", "image/jpeg", "image/tiff"), _PICTURE)
    return {
        "operationId": "cutout",
        "summary": "Cut out the object of one picture",
        "description": f"The picture is the body itself, or the field image of a form: at most {limits.max_bytes:,} bytes and "
        f"{limits.max_pixels:,} pixels. Options stand in the query or in the form. Answers within {settings.deadline_s:g} s.",
        "parameters": [_parameter(name, options[name]) for name in NAMES],
        "requestBody": {"required": True, "content": {"image/*": _PICTURE, "multipart/form-data": form}},
        "responses": _answers(pictures | {"application/json": {"schema": {"$ref": "#/components/schemas/Result"}}}),
    }


def _remove() -> dict[str, Any]:
    """Return the address of rembg's server."""
    remove: dict[str, Any] = {
        "description": "rembg's other options are accepted and have no effect.",
        "parameters": [_parameter(name, {"type": "string", "description": about}) for name, about in REMBG.items()],
        "responses": _answers({"image/png": _PICTURE}),
    }
    file = {"schema": {"type": "object", "required": ["file"], "properties": {"file": _PICTURE["schema"]}}}
    url = _parameter("url", {"type": "string", "description": "Address below an allowed root (--allow-root)."}, required=True)
    post = {
        "operationId": "remove",
        "summary": "As rembg's server",
        "requestBody": {"required": True, "content": {"multipart/form-data": file}},
    }
    get = {
        "operationId": "removeByAddress",
        "summary": "As rembg's server, by address",
        "parameters": [url, *remove["parameters"]],
    }
    return {"post": remove | post, "get": remove | get}


def _reading() -> dict[str, Any]:
    """Return the addresses that say what the service has and how it is."""
    alive = "Is the process working? 503 if it must be restarted"
    ready = "Are the models loaded? 503 before, while the service ends, and with /health"
    return {
        "/v1/presets": _get("presets", "List the configured presets", "application/json"),
        "/v1/renditions": _get("renditions", "List the renditions", "application/json"),
        "/health": _get("health", alive, "application/json", probe=True),
        "/ready": _get("ready", ready, "application/json", probe=True),
        "/metrics": _get("metrics", "Metrics for Prometheus", "text/plain"),
    }


def _parameter(name: str, schema: dict[str, Any], *, required: bool = False) -> dict[str, Any]:
    rest = {key: value for key, value in schema.items() if key != "description"}
    return {"name": name, "in": "query", "required": required, "description": schema["description"], "schema": rest}


def _answers(content: dict[str, Any]) -> dict[str, Any]:
    headers = {name: {"description": about, "schema": {"type": "string"}} for name, about in HEADERS.items()}
    error = {"application/json": {"schema": {"$ref": "#/components/schemas/Error"}}}
    told = {name: {"description": about, "schema": {"type": "string"}} for name, about in REFUSAL_HEADERS.items()}
    refusals = {status: {"description": about, "headers": told, "content": error} for status, about in REFUSALS.items()}
    return {"200": {"description": "The result.", "headers": headers, "content": content}, **refusals}


def _get(operation: str, summary: str, kind: str, *, probe: bool = False) -> dict[str, Any]:
    """Return an address to read. A probe needs no token, and answers 503 as well."""
    answer = {"description": summary, "content": {kind: {"schema": {"type": "string" if kind == "text/plain" else "object"}}}}
    refused = {
        "description": REFUSALS["503"],
        "content": {"application/json": {"schema": {"$ref": "#/components/schemas/Error"}}},
    }
    made = {"operationId": operation, "summary": summary, "responses": {"200": answer, **({"503": refused} if probe else {})}}
    return {"get": made | ({"security": []} if probe else {})}


STYLE = """:root { color-scheme: light dark; } body { font: 15px/1.5 system-ui, sans-serif; max-width: 900px; margin: 0 auto;
padding: 0 20px 60px; } code, pre { font-size: .95em; overflow-wrap: anywhere; white-space: pre-wrap; } h2 { margin-top: 2em; }
table { border-collapse: collapse; width: 100%; } th, td { text-align: left; vertical-align: top; padding: 4px 12px 4px 0;
border-bottom: 1px solid #8884; } pre { background: #8882; padding: 10px 14px; border-radius: 8px; }"""


def docs(described: dict[str, Any]) -> str:
    """Return a page that says the same as the document: no script, nothing loaded."""
    parts = [
        "<!doctype html><html lang=en><meta charset=utf-8><meta name=viewport content='width=device-width, initial-scale=1'>",
        f"<title>Matteline: addresses</title><style>{STYLE}</style><h1>Matteline</h1>",
        "<p>The same as <a href='/openapi.json'>an OpenAPI document</a>. <a href='/'>Try it with a picture.</a></p>",
        "<pre>curl -F image=@cup.jpg http://127.0.0.1:8000/v1/cutout -o cutout.png</pre>",
        '<p>Every refusal is JSON: <code>{"code": …, "message": …}</code>.</p>',
    ]
    for path, methods in described["paths"].items():
        for method, one in methods.items():
            parts += [f"<h2><code>{method.upper()} {html.escape(path)}</code></h2><p>{html.escape(one['summary'])}."]
            parts += [f" {html.escape(one['description'])}" if "description" in one else "", "</p>"]
            parts.append(_table("option", [(each["name"], _values(each)) for each in one.get("parameters", [])]))
            parts.append(_table("header", [(name, of["description"]) for name, of in _headers(one).items()]))
            if method == "post":
                parts.append(_table("status", [(status, of["description"]) for status, of in one["responses"].items()]))
    return "\n".join(parts)


def _values(parameter: dict[str, Any]) -> str:
    values = parameter["schema"].get("enum")
    return str(parameter["description"]) + (f" One of {', '.join(map(json.dumps, values))}." if values else "")


def _headers(operation: dict[str, Any]) -> dict[str, Any]:
    found: dict[str, Any] = operation["responses"].get("200", {}).get("headers", {})
    return found


def _table(head: str, rows: Sequence[tuple[str, str]]) -> str:
    lines = "".join(f"<tr><td><code>{html.escape(name)}</code><td>{html.escape(about)}" for name, about in rows)
    return f"<table><tr><th>{head}<th>meaning{lines}</table>" if rows else ""
