"""The service on a Ray cluster: the same application as a deployment of Ray Serve, which adds and removes replicas.

A RayService (``infra/service``) names ``build`` as its ``import_path``. Needs the extra ``rayserve``. Ray Serve's proxy speaks
HTTP with the clients; the replicas check token and limits themselves.
"""

from __future__ import annotations

import math
from collections.abc import Mapping
from typing import Any

from ray import serve
from starlette.types import ASGIApp

from pipeline.config.job import nest_settings
from pipeline.config.presets import DEFAULT_PRESET
from pipeline.config.rendition import Rendition
from pipeline.config.sections import build as build_section
from pipeline.errors import ConfigError
from pipeline.log import set_up_logging
from pipeline.serve.app import make_app
from pipeline.serve.configure import Options, configure
from pipeline.serve.settings import Serving, read_token

NAME = "Cutouts"
"""Name of the deployment, under which a RayService sets its replicas and GPUs."""

ARGUMENTS = (
    "presets",
    "renditions",
    "settings",
    "accept_licence",
    "allow_roots",
    "allow_hosts",
    "allow_origins",
    "queue",
    "deadline_s",
)
"""Keys of ``args`` in a Serve configuration; see ``matteline serve --help`` for their meaning. ``renditions`` may also contain
mappings of settings, as ``matteline infra service`` writes them."""


class Replica:
    """One model with its queue. Ray Serve calls it with every request (``serve.ingress``).

    Args:
        arguments: As ``build`` takes them.

    Raises:
        ConfigError: An argument cannot be used, or the variable ``MATTELINE_TOKEN`` is missing.
    """

    def __init__(self, arguments: Mapping[str, Any]) -> None:
        set_up_logging()
        options, named = parse_arguments(arguments)
        self._service = configure(options, Serving(host="0.0.0.0", token=read_token(None), **named))()

    def __serve_build_asgi_app__(self) -> ASGIApp:
        """Return the application. Ray Serve runs its lifespan, which loads the model before the first request."""
        return make_app(self._service, with_lifespan=True)

    def check_health(self) -> None:
        """Let Ray Serve replace a replica whose GPU is lost, or whose model does not end a pass.

        Raises:
            RuntimeError: One of the two.
        """
        if (fault := self._service.fault) is not None:
            raise RuntimeError(str(fault))


def build(arguments: dict[str, Any]) -> serve.Application:
    """Return the application for ``serveConfigV2`` (``import_path: pipeline.serve.on_ray:build``).

    Args:
        arguments: ``args`` of the configuration; see ``ARGUMENTS``.

    Raises:
        ConfigError: One of them is unknown or of another type.
    """
    parse_arguments(arguments)  # refused here, an error stands in the status of the RayService
    application: serve.Application = serve.deployment(name=NAME)(serve.ingress()(Replica)).bind(arguments)
    return application


def parse_arguments(arguments: Mapping[str, Any]) -> tuple[Options, dict[str, Any]]:
    """Return the options of the service, and those of ``Serving``.

    Raises:
        ConfigError: One of them is unknown or of another type.
    """
    if unknown := sorted(set(arguments) - set(ARGUMENTS)):
        raise ConfigError(f"args: there is no {unknown[0]!r}; use {', '.join(ARGUMENTS)}")
    settings = arguments.get("settings") or {}
    if not isinstance(settings, Mapping):
        raise ConfigError("args: settings must be a mapping such as {limits.max_pixels: 25000000}")
    options = Options(
        presets=_texts(arguments, "presets") or (DEFAULT_PRESET,),
        renditions=_renditions(arguments),
        changes=nest_settings(settings),
        accept_licence=arguments.get("accept_licence") is True,
        read=_texts(arguments, "allow_roots"),
    )
    named: dict[str, Any] = {"hosts": _texts(arguments, "allow_hosts"), "origins": _texts(arguments, "allow_origins")}
    if "queue" in arguments:
        named["queue"] = _above_0(arguments["queue"], "queue", int, "a whole number")
    if "deadline_s" in arguments:
        named["deadline_s"] = _above_0(arguments["deadline_s"], "deadline_s", int | float, "a number of seconds")
    return options, named


def _renditions(arguments: Mapping[str, Any]) -> tuple[str | Rendition, ...]:
    given = arguments.get("renditions") or ()
    if not isinstance(given, list | tuple) or not all(isinstance(one, str | Mapping) for one in given):
        raise ConfigError("args: renditions must be a list of files or of mappings")
    return tuple(one if isinstance(one, str) else build_section(Rendition, one, "args: renditions") for one in given)


def _texts(arguments: Mapping[str, Any], name: str) -> tuple[str, ...]:
    given = arguments.get(name) or ()
    if not isinstance(given, list | tuple) or not all(isinstance(one, str) for one in given):
        raise ConfigError(f"args: {name} must be a list of texts")
    return tuple(given)


def _above_0(given: Any, name: str, kind: Any, words: str) -> Any:
    if isinstance(given, bool) or not isinstance(given, kind) or not 0 < given < math.inf:
        raise ConfigError(f"args: {name} must be {words} above 0, not {given!r}")
    return given
