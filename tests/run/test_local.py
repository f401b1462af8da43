"""Small runs in a worker process: what it survives, and what it shares with nobody."""

from __future__ import annotations

import json
import logging
import os
import signal
import subprocess
import sys
import threading
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import psutil
import pyarrow.dataset as ds
import pytest
from PIL import Image, PngImagePlugin

from pipeline.config.job import Compute, load_job
from pipeline.errors import Stopped, WeightsError
from pipeline.output.run_record import RunRecord
from pipeline.run import driver, gpus, worker_process
from pipeline.run.driver import load_or_check_model, may_use_gpus, run_job
from pipeline.run.local import local_pool
from pipeline.run.preflight import make_plan
from pipeline.storage.files import Files

INJECT = Path(__file__).resolve().parents[1] / "faults" / "inject"
MARK = (255, 0, 255)
Go = Callable[..., RunRecord]


@pytest.fixture
def go(tmp_path: Path, make_photos: Callable[..., list[Path]], fake_preset: str) -> Go:
    """``go(*settings, output="out", photos="photos")`` runs eight photos."""
    make_photos(tmp_path / "photos", 8)

    def run(*settings: str, output: str = "out", photos: str = "photos", preset: str = fake_preset) -> RunRecord:
        where = {"manifest": str(tmp_path / photos), "output": str(tmp_path / output), "preset": preset}
        return run_job(load_job(**where, overrides=["budget.max_failed_share=1", *settings]))[1]

    return run


@pytest.fixture
def marked(tmp_path: Path, go: Go) -> str:
    """The id of one more photo, in the middle, which the faults know."""
    note = PngImagePlugin.PngInfo()
    note.add_text("Comment", "the marked picture")
    Image.new("RGB", (120, 90), MARK).save(tmp_path / "photos" / "photo-003b.png", pnginfo=note)
    return "photo-003b.png"


def codes(output: Path) -> dict[str, str | None]:
    """The error code of each item. Every item has one row."""
    rows = ds.dataset(output / "index", format="parquet").to_table(["item_id", "error_code"]).to_pylist()
    assert len(rows) == len({row["item_id"] for row in rows})
    return {row["item_id"]: row["error_code"] for row in rows}


def test_a_large_run_ends_the_worker_that_was_started_ahead(
    go: Go, tmp_path: Path, fake_preset: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(worker_process, "_idle", [])
    job = load_job(
        manifest=str(tmp_path / "photos"),
        output=str(tmp_path / "out"),
        preset=fake_preset,
        overrides=["compute.local_items=4"],
    )
    worker_process.start_ahead(job)
    (ahead,) = worker_process._idle
    load_or_check_model(make_plan(job, Files()), "a-run")
    assert not worker_process._idle and ahead.process.poll() is not None


def test_a_worker_that_has_worked_is_kept_beside_a_large_run(go: Go) -> None:
    go()
    (kept,) = worker_process._idle
    worker_process.end_unused()
    assert worker_process._idle == [kept] and kept.process.poll() is None


def test_weights_are_checked_before_a_worker_loads_anything(go: Go, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(driver, "load_model", lambda *_: pytest.fail("the worker loads the network first"))
    (tmp_path / "empty.safetensors").touch()
    with pytest.raises(WeightsError, match="is empty"):
        go("recipe.refiner=cgm", f"recipe.refiner_weights={tmp_path / 'empty.safetensors'}")


@pytest.mark.parametrize(
    ("where", "deed", "rows"), [("decode", "exit", 1), ("segment", "exit", 4), ("decode", "hang", 4), ("segment", "hang", 1)]
)
def test_an_item_that_ends_its_process_fails_alone(
    go: Go, faults: Callable[..., Path], marked: str, tmp_path: Path, where: str, deed: str, rows: int
) -> None:
    faults(marked=deed, where=where)
    record = go("limits.item_s=1", f"compute.rows_per_block={rows}", f"compute.batch_size={rows}")
    assert (record.failed, record.ok + record.review) == (1, 8)
    assert {item for item, code in codes(tmp_path / "out").items() if code == "crash"} == {marked}


def test_a_killed_worker_is_replaced(
    go: Go, faults: Callable[..., Path], tmp_path: Path, logged: list[logging.LogRecord]
) -> None:
    trace = faults(sleep_s=0.2)

    def kill_once() -> None:
        while not trace.exists():
            time.sleep(0.01)
        for process in _workers(os.getpid()):
            process.send_signal(signal.SIGKILL)

    killer = threading.Thread(target=kill_once)
    killer.start()
    record = go()
    killer.join()
    assert record.ok + record.review == 8
    assert set(codes(tmp_path / "out").values()) == {None}
    assert any("worker process was killed by SIGKILL; its items are repeated" in one.getMessage() for one in logged)


def test_workers_that_cannot_start_end_the_run(go: Go, monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    broken = tmp_path / "broken"
    broken.mkdir()
    end = "print('no\\nModuleNotFoundError: numpy', file=sys.stderr, flush=True); os._exit(7)"
    (broken / "sitecustomize.py").write_text(f"import os, sys\nif 'pipeline.run.worker' in sys.orig_argv: {end}\n")
    monkeypatch.setenv("PYTHONPATH", str(broken))
    why = r"\(ended with status 7: ModuleNotFoundError: numpy\)"
    with pytest.raises(Stopped, match=f"the worker process ended 3 times before it began {why}"):
        go()
    assert not (tmp_path / "out" / "index").exists()


def test_nothing_finished_for_long_ends_the_run(go: Go, monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    stuck = tmp_path / "stuck"
    stuck.mkdir()
    (stuck / "sitecustomize.py").write_text("import sys, time\nif 'pipeline.run.worker' in sys.orig_argv: time.sleep(60)\n")
    monkeypatch.setenv("PYTHONPATH", str(stuck))
    with pytest.raises(Stopped, match="finished nothing for 5 s"):
        go("compute.no_progress_s=5", "limits.item_s=0.7")
    assert not worker_process._idle and not _workers(os.getpid()), "it ends with the run"


def test_weights_that_cannot_be_used_leave_no_output(go: Go, tmp_path: Path) -> None:
    weights = tmp_path / "weights.safetensors"
    weights.write_bytes(b"no weights at all")
    with pytest.raises(WeightsError, match=r"weights.safetensors is neither a .safetensors nor a PyTorch weights file"):
        go(f"recipe.weights={weights}", preset="mvanet-lite")
    assert not (tmp_path / "out").exists() or not list((tmp_path / "out").rglob("*.json"))


def test_the_next_run_has_the_same_worker(go: Go, monkeypatch: pytest.MonkeyPatch) -> None:
    go()
    (first,) = worker_process._idle
    go(output="second")
    assert worker_process._idle == [first]
    monkeypatch.setenv("AWS_PROFILE", "other")  # a worker would still have the credentials of before
    go(output="third")
    assert worker_process._idle != [first] and first.process.poll() is not None


def test_a_worker_starts_before_a_new_output_is_made(go: Go, tmp_path: Path) -> None:
    def ahead(manifest: str, output: str, *settings: str) -> int:
        worker_process.start_ahead(load_job(manifest=manifest, output=output, overrides=list(settings)))
        return len(worker_process._idle)

    while worker_process._idle:
        worker_process._idle.pop().close()
    photos, out = str(tmp_path / "photos"), str(tmp_path / "out")
    assert ahead(str(tmp_path / "missing"), out) == ahead("s3://bucket/photos", out) == 0
    assert ahead(photos, out, "compute.local_items=0") == 0, "every run with this setting works on Ray"
    assert ahead(photos, out) == 1
    (first,) = worker_process._idle
    go()
    assert worker_process._idle == [first], "the run has this worker"
    first.close()
    worker_process._idle.clear()
    assert ahead(photos, out) == 0, "a finished output probably needs none"


def test_runs_in_two_threads_have_workers_of_their_own(
    go: Go, faults: Callable[..., Path], make_photos: Callable[..., list[Path]], tmp_path: Path
) -> None:
    trace = faults(sleep_s=0.1)
    make_photos(tmp_path / "others", 8, first=20)
    threads = [
        threading.Thread(target=go, kwargs={"output": f"out-{photos}", "photos": photos}) for photos in ("photos", "others")
    ]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert sorted(codes(tmp_path / "out-photos")) == sorted(path.name for path in (tmp_path / "photos").iterdir())
    assert sorted(codes(tmp_path / "out-others")) == sorted(path.name for path in (tmp_path / "others").iterdir())
    assert len({line.split()[3] for line in trace.read_text().splitlines()}) == 2
    assert len(worker_process._idle) == 1


def test_a_worker_outlives_the_thread_of_its_run(go: Go) -> None:
    thread = threading.Thread(target=go)
    thread.start()
    thread.join()
    (kept,) = worker_process._idle
    time.sleep(0.5)
    assert kept.process.poll() is None
    go(output="second")
    assert worker_process._idle == [kept]


@pytest.mark.skipif(not hasattr(os, "fork"), reason="needs fork")
def test_a_fork_starts_its_own_worker(go: Go) -> None:
    go()
    (kept,) = worker_process._idle
    if not (child := os.fork()):
        try:
            done = go(output="forked").ok + go(output="again").ok
            os._exit(0 if done and worker_process._idle != [kept] else 1)
        finally:
            os._exit(2)
    assert os.waitstatus_to_exitcode(os.waitpid(child, 0)[1]) == 0
    go(output="third")
    assert worker_process._idle == [kept]


def test_a_worker_ends_with_its_driver(go: Go, tmp_path: Path, fake_preset: str) -> None:
    command = [sys.executable, "-m", "jobs.main", "run", "-m", "photos", "-o", "out", "-p", fake_preset]
    environment = os.environ | {"PYTHONPATH": str(INJECT), "FAULTS": json.dumps({"sleep_s": 30})}
    root = Path(__file__).resolve().parents[2]
    environment["PYTHONPATH"] += f"{os.pathsep}{root}"
    with subprocess.Popen(command, cwd=tmp_path, env=environment, stderr=subprocess.DEVNULL) as run:
        found = list(_await(lambda: _workers(run.pid)))
        run.kill()
    _, alive = psutil.wait_procs(found, timeout=60)
    assert found and not alive


@pytest.mark.parametrize(
    ("settings", "items", "small"),
    [({}, 100, True), ({}, 101, False), ({"local_items": 0}, 1, False), ({"actors": 1}, 1, False)],
)
def test_which_runs_are_small(settings: dict[str, Any], items: int, small: bool) -> None:
    assert gpus.is_small(Compute(**settings), items) == small


@pytest.mark.parametrize(
    ("preset", "device", "expected"),
    [("u2netp", "auto", "cpu"), ("u2netp", "cuda", "cuda"), ("mvanet-lite", "auto", "cuda"), ("mvanet-lite", "cpu", "cpu")],
)
def test_an_onnx_model_without_cuda_stays_on_the_cpu(
    preset: str, device: str, expected: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    """As in a run on Ray. ``cuda`` is taken at its word, and refused where the model is loaded."""
    monkeypatch.setattr(gpus, "has_cuda", lambda: True)
    monkeypatch.setattr("pipeline.models.engines.ort.has_cuda_provider", lambda: False)
    job = load_job(manifest="photos", output="out", preset=preset, overrides=[f"compute.device={device}"])
    pool = local_pool(job.compute, job.recipe)
    assert (pool.device, pool.gpus) == (expected, float(expected == "cuda"))
    assert may_use_gpus(job) == (job.recipe.has_open_precision and expected == "cuda")
    assert local_pool(job.compute, None).gpus == float(device != "cpu"), "a detector alone needs no ONNX Runtime with CUDA"


def test_an_address_of_a_cluster_is_used(monkeypatch: pytest.MonkeyPatch) -> None:
    assert not gpus.is_small(Compute(ray_address="ray://head:10001"), 1)
    monkeypatch.setenv("RAY_ADDRESS", "head:6379")
    assert not gpus.is_small(Compute(), 1)


def _workers(parent: int) -> list[psutil.Process]:
    children = psutil.Process(parent).children()
    return [child for child in children if "pipeline.run.worker" in child.cmdline()]


def _await(found: Callable[[], list[psutil.Process]]) -> Iterator[psutil.Process]:
    deadline = time.monotonic() + 60
    while not (some := found()):
        assert time.monotonic() < deadline
        time.sleep(0.05)
    yield from some
