"""What ``matteline infra service`` writes, under the real Ray Serve, on CPUs: answers, settings, and a replica that is killed.

Needs the extra ``rayserve``, which ``make serve-check`` installs.
"""

from __future__ import annotations

import io
import os
import signal
import socket
import subprocess
import sys
import time
from collections import Counter
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from importlib.util import find_spec
from typing import Any

import psutil
import pytest
import yaml
from PIL import Image
from service_process import Running

from pipeline.deploy.service import render_service

pytestmark = [
    pytest.mark.study,
    pytest.mark.timeout(900),
    pytest.mark.skipif(find_spec("fastapi") is None, reason="needs the extra rayserve: pip install 'matteline[rayserve]'"),
]
CLIENTS, REQUESTS, REPLICAS = 4, 40, 2
START_S = 180
TOKEN = "a-token-for-this-study-" + "0" * 16
ALLOWED = {"Authorization": f"Bearer {TOKEN}"}
MORE = {
    "settings": {"limits.max_pixels": "300000"},
    "renditions": [{"name": "mine", "background": "#ff0000", "format": "jpeg"}],
}
"""Arguments, as the options ``--set`` and ``--rendition`` become."""


def free_port() -> int:
    with socket.socket() as one:
        one.bind(("127.0.0.1", 0))
        return int(one.getsockname()[1])


def on_cpus(port: int) -> dict[str, Any]:
    """The rendered configuration with the bundled model, two replicas and no GPU."""
    objects = yaml.safe_load_all(render_service({"preset": "mvanet-lite"}, MORE))
    (service,) = (thing for thing in objects if thing["kind"] == "RayService")
    config: dict[str, Any] = yaml.safe_load(service["spec"]["serveConfigV2"])
    (application,) = config["applications"]
    (deployment,) = application["deployments"]
    deployment["ray_actor_options"] = {"num_cpus": 1}
    deployment["autoscaling_config"] |= {"min_replicas": REPLICAS, "max_replicas": REPLICAS}
    return config | {"http_options": {"host": "127.0.0.1", "port": port}}


def until(what: Callable[[], bool], seconds: float) -> bool:
    end = time.monotonic() + seconds
    while not what():
        if time.monotonic() > end:
            return False
        time.sleep(0.5)
    return True


@pytest.fixture(scope="module")
def cluster(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Running]:
    """``serve run`` with that configuration, which starts a Ray of its own."""
    folder, port = tmp_path_factory.mktemp("serve"), free_port()
    (folder / "config.yaml").write_text(yaml.safe_dump(on_cpus(port)), encoding="utf-8")
    own = {"MATTELINE_TOKEN": TOKEN, "RAY_ADDRESS": "local", "RAY_USAGE_STATS_ENABLED": "0"}
    command = [sys.executable, "-m", "ray.serve.scripts", "run", str(folder / "config.yaml")]
    with (folder / "log").open("wb") as log:
        process = subprocess.Popen(command, env=os.environ | own, stdout=log, stderr=log, text=True)
    running = Running(process, port)
    try:
        assert until(lambda: process.poll() is not None or is_ready(running), START_S)
        assert process.poll() is None, (folder / "log").read_text(errors="replace")[-2000:]
        yield running
    finally:
        process.send_signal(signal.SIGINT)
        process.wait(120)


def is_ready(running: Running) -> bool:
    try:
        return running.get("/ready", **ALLOWED).status == 200
    except OSError:
        return False


def replicas(running: Running) -> list[psutil.Process]:
    """The processes of replicas, which Ray names so."""
    children = psutil.Process(running.process.pid).children(recursive=True)
    return [one for one in children if "".join(one.cmdline()[:1]).startswith("ray::ServeReplica:matteline:Cutouts")]


def test_answers_are_those_of_the_service_alone(cluster: Running, cup: bytes, model: Any, bars: Any) -> None:
    answer = cluster.post("/v1/cutout", cup, **ALLOWED)
    assert answer.status == 200 and answer.headers["Content-Type"] == "image/png"
    bars.at_most(
        "Ray Serve: quality of its answer less that of the Python API",
        abs(float(answer.headers["X-Quality"]) - model(cup).quality),
        1e-3,
    )
    assert cluster.post("/v1/cutout", b"no picture", **ALLOWED).json["code"] == "decode"
    assert cluster.post("/v1/cutout", cup).status == 401
    assert b"<!doctype html>" in cluster.get("/", **ALLOWED).body


def test_its_settings_and_renditions_arrive(cluster: Running, cup: bytes) -> None:
    answer = cluster.post("/v1/cutout?rendition=mine", cup, **ALLOWED)
    assert (answer.status, answer.headers["Content-Type"]) == (200, "image/jpeg")
    red, green, blue = Image.open(io.BytesIO(answer.body)).getpixel((2, 2))
    assert red > 240 and green < 15 and blue < 15
    large = io.BytesIO()
    Image.new("1", (601, 500)).save(large, "PNG")
    assert "limits.max_pixels" in cluster.post("/v1/cutout", large.getvalue(), **ALLOWED).json["message"]


def test_a_killed_replica_is_replaced(cluster: Running, cup: bytes, bars: Any) -> None:
    """A request that the killed replica had may fail; those after it reach the other one."""
    assert until(lambda: len(replicas(cluster)) == REPLICAS, 60)
    victim = replicas(cluster)[0]

    def ask(number: int) -> int:
        if number == REQUESTS // 2:
            victim.kill()
        return cluster.post("/v1/cutout", cup, **ALLOWED).status

    with ThreadPoolExecutor(CLIENTS) as clients:
        answers = Counter(clients.map(ask, range(REQUESTS)))
    bars.at_most(f"Ray Serve: requests that failed with a killed replica {dict(answers)}", REQUESTS - answers[200], CLIENTS)
    assert set(answers) <= {200, 500, 503}
    replaced = until(lambda: len([one for one in replicas(cluster) if one.pid != victim.pid]) == REPLICAS, 90)
    bars.at_least("Ray Serve: the killed replica was replaced", replaced, 1)
    assert cluster.post("/v1/cutout", cup, **ALLOWED).status == 200
