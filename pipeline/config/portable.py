"""Write a job, or the settings of a service, so that another machine can read them: one with none of this machine's files."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import yaml

from pipeline.config.detector import Detector, detector_names, load_detector_preset
from pipeline.config.job import Compute, Job, Limits, Storage
from pipeline.config.presets import DEFAULT_PRESET, Preset, load_preset
from pipeline.config.rendition import Rendition, check_unique_names, load_rendition, rendition_names
from pipeline.config.second import Second
from pipeline.config.sections import BUNDLED, build, read_yaml
from pipeline.errors import ConfigError
from pipeline.paths import WEIGHTS

JOB_FILE, PRESET_FILE = "job.yaml", "preset.yaml"
"""Names of the files: the job, and a preset of the user's own."""

_FILES = ("weights", "refiner_weights", "calibration")
"""Settings of a recipe that name files."""

_SECRETS = ("key", "secret", "token", "profile")
"""Settings of ``storage`` that name or are credentials."""

_YAML = (".yaml", ".yml")

SERVED = ("recipe", "compute", "limits", "storage")
"""Sections of settings that a service uses for its own requests. The others are for runs."""

_SERVED_COMPUTE = ("device", "engine", "threads_per_actor", "batch_size")
"""Settings of ``compute`` that a service uses."""


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
    if Path(preset).suffix in _YAML:
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


def portable_service(
    presets: Sequence[str], changes: Mapping[str, Mapping[str, Any]], renditions: Sequence[str] = ()
) -> tuple[list[Preset], dict[str, Any]]:
    """Return the presets of a service on a Ray cluster, and its arguments ``settings`` and ``renditions``.

    Args:
        presets: Names of bundled presets, the default first.
        changes: Settings by section and key.
        renditions: Files of the user's own renditions, which the arguments contain.

    Raises:
        ConfigError: A value is invalid, a setting has no effect on a service, names a file of this machine, or is a secret.
    """
    if others := sorted(set(changes) - set(SERVED)):
        raise ConfigError(
            f"--set {others[0]}.{min(changes[others[0]])}: a service on a cluster takes no jobs; "
            f"give settings of {', '.join(SERVED)}"
        )
    build(Limits, changes.get("limits", {}), "--set")
    build(Compute, changes.get("compute", {}), "--set")
    if unused := sorted(set(changes.get("compute", {})) - set(_SERVED_COMPUTE)):
        raise ConfigError(f"--set compute.{unused[0]} is for runs; a service uses compute.{', '.join(_SERVED_COMPUTE)}")
    storage = build(Storage, changes.get("storage", {}), "--set")
    _check_secrets(storage)
    for root in storage.allow_roots:
        _check_uri("the allowed root", root)
    recipe = dict(changes.get("recipe", {}))
    if "renditions" in recipe:
        raise ConfigError("--set recipe.renditions is for runs; a service offers all bundled ones, and files of --rendition")
    loaded = [_served_preset(name, recipe) for name in presets]
    if len({one.recipe.name for one in loaded}) < len(loaded):
        raise ConfigError("two presets have the same name; give each --preset once")
    kept = {key: value for key, value in recipe.items() if key.partition(".")[0] != "detector"}
    if len(kept) < len(recipe) and loaded[0].recipe.detector is not None:
        recipe = kept | {"detector": _own_detector(loaded[0].recipe.detector)}
    own = [load_rendition(one) for one in renditions]
    try:
        check_unique_names([*map(load_rendition, rendition_names()), *own])
    except ValueError as error:
        raise ConfigError(f"--rendition: {error}") from None
    sections = {**changes, "recipe": recipe}
    settings = {f"{section}.{key}": value for section, pairs in sections.items() for key, value in pairs.items()}
    return loaded, {"settings": settings, "renditions": [_own_rendition(one) for one in own]}


def _served_preset(name: str, recipe: Mapping[str, Any]) -> Preset:
    """Return a bundled preset with changes to its recipe.

    Raises:
        ConfigError: It or a change cannot be used, or names a file of this machine.
    """
    if Path(name).suffix in _YAML:
        raise ConfigError(f"preset {name!r} is a file of this machine; name a bundled one, and change it with --set recipe.…")
    preset = load_preset(name, recipe)
    for key in _FILES:
        _check_uri(f"recipe.{key}", recipe.get(key))
    if preset.recipe.detector is not None:
        _own_detector(preset.recipe.detector)
    if preset.recipe.second is not None:
        _check_second(preset.recipe.second)
    return preset


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
    if Path(second.preset).suffix in _YAML:
        raise ConfigError(
            f"recipe.second.preset {second.preset!r} is a file of this machine; name a bundled preset, and change it with "
            "recipe.second.recipe"
        )
    for name in _FILES:
        value = getattr(second.recipe, name)
        if not value.startswith(str(WEIGHTS)):
            _check_uri(f"recipe.second.recipe.{name}", value)


def _check_secrets(storage: Storage) -> None:
    for name in _SECRETS:
        if getattr(storage, name) is not None:
            raise ConfigError(
                f"storage.{name} would be readable in the manifests; give the pods' service account a role instead, "
                "or pass the usual AWS variables from a Secret"
            )


def _check_sections(job: Job) -> None:
    _check_secrets(job.storage)
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
