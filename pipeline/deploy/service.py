"""Render ``infra/service`` with a user's values, and check the result: the service on a cluster, as a RayService."""

from __future__ import annotations

import shutil
import tempfile
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any

import yaml

from pipeline.deploy.render import kustomize, read_mapping, write_mapping
from pipeline.deploy.rules import check_cluster, check_object
from pipeline.deploy.settings import PRESET, check_name_and_image, check_number, texts_of
from pipeline.errors import ConfigError
from pipeline.paths import INFRA

KEYS = ("name", "image", "preset", "machines", "replicas")
IMPORT_PATH = "pipeline.serve.on_ray:build"
DEPLOYMENT = "Cutouts"
"""``pipeline.serve.on_ray.NAME``, which this layer may not import."""

TOKEN = "MATTELINE_TOKEN"
"""``pipeline.serve.settings.TOKEN_VARIABLE``."""

Tree = dict[str, Any]


def render_service(changes: Mapping[str, str], infra: Path = INFRA) -> str:
    """Render the service and check the result.

    Args:
        changes: Settings (``KEYS``) that replace those of ``infra/service/settings.yaml``.
        infra: The folder with ``service``.

    Raises:
        ConfigError: A value is invalid, Kustomize is not installed or fails, or the result breaks a rule.
    """
    ray = read_mapping(infra / "service" / "rayservice.yaml")["spec"]["rayClusterConfig"]["rayVersion"]
    settings = read_mapping(infra / "service" / "settings.yaml")
    settings["data"] = {**settings["data"], **changes}
    given = texts_of(settings["data"], KEYS)
    check_name_and_image(given["name"], given["image"], ray)
    if not PRESET.fullmatch(given["preset"]):
        raise ConfigError(f"preset {given['preset']!r} must be a name from `matteline models`")
    for key in ("machines", "replicas"):
        check_number(key, given[key])
    with tempfile.TemporaryDirectory(prefix="matteline-infra-") as scratch:
        folder = shutil.copytree(infra / "service", Path(scratch) / "service", copy_function=shutil.copyfile)
        write_mapping(folder / "settings.yaml", settings)
        text = kustomize(folder)
    broken = violations(list(yaml.safe_load_all(text)), ray)
    if broken:
        raise ConfigError(f"the service breaks a rule: {broken[0]}")
    return text


def violations(objects: list[Tree], ray: str) -> list[str]:
    """Return one sentence per broken rule.

    Args:
        objects: Kubernetes objects, one RayService among them.
        ray: The version of Ray that ``requirements.lock`` pins.
    """
    found = [message for thing in objects for message in check_object(thing)]
    accounts = {thing["metadata"]["name"] for thing in objects if thing["kind"] == "ServiceAccount"}
    services = [thing for thing in objects if thing["kind"] == "RayService"]
    if len(services) != 1:
        return [*found, f"there must be one RayService, not {len(services)}"]
    name, spec = services[0]["metadata"]["name"], services[0]["spec"]
    found += check_cluster(name, spec["rayClusterConfig"], ray, accounts)
    workers = spec["rayClusterConfig"].get("workerGroupSpecs", [])
    found += [message for group in workers for message in _check_worker(group)]
    return [*found, *_check_application(spec.get("serveConfigV2", ""), workers)]


def _check_worker(group: Tree) -> Iterator[str]:
    """Check that a worker is asked whether it can answer, and that its clients need a token."""
    name, (container, *_) = group["groupName"], group["template"]["spec"]["containers"]
    ready = container.get("readinessProbe", {}).get("httpGet", {})
    if (ready.get("path"), ready.get("port")) != ("/-/healthz", 8000):
        yield f"{name}: readinessProbe must ask Ray Serve's proxy, /-/healthz on port 8000"
    if "livenessProbe" not in container:
        yield f"{name}: needs a livenessProbe"
    token = [variable for variable in container.get("env", []) if variable["name"] == TOKEN]
    secret = token[0].get("valueFrom", {}).get("secretKeyRef", {}) if token else {}
    if not secret or secret.get("optional") or "value" in token[0]:
        yield f"{name}: {TOKEN} must come from a Secret that is not optional; everybody in the cluster reaches the service"


def _check_application(text: str, workers: list[Tree]) -> Iterator[str]:
    """Check the configuration of Ray Serve, and that its replicas fit into the workers."""
    try:
        ((application,), (deployment,)) = (apps := yaml.safe_load(text)["applications"]), apps[0]["deployments"]
    except (yaml.YAMLError, KeyError, TypeError, ValueError):
        yield "serveConfigV2: must be YAML with one application and one deployment"
        return
    if application.get("import_path") != IMPORT_PATH or deployment.get("name") != DEPLOYMENT:
        yield f"serveConfigV2: the application is {IMPORT_PATH}, and its deployment {DEPLOYMENT}"
    scaling, needs = deployment.get("autoscaling_config", {}), deployment.get("ray_actor_options", {})
    least, most = scaling.get("min_replicas", 0), scaling.get("max_replicas", 0)
    if not 1 <= least <= most:
        yield "serveConfigV2: min_replicas must be at least 1 and at most max_replicas: a first replica takes a minute to start"
    if deployment.get("max_ongoing_requests", 5) < application.get("args", {}).get("queue", 32):
        yield "serveConfigV2: max_ongoing_requests must be at least args.queue, or replicas never have that many requests"
    for kind, resource in (("num_gpus", "nvidia.com/gpu"), ("num_cpus", "cpu")):
        room = sum(_per_machine(group, resource, needs.get(kind, 0)) * group["maxReplicas"] for group in workers)
        if needs.get(kind) and most > room:
            yield f"serveConfigV2: {most} replicas of {kind} {needs[kind]} do not fit into the workers; {room} do"


def _per_machine(group: Tree, resource: str, needed: float) -> int:
    """Return how many replicas a machine has room for."""
    limits = group["template"]["spec"]["containers"][0]["resources"]["limits"]
    return int(float(limits.get(resource, 0)) / needed) if needed else 0
