"""Send one notification when a run ends, to a webhook or a file."""

from __future__ import annotations

import json
import os
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import asdict
from typing import Any, Literal

from pipeline.config.job import Job, parse_notify_target
from pipeline.errors import ConfigError, PipelineError, StorageError, WriteError
from pipeline.log import log
from pipeline.output.run_record import OUTCOMES, RunRecord, ending_of
from pipeline.storage.files import Files
from pipeline.storage.uris import HTTP_SCHEMES, redact, scheme

VARIABLE = "MATTELINE_NOTIFY"
"""Environment variable used when ``notify.to`` is not set. Suits a cluster's secrets."""

When = Literal["always", "failed", "never"]
"""The ends of runs that are told: all, those with an error, or none."""

QUICK_S = 1.0
"""Seconds for the only attempt of a run that a signal ends: the process ends two seconds later."""


class Notifier:
    """Sends one notification. A failure to send never changes how the run ended.

    Args:
        to: Webhook, path or URI; None sends nothing.
        about: ``run_id``, ``manifest`` and ``output``, sent without credentials.
    """

    def __init__(self, to: str | None, about: dict[str, str], files: Files) -> None:
        self._to = files.absolute(to) if to else None
        if self._to and scheme(self._to) in HTTP_SCHEMES:
            from pipeline.storage.http import post_json  # now, because a signal leaves no time for it

            self._post = post_json
        self.run_id = about["run_id"]
        self._about, self._files, self._sent = {key: redact(value) for key, value in about.items()}, files, False
        self.record: RunRecord | None = None
        """Set when the run has one."""

    def send(self, exit_code: int, error: str | None, *, quick: bool = False) -> None:
        """Send the notification, unless it was sent before or nobody is named.

        Args:
            exit_code: Exit code of the run.
            error: Message of the error that ended it.
            quick: Make one short attempt only.
        """
        if self._sent or self._to is None:
            return
        self._sent = True
        message = json.dumps(self._message(exit_code, error), ensure_ascii=False).encode()
        try:
            if scheme(self._to) in HTTP_SCHEMES:
                attempts: dict[str, Any] = {"tries": 1, "timeout_s": QUICK_S} if quick else {}
                self._post(self._to, message, **attempts)
            else:
                self._files.write(self._to, message)
        except (StorageError, WriteError) as fault:
            log.warning(f"could not send the end-of-run notification to notify.to: {fault}")

    def _message(self, exit_code: int, error: str | None) -> dict[str, Any]:
        """Return the run record, and ``text``: a short message for a chat."""
        record = self.record or RunRecord(self.run_id, self._about["manifest"], "", "", 0, 0)
        facts = {key: value for key, value in asdict(record).items() if key not in ("versions", "store_mib_per_item")}
        outcome = OUTCOMES.get(exit_code, OUTCOMES[1])
        counts = f"{record.ok} ok, {record.review} to review, {record.failed} failed"
        why = f"\n{error}" if error else ""
        text = f"matteline {outcome}: {counts}, of {record.items} items into {self._about['output']}{why}"
        return facts | self._about | {"exit_code": exit_code, "outcome": outcome, "error": error, "text": text}


def _from_environment() -> str | None:
    given = os.environ.get(VARIABLE, "").strip()
    try:
        return parse_notify_target(given) if given else None
    except ValueError as fault:
        raise ConfigError(f"{VARIABLE} {fault}") from fault


@contextmanager
def notifying(job: Job, run_id: str, files: Files, when: When = "always") -> Iterator[Notifier]:
    """Send a notification at the end of the block: exit code 0, or that of the error that ends it.

    Args:
        job: Names the destination.
        run_id: The run.
        files: Access to storage.
        when: The ends that are told.

    Raises:
        ConfigError: The environment variable is not a webhook, path or URI.
    """
    to = job.notify.to.get_secret_value() if job.notify.to else _from_environment()
    notifier = Notifier(
        None if when == "never" else to, {"run_id": run_id, "manifest": job.manifest, "output": job.output.uri}, files
    )
    try:
        yield notifier
    except BaseException as error:
        notifier.send(*ending_of(error))
        raise
    if when == "always":
        notifier.send(0, None)


def notify_refused(error: PipelineError, manifest: str | None, output: str | None) -> None:
    """Notify about invalid settings. ``notify.to`` is not known yet, so only ``MATTELINE_NOTIFY`` is used.

    Raises:
        ConfigError: The environment variable is not a webhook, path or URI.
    """
    about = {"run_id": "", "manifest": manifest or "", "output": output or ""}
    Notifier(_from_environment(), about, Files()).send(error.exit_code, str(error))
