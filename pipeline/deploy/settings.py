"""Validate the settings of a nightly run on Kubernetes."""

from __future__ import annotations

import re
from collections.abc import Mapping

from pipeline.errors import ConfigError

NAME_MAX = 32
"""Maximum length of a name, in characters: KubeRay allows a RayJob 47; each run appends its time (11) and ``-run`` (4)."""
NAME = re.compile(r"[a-z]([-a-z0-9]*[a-z0-9])?")
URI = re.compile(r"[a-z][a-z0-9+.-]*://[\w.~%@:+,=-]+(/[\w.~%@:+,=/*?-]*)?", re.ASCII)
IMAGE = re.compile(r"[a-z0-9][a-z0-9._:/-]*?(?P<pin>:[\w][\w.-]{0,127}|@sha256:[0-9a-f]{64})", re.ASCII)
BUILT_WITH = re.compile(r"-ray(\d+\.\d+\.\d+)$")
"""The version of Ray at the end of an image's tag."""

KEYS = ("name", "image", "manifest", "output", "preset", "schedule", "replicas")
JOB_FOLDER = "/etc/matteline"
"""Folder of a job's files in the driver's pod."""

PRESET = re.compile(rf"[a-z0-9][a-z0-9.-]*|{JOB_FOLDER}/preset\.yaml")
FIELDS = (("minute", 0, 59), ("hour", 0, 23), ("day of the month", 1, 31), ("month", 1, 12), ("day of the week", 0, 6))
NAMES = {
    "month": ["jan", "feb", "mar", "apr", "may", "jun", "jul", "aug", "sep", "oct", "nov", "dec"],
    "day of the week": ["sun", "mon", "tue", "wed", "thu", "fri", "sat"],
}


def check_settings(given: Mapping[str, object], ray: str) -> None:
    """Refuse values that Kubernetes, KubeRay or the run would refuse later.

    Args:
        given: The data of an overlay's ``settings.yaml``: the ``KEYS``, with values of any type.
        ray: The version of Ray that the cluster declares; an image's tag must not name another.

    Raises:
        ConfigError: A value is missing, is not text or is invalid. The message names its key.
    """
    settings = texts_of(given, KEYS)
    check_name_and_image(settings["name"], settings["image"], ray)
    for key in ("manifest", "output"):
        if not URI.fullmatch(settings[key]) or settings[key].startswith("file:"):
            raise ConfigError(f"{key} {settings[key]!r} must be a URI that every node can reach, such as s3://bucket/prefix")
    if not PRESET.fullmatch(settings["preset"]):
        raise ConfigError(f"preset {settings['preset']!r} must be a name from `matteline models`")
    check_number("replicas", settings["replicas"])
    check_schedule(settings["schedule"])


def check_number(key: str, text: str) -> None:
    """Refuse a number of machines or replicas that Kubernetes would refuse.

    Raises:
        ConfigError: The message names the key.
    """
    if not re.fullmatch(r"[1-9]\d{0,3}", text):
        raise ConfigError(f"{key} {text!r} must be a number from 1 to 9999")


def check_name_and_image(name: str, image: str, ray: str) -> None:
    """Refuse a name that is too long, and an image that may change or has another Ray.

    Raises:
        ConfigError: The message names the value.
    """
    if not NAME.fullmatch(name) or len(name) > NAME_MAX:
        raise ConfigError(f"name {name!r} must be at most {NAME_MAX} lower-case letters, digits and dashes, a letter first")
    pinned = IMAGE.fullmatch(image)
    if pinned is None or pinned["pin"] == ":latest":
        raise ConfigError(
            f"image {image!r} must name a tag other than latest, or a digest, so that every run uses the same image"
        )
    tagged = BUILT_WITH.search(pinned["pin"])
    if tagged and tagged[1] != ray:
        raise ConfigError(f"image {image!r} has Ray {tagged[1]}, but rayVersion of the cluster is {ray}")


def texts_of(given: Mapping[str, object], keys: tuple[str, ...]) -> dict[str, str]:
    """Return the settings if each is present and a string; a number without quotes is not.

    Raises:
        ConfigError: One is missing, or no text.
    """
    texts = {}
    for key in keys:
        value = given.get(key)
        if value is None:
            raise ConfigError(f'settings.yaml has no {key}: add it, {key}: "…"')
        if not isinstance(value, str):
            raise ConfigError(f'settings.yaml: {key} must be a string: quote it, {key}: "{value}"')
        texts[key] = value
    return texts


def check_schedule(schedule: str) -> None:
    """Refuse a schedule that Kubernetes would refuse: it needs five fields, minute first.

    Raises:
        ConfigError: The message names the field.
    """
    fields = schedule.split()
    if len(fields) != len(FIELDS):
        raise ConfigError(f'schedule {schedule!r} must have five fields, such as "0 2 * * *" for 02:00 every night')
    for text, (field, low, high) in zip(fields, FIELDS, strict=True):
        for part in text.split(","):
            if not _fits(part, field, low, high):
                raise ConfigError(f"schedule {schedule!r}: {text!r} is not a valid {field} ({low} to {high})")


def _fits(part: str, field: str, low: int, high: int) -> bool:
    """Return whether one part of a schedule's field is ``*``, a number, a name or a range, with or without a step."""
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
