"""What a run is doing, told from its output alone: its progress object, its lease, its record, its index.

Nothing else need be reachable, neither Ray nor the machine that the run is on. Ages are by this machine's clock.
"""

from __future__ import annotations

import json
import time
from dataclasses import asdict, dataclass
from datetime import datetime
from typing import Any

from pipeline.errors import ConfigError, FetchError
from pipeline.output.index import recipes, summarise
from pipeline.output.layout import Layout
from pipeline.output.lease import GRACE_S, TTL_S, Holder, in_force, is_gone
from pipeline.output.progress import RUNNING
from pipeline.storage.files import Files
from pipeline.storage.uris import name

LATE_BEATS = 3
"""So many rewrites of the progress object may be missing before it is said."""


@dataclass(frozen=True)
class RunStatus:
    """The latest run of a recipe's folder."""

    folder: str
    verdict: str
    """``running``, ``silent`` (the lease is renewed, the progress isn't), ``dead``, or ``over``."""
    said: str
    """The verdict in words, with its reason."""
    facts: dict[str, Any]
    """The progress object; of a run without one its record; without either the index's counts."""
    progress_age_s: float | None = None
    lease_age_s: float | None = None
    """Since it was last renewed; None unless this run holds it."""

    @property
    def sign_age_s(self) -> float | None:
        """Since the last sign of life."""
        return min((age for age in (self.progress_age_s, self.lease_age_s) if age is not None), default=None)

    def encode(self) -> str:
        """As JSON."""
        return json.dumps(asdict(self) | {"sign_age_s": self.sign_age_s}, ensure_ascii=False)


def look(output: str, files: Files, *, run_id: str | None = None, now: float | None = None) -> RunStatus:
    """The latest run under an output (or in the one recipe folder that is named), or the run of this id.

    Raises:
        ConfigError: there is none.
        StorageError: the output can't be read.
    """
    found = [_latest(Layout.of(folder), files, run_id) for folder in recipes(output, files)]
    latest, layout = max(found, key=lambda one: one[0], default=("", None))
    if layout is not None and latest:
        progress = _read(layout.progress(latest), files)
        unsaid = (
            progress is None or progress["state"] == RUNNING
        )  # as it may say for ever, if its last word couldn't be written
        if unsaid and (record := _read(layout.run(latest), files)):
            return RunStatus(layout.folder, "over", str(record["outcome"]), record)
        if progress:
            return judge(layout, progress, files, time.time() if now is None else now)
    elif layout is not None and run_id is None and (counts := summarise(layout, files).counts):
        facts = {"run_id": None} | {status: counts.get(status, 0) for status in ("ok", "review", "failed")}
        return RunStatus(layout.folder, "over", "no run has left word; the numbers are the index's", facts)
    raise ConfigError(f"no run {run_id or ''}".rstrip() + f" under {output}; a run tells of itself there once it has begun")


def judge(layout: Layout, progress: dict[str, Any], files: Files, now: float) -> RunStatus:
    """Whether the run of a progress object lives.

    Raises:
        StorageError: the lease can't be read.
    """
    age = now - datetime.fromisoformat(progress["updated_at"]).timestamp()
    if progress["state"] != RUNNING:
        return RunStatus(layout.folder, "over", progress["state"], progress, age)
    lease = in_force(layout.lease, files)
    holder = lease[1] if lease is not None and lease[1].run_id == progress["run_id"] else None
    renewed = now - (holder.expires_at - TTL_S) if holder is not None and holder.expires_at else None
    why = _death(holder, lease, now)
    if why:
        return RunStatus(layout.folder, "dead", f"it seems dead: {why}; the same command continues", progress, age, renewed)
    if age > LATE_BEATS * progress["every_s"] + GRACE_S:
        said = "its lease is renewed, but it has not written its progress: its store may be slow, or it hangs"
        return RunStatus(layout.folder, "silent", said, progress, age, renewed)
    return RunStatus(layout.folder, RUNNING, RUNNING, progress, age, renewed)


def _death(holder: Holder | None, lease: tuple[int, Holder] | None, now: float) -> str:
    """Why the run can't be alive; empty if it may be."""
    if holder is None:
        return f"run {lease[1].run_id} has its lease" if lease is not None else "its lease is gone"
    if not holder.expires_at:
        return "it gave its lease back and never said how it ended"
    if is_gone(holder.process):
        return "its process is gone"
    late = now - holder.expires_at
    return f"its lease ran out {late:.0f} s ago" if late >= GRACE_S else ""


def _latest(layout: Layout, files: Files, run_id: str | None) -> tuple[str, Layout]:
    """The latest run's id, or the one that is asked for; empty if there is none. Ids sort by time."""
    uris = (info.uri for folder in (layout.progresses, layout.runs) for info in files.list(folder, suffixes=(".json",)))
    ids = {name(uri).removesuffix(".json") for uri in uris}
    return max((one for one in ids if run_id in (None, one)), default=""), layout


def _read(uri: str, files: Files) -> dict[str, Any] | None:
    """An object of ours; None if it isn't there, or is no such thing."""
    try:
        content = json.loads(files.read(uri))
    except (FetchError, ValueError):
        return None
    return content if isinstance(content, dict) else None
