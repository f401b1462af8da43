"""A nightly run on Kubernetes: an overlay of ``infra/`` with the user's values, as YAML ready to apply."""

from __future__ import annotations

import re
from collections.abc import Mapping
from pathlib import Path

import yaml

from pipeline.deploy.kustomize import Tree, build, read
from pipeline.deploy.rules import faults
from pipeline.deploy.settings import check_settings
from pipeline.errors import ConfigError
from pipeline.paths import INFRA


def overlay_names(infra: Path = INFRA) -> list[str]:
    """The overlays there are.

    Raises:
        ConfigError: ``infra/`` isn't beside the package, as in a wheel.
    """
    if not (infra / "base" / "kustomization.yaml").is_file():
        raise ConfigError("infra/ isn't part of the installed package; run this in a checkout, installed with pip install -e .")
    return sorted(path.parent.name for path in (infra / "overlays").glob("*/kustomization.yaml"))


def nightly(overlay: str, changes: Mapping[str, str], *, ray_cron_job: bool = False, infra: Path = INFRA) -> list[Tree]:
    """The objects of a nightly run.

    Args:
        overlay: a name of ``overlay_names``.
        changes: settings (``pipeline.deploy.settings``) over those of the overlay's ``settings.yaml``.
        ray_cron_job: scheduled by KubeRay's RayCronJob (alpha) in place of a CronJob.
        infra: the folder with base and overlays.

    Raises:
        ConfigError: no such overlay, a value that can't work, or the files break a rule.
    """
    names = overlay_names(infra)
    if overlay not in names:
        raise ConfigError(f"there is no overlay {overlay!r}; there are {', '.join(names)}")
    (settings,) = read(infra / "overlays" / overlay / "settings.yaml")
    (job,) = read(infra / "base" / "rayjob.yaml")
    ray = job["spec"]["rayClusterSpec"]["rayVersion"]
    check_settings({**(settings.get("data") or {}), **changes}, ray)
    objects = build(infra / "overlays" / overlay, changes, {"nightly": "nightly-ray"} if ray_cron_job else {})
    broken = faults(objects, ray)
    if broken:
        raise ConfigError(f"overlay {overlay} breaks a rule: {broken[0]}")
    return objects


def as_yaml(objects: list[Tree]) -> str:
    """Objects as one YAML file for ``kubectl apply -f``; texts of several lines stay readable."""
    return yaml.dump_all(objects, Dumper=_Readable, sort_keys=False, width=120, allow_unicode=True)


class _Readable(yaml.SafeDumper):
    def ignore_aliases(self, data: object) -> bool:
        return True


def _text(dumper: yaml.SafeDumper, text: str) -> yaml.ScalarNode:
    block = "\n" in text and not re.search(r"[ \t]$", text, re.MULTILINE)
    return dumper.represent_scalar("tag:yaml.org,2002:str", text, style="|" if block else None)


_Readable.add_representer(str, _text)
