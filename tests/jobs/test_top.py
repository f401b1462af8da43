"""Watch a run from another process that can read only its output."""

from __future__ import annotations

import io
import json
import os
import signal
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from datetime import datetime
from pathlib import Path
from typing import Any

import pytest
from rich.console import Console

from jobs.top import view
from pipeline.config.job import Storage
from pipeline.errors import ConfigError
from pipeline.output.lease import GRACE_S, TTL_S, Holder
from pipeline.output.output import Output
from pipeline.output.status import CONFIRM_S, Seen, read_status
from pipeline.storage.files import Files

MATTELINE = str(Path(sys.executable).with_name("matteline"))
Command = Callable[..., subprocess.CompletedProcess[str]]
MakePhotos = Callable[..., list[Path]]
RUN = "20261123T020000Z-000001"
NOW = datetime.fromisoformat("2026-11-23T02:10:00+00:00").timestamp()


@contextmanager
def running(*arguments: str, cwd: Path, env: dict[str, str]) -> Iterator[subprocess.Popen[bytes]]:
    """Start a run in its own process group, and kill it afterwards."""
    variables = {key: value for key, value in os.environ.items() if not key.startswith(("AWS_", "RAY_"))} | env
    with (cwd / "log.jsonl").open("wb") as log:
        run = subprocess.Popen([MATTELINE, "run", *arguments], cwd=cwd, env=variables, stderr=log, start_new_session=True)
        try:
            yield run
        finally:
            run.kill()
            run.wait()


@pytest.mark.parametrize("place", ["disk", "s3"])
def test_a_run_is_shown_alive_and_dead(
    matteline: Command, place: str, tmp_path: Path, make_photos: MakePhotos, fake_preset: str, request: pytest.FixtureRequest
) -> None:
    make_photos(tmp_path / "photos", 40)
    (tmp_path / "photos" / "a-broken.jpg").write_bytes(b"not an image")
    env, output, files = {}, "out", Files()
    if place == "s3":
        s3 = request.getfixturevalue("s3")
        env, output = s3.environment, f"s3://{s3.make_bucket()}/out"
        files = Files(Storage.model_validate(s3.settings))
    settings = ("compute.progress_s=0.2", "compute.rows_per_part=1", "budget.max_failed_share=0.5")
    arguments = ("-m", "photos", "-o", output, "-p", fake_preset, *(word for one in settings for word in ("--set", one)))

    def failed() -> int:
        try:
            return int(read_status(str(tmp_path / output) if place == "disk" else output, files).facts["failed"])
        except ConfigError:
            return 0

    with running(*arguments, cwd=tmp_path, env=env) as run:
        while not failed():
            assert run.poll() is None, (tmp_path / "log.jsonl").read_text()
            time.sleep(0.1)
        run.send_signal(signal.SIGSTOP)  # so that it does not end before it is inspected
        status = json.loads(matteline("top", output, "--json", cwd=tmp_path, env=env).stdout)
        assert (status["verdict"], status["facts"]["state"], status["facts"]["items"]) == ("running", "running", 41)
        assert status["facts"]["failures"]["decode"]["item_id"] == "a-broken.jpg"
        assert status["sign_age_s"] < TTL_S
        run.kill()
        run.wait()
    dead = matteline("top", output, "--once", cwd=tmp_path, env=env)
    assert dead.returncode == 0, dead.stderr
    assert "it seems dead: its process has ended; run the same command again to continue" in dead.stdout
    assert "decode" in dead.stdout and "41" in dead.stdout


def test_a_folder_without_a_run_is_refused_in_one_line(matteline: Command, tmp_path: Path) -> None:
    for folder in ("nowhere", "."):
        refused = matteline("top", folder)
        assert refused.returncode == 2
        assert "no run under" in refused.stderr and len(refused.stderr.splitlines()) == 1


@pytest.fixture
def output(tmp_path: Path) -> Output:
    output = Output.at(str(tmp_path / "lite-0123"), Files())
    output.files.write(output.layout.recipe, b"{}")
    return output


ENDED = {"manifest": "m.csv", "seconds": 9.0, "exit_code": 0, "failures": {}}


def write_progress(output: Output, run_id: str = RUN, **changes: Any) -> None:
    facts = {"run_id": run_id, "manifest": "m.csv", "items": 100, "done_before": 10, "ok": 20, "review": 5, "failed": 0}
    facts |= {"items_per_s": 2.5, "recent_items_per_s": 2.0, "eta_s": 33, "state": "running", "every_s": 30.0}
    facts |= {
        "updated_at": "2026-11-23T02:09:50+00:00",
        "owner": "me@there",
        "dashboard": "http://10.0.0.1:8265",
        "failures": {},
    }
    facts |= {"seconds": 0.0, "outcome": None, "exit_code": None}
    output.files.write(output.layout.progress(run_id), json.dumps(facts | changes).encode())


def write_lease(output: Output, expires_at: float, run_id: str = RUN) -> None:
    output.files.write(
        f"{output.layout.lease}/000001.json", Holder(owner="me@there", run_id=run_id, token="t", expires_at=expires_at).encode()
    )


def shown(output: Output, **options: Any) -> tuple[str, str]:
    status = read_status(output.folder, output.files, now=NOW, **options)
    console = Console(width=200, file=io.StringIO(), record=True)
    console.print(view(status))
    return status.verdict, console.export_text()


@pytest.mark.parametrize(
    ("expires_at", "changes", "verdict", "words"),
    [
        (NOW + 90, {}, "running", "10 s ago (progress 10 s ago, lease renewed 30 s ago)"),
        (NOW + 90, {"updated_at": "2026-11-23T02:00:00+00:00"}, "silent", "has not written its progress"),
        (NOW - GRACE_S - 5, {}, "dead", "its lease expired 20 s ago"),
        (0.0, {}, "dead", "released its lease without a final state"),
        (0.0, {"state": "stopped", "error": "stopped by SIGTERM"}, "over", "stopped by SIGTERM"),
    ],
)
def test_the_verdict_on_a_run(output: Output, expires_at: float, changes: dict[str, Any], verdict: str, words: str) -> None:
    write_progress(output, **changes)
    write_lease(output, expires_at)
    found, text = shown(output)
    assert found == verdict
    assert words in text and "35 of 100" in text and "http://10.0.0.1:8265" in text


def test_frames_of_videos_are_shown(output: Output) -> None:
    write_lease(output, NOW + 90)
    write_progress(output, frames=1500, frames_per_s=12.5, videos_left=2, frames_left=18_500, eta_s=1480)
    text = shown(output)[1]
    assert "1,500 of videos, written, about 18,500 left" in text and "12.5 frames/s" in text
    write_progress(output, frames=1500, frames_per_s=12.5)  # of an older version
    assert "1,500 of videos, written\n" in "\n".join(line.rstrip() for line in shown(output)[1].splitlines()) + "\n"


class Clock:
    seconds = 0.0

    def __call__(self) -> float:
        return self.seconds


def test_a_viewer_whose_clock_is_ahead_sees_a_healthy_run(output: Output) -> None:
    clock = Clock()
    seen = Seen(clock)
    write_progress(output)
    write_lease(output, NOW - 50)  # renewed 170 s ago by the viewer's clock
    assert shown(output, seen=seen)[0] == "running" and "which 45 s will show" in shown(output, seen=seen)[1]
    clock.seconds += 30
    write_lease(output, NOW - 20)
    write_progress(output, updated_at="2026-11-23T02:07:00+00:00")
    verdict, text = shown(output, seen=seen)
    assert verdict == "running" and "expired" not in text
    clock.seconds += TTL_S
    assert shown(output, seen=seen)[0] == "running", "it may have been renewed just after the last look"
    clock.seconds += GRACE_S
    verdict, text = shown(output, seen=seen)
    assert verdict == "dead" and "its lease was not renewed for 135 s" in text


def test_a_viewer_whose_clock_is_behind_sees_that_a_run_is_dead(output: Output) -> None:
    clock = Clock()
    seen = Seen(clock)
    write_progress(output, updated_at="2026-11-23T02:14:00+00:00")
    write_lease(output, NOW + 400)
    assert shown(output, seen=seen)[0] == "running"
    clock.seconds += TTL_S + GRACE_S
    assert shown(output, seen=seen)[0] == "dead"


def test_a_lease_that_has_expired_is_watched_before_the_run_is_called_dead(output: Output) -> None:
    clock = Clock()
    seen = Seen(clock)
    write_progress(output)
    write_lease(output, NOW - 60)
    assert read_status(output.folder, output.files, now=NOW, seen=seen).is_open
    clock.seconds += CONFIRM_S
    verdict, text = shown(output, seen=seen)
    assert verdict == "dead" and "its lease expired 60 s ago" in text


def test_a_run_without_its_lease_is_dead_and_the_latest_run_is_shown(output: Output) -> None:
    write_progress(output)
    write_lease(output, NOW + 90, "20261123T030000Z-000002")
    assert shown(output)[0] == "dead"
    write_progress(output, "20261123T030000Z-000002")
    assert shown(output)[0] == "running"
    assert shown(output, run_id=RUN)[0] == "dead"
    with pytest.raises(ConfigError, match="no run 2099 under"):
        read_status(output.folder, output.files, run_id="2099")


def test_runs_without_a_progress_object(output: Output, make_output: Callable[..., None]) -> None:
    make_output(output)
    assert "no run record" in shown(output)[1] and "60 ok" in shown(output)[1]
    record = {"run_id": RUN, "outcome": "complete", "ok": 7, "review": 0, "failed": 0, "items": 7, "done_before": 0}
    output.files.write(output.layout.run(RUN), json.dumps(record | ENDED).encode())
    assert "complete" in shown(output)[1] and "7 of 7" in shown(output)[1]


def test_a_run_record_ends_a_run_whose_final_progress_is_missing(output: Output) -> None:
    write_progress(output)
    write_lease(output, 0.0)
    assert shown(output)[0] == "dead"
    record = {"run_id": RUN, "outcome": "stopped", "ok": 20, "review": 5, "failed": 0, "items": 100, "done_before": 10}
    output.files.write(output.layout.run(RUN), json.dumps(record | ENDED).encode())
    verdict, text = shown(output)
    assert verdict == "over" and "stopped" in text
