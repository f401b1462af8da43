"""Define the settings of a service, and refuse those that would open it to strangers."""

from __future__ import annotations

import ipaddress
import math
import os
from dataclasses import dataclass
from pathlib import Path
from urllib.parse import urlsplit

from pipeline.errors import ConfigError

TOKEN_VARIABLE = "MATTELINE_TOKEN"
"""Environment variable with the token."""

SHORTEST_TOKEN = 16
"""Characters of a token, at least."""


@dataclass(frozen=True)
class Serving:
    """Settings of a service.

    Attributes:
        host: Address to listen on.
        port: Port to listen on; 0 chooses a free one.
        token: What clients must send as ``Authorization: Bearer …``; None: nothing.
        hosts: Names in the header ``Host`` that are answered, besides those of this machine's loopback.
        origins: Web pages of other origins that may use the service, such as ``https://shop.example.com``.
        queue: Requests that are read, wait, are worked on or are answered at the same time.
        deadline_s: Seconds from a picture's arrival to its answer.
        wait_s: Seconds that a batch waits for pictures that are being decoded.
        drain_s: Seconds that requests get to end after SIGTERM.
    """

    host: str = "127.0.0.1"
    port: int = 8000
    token: str | None = None
    hosts: tuple[str, ...] = ()
    origins: tuple[str, ...] = ()
    queue: int = 32
    deadline_s: float = 60.0
    wait_s: float = 0.005
    drain_s: float = 30.0

    def __post_init__(self) -> None:
        if self.token is not None and not (self.token.isascii() and self.token.isprintable() and " " not in self.token):
            raise ConfigError("the token must consist of letters, digits and signs of ASCII, without spaces")
        if self.token is not None and len(self.token) < SHORTEST_TOKEN:
            raise ConfigError(
                f"the token has {len(self.token)} characters; use at least {SHORTEST_TOKEN}, as `openssl rand -hex 32` prints"
            )
        if not self.is_loopback and self.token is None:
            raise ConfigError(
                f"--host {self.host} can be reached from other machines, so it needs a token; "
                f"set {TOKEN_VARIABLE}, or give --token-file FILE"
            )
        for option, seconds in (("--deadline", self.deadline_s), ("--batch-wait", self.wait_s), ("--drain", self.drain_s)):
            if not math.isfinite(seconds):
                raise ConfigError(f"{option} {seconds} is no limit; give a finite number")
        for name in self.hosts:
            if not _is_host(name):
                raise ConfigError(f"--allow-host {name} is not a host name; give one without scheme and port: cut.example.com")
        for origin in self.origins:
            if not _is_origin(origin):
                raise ConfigError(
                    f"--allow-origin {origin} is not an origin as browsers send it; give scheme and host in lower case, and a "
                    "port only if it is not the scheme's own: https://shop.example.com"
                )

    @property
    def is_loopback(self) -> bool:
        """Return whether only this machine can reach the address."""
        try:
            return ipaddress.ip_address(self.host).is_loopback
        except ValueError:
            return self.host == "localhost"

    @property
    def answered_hosts(self) -> frozenset[str] | None:
        """Return the host names that are answered; None: all, because a token protects the service."""
        if not self.is_loopback and not self.hosts:
            return None
        return frozenset({"localhost", "127.0.0.1", "::1", *(name.lower() for name in (self.host, *self.hosts))})


def _is_host(text: str) -> bool:
    """Return whether a text is a name or address without a port, as ``Host`` headers have it."""
    try:
        parts = urlsplit(f"//[{text}]" if text.count(":") > 1 else f"//{text}")
    except ValueError:
        return False
    return text.isascii() and parts.hostname == text.lower() and not any(sign in text for sign in " \t@*")


def _is_origin(text: str) -> bool:
    """Return whether a text is an origin as the header ``Origin`` has it: scheme, host, and a port that is not the scheme's."""
    try:
        parts = urlsplit(text)
        port = parts.port
    except ValueError:
        return False
    if parts.scheme not in {"http", "https"} or not parts.hostname or port == {"http": 80, "https": 443}[parts.scheme]:
        return False
    return text == f"{parts.scheme}://{parts.netloc}" == text.lower() and "@" not in parts.netloc


def read_token(file: str | None) -> str | None:
    """Return the token of a file, else of the environment; None if neither is given.

    Raises:
        ConfigError: The file cannot be read, or the token is empty.
    """
    if file is None:
        token = os.environ.get(TOKEN_VARIABLE)
        source = TOKEN_VARIABLE
    else:
        source = f"--token-file {file}"
        try:
            token = Path(file).read_text(encoding="utf-8")
        except (OSError, UnicodeDecodeError) as error:
            raise ConfigError(f"{source} cannot be read: {getattr(error, 'strerror', None) or 'not UTF-8'}") from error
    if token is not None and not token.strip():
        raise ConfigError(f"{source} is empty; give a token of at least {SHORTEST_TOKEN} characters")
    return None if token is None else token.strip()
