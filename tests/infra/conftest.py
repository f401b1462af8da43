"""Rendered overlays, the schemas of Kubernetes and KubeRay, and what to do when a tool is missing."""

from __future__ import annotations

import gzip
import os
import re
from collections.abc import Callable
from functools import cache
from pathlib import Path
from typing import Any, NoReturn

import jsonschema
import pytest
import typer
import yaml

from jobs.main import app
from pipeline.deploy.render import render
from pipeline.errors import ConfigError

ROOT = Path(__file__).resolve().parents[2]
CRDS = Path(os.environ.get("DATA") or ROOT / ".." / "shared") / "k8s" / "crds"
KUBERNETES = "1.34"
NO_SCHEMA = {"PodMonitor", "PrometheusRule", "ClusterQueue", "LocalQueue", "ResourceFlavor"}
"""Kinds of other projects whose schema is not available; any other kind without a schema is an error."""
Tree = dict[str, Any]


def missing(what: str) -> NoReturn:
    """Skip the test because a tool is missing; under ``make infra-check``, fail it instead."""
    if os.environ.get("INFRA_CHECK"):
        pytest.fail(what)
    pytest.skip(what)


def strict(schema: Tree) -> Tree:
    """Turn a CRD's OpenAPI schema into a JSON schema that refuses unknown fields, like ``kubectl apply --validate=strict``."""
    out: Tree = {key: value for key, value in schema.items() if not key.startswith("x-kubernetes")}
    if "properties" in out:
        out["properties"] = {name: strict(value) for name, value in out["properties"].items()}
        if not schema.get("x-kubernetes-preserve-unknown-fields") and "additionalProperties" not in out:
            out["additionalProperties"] = False
    for key in ("items", "additionalProperties"):
        if isinstance(out.get(key), dict):
            out[key] = strict(out[key])
    for key in ("allOf", "anyOf", "oneOf"):
        if key in out:  # branches restrict properties that are listed beside them
            out[key] = [{**strict(branch), "additionalProperties": True} for branch in out[key]]
    if out.pop("nullable", False) and "type" in out:
        out["type"] = [out["type"], "null"]
    return out


@cache
def kuberay_schema(kind: str) -> jsonschema.Draft202012Validator:
    """Return KubeRay's strict schema of a kind, version v1."""
    path = CRDS / f"{kind.lower()}s.yaml.gz"
    if not path.is_file():
        missing("KubeRay's CRDs are missing; set DATA to a folder that has them in k8s/crds")
    with gzip.open(path) as file:
        crd = yaml.load(file, Loader=getattr(yaml, "CSafeLoader", yaml.SafeLoader))
    (schema,) = (version["schema"]["openAPIV3Schema"] for version in crd["spec"]["versions"] if version["name"] == "v1")
    return jsonschema.Draft202012Validator(strict(schema))


def schema_errors(thing: Tree) -> list[str]:
    """Validate an object against its schema."""
    kind = thing["kind"]
    if thing["apiVersion"].startswith("ray.io/"):
        return [f"{kind}: {error.json_path}: {error.message[:200]}" for error in kuberay_schema(kind).iter_errors(thing)]
    if kind in NO_SCHEMA:
        return []
    try:
        import kubernetes_validate
    except ImportError:
        missing("kubernetes-validate is not installed")
    try:
        kubernetes_validate.validate(thing, KUBERNETES, strict=True)
    except (kubernetes_validate.ValidationError, kubernetes_validate.SchemaNotFoundError) as error:
        return [f"{kind}: {error.message[:200]}"]
    return []


@cache
def rendered_text(overlay: str, ray_cron_job: bool, changes: tuple[tuple[str, str], ...]) -> str:
    """Render an overlay once per session."""
    try:
        return render(overlay, dict(changes), ray_cron_job=ray_cron_job)
    except ConfigError as error:
        if "is on PATH" in str(error):
            missing(str(error))
        raise


def rendered_objects(overlay: str, *, ray_cron_job: bool = False, **changes: str) -> list[Tree]:
    """Return the objects of an overlay, newly parsed."""
    return load_objects(rendered_text(overlay, ray_cron_job, tuple(changes.items())))


def load_objects(text: str) -> list[Tree]:
    """Parse the documents of a YAML text."""
    return list(yaml.load_all(text, Loader=getattr(yaml, "CSafeLoader", yaml.SafeLoader)))


@pytest.fixture(scope="session")
def refused() -> Callable[[list[Tree]], list[str]]:
    """Validate objects against the schemas of Kubernetes and KubeRay."""
    return lambda objects: [message for thing in objects for message in schema_errors(thing)]


@pytest.fixture(scope="session")
def rendered() -> Callable[..., list[Tree]]:
    """``rendered(overlay, ray_cron_job=False, **settings)``: the objects; skips the test if neither program is installed."""
    return rendered_objects


@pytest.fixture(scope="session")
def want() -> Callable[[str], NoReturn]:
    """``want(reason)``: skips the test because a tool is missing."""
    return missing


@pytest.fixture
def objects() -> list[Tree]:
    """The objects of overlay gpu-spot, which a test may change."""
    return rendered_objects("gpu-spot")


@pytest.fixture(scope="session")
def locked_ray() -> str:
    """Ray's version in ``requirements.lock``."""
    found = re.search(r"^ray==(\S+)$", (ROOT / "requirements.lock").read_text(encoding="utf-8"), re.MULTILINE)
    assert found, "requirements.lock pins no ray"
    return found[1]


@pytest.fixture
def options_of() -> Callable[[str], set[str]]:
    """``options_of(command)``: the options of a ``matteline`` command."""
    commands = typer.main.get_command(app).commands  # type: ignore[attr-defined]
    return lambda verb: {option for parameter in commands[verb].params for option in parameter.opts}
