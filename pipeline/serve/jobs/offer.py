"""Check a request for a job against what the operator allows."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from typing import Any

from pipeline.config.job import load_job
from pipeline.config.job_request import JobRequest
from pipeline.config.sections import build
from pipeline.errors import ConfigError
from pipeline.log import log
from pipeline.serve.jobs.roots import Place, Roots, check_inside
from pipeline.serve.refusals import REQUEST_ID, RequestRefused, no_detector

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
            RequestRefused: 400 or 403: what is wrong, or not allowed. 500: the operator's files cannot be used.
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
        self._check_settings(request, preset, arguments)
        return Allowed(request, manifest, output, preset, arguments)

    def _check_settings(self, request: JobRequest, preset: str, arguments: dict[str, Any]) -> None:
        """Build the job. The operator's files are read anew, so they may have changed since the service started.

        Raises:
            RequestRefused: 400: a setting of the request is wrong. 500: the operator's settings or files are.
        """
        try:
            without = load_job(**arguments | {"overrides": self.settings})
        except ConfigError as error:  # its message may name the operator's files
            raise _unusable(error) from None
        if LABEL in request.settings and without.recipe.detector is None:
            raise no_detector(preset)
        try:
            load_job(**arguments)
        except ConfigError as error:
            message = str(error).removeprefix(f"{Path(arguments['preset']).stem}.yaml: ")
            files = {
                name for given in (*self.presets.values(), *self.renditions.values()) for name in (given, Path(given).name)
            }
            if any(name in message for name in files if Path(name).suffix in {".yaml", ".yml"}):  # changed a moment ago
                raise _unusable(error) from None
            raise RequestRefused(400, "request", message) from None


def _unusable(error: ConfigError) -> RequestRefused:
    """Log an error in the operator's settings or files, and return what the client is told."""
    log.error("the settings of jobs cannot be used", extra={"facts": {"detail": str(error), "request_id": REQUEST_ID.get()}})
    return RequestRefused(500, "internal", "the service's own settings for jobs cannot be used; its log says why")


def _check_known(kind: str, names: tuple[str, ...], known: Mapping[str, str]) -> None:
    for name in names:
        if name not in known:
            raise RequestRefused(400, "request", f"{kind} {name[:40]!r} is unknown; choose from {', '.join(known)}")
