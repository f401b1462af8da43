"""Describe a job for clients: its record, and its run as ``matteline top`` shows it. Nothing of the machine is told."""

from __future__ import annotations

import re
import time
from collections.abc import Mapping
from datetime import datetime
from typing import Any

from pipeline.errors import ITEM_ERRORS, ConfigError, LeaseHeld
from pipeline.output.lease import is_gone, is_running_here
from pipeline.output.progress import RUNNING
from pipeline.output.run_record import OUTCOMES
from pipeline.output.status import RunStatus, read_status
from pipeline.serve.jobs.records import JobRecord
from pipeline.storage.files import Files

SHOWN = (
    *("state", "items", "done_before", "ok", "review", "failed", "derived", "left"),
    *("frames", "frames_per_s", "recent_frames_per_s", "videos_left", "frames_left"),
    *("items_per_s", "recent_items_per_s", "eta_s", "seconds", "started_at", "updated_at", "finished_at"),
    *("recipe", "preset", "expected_below", "actors", "gpus_per_actor", "actor_hours", "idle_share", "items_per_gpu_hour"),
)
"""Fields of a progress object or run record that clients see. Failures are added in ``_failures``."""

START_S = 3600.0
"""Seconds after which a job of another machine counts as dead if its run has written nothing yet."""

OVER = "over"
"""Verdict about a job that has ended."""

HELD = "another run uses this output, or has taken it over; wait until it ends, then send the same request again"
"""What clients are told in place of the run's own sentence, which names the user, the machine and the process of the other."""

_ABOUT = {error.code: error.about for error in ITEM_ERRORS}
_START = r"(?:[A-Za-z][A-Za-z0-9+.-]*:/|(?<![\w.<>])[~/])"
_PATH = re.compile(rf"(?<='){_START}[^'\n]+(?=')|(?<=\"){_START}[^\"\n]+(?=\")|{_START}[^\s'\",;)]+")
"""A path or URI: in quotation marks with its spaces, otherwise up to the first space."""


def state_of(record: JobRecord, files: Files) -> dict[str, Any]:
    """Return what ``GET /v1/jobs/{id}`` answers.

    ``verdict`` is ``starting``, ``running``, ``silent`` (it lives, and does not write its progress), ``dead`` or ``over``.

    Raises:
        StorageError: The output cannot be read.
    """
    try:
        run = read_status(record.output_uri, files, run_id=record.id)
    except ConfigError:  # the run has written nothing yet
        run = None
    facts = {} if run is None else run.facts
    verdict, said = _verdict(record, run)
    code = facts.get("exit_code") if record.exit_code is None else record.exit_code
    is_held = LeaseHeld.exit_code in (facts.get("exit_code"), record.exit_code)
    error = HELD if is_held else facts.get("error") or record.error
    return {
        "id": record.id,
        "manifest": record.manifest,
        "output": record.output,
        "preset": record.preset,
        "submitted_at": record.submitted_at,
        "ended_at": record.ended_at or facts.get("finished_at"),
        "verdict": verdict,
        "said": told(said, record),
        "exit_code": code if verdict == OVER else None,
        "error": told(error, record) if error else None,
        "sign_age_s": None if run is None or run.sign_age_s is None else round(run.sign_age_s, 1),
        "progress": None if run is None else {name: facts[name] for name in SHOWN if name in facts} | _failures(facts),
    }


def _verdict(record: JobRecord, run: RunStatus | None) -> tuple[str, str]:
    """Return the verdict and its reason. What the process recorded at its end counts if the run could not write its own end."""
    if run is not None and run.verdict == OVER and record.exit_code is None and is_running_here(record.process):
        return RUNNING, "it is ending"
    if run is not None and (run.verdict == OVER or record.exit_code is None):
        return run.verdict, run.said
    if record.exit_code is not None:
        return OVER, OUTCOMES.get(record.exit_code, OUTCOMES[1])
    age_s = time.time() - datetime.fromisoformat(record.submitted_at).timestamp()
    if is_gone(record.process) or (age_s > START_S and not is_running_here(record.process)):
        return "dead", "its process has ended before its run began; run the same command again to continue"
    return "starting", "it reads its manifest and loads the model"


def _failures(facts: Mapping[str, Any]) -> dict[str, Any]:
    """Return the failed items per error code, with an example. Details are in the index: they name places of the service."""
    failures = (facts.get("failures") or {}).items()
    return {
        "failures": {
            code: {"count": entry["count"], "item_id": entry["item_id"], "about": _ABOUT.get(code, "it failed")}
            for code, entry in failures
        }
    }


def told(text: str, record: JobRecord) -> str:
    """Return a sentence of a run for its client: places that the client named in its own words, other places left out."""
    known = sorted(
        {record.manifest_uri: record.manifest, record.output_uri: record.output}.items(), key=lambda one: -len(one[0])
    )
    marks = {f"\x00{at}\x00": given for at, (_, given) in enumerate(known)}
    for mark, (uri, _) in zip(marks, known, strict=True):
        text = text.replace(uri, mark)
    text = _PATH.sub("…", text)
    for mark, given in marks.items():
        text = text.replace(mark, given)
    return text.replace("run the same command again", "send the same request again").replace("--replace", "run.replace")
