"""Render ``infra/service`` with a user's values, and check the result: the service on a cluster, as a RayService."""

from __future__ import annotations

import json
import re
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

ARGUMENTS = re.compile(r"^( +)args:\n(?:\1 .*\n)+", re.MULTILINE)
"""The application's ``args`` in ``rayservice.yaml``, with their indentation."""

REPLICAS = "max_replicas: "
"""Text by which the kustomization finds the number of replicas."""

Tree = dict[str, Any]


def identities(infra: Path = INFRA) -> list[str]:
    """Return the clouds whose identity service the pods can be given access to, sorted."""
    return sorted(path.parent.name for path in (infra / "service" / "identity").glob("*/kustomization.yaml"))


def service_settings(infra: Path = INFRA) -> Tree:
    """Return the data of ``infra/service/settings.yaml``.

    Raises:
        ConfigError: It cannot be read.
    """
    return dict(read_mapping(infra / "service" / "settings.yaml").get("data") or {})


def render_service(
    changes: Mapping[str, str],
    arguments: Mapping[str, Any] | None = None,
    *,
    identity: str | None = None,
    infra: Path = INFRA,
) -> str:
    """Render the service and check the result.

    Args:
        changes: Settings (``KEYS``) that replace those of ``infra/service/settings.yaml``.
        arguments: Arguments of ``pipeline.serve.on_ray`` that are added to those of ``rayservice.yaml``. ``presets`` are those
            after the first one. ``settings`` are added to the others by name.
        identity: One of ``identities``; None: the pods reach no identity service of a cloud.
        infra: The folder with ``service``.

    Raises:
        ConfigError: A value is invalid, Kustomize is not installed or fails, or the result breaks a rule.
    """
    ray = read_mapping(infra / "service" / "rayservice.yaml")["spec"]["rayClusterConfig"]["rayVersion"]
    settings = read_mapping(infra / "service" / "settings.yaml")
    settings["data"] = {**service_settings(infra), **changes}
    given = texts_of(settings["data"], KEYS)
    check_name_and_image(given["name"], given["image"], ray)
    if not PRESET.fullmatch(given["preset"]):
        raise ConfigError(f"preset {given['preset']!r} must be a name from `matteline models`")
    for key in ("machines", "replicas"):
        check_number(key, given[key])
    if identity is not None and identity not in identities(infra):
        raise ConfigError(f"there is no identity service {identity!r}; choose one of {', '.join(identities(infra))}")
    with tempfile.TemporaryDirectory(prefix="matteline-infra-") as scratch:
        folder = shutil.copytree(infra / "service", Path(scratch) / "service", copy_function=shutil.copyfile)
        write_mapping(folder / "settings.yaml", settings)
        if arguments:
            _add_arguments(folder / "rayservice.yaml", given["preset"], arguments)
        if identity is not None:
            kustomization = read_mapping(folder / "kustomization.yaml")
            kustomization["components"] = [*kustomization["components"], f"identity/{identity}"]
            write_mapping(folder / "kustomization.yaml", kustomization)
        text = kustomize(folder)
    broken = violations(list(yaml.safe_load_all(text)), ray)
    if broken:
        raise ConfigError(f"the service breaks a rule: {broken[0]}")
    return text


def _add_arguments(file: Path, preset: str, more: Mapping[str, Any]) -> None:
    """Add arguments of the application to ``rayservice.yaml``.

    The presets stay in the first line, in double quotes: the kustomization replaces the first one by its place.

    Raises:
        ConfigError: The file has no arguments where they are expected, or a value would be replaced as well.
    """
    text = file.read_text(encoding="utf-8")
    found = ARGUMENTS.search(text)
    if found is None:
        raise ConfigError(f"{file.name}: serveConfigV2 has no args")
    arguments = yaml.safe_load(found[0])["args"]
    arguments |= {key: value for key, value in more.items() if key not in ("presets", "settings")}
    arguments["settings"] = {**arguments.get("settings", {}), **more.get("settings", {})}
    presets = [preset, *more.get("presets", [])]
    rest = yaml.safe_dump({key: value for key, value in arguments.items() if key != "presets"}, sort_keys=False, width=10_000)
    if REPLICAS in rest:
        raise ConfigError(f"a setting contains {REPLICAS!r}, by which the number of replicas is found; write it otherwise")
    lines = [f"presets: {json.dumps(presets)}", *rest.splitlines()]
    indent = found[1]
    made = "".join(f"{line}\n" for line in [f"{indent}args:", *(f"{indent}  {line}" for line in lines)])
    file.write_text(text[: found.start()] + made + text[found.end() :], encoding="utf-8")


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
