"""``submit.py`` against a stand-in for the Kubernetes API that can fail."""

from __future__ import annotations

import json
import os
import subprocess
import sys
import threading
from collections.abc import Iterator
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from typing import Any

import pytest

SUBMIT = Path(__file__).resolve().parents[2] / "infra" / "components" / "nightly" / "submit.py"
FOLDER = "/apis/ray.io/v1/namespaces/photos/rayjobs"
TEMPLATE = {
    "apiVersion": "ray.io/v1",
    "kind": "RayJob",
    "metadata": {"name": "shoes", "uid": "1"},
    "spec": {"suspend": True, "a": 1},
}
Status = dict[str, str]
CUT = b'{"kind": "RayJ'
UNSIZED = b'{"kind": '


class Api(ThreadingHTTPServer):
    """RayJobs by path. Each GET of the copy takes the next of ``statuses``; ``errors`` are answered first.

    An error is an HTTP code, or the bytes of a truncated response: with a Content-Length header, except for ``UNSIZED``.
    """

    def __init__(self) -> None:
        super().__init__(("127.0.0.1", 0), Handler)
        self.jobs: dict[str, Any] = {f"{FOLDER}/shoes": TEMPLATE}
        self.statuses: list[Status] = []
        self.errors: list[int | bytes] = []


class Handler(BaseHTTPRequestHandler):
    server: Api

    def do_GET(self) -> None:
        if self.server.errors:
            error = self.server.errors.pop(0)
            return self.truncate(error) if isinstance(error, bytes) else self.answer(error, {})
        job = self.server.jobs.get(self.path)
        if job and self.path.endswith("-29-run"):
            left = self.server.statuses
            job = {**job, "status": left.pop(0) if len(left) > 1 else left[0]}
        return self.answer(200 if job else 404, job or {})

    def do_POST(self) -> None:
        job = json.loads(self.rfile.read(int(self.headers["Content-Length"])))
        path = f"{self.path}/{job['metadata']['name']}"
        self.answer(409 if path in self.server.jobs else 201, self.server.jobs.setdefault(path, job))

    def answer(self, code: int, body: Any) -> None:
        data = json.dumps(body).encode()
        self.send_response(code)
        self.send_header("Content-Length", str(len(data)))
        self.end_headers()
        self.wfile.write(data)

    def truncate(self, data: bytes) -> None:
        self.send_response(200)
        if data != UNSIZED:
            self.send_header("Content-Length", "1000")
        self.end_headers()
        self.wfile.write(data)

    def log_message(self, *_: Any) -> None:
        pass


@pytest.fixture
def api() -> Iterator[Api]:
    with Api() as server:
        threading.Thread(target=server.serve_forever, daemon=True).start()
        yield server
        server.shutdown()


def submit(api: Api, folder: Path, **more: str) -> subprocess.CompletedProcess[str]:
    (folder / "namespace").write_text("photos")
    (folder / "token").write_text("t")
    env = {"API": f"http://127.0.0.1:{api.server_port}", "ACCOUNT": str(folder), "POLL_S": "0.01", "TIMEOUT_S": "5"}
    env |= {"PATTERN": "shoes", "NIGHT": "shoes-29", "NIGHT_UID": "7", "no_proxy": "127.0.0.1", **more}
    return subprocess.run(
        [sys.executable, str(SUBMIT)], env=os.environ | env, capture_output=True, text=True, check=False, timeout=60
    )


GOOD: list[Status] = [{}, {"jobDeploymentStatus": "Running"}, {"jobDeploymentStatus": "Complete", "jobStatus": "SUCCEEDED"}]


def test_the_ray_job_is_copied_started_and_waited_for(api: Api, tmp_path: Path) -> None:
    api.statuses = list(GOOD)
    done = submit(api, tmp_path)
    assert (done.returncode, done.stdout.splitlines()[-1]) == (0, "shoes-29-run Complete SUCCEEDED"), done.stderr
    copy = api.jobs[f"{FOLDER}/shoes-29-run"]
    assert copy["spec"] == {"suspend": False, "a": 1}
    assert copy["metadata"]["ownerReferences"] == [{"apiVersion": "batch/v1", "kind": "Job", "name": "shoes-29", "uid": "7"}]
    assert "uid" not in copy["metadata"]
    assert copy["metadata"]["name"] != "shoes-29"  # KubeRay creates a Job with the name of its RayJob; the name is taken


def test_a_pod_that_replaces_a_dead_one_continues_to_wait(api: Api, tmp_path: Path) -> None:
    api.statuses = list(GOOD)
    api.jobs[f"{FOLDER}/shoes-29-run"] = running = {"metadata": {"name": "shoes-29-run"}, "spec": {}}
    assert submit(api, tmp_path).returncode == 0
    assert api.jobs[f"{FOLDER}/shoes-29-run"] is running


def test_a_queue_starts_the_copy(api: Api, tmp_path: Path) -> None:
    api.statuses = list(GOOD)
    assert submit(api, tmp_path, QUEUE="nights").returncode == 0
    copy = api.jobs[f"{FOLDER}/shoes-29-run"]
    assert (copy["spec"]["suspend"], copy["metadata"]["labels"]) == (True, {"kueue.x-k8s.io/queue-name": "nights"})


def test_a_failed_run_is_exit_code_1(api: Api, tmp_path: Path) -> None:
    api.statuses = [{"jobDeploymentStatus": "Failed", "jobStatus": "FAILED", "message": "why"}]
    done = submit(api, tmp_path)
    assert (done.returncode, done.stdout.strip()) == (1, "shoes-29-run Failed FAILED why")


def test_a_run_that_kuberay_refuses_is_exit_code_1(api: Api, tmp_path: Path) -> None:
    api.statuses = [{}, {"jobDeploymentStatus": "ValidationFailed", "message": "why"}]
    done = submit(api, tmp_path)
    assert (done.returncode, done.stdout.splitlines()[-1]) == (1, "shoes-29-run ValidationFailed why")


@pytest.mark.parametrize("cut", [CUT, b"", UNSIZED], ids=["sized", "empty", "unsized"])
def test_a_truncated_response_is_retried(api: Api, tmp_path: Path, cut: bytes) -> None:
    api.statuses, api.errors = list(GOOD), [cut, cut]
    done = submit(api, tmp_path)
    assert done.returncode == 0, done.stderr


@pytest.mark.parametrize("cut", [CUT, UNSIZED], ids=["sized", "unsized"])
def test_responses_that_stay_truncated_are_exit_code_2(api: Api, tmp_path: Path, cut: bytes) -> None:
    api.errors = [cut] * 1000
    assert submit(api, tmp_path, TIMEOUT_S="0.2").returncode == 2


def test_a_temporary_outage_of_the_api_is_retried(api: Api, tmp_path: Path) -> None:
    api.statuses, api.errors = list(GOOD), [503, 500, 429]
    assert submit(api, tmp_path).returncode == 0


def test_an_error_of_the_api_is_exit_code_2(api: Api, tmp_path: Path) -> None:
    """Exit code 1 would end the retries of the CronJob's Job."""
    assert submit(api, tmp_path, PATTERN="boots").returncode == 2
    api.errors = [403]
    assert submit(api, tmp_path).returncode == 2
