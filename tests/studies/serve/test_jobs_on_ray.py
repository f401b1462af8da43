"""A job over HTTP that is too large for one process, so that it works on Ray."""

from __future__ import annotations

import json
import os
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import psutil
import pyarrow.parquet as pq
import pytest

from pipeline.config.job import Compute

pytestmark = [pytest.mark.study, pytest.mark.timeout(900)]
ITEMS = 120
INJECT = Path(__file__).resolve().parents[2] / "faults" / "inject"
FRAME_S = 0.2
"""Seconds that every frame takes in the model, so that there is time to stop the job."""


@pytest.fixture
def service(start_service: Callable[..., Any], fake_preset: str, make_photos: Callable[..., Any], tmp_path: Path) -> Any:
    make_photos(tmp_path / "read", ITEMS)
    (tmp_path / "write").mkdir()
    settings = ("compute.rows_per_block=4", "compute.rows_per_part=4", "compute.progress_s=0.3")
    path = os.pathsep.join([str(INJECT), *filter(None, [os.environ.get("PYTHONPATH")])])
    return start_service(
        *("--preset", fake_preset, "--allow-root", str(tmp_path / "read"), "--output-root", str(tmp_path / "write")),
        *(word for setting in settings for word in ("--set", setting)),
        env={
            "PYTHONPATH": path,
            "FAULTS": json.dumps({"sleep_s": FRAME_S}),
            "RAY_USAGE_STATS_ENABLED": "0",
            "RAY_worker_niceness": "0",  # beside tests that compute, workers at nice 15 would wait for minutes
        },
    )


def ask(service: Any, asked: dict[str, Any]) -> str:
    answer = service.post("/v1/jobs", json.dumps(asked).encode(), Content_Type="application/json")
    assert answer.status == 202, answer.body
    return str(answer.json["id"])


def follow(service: Any, job_id: str, until: Callable[[dict[str, Any]], bool]) -> list[dict[str, Any]]:
    """The states of a job, up to the first one that is as it should be."""
    end, states = time.monotonic() + 600, []
    while not states or not until(states[-1]):
        assert time.monotonic() < end, (states[-1], service.log[-30:])
        states.append(service.get(f"/v1/jobs/{job_id}").json)
        time.sleep(0.1)
    return states


def begin(service: Any, asked: dict[str, Any]) -> list[dict[str, Any]]:
    """The states of a job until its first items are done. Ray gives up on a machine that is very busy; then we ask again."""
    for _ in range(5):
        states = follow(service, ask(service, asked), lambda state: done(state) > 0 or is_over(state))
        if not (is_over(states[-1]) and "Ray did not start" in str(states[-1]["error"])):
            return states
    pytest.fail(f"Ray did not start: {states[-1]}")


def done(state: dict[str, Any]) -> int:
    progress = state["progress"] or {}
    return sum(progress.get(status, 0) for status in ("ok", "review", "failed"))


def is_over(state: dict[str, Any]) -> bool:
    return state["verdict"] in ("over", "dead")


def ray_processes(service: Any) -> list[psutil.Process]:
    """Those that were started by the service's jobs."""
    family = psutil.Process(service.process.pid).children(recursive=True)
    return [one for one in family if one.name() in ("raylet", "gcs_server") or one.name().startswith("ray::")]


def index_rows(output: Path) -> list[str]:
    return [str(one) for part in output.glob("index/**/*.parquet") for one in pq.read_table(part)["item_id"].to_pylist()]


def test_it_is_followed_stopped_and_continued(service: Any, tmp_path: Path) -> None:
    assert Compute().local_items < ITEMS
    output = tmp_path / "write" / "spring"
    asked = {"manifest": str(tmp_path / "read"), "output": str(output)}
    running = begin(service, asked)[-1]
    assert running["verdict"] == "running" and running["progress"]["items"] == ITEMS, running
    first = running["id"]
    started = ray_processes(service)
    assert {one.name() for one in started} >= {"raylet", "gcs_server"}
    picture = (tmp_path / "read" / "photo-000.jpg").read_bytes()
    assert service.post("/v1/cutout", picture).status == 200  # requests go on meanwhile
    assert service.request("DELETE", f"/v1/jobs/{first}").status == 202
    stopped = follow(service, first, is_over)[-1]
    assert (stopped["verdict"], stopped["exit_code"], stopped["said"]) == ("over", 4, "stopped"), stopped
    assert 0 < done(stopped) < ITEMS and "send the same request again" in stopped["error"]
    _, alive = psutil.wait_procs(started, 180)  # agents notice after a minute that their raylet ended
    assert not alive, "Ray outlives its job"
    assert service.gauge("jobs") == 0

    states = begin(service, asked)
    states += follow(service, states[-1]["id"], is_over)
    assert (states[-1]["exit_code"], states[-1]["said"]) == (0, "complete"), states[-1]
    counts = [state["progress"]["done_before"] + done(state) for state in states if (state["progress"] or {}).get("items")]
    assert counts == sorted(counts) and counts[-1] == ITEMS
    assert states[-1]["progress"]["done_before"] >= done(stopped)
    assert len({state["verdict"] for state in states} - {"starting", "running", "over"}) == 0
    rows = index_rows(output)
    assert len(rows) == len(set(rows)) == len(list((output / "cutouts").iterdir())) == ITEMS
    assert service.end() == 0
    assert not [line for line in service.log if "traceback" in line]
