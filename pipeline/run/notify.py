"""Word of a run's end, whatever the end was: to a webhook, or into a file."""

from __future__ import annotations

import json
import os
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import asdict
from typing import Any

from pipeline.config.job import Job, place_to_tell
from pipeline.errors import ConfigError, PipelineError, StorageError, WriteError
from pipeline.log import log
from pipeline.output.run_record import OUTCOMES, RunRecord
from pipeline.storage.files import Files
from pipeline.storage.uris import WEB, scheme, shown
from pipeline.storage.webhook import TRIES, TRY_S, post

VARIABLE = "MATTELINE_NOTIFY"
"""Names the place where the settings don't: a secret of a cluster's is best given so."""

QUICK_S = 1.0
"""For the one try of a run that a signal ends: the process is gone two seconds later."""


class Notifier:
    """Tells once how a run ended. Nothing that goes wrong here changes how it did.

    Args:
        to: a webhook, a path or a URI; None tells nobody.
        about: run_id, manifest, output; told without what may be credentials.
    """

    def __init__(self, to: str | None, about: dict[str, str], files: Files) -> None:
        self._to = files.absolute(to) if to else None
        self.run_id = about["run_id"]
        self._about, self._files, self._told = {key: shown(value) for key, value in about.items()}, files, False
        self.record: RunRecord | None = None
        """Once there is one."""

    def send(self, exit_code: int, error: str | None, *, quick: bool = False) -> None:
        """Send it, if anybody wants to know."""
        if self._told or self._to is None:
            return
        self._told = True
        message = json.dumps(self._message(exit_code, error), ensure_ascii=False).encode()
        try:
            if scheme(self._to) in WEB:
                post(self._to, message, tries=1 if quick else TRIES, try_s=QUICK_S if quick else TRY_S)
            else:
                self._files.write(self._to, message)
        except (StorageError, WriteError) as fault:
            log.warning(f"nobody was told of the run's end (notify.to): {fault}")

    def _message(self, exit_code: int, error: str | None) -> dict[str, Any]:
        """The run record without what is for machines, and one sentence for a chat."""
        record = self.record or RunRecord(self.run_id, self._about["manifest"], "", "", 0, 0)
        facts = {key: value for key, value in asdict(record).items() if key not in ("versions", "store_mib_per_item")}
        outcome = OUTCOMES.get(exit_code, "broken")
        counts = f"{record.ok} ok, {record.review} to review, {record.failed} failed"
        why = f"\n{error}" if error else ""
        text = f"matteline {outcome}: {counts}, of {record.items} items into {self._about['output']}{why}"
        return facts | self._about | {"exit_code": exit_code, "outcome": outcome, "error": error, "text": text}


def _from_environment() -> str | None:
    given = os.environ.get(VARIABLE, "").strip()
    try:
        return place_to_tell(given) if given else None
    except ValueError as fault:
        raise ConfigError(f"{VARIABLE} {fault}") from fault


@contextmanager
def notifying(job: Job, run_id: str, files: Files) -> Iterator[Notifier]:
    """Tells at the end of what is done here: 0, or the code of the error that ends it.

    Raises:
        ConfigError: the variable names no place.
    """
    to = job.notify.to.get_secret_value() if job.notify.to else _from_environment()
    notifier = Notifier(to, {"run_id": run_id, "manifest": job.manifest, "output": job.output}, files)
    try:
        yield notifier
    except PipelineError as error:
        notifier.send(error.exit_code, str(error))
        raise
    except BaseException as error:
        notifier.send(1, type(error).__name__)
        raise
    notifier.send(0, None)


def tell_of_refusal(error: PipelineError, manifest: str | None, output: str | None) -> None:
    """Settings that make no job: whom they name isn't known then, whom the variable names is.

    Raises:
        ConfigError: the variable names no place.
    """
    about = {"run_id": "", "manifest": manifest or "", "output": output or ""}
    Notifier(_from_environment(), about, Files()).send(error.exit_code, str(error))
