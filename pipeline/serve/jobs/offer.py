"""Check a request for a job against what the operator allows."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from functools import cached_property
from typing import Any

from pipeline.config.job import load_job
from pipeline.config.job_request import JobRequest
from pipeline.config.sections import build
from pipeline.errors import ConfigError
from pipeline.serve.jobs.roots import Place, Roots, check_inside
from pipeline.serve.refusals import RequestRefused, no_detector

LABEL = "recipe.detector.label"
"""Setting that needs a detector, which the operator configures: without one it would fetch the default one."""


@dataclass(frozen=True)
class Allowed:
    """A request that may run.

    Attributes:
        request: What was sent.
        manifest: Where it is.
        output: Where results go.
        preset: Name of the preset.
        arguments: Arguments of ``load_job``. May contain credentials.
    """

    request: JobRequest
    manifest: Place
    output: Place
    preset: str
    arguments: Mapping[str, Any]


@dataclass(frozen=True)
class Offer:
    """Settings of the operator: the places, presets and renditions that jobs may use.

    Attributes:
        read: Roots of manifests and pictures; web addresses are for pictures only.
        write: Roots of outputs.
        most: Jobs at a time.
        presets: Name or file of each preset, by the name of its recipe; the default first.
        renditions: Name or file of each rendition, by its name.
        settings: Settings of every job, by ``section.key``. May contain credentials.
    """

    read: tuple[str, ...]
    write: tuple[str, ...]
    most: int
    presets: Mapping[str, str]
    renditions: Mapping[str, str]
    settings: Mapping[str, Any]

    @cached_property
    def readable(self) -> Roots:
        """Roots of manifests.

        Raises:
            ConfigError: A root is not a path or URI.
        """
        return Roots.of(self.read)

    @cached_property
    def writable(self) -> Roots:
        """Roots of outputs.

        Raises:
            ConfigError: A root is not a path or URI.
        """
        return Roots.of(self.write)

    def check(self, body: Any) -> Allowed:
        """Check the JSON of a request.

        Raises:
            RequestRefused: 400 or 403: what is wrong, or not allowed.
        """
        if not isinstance(body, dict):
            raise RequestRefused(400, "request", 'send a JSON object: {"manifest": "…", "output": "…"}')
        try:
            request = build(JobRequest, body, "the request")
        except ConfigError as error:
            raise RequestRefused(400, "request", str(error)) from None
        if taken := sorted(request.settings.keys() & self.settings.keys()):
            raise RequestRefused(400, "request", f"the service's operator has set {taken[0]}; leave it out")
        manifest = self.readable.find(request.manifest, "manifest", "--allow-root")
        output = self.writable.find(request.output, "output", "--output-root")
        check_inside(output)
        preset = request.preset or next(iter(self.presets))
        _check_known("preset", (preset,), self.presets)
        _check_known("rendition", request.renditions, self.renditions)
        arguments: dict[str, Any] = {
            "manifest": manifest.uri,
            "output": output.uri,
            "preset": self.presets[preset],
            "overrides": {**self.settings, **request.settings},
            "renditions": [self.renditions[name] for name in dict.fromkeys(request.renditions)],
            "allow_roots": list(self.read),
        }
        try:
            load_job(**arguments)
            if LABEL in request.settings and load_job(**arguments | {"overrides": self.settings}).recipe.detector is None:
                raise no_detector(preset)
        except ConfigError as error:
            raise RequestRefused(400, "request", str(error)) from None
        return Allowed(request, manifest, output, preset, arguments)


def _check_known(kind: str, names: tuple[str, ...], known: Mapping[str, str]) -> None:
    for name in names:
        if name not in known:
            raise RequestRefused(400, "request", f"{kind} {name[:40]!r} is unknown; choose from {', '.join(known)}")
