"""The ledger of a run holds what is being worked on, and so nothing at the end."""

from __future__ import annotations

import time
from collections.abc import Callable, Sequence
from pathlib import Path

import pytest
import ray

from pipeline.config.job import load_job
from pipeline.run.crash_ledger import InMemoryLedger
from pipeline.run.driver import run_job
from pipeline.run.graph import RayCrashLedger


@pytest.mark.usefixtures("ray_session")
def test_the_ledger_is_empty_at_the_end(
    tmp_path: Path, make_photos: Callable[..., list[Path]], fake_preset: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    class Counted(InMemoryLedger):
        """Local, so that it travels to the actor as it is."""

        begun_ever = 0

        def begin(self, keys: Sequence[str]) -> list[int]:
            self.begun_ever += sum("/" in key for key in keys)  # items, not the batches that hold them
            return super().begin(keys)

    ledgers: list[RayCrashLedger] = []
    start = RayCrashLedger.start
    monkeypatch.setattr("pipeline.run.ledger_actor.InMemoryLedger", Counted)
    monkeypatch.setattr(RayCrashLedger, "start", lambda: ledgers.append(start()) or ledgers[-1])
    photos = make_photos(tmp_path / "photos", 30)
    photos[3].write_bytes(b"no image")
    photos[20].write_bytes(b"")
    settings = ["budget.max_failed_share=1", "compute.rows_per_block=7", "compute.batch_size=3"]
    job = load_job(manifest=str(tmp_path / "photos"), output=str(tmp_path / "out"), preset=fake_preset, overrides=settings)

    _, record = run_job(job)

    assert (record.ok + record.review, record.failed) == (28, 2)
    (ledger,) = ledgers
    deadline = time.monotonic() + 30  # workers don't wait until their last notes are crossed out
    while left := ray.get(ledger.actor.__ray_call__.remote(lambda notes: dict(notes.begun))):
        assert time.monotonic() < deadline, left
        time.sleep(0.1)
    # Decoding and finishing take every item, the model takes those that could be decoded.
    assert ray.get(ledger.actor.__ray_call__.remote(lambda notes: notes.begun_ever)) == 30 + 28 + 30
