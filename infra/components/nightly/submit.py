"""Start one run: copy the suspended RayJob PATTERN as NIGHT-run, wait for it, exit with 0 if it succeeded and 1 if it failed.

A pod that replaces a dead one finds the copy by its name and continues to wait. QUEUE names a Kueue queue that starts the copy.
The object NIGHT with the uid NIGHT_UID owns the copy: a Job, or what OWNER names. Without NIGHT_UID it has no owner.
"""

import http.client
import json
import os
import ssl
import sys
import time
import urllib.error
import urllib.request
from pathlib import Path

ACCOUNT = Path(os.environ.get("ACCOUNT", "/var/run/secrets/kubernetes.io/serviceaccount"))
API = os.environ.get("API", "https://kubernetes.default.svc")
POLL_S = float(os.environ.get("POLL_S", "20"))
TIMEOUT_S = float(os.environ.get("TIMEOUT_S", "600"))
"""Seconds for which a request to an unavailable API is retried."""
API_ERRORS = (OSError, http.client.HTTPException, ValueError)
"""An error code or no connection; a truncated response; a truncated response that is not valid JSON."""
FINISHED = ("Complete", "Failed", "ValidationFailed")


def call(method: str, path: str, body: dict | None = None) -> dict:
    """Send one request to the Kubernetes API. The token is read each time, because it rotates."""
    headers = {"Authorization": f"Bearer {(ACCOUNT / 'token').read_text()}", "Content-Type": "application/json"}
    data = None if body is None else json.dumps(body).encode()
    request = urllib.request.Request(API + path, data, headers, method=method)
    trusted = ssl.create_default_context(cafile=str(ACCOUNT / "ca.crt")) if API.startswith("https:") else None
    with urllib.request.urlopen(request, timeout=30, context=trusted) as answer:
        return json.load(answer)


def call_with_retries(method: str, path: str, body: dict | None = None) -> dict:
    """Send a request, and retry it while the API is unavailable or throttles."""
    until = time.monotonic() + TIMEOUT_S
    while True:
        try:
            return call(method, path, body)
        except API_ERRORS as error:
            code = getattr(error, "code", 503)
            if (code < 500 and code != 429) or time.monotonic() > until:
                raise
        time.sleep(POLL_S)


def run_name(job: str) -> str:
    """Return the RayJob's name. It differs from the Job's, because KubeRay creates a Job with the name of its RayJob."""
    return f"{job}-run"


def copy_of(template: dict, job: str, queue: str | None) -> dict:
    """Return the RayJob to create: it starts at once, or when Kueue starts it, and is deleted with its owner."""
    version, _, kind = os.environ.get("OWNER", "batch/v1/Job").rpartition("/")
    uid = os.environ.get("NIGHT_UID")
    owners = [{"apiVersion": version, "kind": kind, "name": job, "uid": uid}] if uid else []
    labels = {**template["metadata"].get("labels", {}), **({"kueue.x-k8s.io/queue-name": queue} if queue else {})}
    return {
        "apiVersion": template["apiVersion"],
        "kind": "RayJob",
        "metadata": {"name": run_name(job), "labels": labels, "ownerReferences": owners},
        "spec": {**template["spec"], "suspend": bool(queue)},
    }


def main() -> int:
    """Create the RayJob and wait until it has finished."""
    folder = f"/apis/ray.io/v1/namespaces/{(ACCOUNT / 'namespace').read_text().strip()}/rayjobs"
    job = os.environ["NIGHT"]
    name = run_name(job)
    template = call_with_retries("GET", f"{folder}/{os.environ['PATTERN']}")
    try:
        call_with_retries("POST", folder, copy_of(template, job, os.environ.get("QUEUE")))
    except urllib.error.HTTPError as error:
        if error.code != 409:  # another pod created it
            raise
    printed = None
    while True:
        status = call_with_retries("GET", f"{folder}/{name}").get("status", {})
        now = (status.get("jobDeploymentStatus"), status.get("jobStatus"), status.get("message"))
        if now != printed:
            print(name, *filter(None, now), flush=True)
            printed = now
        if now[0] in FINISHED:
            return 0 if now[:2] == ("Complete", "SUCCEEDED") else 1
        time.sleep(POLL_S)


if __name__ == "__main__":
    try:
        sys.exit(main())
    except (*API_ERRORS, KeyError) as error:
        # Exit code 1 means that the run failed and ends the Job's retries; after this error another pod may succeed.
        print(f"{type(error).__name__}: {error}", file=sys.stderr)
        sys.exit(2)
