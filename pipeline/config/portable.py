"""Write a job as files that another machine can read: a cluster's, which has none of this machine's files."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Any

import yaml

from pipeline.config.detector import Detector, detector_names, load_detector_preset
from pipeline.config.job import Job
from pipeline.config.presets import DEFAULT_PRESET
from pipeline.config.rendition import Rendition, load_rendition, rendition_names
from pipeline.config.second import Second
from pipeline.config.sections import BUNDLED, read_yaml
from pipeline.errors import ConfigError
from pipeline.paths import WEIGHTS

JOB_FILE, PRESET_FILE = "job.yaml", "preset.yaml"
"""Names of the files: the job, and a preset of the user's own."""

_FILES = ("weights", "refiner_weights", "calibration")
"""Settings of a recipe that name files."""

_SECRETS = ("key", "secret", "token", "profile")
"""Settings of ``storage`` that name or are credentials."""


def portable_job(job: Job, given: Mapping[str, Any], folder: str) -> dict[str, str]:
    """Return the files of a job on a Ray cluster: texts by name. They hold the user's own renditions, preset and detector.

    Args:
        job: The job that was loaded from the settings.
        given: The settings, as ``merge_settings`` returns them.
        folder: Where the other machine will have the files.

    Raises:
        ConfigError: A setting names a file of this machine, or is a secret.
    """
    content = {name: value for name, value in given.items() if value not in ({}, None)}
    recipe = dict(content.pop("recipe", {}))
    files: dict[str, str] = {}
    preset = str(given.get("preset") or DEFAULT_PRESET)
    if Path(preset).suffix in (".yaml", ".yml"):
        files[PRESET_FILE] = _own_preset(Path(preset))
        recipe.setdefault("name", job.recipe.name)
        preset = f"{folder}/{PRESET_FILE}"
    for name in _FILES:
        _check_uri(f"recipe.{name}", recipe.get(name))
    _check_uri("recipe.video_background", job.recipe.video_picture)
    if job.recipe.renditions:
        recipe["renditions"] = [_own_rendition(one) for one in job.recipe.renditions]
    if job.recipe.detector is not None:
        recipe["detector"] = _own_detector(job.recipe.detector)
    if job.recipe.second is not None:
        _check_second(job.recipe.second)
    _check_sections(job)
    storage = {**content.get("storage", {}), "allow_roots": list(job.storage.allow_roots)}
    compute = {**content.get("compute", {}), "ray_address": "auto"}
    content |= {"preset": preset, "recipe": recipe, "storage": storage, "compute": compute}
    return {JOB_FILE: yaml.safe_dump(content, sort_keys=False, allow_unicode=True), **files}


def _own_detector(detector: Detector) -> dict[str, Any]:
    """Return the settings of a detector, without its file. Bundled weights go by the name of a bundled detector.

    Raises:
        ConfigError: Its weights are a file or folder of this machine.
    """
    settings = detector.model_dump(mode="json", exclude_unset=True)
    if detector.weights.startswith(str(WEIGHTS)):
        for name in detector_names():
            if load_detector_preset(name).detector.weights == detector.weights:
                kept = {key: value for key, value in settings.items() if key not in ("model", "weights", "weights_sha256")}
                return kept | {"preset": name}
    _check_uri("recipe.detector.weights", detector.weights)
    return settings


def _check_second(second: Second) -> None:
    if Path(second.preset).suffix in (".yaml", ".yml"):
        raise ConfigError(
            f"recipe.second.preset {second.preset!r} is a file of this machine; name a bundled preset, and change it with "
            "recipe.second.recipe"
        )
    for name in _FILES:
        value = getattr(second.recipe, name)
        if not value.startswith(str(WEIGHTS)):
            _check_uri(f"recipe.second.recipe.{name}", value)


def _check_sections(job: Job) -> None:
    for name in _SECRETS:
        if getattr(job.storage, name) is not None:
            raise ConfigError(
                f"storage.{name} would be readable in the manifests; give the pods' service account a role instead, "
                "or pass the usual AWS variables from a Secret"
            )
    if job.notify.to is not None:
        raise ConfigError(
            "notify.to would be readable in the manifests; put it into a Secret: "
            "kubectl create secret generic matteline-notify --from-literal=to=…"
        )
    if job.compute.ray_address not in (None, "auto"):
        raise ConfigError("compute.ray_address: the run gets a Ray cluster of its own; remove the setting")
    _check_uri("drift.accepted", job.drift.accepted)
    for root in job.storage.allow_roots:
        _check_uri("the allowed root", root)


def _own_preset(path: Path) -> str:
    """Return the text of a preset of the user's own."""
    recipe = read_yaml(path).get("recipe") or {}
    for name in _FILES:
        _check_uri(f"{path.name}: recipe.{name}", recipe.get(name))
    return path.read_text(encoding="utf-8")


def _own_rendition(rendition: Rendition) -> str | dict[str, Any]:
    """Return the name of a bundled rendition, or the mapping of another one."""
    if rendition.name in rendition_names() and load_rendition(rendition.name) == rendition:
        return rendition.name
    _check_uri(f"rendition {rendition.name}: background", rendition.picture)
    return rendition.model_dump(mode="json", exclude_unset=True)


def _check_uri(what: str, value: str | None) -> None:
    if value and "://" not in value and not value.startswith(BUNDLED):
        raise ConfigError(f"{what} {value!r} is a file of this machine; put it where every node can read it, and give its URI")
