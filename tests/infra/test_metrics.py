"""A real run exports the metrics that dashboard and alerts use, and every panel of the dashboard shows data."""

from __future__ import annotations

import importlib.util
import json
import os
import re
import shutil
import signal
import socket
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any
from urllib.parse import urlencode
from urllib.request import ProxyHandler, build_opener

import psutil
import pytest
import yaml

from pipeline.run.metrics import ALL, DEVICE_MEMORY, Metric

ROOT = Path(__file__).resolve().parents[2]
MONITORING = ROOT / "infra" / "components" / "monitoring"
MATTELINE = str(Path(sys.executable).with_name("matteline"))
PROMETHEUS = os.environ.get("PROMETHEUS") or shutil.which("prometheus")
OUT = ROOT / "out" / "dashboard"
WITH_GPUS = ("ray_node_gpus_available", "ray_node_gpus_utilization", "ray_node_gram_used", DEVICE_MEMORY.exported)
ITEMS = int(os.environ.get("ITEMS") or 1000)
REPORTED_EVERY_MS = "RAY_metrics_report_interval_ms"
ask = build_opener(ProxyHandler({})).open
"""Requests to loopback must not use a proxy of the environment."""


@dataclass
class Gathered:
    """Metrics that the run exported."""

    names: set[str] = field(default_factory=set)
    helped: dict[str, str] = field(default_factory=dict)
    prometheus: str | None = None
    started: float = 0.0

    def read(self, page: str) -> None:
        self.names |= {re.split(r"[{ ]", line, maxsplit=1)[0] for line in page.splitlines() if not line.startswith("#")}
        self.helped |= dict(line.split(" ", 3)[2:] for line in page.splitlines() if line.startswith("# HELP ray_matteline"))

    def ask(self, what: str, **query: str | float) -> Any:
        with ask(f"{self.prometheus}/api/v1/{what}?{urlencode(query)}", timeout=30) as answer:
            return json.load(answer)["data"]


def free_port() -> int:
    with socket.socket() as one:
        one.bind(("127.0.0.1", 0))
        return int(one.getsockname()[1])


@pytest.fixture(scope="module")
def prometheus(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Callable[[int], str | None]]:
    """``prometheus(port)``: starts a Prometheus, if it is installed, that scrapes a port every second; returns its address."""
    folder, running = tmp_path_factory.mktemp("prometheus"), []

    def start(port: int) -> str | None:
        if PROMETHEUS is None:
            return None
        static = [{"targets": [f"127.0.0.1:{port}"], "labels": {"ray_io_cluster": "matteline-night"}}]
        job = {"job_name": "ray", "static_configs": static}
        rules = yaml.safe_load((MONITORING / "alerts.yaml").read_text(encoding="utf-8"))["spec"]
        (folder / "rules.yml").write_text(json.dumps(rules))
        often = {"scrape_interval": "1s", "evaluation_interval": "1s"}  # the run takes less than the default of a minute
        config = {"global": often, "scrape_configs": [job], "rule_files": [str(folder / "rules.yml")]}
        (folder / "prometheus.yml").write_text(json.dumps(config))
        mine = free_port()
        where = [f"--config.file={folder}/prometheus.yml", f"--storage.tsdb.path={folder}/data"]
        running.append(
            subprocess.Popen(
                [PROMETHEUS, *where, f"--web.listen-address=127.0.0.1:{mine}"],
                stdout=subprocess.DEVNULL,
                stderr=subprocess.DEVNULL,
            )
        )
        return f"http://127.0.0.1:{mine}"

    yield start
    for process in running:
        process.kill()
        process.wait()


@pytest.fixture(scope="module")
def gathered(
    prometheus: Callable[[int], str | None],
    make_photos: Callable[..., list[Path]],
    fake_preset: str,
    tmp_path_factory: pytest.TempPathFactory,
) -> Iterator[Gathered]:
    """Metrics of one run on a cluster of one node, on which one worker is killed."""
    if importlib.util.find_spec("opencensus") is None or importlib.util.find_spec("aiohttp_cors") is None:
        pytest.skip("Ray cannot export metrics: pip install -e '.[cluster]', or run make dashboard")
    from ray.cluster_utils import Cluster

    folder, port = tmp_path_factory.mktemp("night"), free_port()
    make_photos(folder / "photos", ITEMS)
    for number in range(4):
        (folder / "photos" / f"broken-{number}.jpg").write_bytes(b"no photo")
    os.environ[REPORTED_EVERY_MS] = "1000"
    cluster = Cluster(
        initialize_head=True, head_node_args={"num_cpus": 6, "include_dashboard": False, "metrics_export_port": port}
    )
    gathered = Gathered(prometheus=prometheus(port), started=time.time())
    settings = [
        f"compute.ray_address={cluster.address}",
        "compute.progress_s=1",
        "compute.rows_per_part=2",
        "budget.max_failed_share=0.5",
    ]
    command = [MATTELINE, "run", "-m", "photos", "-o", "out", "-p", fake_preset, *(w for one in settings for w in ("-s", one))]
    env = {key: value for key, value in os.environ.items() if key.startswith("RAY_AUTH_") or not key.startswith("RAY_")}
    try:
        with (folder / "log.jsonl").open("wb") as log, subprocess.Popen(command, cwd=folder, env=env, stderr=log) as run:
            killed = False
            while run.poll() is None:
                time.sleep(0.5)
                with ask(f"http://127.0.0.1:{port}/metrics", timeout=30) as page:
                    gathered.read(page.read().decode())
                killed = killed or ("ray_matteline_items_total" in gathered.names and kill_a_worker())
        assert run.returncode == 0, (folder / "log.jsonl").read_text()
        yield gathered
    finally:
        del os.environ[REPORTED_EVERY_MS]
        cluster.shutdown()


def kill_a_worker() -> bool:
    """Kill a Ray worker that is a child of this process."""
    for process in psutil.Process().children(recursive=True):
        if any("write_batch" in word for word in process.cmdline()[:1]):
            process.send_signal(signal.SIGKILL)
            return True
    return False


def expressions() -> dict[str, list[tuple[str, str]]]:
    """Return the queries and legends of each panel, for all clusters."""
    panels = json.loads((MONITORING / "dashboard.json").read_text(encoding="utf-8"))["panels"]
    return {
        panel["title"]: [(target["expr"].replace("$cluster", ".*"), target["legendFormat"]) for target in panel["targets"]]
        for panel in panels
    }


def alerts() -> dict[str, str]:
    """Return the expression of each alert."""
    rules = yaml.safe_load((MONITORING / "alerts.yaml").read_text(encoding="utf-8"))["spec"]["groups"][0]["rules"]
    return {rule["alert"]: rule["expr"] for rule in rules}


def evaluated_rules(gathered: Gathered) -> list[Any]:
    """Return the alerts of Prometheus once each was evaluated, or after 30 s."""
    until = time.monotonic() + 30
    while True:
        rules: list[Any] = [rule for group in gathered.ask("rules")["groups"] for rule in group["rules"]]
        never = any(rule["lastEvaluation"].startswith("0001-") for rule in rules)  # Go's zero time
        if not never or time.monotonic() > until:
            return rules
        time.sleep(0.5)


def used() -> set[str]:
    """Return the metrics of dashboard and alerts, except those that need a GPU."""
    texts = list(alerts().values()) + [expr for pairs in expressions().values() for expr, _ in pairs]
    found = {name for text in texts for name in re.findall(r"\bray_(?!io_)[a-z_]+", text)}
    return {name for name in found if not name.startswith(WITH_GPUS)}


def series(metric: Metric) -> set[str]:
    ends = ("_bucket", "_sum", "_count") if metric.kind == "histogram" else ("",)
    return {metric.exported + end for end in ends}


@pytest.mark.timeout(600)
def test_every_metric_is_exported_with_its_description(gathered: Gathered) -> None:
    for metric in ALL:
        if metric is not DEVICE_MEMORY:
            assert series(metric) <= gathered.names
            assert gathered.helped[metric.exported] == metric.about


@pytest.mark.timeout(600)
def test_every_metric_that_dashboard_and_alerts_use_is_exported(gathered: Gathered) -> None:
    assert len(used()) >= 15
    assert used() - gathered.names == set()


@pytest.mark.study
@pytest.mark.timeout(600)
def test_every_panel_shows_data_and_every_alert_is_valid(gathered: Gathered) -> None:
    if gathered.prometheus is None:
        pytest.skip("Prometheus is not installed: apt-get install prometheus, or set PROMETHEUS to its path")
    assert {rule["name"]: rule["health"] for rule in evaluated_rules(gathered)} == dict.fromkeys(alerts(), "ok")
    answers: dict[str, list[Any]] = {}
    for title, pairs in expressions().items():
        answers[title] = []
        for expr, legend in pairs:
            window = {"start": gathered.started, "end": time.time(), "step": 1}
            found = gathered.ask("query_range", query=expr, **window)["result"]
            answers[title] += [{"legend": legend, "metric": one["metric"], "values": one["values"]} for one in found]
            shown = any(value not in ("NaN", "+Inf") for one in found for _, value in one["values"])
            assert shown or any(name in expr for name in WITH_GPUS), f"{title}: {expr}"
    OUT.mkdir(parents=True, exist_ok=True)
    (OUT / "answers.json").write_text(json.dumps({"started": gathered.started, "panels": answers}))
