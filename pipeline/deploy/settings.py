"""What a user sets of a nightly run on Kubernetes, refused with one sentence where it can't work."""

from __future__ import annotations

import re
from collections.abc import Mapping

from pipeline.errors import ConfigError

NAME_MAX = 32
"""Characters: KubeRay allows a RayJob 47, and each night's appends its time, 11, and ``-run``, 4."""
NAME = re.compile(r"[a-z]([-a-z0-9]*[a-z0-9])?")
URI = re.compile(r"[a-z][a-z0-9+.-]*://[\w.~%@:+,=-]+(/[\w.~%@:+,=/*?-]*)?", re.ASCII)
IMAGE = re.compile(r"[a-z0-9][a-z0-9._:/-]*?(?P<pin>:[\w][\w.-]{0,127}|@sha256:[0-9a-f]{64})", re.ASCII)
BUILT_WITH = re.compile(r"-ray(\d+\.\d+\.\d+)$")
"""The version of Ray at the end of an image's tag."""

KEYS = ("name", "image", "manifest", "output", "preset", "schedule", "replicas")
PRESET = re.compile(r"[a-z0-9][a-z0-9.-]*")
FIELDS = (("minute", 0, 59), ("hour", 0, 23), ("day of the month", 1, 31), ("month", 1, 12), ("day of the week", 0, 6))
NAMES = {
    "month": ["jan", "feb", "mar", "apr", "may", "jun", "jul", "aug", "sep", "oct", "nov", "dec"],
    "day of the week": ["sun", "mon", "tue", "wed", "thu", "fri", "sat"],
}


def check_settings(given: Mapping[str, object], ray: str) -> None:
    """Refuse what Kubernetes, KubeRay or the run itself would refuse later.

    Args:
        given: ``KEYS`` and their texts, of an overlay's ``settings.yaml``, where anything may stand.
        ray: the version of Ray that the cluster declares; an image's tag must not name another.

    Raises:
        ConfigError: a value is missing, is no text or can't work, by its name.
    """
    settings = _texts(given)
    name, image = settings["name"], settings["image"]
    if not NAME.fullmatch(name) or len(name) > NAME_MAX:
        raise ConfigError(f"name {name!r} must be lower case letters, digits and dashes, a letter first, at most {NAME_MAX}")
    pinned = IMAGE.fullmatch(image)
    if pinned is None or pinned["pin"] == ":latest":
        raise ConfigError(f"image {image!r} must name a tag other than latest, or a digest: nights must not differ by it")
    tagged = BUILT_WITH.search(pinned["pin"])
    if tagged and tagged[1] != ray:
        raise ConfigError(f"image {image!r} has Ray {tagged[1]}, but the cluster is declared with {ray}")
    for key in ("manifest", "output"):
        if not URI.fullmatch(settings[key]) or settings[key].startswith("file:"):
            raise ConfigError(f"{key} {settings[key]!r} must be a URI that every node reaches, such as s3://bucket/prefix")
    if not PRESET.fullmatch(settings["preset"]):
        raise ConfigError(f"preset {settings['preset']!r} must be a name from `matteline models`")
    if not re.fullmatch(r"[1-9]\d{0,3}", settings["replicas"]):
        raise ConfigError(f"replicas {settings['replicas']!r} must be a number from 1 to 9999")
    check_schedule(settings["schedule"])


def _texts(given: Mapping[str, object]) -> dict[str, str]:
    """The settings, each there and a text; to YAML a number without quotes is none, nor to Kubernetes."""
    texts = {}
    for key in KEYS:
        value = given.get(key)
        if value is None:
            raise ConfigError(f'settings.yaml has no {key}: add it, {key}: "…"')
        if not isinstance(value, str):
            raise ConfigError(f'settings.yaml: {key} must be text: quote it, {key}: "{value}"')
        texts[key] = value
    return texts


def check_schedule(schedule: str) -> None:
    """Refuse what Kubernetes would not take as a schedule: five fields, minute first.

    Raises:
        ConfigError: naming the field.
    """
    fields = schedule.split()
    if len(fields) != len(FIELDS):
        raise ConfigError(f'schedule {schedule!r} must have five fields, such as "0 2 * * *" for two o\'clock every night')
    for text, (field, low, high) in zip(fields, FIELDS, strict=True):
        for part in text.split(","):
            if not _fits(part, field, low, high):
                raise ConfigError(f"schedule {schedule!r}: {text!r} is no {field} ({low} to {high})")


def _fits(part: str, field: str, low: int, high: int) -> bool:
    """Whether one of a field's parts is ``*``, a number or name, or a range; each but a lone number with a step or without."""
    span, slash, step = part.partition("/")
    if slash and not re.fullmatch(r"[1-9]\d*", step, re.ASCII):
        return False
    if span == "*":
        return True
    names = NAMES.get(field, [])
    ends = [str(names.index(end.lower()) + low) if end.lower() in names else end for end in span.split("-")]
    if len(ends) > 2 or not all(re.fullmatch(r"\d{1,2}", end, re.ASCII) for end in ends):
        return False
    return low <= int(ends[0]) <= int(ends[-1]) <= high
