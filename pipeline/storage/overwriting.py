"""Refuse to write over what a command reads, and over files that others wrote."""

from __future__ import annotations

import json
import os
from collections.abc import Callable, Iterable

from pipeline.errors import ConfigError, FetchError
from pipeline.storage.files import Files
from pipeline.storage.uris import redact, scheme


def refuse_inputs(option: str, targets: Iterable[str], inputs: Iterable[str]) -> None:
    """Refuse targets that are inputs, also under other names: through links, or in another case where the disk ignores it.

    Args:
        option: The option that names the targets, for the message.
        targets: Absolute paths or URIs.
        inputs: Absolute paths or URIs.

    Raises:
        ConfigError: It names the target.
    """
    read = {_identity(uri) for uri in inputs}
    for target in targets:
        if _identity(target) in read:
            raise ConfigError(f"{option} {redact(target)} is what the command reads; choose another name")


def refuse_foreign(option: str, target: str, files: Files, suffixes: tuple[str, ...], is_ours: Callable[[bytes], bool]) -> None:
    """Refuse a target of another suffix, and a file that exists and that an earlier command of the kind did not write.

    Without ``suffixes``, the target may have any.

    Raises:
        ConfigError: It names the target.
        StorageError: The storage is inaccessible.
    """
    if suffixes and not target.lower().endswith(suffixes):
        raise ConfigError(f"{option} {redact(target)} must end in {' or '.join(suffixes)}")
    if not files.exists(target):
        return
    try:
        ours = is_ours(files.read(target))
    except FetchError:
        ours = False
    if not ours:
        raise ConfigError(
            f"{option} {redact(target)} exists, and this command did not write it; choose another name, or delete it"
        )


def json_with(*keys: str) -> Callable[[bytes], bool]:
    """Return a check whether a file is a JSON object with these keys."""

    def check(data: bytes) -> bool:
        try:
            content = json.loads(data)
        except (ValueError, RecursionError):
            return False
        return isinstance(content, dict) and content.keys() >= set(keys)

    return check


def _identity(uri: str) -> tuple[int, int] | str:
    """Return what two names of one file have in common."""
    if scheme(uri):
        return uri
    try:
        status = os.stat(uri)  # noqa: PTH116  a URI is no Path
    except (OSError, ValueError):
        return os.path.realpath(uri)
    return status.st_dev, status.st_ino
