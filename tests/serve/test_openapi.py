"""The OpenAPI document describes the answers that clients really get."""

from __future__ import annotations

import re
from pathlib import Path
from typing import Any

import jsonschema
import pytest

from pipeline.config.job import Limits
from pipeline.serve.openapi import docs, document
from pipeline.serve.settings import Serving

README = (Path(__file__).parents[2] / "pipeline" / "serve" / "README.md").read_text("utf-8")


@pytest.fixture(scope="module")
def described() -> dict[str, Any]:
    return document(["fake"], ["white"], Limits(), Serving(token="0123456789abcdef"), with_jobs=True)


def operations(described: dict[str, Any]) -> dict[str, dict[str, Any]]:
    return {f"{method} {path}": one for path, methods in described["paths"].items() for method, one in methods.items()}


@pytest.mark.parametrize("query", ["", "&rendition=amazon-main,dataset-coco", "&box=0,0,30,90", "&format=webp"])
def test_real_answers_fit_the_schema(service: Any, picture: bytes, query: str) -> None:
    made = service.get("/openapi.json").json
    schema = {"$ref": "#/components/schemas/Result", "components": made["components"]}
    jsonschema.validate(service.post(f"/v1/cutout?output=json{query}", picture).json, schema)
    found = made["paths"]["/v1/cutout"]["post"]["responses"]["200"]["content"]["application/json"]["schema"]
    assert found == {"$ref": "#/components/schemas/Result"}


def test_real_refusals_fit_the_schema(service: Any) -> None:
    made = service.get("/openapi.json").json
    schema = {"$ref": "#/components/schemas/Error", "components": made["components"]}
    answer = service.post("/v1/cutout", b"no picture")
    jsonschema.validate(answer.json, schema)
    told = made["paths"]["/v1/cutout"]["post"]["responses"][str(answer.status)]["headers"]
    assert {"X-Error-Code", "X-Request-Id"} <= set(told) and all(
        name in answer.headers for name in ("X-Error-Code", "X-Request-Id")
    )


def test_all_statuses_of_the_readme_are_described(described: dict[str, Any]) -> None:
    listed = {status for row in re.findall(r"^\| ([45]\d\d(?:, \d+)*) \| `", README, re.M) for status in row.split(", ")}
    told = {status for one in operations(described).values() for status in one["responses"]}
    assert listed - {"404", "405"} <= told
    assert {"401", "403", "421", "500", "503"} <= set(described["paths"]["/v1/jobs"]["post"]["responses"])


def test_what_generators_of_clients_need(described: dict[str, Any]) -> None:
    names = [one["operationId"] for one in operations(described).values()]
    assert len(names) == len(set(names))
    free = {name for name, one in operations(described).items() if one.get("security") == []}
    assert described["security"] and free == {"get /health", "get /ready"}
    form = described["paths"]["/v1/cutout"]["post"]["requestBody"]["content"]["multipart/form-data"]["schema"]
    assert {"image", "file"} <= set(form["properties"])
    assert all(name in docs(described) for name in ("/v1/jobs/{id}", "X-Request-Id"))
