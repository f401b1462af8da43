"""A run's crash ledger holds the work in flight, so it is empty when the run ends. It may be killed like any process."""

from __future__ import annotations

import os
import signal
import time
from collections.abc import Callable, Sequence
from pathlib import Path

import pytest
import ray

from pipeline.config.job import load_job
from pipeline.run.crash_ledger import InMemoryLedger
from pipeline.run.driver import run_job
from pipeline.run.ledger_actor import RayCrashLedger


@pytest.mark.usefixtures("ray_session")
def test_the_ledger_is_empty_at_the_end(
    tmp_path: Path, make_photos: Callable[..., list[Path]], fake_preset: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    class CountingLedger(InMemoryLedger):
        """A local class, so that Ray pickles it by value."""

        begun = 0

        def begin(self, keys: Sequence[str]) -> list[int]:
            self.begun += sum("/" in key for key in keys)  # items, and not the batches that hold them
            return super().begin(keys)

    ledgers: list[RayCrashLedger] = []
    start = RayCrashLedger.start
    monkeypatch.setattr("pipeline.run.ledger_actor.InMemoryLedger", CountingLedger)
    monkeypatch.setattr(RayCrashLedger, "start", lambda: ledgers.append(start()) or ledgers[-1])
    photos = make_photos(tmp_path / "photos", 30)
    photos[3].write_bytes(b"no image")
    photos[20].write_bytes(b"")
    settings = ["budget.max_failed_share=1", "compute.rows_per_block=7", "compute.batch_size=3"]
    job = load_job(manifest=str(tmp_path / "photos"), output=str(tmp_path / "out"), preset=fake_preset, overrides=settings)

    _, record = run_job(job)

    assert (record.ok + record.review, record.failed) == (28, 2)
    (ledger,) = ledgers
    deadline = time.monotonic() + 30  # workers do not wait for the removal of their last entries
    while left := ray.get(ledger.actor.__ray_call__.remote(lambda actor: dict(actor.started))):
        assert time.monotonic() < deadline, left
        time.sleep(0.1)
    # Decoding and writing get every item, the model gets those that could be decoded.
    assert ray.get(ledger.actor.__ray_call__.remote(lambda actor: actor.begun)) == 30 + 28 + 30


@pytest.mark.usefixtures("ray_session")
def test_a_ledger_that_is_killed_starts_again() -> None:
    """For instance by the system, for want of memory. What it knew is lost, which costs a crashed item one more attempt."""
    ledger = RayCrashLedger.start()
    assert ledger.begin(["segment/a"]) == [0]
    assert ledger.begin(["segment/a"]) == [1]
    os.kill(ray.get(ledger.actor.__ray_call__.remote(lambda _actor: os.getpid())), signal.SIGKILL)
    assert ledger.begin(["segment/a"]) == [0]
    ledger.begin_alone("segment/a")
    assert ledger.begin(["segment/a"]) == [2]
