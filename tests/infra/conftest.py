"""The cluster's files, and KubeRay's schema where it is at hand."""

from __future__ import annotations

import gzip
import os
import re
from pathlib import Path
from typing import Any

import pytest
import yaml

ROOT = Path(__file__).resolve().parents[2]
CRDS = Path(os.environ.get("KUBERAY_CRDS") or ROOT / ".." / "shared" / "k8s" / "crds")


def strict(schema: dict[str, Any]) -> dict[str, Any]:
    """A CRD's OpenAPI schema as a JSON schema that refuses unknown fields, as ``kubectl apply --validate=strict`` does."""
    out: dict[str, Any] = {key: value for key, value in schema.items() if not key.startswith("x-kubernetes")}
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


@pytest.fixture(scope="session")
def rayjob_schema() -> dict[str, Any]:
    """KubeRay's schema of a RayJob, version v1, strict."""
    path = CRDS / "rayjobs.yaml.gz"
    if not path.is_file():
        pytest.skip("KubeRay's CRDs are not here; name their folder in KUBERAY_CRDS")
    with gzip.open(path) as file:
        crd = yaml.load(file, Loader=getattr(yaml, "CSafeLoader", yaml.SafeLoader))
    (schema,) = (version["schema"]["openAPIV3Schema"] for version in crd["spec"]["versions"] if version["name"] == "v1")
    return strict(schema)


@pytest.fixture
def documents() -> list[dict[str, Any]]:
    """The Kubernetes objects of ``infra/rayjob.yaml``; every test has its own."""
    # Without anchors shared between places, so that a planted mistake lands in one place only.
    text = (ROOT / "infra" / "rayjob.yaml").read_text(encoding="utf-8")
    return [yaml.safe_load(yaml.dump(document, Dumper=NoAliases)) for document in yaml.safe_load_all(text)]


@pytest.fixture
def rayjob(documents: list[dict[str, Any]]) -> dict[str, Any]:
    """The RayJob; every test has its own."""
    return documents[1]


@pytest.fixture(scope="session")
def locked_ray() -> str:
    """Ray's version in ``requirements.lock``."""
    found = re.search(r"^ray==(\S+)$", (ROOT / "requirements.lock").read_text(encoding="utf-8"), re.MULTILINE)
    assert found, "requirements.lock pins no ray"
    return found[1]


class NoAliases(yaml.SafeDumper):
    """Writes shared values out at each place."""

    def ignore_aliases(self, data: Any) -> bool:
        return True
