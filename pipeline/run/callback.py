"""Tell a Python caller how far a run is."""

from __future__ import annotations

import time
from collections.abc import Callable
from dataclasses import dataclass

from pipeline.errors import PipelineError
from pipeline.log import log
from pipeline.output.progress import RUNNING
from pipeline.output.run_record import RunRecord
from pipeline.output.time_left import seconds_left

EVERY_S = 0.25
"""Seconds between two calls, at least. The last call of a run comes at once."""


@dataclass(frozen=True)
class RunProgress:
    """Progress of a run, the argument of the ``progress`` function of ``pipeline.run``.

    Attributes:
        run_id: Id of the run. Its record is ``_matteline/runs/<run_id>.json`` in the output.
        state: ``running``, and in the last call the outcome of the run record: ``complete``, ``stopped``, and so on.
        items: Items of the manifest.
        done_before: Items that earlier runs finished.
        ok: Items of this run that are fit for use.
        review: Items of this run that a person should look at.
        failed: Items of this run that have no result.
        derived: Items finished before that got an output or rendition that they lacked.
        items_per_s: Items that this run finishes per second; 0 until the first ones are finished.
        videos_left: Videos that are not finished.
        frames_left: Frames of these videos that are to be written, estimated by headers; None if no length is known.
        frames_per_s: Frames of videos that this run writes per second.
    """

    run_id: str
    state: str
    items: int
    done_before: int
    ok: int
    review: int
    failed: int
    derived: int
    items_per_s: float
    videos_left: int = 0
    frames_left: int | None = None
    frames_per_s: float = 0.0

    @property
    def done(self) -> int:
        """Items with a result or an error, of this run and earlier ones."""
        return self.done_before + self.ok + self.review + self.failed

    @property
    def eta_s(self) -> float | None:
        """Seconds until all items are done, estimated; None while the speed is unknown."""
        left = self.items - self.done
        if not left:
            return 0.0
        return seconds_left(left, self.items_per_s, self.videos_left, self.frames_left, self.frames_per_s)


Callback = Callable[[RunProgress], object]


class Reporter:
    """Calls a function with the progress of a run, in the thread of the caller and every ``EVERY_S`` seconds at most.

    A ``PipelineError`` that the function raises ends the run. Any other exception is logged, and the function is not called
    again: a display must not cost a night's work.

    Args:
        callback: The function; None for none.
        record: The run record, which others keep up to date.
    """

    def __init__(self, callback: Callback | None, record: RunRecord) -> None:
        self._callback, self._record = callback, record
        self._called = float("-inf")

    @property
    def is_silent(self) -> bool:
        """True if there is no function, so that the run may draw its own progress bar."""
        return self._callback is None

    def update(self) -> None:
        """Call the function, unless it was called just now.

        Raises:
            PipelineError: The function wants the run to end.
        """
        if time.monotonic() - self._called >= EVERY_S:
            self._call()

    def finish(self) -> None:
        """Call the function with the final counts. The run is over, so nothing that it raises has an effect."""
        try:
            self._call()
        except PipelineError as error:
            log.warning(f"the progress function has raised an error after the end of the run: {error}")

    def _call(self) -> None:
        if self._callback is None:
            return
        record = self._record
        counts = (record.items, record.done_before, record.ok, record.review, record.failed, record.derived)
        speeds = (record.items_per_s, record.videos_left, record.frames_left, record.frames_per_s)
        try:
            self._callback(RunProgress(record.run_id, record.outcome or RUNNING, *counts, *speeds))
        except PipelineError:
            raise
        except Exception:  # noqa: BLE001  it is the caller's code
            log.exception("the progress function has raised an error and is not called again; the run goes on")
            self._callback = None
        self._called = time.monotonic()
