"""One night: copy the suspended RayJob PATTERN as NIGHT-run, wait for its end, exit 0 if complete and 1 if failed.

A pod that follows one that died finds the copy by its name and waits on. QUEUE names a Kueue queue that starts it. NIGHT_UID
is that of an object named NIGHT which owns the copy: OWNER, a Job if not said; without NIGHT_UID nothing owns it.
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

HERE = Path(os.environ.get("ACCOUNT", "/var/run/secrets/kubernetes.io/serviceaccount"))
API = os.environ.get("API", "https://kubernetes.default.svc")
POLL_S = float(os.environ.get("POLL_S", "20"))
PATIENCE_S = float(os.environ.get("PATIENCE_S", "600"))
"""How long the API may be away."""
TROUBLE = (OSError, http.client.HTTPException, ValueError)
"""An error code or no connection; an answer cut in the middle; one that is no JSON, as it was cut where nobody noticed."""
OVER = ("Complete", "Failed", "ValidationFailed")


def call(method: str, path: str, body: dict | None = None) -> dict:
    """One request to the Kubernetes API; the token is read anew, as it changes every hour."""
    headers = {"Authorization": f"Bearer {(HERE / 'token').read_text()}", "Content-Type": "application/json"}
    data = None if body is None else json.dumps(body).encode()
    request = urllib.request.Request(API + path, data, headers, method=method)
    trusted = ssl.create_default_context(cafile=str(HERE / "ca.crt")) if API.startswith("https:") else None
    with urllib.request.urlopen(request, timeout=30, context=trusted) as answer:
        return json.load(answer)


def patiently(method: str, path: str, body: dict | None = None) -> dict:
    """The same, through an API that is away or overworked for a while."""
    until = time.monotonic() + PATIENCE_S
    while True:
        try:
            return call(method, path, body)
        except TROUBLE as error:
            code = getattr(error, "code", 503)
            if (code < 500 and code != 429) or time.monotonic() > until:
                raise
        time.sleep(POLL_S)


def run_name(night: str) -> str:
    """The RayJob's name. Not the Job's own: KubeRay makes a Job named as its RayJob, and would take ours for it."""
    return f"{night}-run"


def copy_of(pattern: dict, night: str, queue: str | None) -> dict:
    """The night's RayJob: the pattern's spec, started, or with a queue started by Kueue; gone when its owner goes."""
    version, _, kind = os.environ.get("OWNER", "batch/v1/Job").rpartition("/")
    uid = os.environ.get("NIGHT_UID")
    owners = [{"apiVersion": version, "kind": kind, "name": night, "uid": uid}] if uid else []
    labels = {**pattern["metadata"].get("labels", {}), **({"kueue.x-k8s.io/queue-name": queue} if queue else {})}
    return {
        "apiVersion": pattern["apiVersion"],
        "kind": "RayJob",
        "metadata": {
            "name": run_name(night),
            "labels": labels,
            "ownerReferences": owners,
        },
        "spec": {**pattern["spec"], "suspend": bool(queue)},
    }


def main() -> int:
    """Submit and wait."""
    folder = f"/apis/ray.io/v1/namespaces/{(HERE / 'namespace').read_text().strip()}/rayjobs"
    night = os.environ["NIGHT"]
    name = run_name(night)
    pattern = patiently("GET", f"{folder}/{os.environ['PATTERN']}")
    try:
        patiently("POST", folder, copy_of(pattern, night, os.environ.get("QUEUE")))
    except urllib.error.HTTPError as error:
        if error.code != 409:
            raise
    said = None
    while True:
        status = patiently("GET", f"{folder}/{name}").get("status", {})
        now = (status.get("jobDeploymentStatus"), status.get("jobStatus"), status.get("message"))
        if now != said:
            print(name, *filter(None, now), flush=True)
            said = now
        if now[0] in OVER:
            return 0 if now[:2] == ("Complete", "SUCCEEDED") else 1
        time.sleep(POLL_S)


if __name__ == "__main__":
    try:
        sys.exit(main())
    except (*TROUBLE, KeyError) as error:
        # Not 1, which says that the night itself failed: another pod may fare better.
        print(f"{type(error).__name__}: {error}", file=sys.stderr)
        sys.exit(2)
