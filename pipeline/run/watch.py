"""Watch a manifest: run its job again whenever files have come (``matteline run --watch``).

A **look** lists the manifest's files. A file that has the same version in two looks in a row is ready; before, it may still be
written. If some ready files are new, a **round** runs the job over all that are ready: a run of ``driver.run_job`` with its
lease, error budget and record. Between rounds the output is free for other commands.

The index is the only memory. A watch that was killed goes on where it was, and a file that comes during a round is in the next.
"""

from __future__ import annotations

from contextlib import AbstractContextManager, nullcontext
from dataclasses import dataclass, field
from math import inf
from threading import Event

from pipeline.config.job import Job
from pipeline.errors import ConfigError, ErrorBudgetExceeded, PipelineError, Stopped, StorageError, WeightsError
from pipeline.log import log, without_repeated_warnings
from pipeline.manifest.id_set import contains
from pipeline.manifest.listing import list_sources
from pipeline.manifest.snapshot import NO_FILES, Snapshot, take_snapshot, unchanged
from pipeline.output.gc import MIN_AGE_S, delete_superseded
from pipeline.output.lease import clock_s, new_run_id
from pipeline.output.output import Output
from pipeline.output.run_record import ROUND_MARK, RunRecord, delete_old_rounds
from pipeline.run.driver import may_use_gpus, run_job
from pipeline.run.gpus import is_small
from pipeline.run.local import load_model
from pipeline.run.notify import When, notifying
from pipeline.run.preflight import make_plan
from pipeline.run.signals import SignalHandler
from pipeline.run.worker_process import kept_worker
from pipeline.storage.files import Files
from pipeline.storage.uris import redact

INTERVAL_S = 5.0
"""Default seconds between two looks."""

PAUSE_PER_LOOK = 20.0
"""A pause is at least this many times as long as the look before it, so that looks at a large folder take 5 % of a core."""

WAIT_S, MAX_WAIT_S = 10.0, 300.0
"""Seconds until a failed round is tried again. The time doubles with each failure, up to the second number."""

REPEATED = frozenset({"fetch", "write"})
"""Error codes of items that may succeed later without any change."""

REPEAT_S, REPEATS = 60.0, 5
"""Seconds until items that failed with these codes are repeated, which doubles each time, and how often they are."""

KEPT_ROUNDS = 100
"""Rounds whose records are kept."""


def watch(
    job: Job, *, interval_s: float = INTERVAL_S, signals: SignalHandler | None = None, stop: Event | None = None
) -> Output:
    """Watch until the event is set, a signal comes between two rounds, or ``budget.deadline_s`` has passed.

    A round that fails is tried again, with growing pauses. Only what is wrong from the start ends the watch.

    Args:
        job: All settings. ``run.retry`` and ``run.replace`` apply to the first round.
        interval_s: Seconds between two looks, at least.
        signals: What SIGTERM and SIGINT do; None keeps the caller's handlers.
        stop: Ends the watch between two rounds.

    Returns:
        The output.

    Raises:
        ConfigError: A setting or the manifest is wrong.
        WeightsError: The model cannot be used.
        StorageError: The manifest or the output is not there at the start.
        Stopped: The watch ended within a round, or while it waited to try a failed one again.
    """
    with without_repeated_warnings(), kept_worker():
        return _Watch(job, interval_s, signals, stop or Event()).go()


@dataclass
class _Watch:
    """The state of a watch: two snapshots, and when the next round is due."""

    job: Job
    interval_s: float
    signals: SignalHandler | None
    stop: Event
    before: Snapshot = field(default_factory=lambda: NO_FILES)
    """The last look."""
    done: Snapshot = field(default_factory=lambda: NO_FILES)
    """The files that were ready in the last round that did not fail."""
    looks: int = 0
    look_s: float = 0.0
    """Seconds that the last look took."""
    has_run: bool = False
    """True after the first round."""
    error: PipelineError | None = None
    """Error of the last look or round; None after a success."""
    failed: int = 0
    """Looks or rounds that failed, one after the other."""
    blocked_until: float = 0.0
    """Time of ``clock_s`` before which there is neither a look nor a round, since the last one failed."""
    repeat_at: float = inf
    """Time from which the next round repeats failed items."""
    repeats: int = 0
    """Rounds that repeated failed items, one after the other."""

    def __post_init__(self) -> None:
        self.files = Files(self.job.storage)
        self.manifest = self.files.absolute(self.job.manifest)
        self.ends_at = inf if self.job.budget.deadline_s is None else clock_s() + self.job.budget.deadline_s

    def go(self) -> Output:
        output = self._begin()
        while not self._is_over():
            try:
                self._look_and_run(output)
            except PipelineError as error:
                self._plan_retry(error)
            self._pause()
        if self.error is not None:
            raise Stopped(f"the watch ended before a failed round was tried again: {self.error}")
        log.info("the watch has ended")
        return output

    def _begin(self) -> Output:
        """Check the job without any item, look for the first time, and load the model."""
        plan = make_plan(self.job, self.files, gpu=may_use_gpus(self.job), ready=NO_FILES)
        self._look()
        log.info(
            f"watching {redact(self.manifest)} every {self.interval_s:g} s",
            extra={"facts": {"files": len(self.before), "output": plan.output.folder}},
        )
        if is_small(self.job.compute, len(self.before)):
            load_model(plan, new_run_id(ROUND_MARK))
        self._pause()
        return plan.output

    def _look_and_run(self, output: Output) -> None:
        if clock_s() < self.blocked_until:
            return
        with notifying(self.job, "", self.files, self._notify):
            ready = self._look()
        now = clock_s()
        is_due = self.error is not None or now >= self.repeat_at or not contains(self.done, ready).all()
        if is_due and not self._is_over():
            self._run_round(ready, output)

    def _look(self) -> Snapshot:
        """Return the files that are the same as in the last look."""
        started = clock_s()
        with self._pausing():
            now = take_snapshot(list_sources(self.manifest, self.files))
        self.look_s = clock_s() - started
        ready, self.before = unchanged(self.before, now), now
        self.looks += 1
        return ready

    def _run_round(self, ready: Snapshot, output: Output) -> None:
        repeating = clock_s() >= self.repeat_at
        try:
            _, record = run_job(self._round(repeating), signals=self.signals, ready=ready, notify=self._notify)
        except ErrorBudgetExceeded:
            self.has_run = True
            self._plan_repeat(repeating)
            raise
        self.done, self.has_run = ready, True
        self.error, self.failed = None, 0
        if REPEATED & set(record.failures):
            self._plan_repeat(repeating)
        elif repeating:
            self.repeat_at, self.repeats = inf, 0
        if record.outcome is not None:
            self._finish_round(record, output)

    def _round(self, repeating: bool) -> Job:
        """Return the job of the next round: with the time that is left, and after the first one without its options."""
        job = self.job
        if self.ends_at < inf:
            left_s = max(0.001, self.ends_at - clock_s())
            job = job.model_copy(update={"budget": job.budget.model_copy(update={"deadline_s": left_s})})
        if self.has_run:
            job = job.with_run(retry=(), replace=False)
        return job.with_run(retry=(*job.run.retry, *REPEATED)) if repeating else job

    def _finish_round(self, record: RunRecord, output: Output) -> None:
        """Delete what many rounds would leave behind, and log the round."""
        try:
            delete_old_rounds(output, KEPT_ROUNDS)
            delete_superseded(output, before=output.files.stat(output.layout.run(record.run_id)).modified - MIN_AGE_S)
        except StorageError as error:
            log.warning(f"old run records and index parts are not deleted: {error}")
        done = record.ok + record.review + record.failed
        derived = f", {record.derived} completed" if record.derived else ""
        log.info(
            f"{done} of {record.items} items done in {record.seconds:g} s: {record.ok} ok, {record.review} to review, "
            f"{record.failed} failed{derived}",
            extra={"facts": {"run_id": record.run_id, "ok": record.ok, "review": record.review, "failed": record.failed}},
        )

    def _plan_retry(self, error: PipelineError) -> None:
        """Wait before the next round.

        Raises:
            PipelineError: The error itself, if waiting does not help.
        """
        wrong_from_the_start = isinstance(error, ConfigError | WeightsError) and self.looks <= 2
        if wrong_from_the_start or clock_s() >= self.ends_at:
            raise error
        wait_s = min(MAX_WAIT_S, WAIT_S * 2 ** min(self.failed, 10))
        self.error, self.failed = error, self.failed + 1
        self.blocked_until = clock_s() + wait_s
        log.error(f"{error}. The watch tries again in {wait_s:.0f} s", extra={"facts": {"exit_code": error.exit_code}})

    def _plan_repeat(self, repeating: bool) -> None:
        """Repeat failed items later, unless that was done often enough."""
        self.repeats = self.repeats + 1 if repeating else 0
        later = clock_s() + REPEAT_S * 2**self.repeats if self.repeats < REPEATS else inf
        self.repeat_at = later if repeating else min(self.repeat_at, later)

    @property
    def _notify(self) -> When:
        return "failed" if self.error is None else "never"

    def _pause(self) -> None:
        now = clock_s()
        wait_s = max(self.interval_s, PAUSE_PER_LOOK * self.look_s, self.blocked_until - now)
        with self._pausing():
            self.stop.wait(max(0.0, min(wait_s, self.ends_at - now)))

    def _pausing(self) -> AbstractContextManager[None]:
        return nullcontext() if self.signals is None else self.signals.on_pause(self.stop)

    def _is_over(self) -> bool:
        return self.stop.is_set() or clock_s() >= self.ends_at
